//! `user/<usr_id>`: a person's account: profile, credentials, second factor, roles, and the list of their sessions.
//!
//! Invariants: only hashes of passwords, tokens and recovery codes are kept; a one-time code works once; every list is
//! bounded; a token activates exactly the sign-up it was mailed for. Everything is sealed under the person's own key.
//! Files: `state.rs` folds events, and one file per concern decides: `sign_up.rs`, `sign_in.rs`, `password.rs`,
//! `mfa.rs`, `account.rs`; `effects.rs` holds what they tell others. Deliberately absent: hashing and tokens, which
//! happen before a command (see `accounts.rs` and `passwords.rs`).

mod account;
mod effects;
mod mfa;
mod password;
mod protocol;
mod sign_in;
mod sign_up;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{
    Command, Event, PasswordResetRequest, ProfilePatch, Reply, SecondFactor, SignIn, SignUp, SignedIn, Status, UserView,
};
pub use state::User;

use crate::kernel::{Entity, EntityId};

/// The shard-wide index of all users; keys are user ids, values empty.
pub const INDEX: &str = "users";

/// The entity of a user id.
#[must_use]
pub fn id(user_id: &str) -> EntityId {
    EntityId::new(User::KIND, user_id)
}
