//! What can be asked of an invoice, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use super::CANCELED;
use crate::actors::billing::dunning::Schedule;
use crate::actors::billing::quote::Quote;
use crate::actors::billing::wallet::Payable;
use crate::kernel::{Error, Money, Timestamp};
use crate::providers::payment::ChargeReceipt;

/// Why there is an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The first period of a subscription.
    Start,
    Renewal,
    Change,
}

/// What follows a declined attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Tried again by itself; given up at the end.
    Dunning(Schedule),
    /// Stays open until somebody pays it.
    KeepOpen,
    /// Voided at once.
    VoidOnDecline,
}

/// Everything an invoice is made of. Never changes, but for the payment method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    pub user_id: String,
    pub subscription_id: String,
    pub plan_name: String,
    pub reason: Reason,
    pub quote: Quote,
    /// Series of the number.
    pub series: String,
    pub mode: Mode,
    /// Preferred payment method; else the wallet's default.
    pub method_id: Option<String>,
    /// Nobody is there to answer a challenge.
    pub off_session: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Create(Box<Draft>),
    Numbered(Result<u64, Error>),
    /// The timer: asks for a number again.
    AskNumber,
    /// Somebody pays now, with this method or the default one.
    Pay {
        method_id: Option<String>,
    },
    /// The timer: the next scheduled attempt.
    Retry,
    MethodResolved {
        attempt: u32,
        result: Result<Option<Payable>, Error>,
    },
    Charged {
        attempt: u32,
        outcome: ChargeOutcome,
    },
    /// The timer: looks up an attempt whose outcome is unknown.
    Reconcile,
    /// The processor reports by itself.
    Report {
        receipt: ChargeReceipt,
    },
    Void,
    Refund {
        amount: Option<i64>,
        reason: String,
    },
    RefundSettled {
        id: String,
        result: Result<String, RefundFault>,
    },
    RefundNumbered {
        id: String,
        result: Result<u64, Error>,
    },
    /// The timer: asks for the numbers of credit notes again.
    AskRefundNumbers,
    GetInvoice,
    /// What the schedule charges from now on.
    ChooseMethod {
        method_id: String,
    },
    /// The subscription is over: as [`Command::Void`], and nothing that is paid from now on is kept.
    Withdraw,
    /// The timer: looks up refunds that are not known to have ended.
    FindRefunds,
    ReturnSettled {
        charge_id: String,
        result: Result<String, RefundFault>,
    },
    /// The timer: looks up payments that should be back and are not known to be.
    FindReturns,
    ReturnFound {
        charge_id: String,
        result: Result<String, RefundFault>,
    },
}

/// What is known of a charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChargeOutcome {
    Receipt(ChargeReceipt),
    /// Certainly not charged, with the decline code.
    NotCharged {
        code: String,
    },
    Unknown,
}

/// Why there is no refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefundFault {
    /// Certainly not given back.
    Refused(Error),
    Unknown(String),
    /// The processor has taken it, but it is not done.
    Pending,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Drafted {
        draft: Box<Draft>,
        at: Timestamp,
    },
    Finalized {
        number: String,
        at: Timestamp,
    },
    /// A draft was voided before its number came; it keeps the number.
    NumberKept {
        number: String,
    },
    AttemptStarted {
        attempt: u32,
        method_id: Option<String>,
        manual: bool,
        at: Timestamp,
    },
    ChargeSent {
        attempt: u32,
        payable: Payable,
    },
    ChargeUnknown {
        attempt: u32,
    },
    ChargePending {
        attempt: u32,
        charge_id: String,
        client_secret: Option<String>,
    },
    AttemptFailed {
        attempt: u32,
        code: String,
        at: Timestamp,
    },
    /// A failure was counted; `at` is the next try, if there is one.
    RetryScheduled {
        at: Option<Timestamp>,
        first_failure: Timestamp,
        failures: u32,
    },
    Paid {
        attempt: u32,
        charge_id: String,
        at: Timestamp,
    },
    VoidRequested,
    Voided {
        at: Timestamp,
    },
    GivenUp {
        at: Timestamp,
    },
    DuplicateReturned {
        charge_id: String,
    },
    RefundRequested {
        id: String,
        amount: i64,
        reason: String,
        at: Timestamp,
    },
    RefundSucceeded {
        id: String,
        provider_id: String,
        at: Timestamp,
    },
    RefundFailed {
        id: String,
        unknown: bool,
    },
    RefundNumbered {
        id: String,
        number: String,
    },
    MethodChosen {
        method_id: String,
    },
    /// The subscription ended while it was open.
    Withdrawn,
    RefundProcessing {
        id: String,
    },
    /// Follows [`Event::DuplicateReturned`]: how much goes back, under which reference.
    ReturnPlanned {
        charge_id: String,
        reference: String,
        amount: i64,
        at: Timestamp,
    },
    /// The processor was asked once more.
    ReturnSent {
        charge_id: String,
    },
    ReturnChanged {
        charge_id: String,
        status: RefundStatus,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = InvoiceState)]
