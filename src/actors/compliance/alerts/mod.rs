//! `alerts/security`: detections over the audit log, and what became of them.
//!
//! The [`Monitor`] of a node reads the logs of the shards it leads and reports the acts that matter to this one entity on
//! the meta shard, which counts them and raises alerts. It keeps how far each log was reported, so that an act counts
//! once, through crashes and changes of leaders. Architecture invariants: detection is a pure function of what was
//! reported, in order; memory of sources, targets and alerts is bounded, the oldest goes first. Deliberately absent:
//! acting on an alert; limits and lockouts stand on their own.

mod detect;
mod monitor;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use monitor::Monitor;
pub use protocol::{Act, Alert, Command, Detection, Event, Reply, Seen};
pub use state::Alerts;

use crate::kernel::EntityId;

#[must_use]
pub fn alerts_id() -> EntityId {
    EntityId::new("alerts", "security")
}
