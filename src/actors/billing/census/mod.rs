//! `census/<shard>`: how many subscriptions there are by plan and state, and what was invoiced, paid and given back by
//! month, over the billing objects of one shard. A projection: nothing decides by it, and it can be taken anew.
//!
//! Invariants: every object counts once, with the share that a row of the census holds of it; a change takes the old
//! share out and puts the new one in, in one batch with the row. [`Taker`] follows the feed and is told of changes at
//! least once; it takes events as a hint only and asks the object what it is now, so that a repeat changes nothing.
//! Holds no personal data.

mod protocol;
mod report;
mod state;
mod taker;
#[cfg(test)]
mod tests;

pub use protocol::{Change, Command, Event, Reply, Share, Tally, View};
pub use report::{MonthCount, PlanCount, Report, report};
pub use state::Census;
pub use taker::Taker;

use crate::kernel::{EntityId, ShardId};

/// Rows: the share of each object, by its id.
pub const SHARES: &str = "shares";

/// The census of a shard's objects. It lives wherever its id falls.
#[must_use]
pub fn id(shard: ShardId) -> EntityId {
    EntityId::new("census", &shard.0.to_string())
}
