//! Subscriptions as they were written before a [`Place`] knew since when its offer holds: events and states with the same
//! members and a place that is eight bytes shorter.
//!
//! Events have no version, but none of the one form reads as one of the other: what follows the missing bytes is too
//! short, or a length beyond all bounds.

use serde::Deserialize;

use super::protocol::{Event, Pending, Place, Settling, StartRequest, State, Terms};
use super::state::{self, Subscription};
use crate::actors::billing::calendar::Period;
use crate::actors::billing::quote::Offer;
use crate::kernel::Timestamp;
use crate::kernel::codec::{self, CodecError};

/// An event of either form.
///
/// # Errors
/// [`CodecError`] when it is of neither.
pub(super) fn event(bytes: &[u8]) -> Result<Event, CodecError> {
    codec::decode(bytes).or_else(|error| codec::decode::<OldEvent>(bytes).map(Event::from).map_err(|_| error))
}

/// A state of either form as one of today's; states of both are of version 1.
pub(super) fn state(bytes: Vec<u8>) -> Option<Vec<u8>> {
    if codec::decode::<Subscription>(&bytes).is_ok() {
        return Some(bytes);
    }
    let old: Option<OldBody> = codec::decode(&bytes).ok()?;
    codec::encode(&Subscription { body: old.map(state::Body::from) }).ok()
}

#[derive(Deserialize)]
struct OldPlace {
    anchor: Timestamp,
    index: u32,
    period: Period,
}

#[derive(Deserialize)]
struct OldPending {
    offer: Offer,
    quantity: i64,
    place: OldPlace,
}

#[derive(Deserialize)]
enum OldEvent {
    Started { request: Box<StartRequest>, place: OldPlace, trialing: bool, settling: Option<Settling>, at: Timestamp },
    Activated,
    Renewed { place: OldPlace, balance: i64, settling: Option<Settling> },
    PastDue,
    Settled { restored_credit: i64 },
    ChangeProposed { pending: OldPending, settling: Settling, balance: i64 },
    Changed { offer: Offer, quantity: i64, place: OldPlace, balance: i64 },
    ChangeDropped,
    MethodChosen { method_id: String },
    CancelScheduled { at: Timestamp },
    CancelUnscheduled,
    Canceled { at: Timestamp, reason: String },
    Paused { at: Timestamp, unpaid: bool },
    Resumed { place: OldPlace },
    Restarted { place: OldPlace, settling: Option<Settling>, balance: i64 },
}

#[derive(Deserialize)]
struct OldBody {
    user_id: String,
    state: State,
    offer: Offer,
    quantity: i64,
    method_id: Option<String>,
    terms: Terms,
    place: OldPlace,
    started_at: Timestamp,
    trial_end: Option<Timestamp>,
    cancel_at: Option<Timestamp>,
    canceled_at: Option<Timestamp>,
    paused_at: Option<Timestamp>,
    paused_from: State,
    paused_unpaid: bool,
    settling: Option<Settling>,
    last_invoice_id: Option<String>,
    pending: Option<OldPending>,
    balance: i64,
    version: u64,
}

impl From<OldPlace> for Place {
    fn from(OldPlace { anchor, index, period }: OldPlace) -> Self {
        Self { anchor, index, period, since: period.start }
    }
}

impl From<OldPending> for Pending {
    fn from(OldPending { offer, quantity, place }: OldPending) -> Self {
        Self { offer, quantity, place: place.into() }
    }
}

impl From<OldEvent> for Event {
    fn from(old: OldEvent) -> Self {
        match old {
            OldEvent::Started { request, place, trialing, settling, at } => {
                Self::Started { request, place: place.into(), trialing, settling, at }
            }
            OldEvent::Activated => Self::Activated,
            OldEvent::Renewed { place, balance, settling } => Self::Renewed { place: place.into(), balance, settling },
            OldEvent::PastDue => Self::PastDue,
            OldEvent::Settled { restored_credit } => Self::Settled { restored_credit },
            OldEvent::ChangeProposed { pending, settling, balance } => {
                Self::ChangeProposed { pending: pending.into(), settling, balance }
            }
            OldEvent::Changed { offer, quantity, place, balance } => {
                Self::Changed { offer, quantity, place: place.into(), balance }
            }
            OldEvent::ChangeDropped => Self::ChangeDropped,
            OldEvent::MethodChosen { method_id } => Self::MethodChosen { method_id },
            OldEvent::CancelScheduled { at } => Self::CancelScheduled { at },
            OldEvent::CancelUnscheduled => Self::CancelUnscheduled,
            OldEvent::Canceled { at, reason } => Self::Canceled { at, reason },
            OldEvent::Paused { at, unpaid } => Self::Paused { at, unpaid },
            OldEvent::Resumed { place } => Self::Resumed { place: place.into() },
            OldEvent::Restarted { place, settling, balance } => {
                Self::Restarted { place: place.into(), settling, balance }
            }
        }
    }
}

impl From<OldBody> for state::Body {
    fn from(old: OldBody) -> Self {
        Self {
            user_id: old.user_id,
            state: old.state,
            offer: old.offer,
            quantity: old.quantity,
            method_id: old.method_id,
            terms: old.terms,
            place: old.place.into(),
            started_at: old.started_at,
            trial_end: old.trial_end,
            cancel_at: old.cancel_at,
            canceled_at: old.canceled_at,
            paused_at: old.paused_at,
            paused_from: old.paused_from,
            paused_unpaid: old.paused_unpaid,
            settling: old.settling,
            last_invoice_id: old.last_invoice_id,
            pending: old.pending.map(Pending::from),
            balance: old.balance,
            version: old.version,
        }
    }
}
