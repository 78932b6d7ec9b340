//! `session/<ses_id>`: one signed-in client and its family of refresh tokens. Lives on its user's slot.
//!
//! Invariants: at most one refresh token of the family is good at a time; an old one shown again revokes the family;
//! a revoked session never comes back, not even when its start arrives after its revocation. The caller has checked
//! that a presented refresh token was issued for this session (see `opaque.rs`), so a wrong one here is a spent one.
//! The user entity keeps the list of a person's sessions; this one tells it when it ends.

mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Client, Command, Ended, Event, Method, Reply, SessionView, Start};
pub use state::Session;

use crate::kernel::{Entity, EntityId};

/// The entity of a session id.
#[must_use]
pub fn id(session_id: &str) -> EntityId {
    EntityId::new(Session::KIND, session_id)
}
