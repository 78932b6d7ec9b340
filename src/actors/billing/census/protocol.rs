//! What can be asked of a census, what it remembers and what it answers. Persisted: enums grow only at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::actors::billing::subscription;
use crate::kernel::Currency;

/// What one object adds to the counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    Subscription {
        plan_id: String,
        plan_name: String,
        state: subscription::State,
        quantity: i64,
    },
    /// Amounts with the month they fall into, such as `2026-01`.
    Invoice {
        currency: Currency,
        invoiced: Option<(String, i64)>,
        paid: Option<(String, i64)>,
        refunded: Vec<(String, i64)>,
    },
}

/// One object whose share changed. `old` is what its row holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub id: String,
    pub old: Option<Share>,
    pub new: Share,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    GetCensus,
    /// Takes changes in, if the rows are still those of `revision`.
    Record {
        revision: u64,
        changes: Vec<Change>,
    },
    /// Every object there was has been looked at.
    Complete,
    /// Forgets everything, to be taken anew.
    Clear,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Recorded { changes: Vec<Change> },
    Completed,
    Cleared { revision: u64 },
}

/// Subscriptions of one plan in one state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub plan_name: String,
    pub subscriptions: i64,
    pub quantity: i64,
}

/// What happened in one month in one currency, in minor units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Month {
    pub invoices: i64,
    pub invoiced: i64,
    pub paid: i64,
    pub refunded: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Changes with every change of the rows.
    pub revision: u64,
    /// Whether the objects that were there before the census have been looked at.
    pub complete: bool,
    pub plans: BTreeMap<(String, subscription::State), Tally>,
    pub months: BTreeMap<(String, Currency), Month>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Census(Box<View>),
    Done,
    /// The rows changed since; read them again.
    Stale,
}
