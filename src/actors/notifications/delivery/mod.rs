//! One notification to one person: what was asked, what was decided, and what became of every channel.
//!
//! Invariants: an attempt whose outcome is unknown stays `unknown` and is never sent again by this entity; a channel is
//! attempted at most once per target; nothing is sent on a channel the preferences exclude.

mod effects;
pub mod plan;
pub mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{
    Attempt, AttemptState, Category, Channel, Command, Contact, Content, Event, Reply, Report, SendRequest, Status,
};
pub use state::Delivery;
