//! Where a person can be reached beside mail and inbox: `devices/<usr_id>`.
//!
//! Invariants: at most [`state::MAX_DEVICES`] devices; a number gets messages only after its owner proved it with a
//! code; a subscription the push service calls gone is removed.

pub mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Address, Command, Device, Event, Reply};
pub use state::{Devices, MAX_DEVICES};
