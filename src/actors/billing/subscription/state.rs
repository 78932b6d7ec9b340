//! The subscription: which command goes where, its view, and how its events change it.

use serde::{Deserialize, Serialize};

use super::older;
use super::protocol::{Command, Event, Pending, Place, Reply, Settling, StartRequest, State, View};
use crate::actors::billing::invoice::{self, Draft, Invoice, Mode, Reason};
use crate::actors::billing::quote::{Offer, Quote};
use crate::actors::billing::subscription::Terms;
use crate::kernel::codec::CodecError;
use crate::kernel::id::type_id;
use crate::kernel::{Context, Decision, Effect, Entity, Error, Timestamp};

/// One subscription. Nothing until it was started.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Subscription {
    pub(super) body: Option<Body>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Body {
    pub user_id: String,
    pub state: State,
    pub offer: Offer,
    pub quantity: i64,
    pub method_id: Option<String>,
    pub terms: Terms,
    pub place: Place,
    pub started_at: Timestamp,
    pub trial_end: Option<Timestamp>,
    pub cancel_at: Option<Timestamp>,
    pub canceled_at: Option<Timestamp>,
    pub paused_at: Option<Timestamp>,
    pub paused_from: State,
    pub paused_unpaid: bool,
    pub settling: Option<Settling>,
    pub last_invoice_id: Option<String>,
    pub pending: Option<Pending>,
    /// Credit of the customer, in minor units of the price's currency.
    pub balance: i64,
    pub version: u64,
}

impl Entity for Subscription {
    const KIND: &'static str = "subscription";
    const STATE_VERSION: u16 = 2;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let body = match command {
            Command::Start(request) => return self.start(*request, context),
            _ => self.body.as_ref().ok_or_else(|| Error::not_found("subscription"))?,
        };
        match command {
            Command::Start(_) => Err(Error::internal()),
            Command::GetSubscription => Ok(Decision::reply(body.owned_by(context)?.shown(context))),
            Command::PreviewChange(request) => body.owned_by(context)?.preview(request, context),
            Command::Change(request) => body.owned_by(context)?.change(request, context),
            Command::Cancel { at } => body.owned_by(context)?.cancel(at, context),
            Command::Pause => body.owned_by(context)?.pause(context),
            Command::Resume => body.owned_by(context)?.resume(context),
            Command::Renew => body.renew(context),
            Command::AnnounceTrialEnd => Ok(body.announce_trial_end(context)),
            Command::Expire => Ok(body.expire(context)),
            Command::InvoicePaid { invoice_id } => Ok(body.invoice_paid(&invoice_id, context)),
            Command::InvoiceFailed { invoice_id, exhausted } => {
                Ok(body.invoice_failed(&invoice_id, exhausted, context))
            }
            Command::InvoiceVoided { invoice_id } => Ok(body.invoice_voided(&invoice_id, context)),
            Command::ForgetMethod { method_id } => Ok(body.forget_method(method_id, context)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match (event, &mut self.body) {
            (Event::Started { request, place, trialing, settling, at }, body @ None) => {
                *body = Some(Body::new(request, *place, *trialing, settling.clone(), *at));
            }
            (_, None) => {}
            (event, Some(body)) => {
                body.version += 1;
                body.apply(event);
            }
        }
    }

    fn on_timer(name: &str) -> Option<Command> {
        match name {
            "renew" => Some(Command::Renew),
            "trial_ending" => Some(Command::AnnounceTrialEnd),
            "expire" => Some(Command::Expire),
            _ => None,
        }
    }

    fn read_event(bytes: &[u8]) -> Result<Event, CodecError> {
        older::event(bytes)
    }

    /// Version 1 was written with places of two forms.
    fn upgrade(version: u16, state: Vec<u8>) -> Option<Vec<u8>> {
        older::state(state).filter(|_| version == 1)
    }
}

impl Body {
    fn new(request: &StartRequest, place: Place, trialing: bool, settling: Option<Settling>, at: Timestamp) -> Self {
        let state = match (&settling, trialing) {
            (_, true) => State::Trialing,
            (Some(_), false) => State::Incomplete,
            (None, false) => State::Active,
        };
        Self {
            user_id: request.user_id.clone(),
            state,
            offer: request.offer.clone(),
            quantity: request.quantity,
            method_id: request.method_id.clone(),
            terms: request.terms.clone(),
            place,
            started_at: at,
            trial_end: trialing.then_some(place.period.end),
            cancel_at: None,
            canceled_at: None,
            paused_at: None,
            paused_from: state,
            paused_unpaid: false,
            last_invoice_id: settling.as_ref().map(|settling| settling.invoice_id.clone()),
            settling,
            pending: None,
            balance: 0,
            version: 1,
        }
    }

    /// Another person's subscription does not exist, except for those who reach all.
    fn owned_by(&self, context: &Context) -> Result<&Self, Error> {
        if context.origin.reaches(&self.user_id) { Ok(self) } else { Err(Error::not_found("subscription")) }
    }

    pub(super) fn shown(&self, context: &Context) -> Reply {
        Reply::Subscription(Box::new(self.view(context.id.key())))
    }

