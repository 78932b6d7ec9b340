//! `erasure/<usr_id>`: takes a person out of the product (GDPR Art. 17), step by step, through any crash.
//!
//! 1. *Leaving*: the person is signed out everywhere, the wallet is closed (subscriptions end, payment methods are
//!    detached) and the farewell mail is ordered.
//! 2. *Closing*, once nothing of the person's waits to be delivered any more: the account forgets who they were and
//!    gives the address free.
//! 3. *Destroying*, once again nothing waits: the keyring destroys the data key. Whatever is still stored about the
//!    person, here, on replicas and in backups, does not open any more.
//!
//! The entity decides the steps; [`Eraser`] watches the outbox between them, because what lies there is sealed with the
//! key that is going to be destroyed. Architecture invariants: the entity holds ids only, so it outlives the key; a step
//! that is refused is noted and audited and stops nothing; once begun, an erasure is carried out and cannot be recalled.

mod eraser;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use eraser::Eraser;
pub use protocol::{Command, Event, Phase, Reply, Step};
pub use state::Erasure;

use crate::kernel::EntityId;

/// Index of erasures that are not completed: key is the user's id, empty value.
pub const OPEN: &str = "erasure_open";

/// Index of everybody whose erasure has begun, for ever: key is the user's id, empty value. Who restores a backup from
/// before erases them again.
pub const ALL: &str = "erasures";

#[must_use]
pub fn erasure_id(user_id: &str) -> EntityId {
    EntityId::new("erasure", user_id)
}
