//! Where sealed bytes belong: the associated data of every sealed record, in one place.
//!
//! An event sealed for one entity and sequence opens nowhere else, so records cannot be moved or replayed on disk.

use crate::kernel::{EntityId, Error};
use crate::storage::seal::DataKey;

/// The place of a sealed record.
pub enum Place<'a> {
    /// The event after which the entity is at this sequence number.
    Event(u64),
    /// The state at this sequence number.
    Snapshot(u64),
    /// A reply remembered for repeats.
    Reply,
    /// The payload of an effect decided at this sequence number, and its position in the decision.
    Effect(u64, u16),
    Row {
        table: &'a str,
        key: &'a [u8],
    },
}

impl Place<'_> {
    fn associated(&self, entity: &EntityId) -> Vec<u8> {
        match self {
            Self::Event(sequence) => format!("{entity}\0event\0{sequence}").into_bytes(),
            Self::Snapshot(sequence) => format!("{entity}\0snapshot\0{sequence}").into_bytes(),
            Self::Reply => format!("{entity}\0reply").into_bytes(),
            Self::Effect(sequence, position) => format!("{entity}\0effect\0{sequence}\0{position}").into_bytes(),
            Self::Row { table, key } => {
                let mut bytes = format!("{entity}\0row\0{table}\0").into_bytes();
                bytes.extend_from_slice(key);
                bytes
            }
        }
    }
}

/// `plain` as it is stored: sealed when there is a key, else as it is.
#[must_use]
pub fn seal(key: Option<&DataKey>, entity: &EntityId, place: &Place<'_>, plain: Vec<u8>) -> Vec<u8> {
    match key {
        Some(key) => key.seal(&place.associated(entity), &plain),
        None => plain,
    }
}

/// The reverse of [`seal`].
///
/// # Errors
/// `internal` when the bytes do not open: damaged, moved, or sealed by another key.
pub fn open(key: Option<&DataKey>, entity: &EntityId, place: &Place<'_>, stored: Vec<u8>) -> Result<Vec<u8>, Error> {
    let Some(key) = key else { return Ok(stored) };
    key.open(&place.associated(entity), &stored).map_err(|error| {
        tracing::error!(%entity, %error, "a sealed record does not open");
        Error::internal()
    })
}
