//! What can be asked of a subscription, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::actors::billing::calendar::Period;
use crate::actors::billing::dunning::Schedule;
use crate::actors::billing::invoice::Reason;
use crate::actors::billing::quote::{Offer, Quote};
use crate::kernel::Timestamp;

/// The settings a subscription was started under. Copied, so that a changed setting does not reach into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub dunning: Schedule,
    pub series: String,
    pub tax_basis_points: u32,
    pub trial_notice_days: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    pub user_id: String,
    pub offer: Offer,
    pub quantity: i64,
    pub method_id: Option<String>,
    pub terms: Terms,
}

/// What is to change; `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRequest {
    pub offer: Option<Offer>,
    pub quantity: Option<i64>,
    pub method_id: Option<String>,
    /// The instant a preview was made for; at most [`super::change::PREVIEW_HOLDS_SECONDS`] ago.
    pub prorate_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelAt {
    Now,
    PeriodEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Start(Box<StartRequest>),
    GetSubscription,
    PreviewChange(ChangeRequest),
    Change(ChangeRequest),
    Cancel {
        at: CancelAt,
    },
    Pause,
    Resume,
    /// The timer: the period is over.
    Renew,
    /// The timer: the trial is about to end.
    AnnounceTrialEnd,
    /// The timer: nobody paid for what was to begin.
    Expire,
    InvoicePaid {
        invoice_id: String,
    },
    InvoiceFailed {
        invoice_id: String,
        exhausted: bool,
    },
    InvoiceVoided {
        invoice_id: String,
    },
    /// A payment method was deleted: where it is the one to charge, the wallet's default is from now on.
    ForgetMethod {
        method_id: String,
    },
}

/// A period and its place: boundary `index` of `anchor` is its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub anchor: Timestamp,
    pub index: u32,
    pub period: Period,
    /// When offer and quantity last changed within it, or its start: no change is prorated from before.
    pub since: Timestamp,
}

impl Place {
    /// Whether it is the time before the first period.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.index == 0 && self.anchor == self.period.end
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Started {
        request: Box<StartRequest>,
        place: Place,
        trialing: bool,
        settling: Option<Settling>,
        at: Timestamp,
    },
    Activated,
    Renewed {
        place: Place,
        balance: i64,
        settling: Option<Settling>,
    },
    PastDue,
    Settled {
        restored_credit: i64,
    },
    ChangeProposed {
        pending: Pending,
        settling: Settling,
        balance: i64,
    },
    Changed {
        offer: Offer,
        quantity: i64,
        place: Place,
        balance: i64,
    },
    ChangeDropped,
    MethodChosen {
        method_id: String,
    },
    CancelScheduled {
        at: Timestamp,
    },
    CancelUnscheduled,
    Canceled {
        at: Timestamp,
        reason: String,
    },
    /// `unpaid`: because of an invoice that could not be collected; resuming starts a new period.
    Paused {
        at: Timestamp,
        unpaid: bool,
    },
    Resumed {
        place: Place,
    },
    /// Resumed after [`Event::Paused`] `unpaid`: a new period begins once it is paid.
    Restarted {
        place: Place,
        settling: Option<Settling>,
        balance: i64,
    },
    MethodForgotten {
        method_id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SubscriptionState)]
pub enum State {
    Incomplete,
    Trialing,
    Active,
    PastDue,
    Paused,
    Canceled,
}

/// The invoice that is being settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settling {
    pub invoice_id: String,
    pub reason: Reason,
    /// Credit it uses up; comes back when it is voided.
    pub credit_used: i64,
}

/// A change that waits for its invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub offer: Offer,
    pub quantity: i64,
    pub place: Place,
}

/// A subscription as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub id: String,
    pub user_id: String,
    pub state: State,
    pub offer: Offer,
    pub quantity: i64,
    pub method_id: Option<String>,
    pub period: Period,
    pub started_at: Timestamp,
    pub trial_end: Option<Timestamp>,
    pub cancel_at: Option<Timestamp>,
    pub canceled_at: Option<Timestamp>,
    pub paused_at: Option<Timestamp>,
    pub next_invoice_at: Option<Timestamp>,
    pub settling: Option<Settling>,
    pub last_invoice_id: Option<String>,
    pub pending: Option<Pending>,
    pub balance: i64,
    pub version: u64,
}

/// What a change would cost now, or (without a change) what the next invoice will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    pub quote: Quote,
    pub prorate_at: Timestamp,
    /// When it would be invoiced.
    pub invoice_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Subscription(Box<View>),
    Preview(Box<Preview>),
    Done,
}
