//! `members/members` on the meta shard: the nodes of the cluster, the tokens that let new ones in, and which nodes hold
//! which shard.
//!
//! Every node has the meta shard and reads from its own copy whom to connect to and what it should hold; whoever leads
//! the meta shard plans, one step at a time, and leaders of shards carry it out. So nothing of a change is kept anywhere
//! else, and a crash of whoever ran it costs a repeat. Holds no personal data.

pub mod level;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Known, Member, MemberState, Replicas, View};
pub use state::Members;

use crate::kernel::EntityId;

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new("members", "members")
}