    fn view(&self, id: &str) -> View {
        let goes_on = matches!(self.state, State::Trialing | State::Active | State::PastDue);
        View {
            id: id.to_owned(),
            user_id: self.user_id.clone(),
            state: self.state,
            offer: self.offer.clone(),
            quantity: self.quantity,
            method_id: self.method_id.clone(),
            period: self.place.period,
            started_at: self.started_at,
            trial_end: self.trial_end,
            cancel_at: self.cancel_at,
            canceled_at: self.canceled_at,
            paused_at: self.paused_at,
            next_invoice_at: (goes_on && self.cancel_at.is_none()).then_some(self.place.period.end),
            settling: self.settling.clone(),
            last_invoice_id: self.last_invoice_id.clone(),
            pending: self.pending.clone(),
            balance: self.balance,
            version: self.version,
        }
    }

    /// The same decision, answering the subscription as it is after its events.
    pub(super) fn replied(&self, decision: Decision<Subscription>, context: &Context) -> Decision<Subscription> {
        let mut next = self.clone();
        for event in &decision.events {
            next.version += 1;
            next.apply(event);
        }
        Decision { reply: next.shown(context), ..decision }
    }

    /// What it takes to have an invoice about `quote`: the effect, and what to remember while it is settled.
    pub(super) fn invoice(
        context: &Context,
        request: &StartRequest,
        quote: Quote,
        reason: Reason,
        mode: Mode,
    ) -> (Effect, Settling) {
        let invoice_id = match reason {
            Reason::Renewal => renewal_id(context, quote.period.start),
            Reason::Start | Reason::Change => context.new_id("inv", "invoice"),
        };
        let credit_used = quote.credit_used();
        let draft = Draft {
            user_id: request.user_id.clone(),
            subscription_id: context.id.key().to_owned(),
            plan_name: request.offer.plan_name.clone(),
            reason,
            quote,
            series: request.terms.series.clone(),
            mode,
            method_id: request.method_id.clone(),
            off_session: reason == Reason::Renewal,
        };
        let create = invoice::Command::Create(Box::new(draft));
        let effect = Effect::tell::<Invoice>(invoice::id(&invoice_id), &create, "");
        (effect, Settling { invoice_id, reason, credit_used })
    }

    /// The same person, plan and terms, for the next invoice.
    pub(super) fn request(&self) -> StartRequest {
        StartRequest {
            user_id: self.user_id.clone(),
            offer: self.offer.clone(),
            quantity: self.quantity,
            method_id: self.method_id.clone(),
            terms: self.terms.clone(),
        }
    }

    fn settle_with(&mut self, settling: Option<Settling>) {
        if let Some(settling) = &settling {
            self.last_invoice_id = Some(settling.invoice_id.clone());
        }
        self.settling = settling;
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Started { .. } => {}
            Event::Activated => self.state = State::Active,
            Event::Renewed { place, balance, settling } => {
                (self.place, self.balance, self.state) = (*place, *balance, State::Active);
                self.settle_with(settling.clone());
            }
            Event::PastDue => self.state = State::PastDue,
            Event::Settled { restored_credit } => {
                self.balance += restored_credit;
                self.settling = None;
            }
            Event::ChangeProposed { pending, settling, balance } => {
                (self.pending, self.balance) = (Some(pending.clone()), *balance);
                self.settle_with(Some(settling.clone()));
            }
            Event::Changed { offer, quantity, place, balance } => {
                if self.state == State::Trialing {
                    self.trial_end = Some(if place.is_trial() { place.period.end } else { place.period.start });
                }
                (self.offer, self.quantity, self.place) = (offer.clone(), *quantity, *place);
                (self.balance, self.pending) = (*balance, None);
                if self.cancel_at.is_some() {
                    self.cancel_at = Some(place.period.end);
                }
            }
            Event::ChangeDropped => self.pending = None,
            Event::MethodChosen { method_id } => self.method_id = Some(method_id.clone()),
            Event::MethodForgotten { .. } => self.method_id = None,
            Event::CancelScheduled { at } => self.cancel_at = Some(*at),
            Event::CancelUnscheduled => self.cancel_at = None,
            Event::Canceled { at, .. } => {
                (self.state, self.canceled_at, self.cancel_at) = (State::Canceled, Some(*at), Some(*at));
                (self.settling, self.pending) = (None, None);
            }
            Event::Paused { at, unpaid } => {
                (self.paused_from, self.paused_at, self.paused_unpaid) = (self.state, Some(*at), *unpaid);
                self.state = State::Paused;
                if *unpaid {
                    self.settling = None;
                }
            }
            Event::Resumed { place } => {
                let away = place.period.end.millis_since(self.place.period.end);
                self.cancel_at = self.cancel_at.map(|at| at.plus_millis(away));
                (self.state, self.place, self.paused_at) = (self.paused_from, *place, None);
                if self.state == State::Trialing {
                    self.trial_end = Some(place.period.end);
                }
            }
            Event::Restarted { place, settling, balance } => {
                self.state = if settling.is_some() { State::Incomplete } else { State::Active };
                (self.place, self.balance) = (*place, *balance);
                (self.paused_at, self.paused_unpaid) = (None, false);
                self.settle_with(settling.clone());
            }
        }
    }
}

/// The invoice of the period that begins then: the same id whenever it is made out, so that a cluster that was restored
/// from before finds at the processor what was charged for it.
fn renewal_id(context: &Context, start: Timestamp) -> String {
    let text = format!("renewal of {} at {}", context.id, start.as_millis());
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let random = digest.as_ref().first_chunk().copied().unwrap_or_default();
    type_id("inv", start, context.id.slot(), random)
}
