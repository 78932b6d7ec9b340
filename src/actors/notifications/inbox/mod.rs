//! Every notification of a person, in order: `inbox/<usr_id>`, one channel with offset and epoch.
//!
//! Invariants: offsets start at 1 and have no gaps; an item, once appended, never changes; the epoch changes only if
//! offsets could be given out twice. Items live in rows (table [`ITEMS`], keyed by [`row_key`]), sealed like events; what
//! is known of each (its id, whether it was read) lives in the state, so that decisions need no rows. Only the newest
//! [`HISTORY`] items are kept.

pub mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Item, NewItem, Position, Reply};
pub use state::{HISTORY, ITEMS, Inbox, row_key, row_offset};
