//! `roles/roles` on the meta shard: which permissions each role has.
//!
//! Four roles always exist. Their permissions are declared here and may be replaced by an administrator; further
//! roles may be added. `administrator` always has every permission, so that nobody can lock the platform. Holds no
//! personal data.

pub mod permission;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Reply, RoleView};
pub use state::Roles;

use crate::kernel::EntityId;

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new("roles", "roles")
}
