//! One request under an `Idempotency-Key`: under way, or answered. `idempotency/<hex of the key's scope>`.
//!
//! Invariants: the first answer is the only one; a request whose executor is gone (its process ended, or its deadline
//! passed) may be taken over, and its commands still take effect once because the taker runs under the same scope.
//! An answer is opaque here, sealed under its user's key, or by the gateway when there is no user.

mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Executor, Reply};
pub use state::Idempotency;