pub enum State {
    Draft,
    Open,
    Paid,
    Void,
    Uncollectible,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptStatus {
    /// The wallet is asked what to charge.
    Resolving,
    /// The processor was asked.
    Charging,
    /// Nobody knows yet whether it was charged.
    Unknown,
    /// The payer must answer a challenge, or the processor takes its time.
    Pending {
        client_secret: Option<String>,
    },
    Failed {
        code: String,
    },
    Succeeded,
}

impl AttemptStatus {
    /// Whether another attempt would risk a second charge.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Resolving | Self::Charging | Self::Unknown | Self::Pending { client_secret: None })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
    pub at: Timestamp,
    pub manual: bool,
    pub method_id: Option<String>,
    pub customer: Option<String>,
    pub charge_id: Option<String>,
    pub status: AttemptStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RefundStatus {
    /// The processor is being asked.
    Pending,
    Succeeded,
    Failed,
    /// Whether it was refunded is not known; it is looked up until it is.
    Unknown,
    /// The processor has taken it and takes its time.
    Processing,
}

/// Money given back; a credit note once it has a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundState {
    pub id: String,
    pub number: Option<String>,
    pub amount: i64,
    pub reason: String,
    pub at: Timestamp,
    pub status: RefundStatus,
}

/// A payment that nothing is owed for, on its way back. Never given up while it may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    pub charge_id: String,
    pub reference: String,
    pub amount: i64,
    pub at: Timestamp,
    /// How often the processor was asked.
    pub tries: u32,
    pub status: RefundStatus,
}

/// An invoice as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub id: String,
    pub draft: Draft,
    pub state: State,
    pub number: Option<String>,
    pub created_at: Timestamp,
    pub issued_at: Option<Timestamp>,
    pub paid_at: Option<Timestamp>,
    pub next_attempt_at: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
    pub refunds: Vec<RefundState>,
    pub returns: Vec<Return>,
    pub version: u64,
}

impl View {
    #[must_use]
    pub fn total(&self) -> Money {
        Money::new(self.draft.quote.total, self.draft.quote.currency)
    }

    /// What is still to be paid.
    #[must_use]
    pub fn amount_due(&self) -> i64 {
        match self.state {
            State::Draft | State::Open | State::Uncollectible => self.draft.quote.total,
            State::Paid | State::Void => 0,
        }
    }

    /// Whether the last attempt is over one way or the other, or waits for somebody outside.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let waits = matches!(self.state, State::Draft | State::Open | State::Uncollectible);
        !waits || self.attempts.last().is_some_and(|attempt| !attempt.status.is_under_way())
    }

    /// Why the last attempt failed, if it did; `canceled` when the invoice was void before one could.
    #[must_use]
    pub fn decline_code(&self) -> Option<&str> {
        match self.attempts.last().map(|attempt| &attempt.status) {
            Some(AttemptStatus::Failed { code }) => Some(code),
            _ if self.state == State::Void => Some(CANCELED),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Invoice(Box<View>),
    Refund(RefundState),
    Done,
}
