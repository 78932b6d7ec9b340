//! What a person wants to hear, on which channel, and when not: `preferences/<usr_id>`.
//!
//! Invariants: `security` reaches the inbox and the mailbox whatever is set; `promotional` reaches nobody without
//! recorded consent; the proof in an unsubscribe link is worth exactly one category of one person.

pub mod protocol;
pub mod quiet;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Policy, Reply, Rule, Settings};
pub use quiet::QuietHours;
pub use state::{Preferences, parse_token};
