//! What can be asked of a wallet, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::kernel::{Error, Timestamp};
use crate::providers::payment::CardFacts;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Reserves the id of a new subscription.
    OpenSubscription,
    /// A subscription is over.
    SubscriptionEnded {
        id: String,
    },
    /// Keeps a payment method; `token` is the processor's.
    AttachMethod {
        token: String,
        make_default: bool,
    },
    SetDefault {
        id: String,
    },
    DetachMethod {
        id: String,
    },
    GetMethod {
        id: String,
    },
    ListMethods,
    ListSubscriptions,
    /// What to charge: this method while it is attached, else the default one.
    Resolve {
        method_id: Option<String>,
    },
    CustomerMade(Result<String, Error>),
    MethodAttached {
        id: String,
        result: Result<CardFacts, Error>,
    },
    /// The account is closed: running subscriptions end, methods are detached, nothing can be added.
    Close,
    /// A subscription is about to be on trial of a plan; whether it may be.
    TakeTrial {
        plan_id: String,
        subscription_id: String,
    },
    ListTrials,
    /// A subscription names this method; if it is not kept any more, the subscription is told to forget it.
    MethodNamed {
        subscription_id: String,
        method_id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    SubscriptionOpened { id: String },
    SubscriptionEnded { id: String },
    AttachRequested { id: String, token: String, make_default: bool, at: Timestamp },
    CustomerRequested,
    CustomerMade { customer: String },
    CustomerFailed,
    MethodAttached { id: String, card: CardFacts },
    AttachFailed { id: String, error: Error },
    DefaultChosen { id: String },
    MethodDetached { id: String },
    Closed,
    TrialTaken { plan_id: String, subscription_id: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Opened {
        id: String,
    },
    Method {
        method: Method,
        default: bool,
    },
    /// In the order they were added; the id of the default one.
    Methods {
        methods: Vec<Method>,
        default: Option<String>,
    },
    Subscriptions(Vec<String>),
    /// `None`: there is nothing to charge.
    Payable(Option<Payable>),
    Done,
    /// Whether the subscription may be on trial.
    Trial(bool),
    Trials(Vec<Trial>),
}

/// A plan that was tried, and by which subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub plan_id: String,
    pub subscription_id: String,
}

/// A payment method, as far as it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method {
    pub id: String,
    pub token: String,
    pub added_at: Timestamp,
    pub make_default: bool,
    pub status: MethodStatus,
}

impl Method {
    /// Whether it is (or is about to be) what this token of the processor stands for.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        match &self.status {
            MethodStatus::Pending => self.token == token,
            MethodStatus::Ready(card) => self.token == token || card.token == token,
            MethodStatus::Failed(_) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MethodStatus {
    Pending,
    Ready(CardFacts),
    Failed(Error),
}

/// What a charge needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payable {
    pub method_id: String,
    pub customer: String,
    pub token: String,
}
