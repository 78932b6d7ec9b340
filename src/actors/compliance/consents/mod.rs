//! `consents/<usr_id>`: what a person agreed to, when, and every change of it (GDPR Art. 7).
//!
//! Consent is never assumed: what was not given is not given. The history is kept in rows, one for each change, as long
//! as the person's key is. Deliberately absent: what follows from a consent; the notification service is told about
//! promotional messages and decides the rest itself.

mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Change, Choice, Command, Event, Given, Purpose, Reply};
pub use state::Consents;

use crate::kernel::EntityId;

/// The table of the history; keys are 8 bytes, big endian, ascending.
pub const HISTORY: &str = "history";

#[must_use]
pub fn consents_id(user_id: &str) -> EntityId {
    EntityId::new("consents", user_id)
}
