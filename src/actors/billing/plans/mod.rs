//! The plan catalogue: one entity, `plans/catalogue`, on the meta shard.
//!
//! It starts with the plans of the configuration and is changed by operators. Every change makes a new version of the
//! plan; subscriptions keep the version they were started or changed with. A plan is never deleted, only retired, so
//! that what a subscription refers to can always be shown. Bounded: [`MOST_PLANS`].

mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Audience, Command, Event, Patch, Plan, Price, Reply, Spec};
pub use state::{Catalogue, MOST_PLANS, plan_id_of_key};

use crate::kernel::EntityId;

/// The one catalogue.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new("plans", "catalogue")
}
