//! `keyring/<usr_id>`: the wrapped data key of one person, and the proof that it was destroyed.
//!
//! Architecture invariants: a keyring never makes a second key; once erased it stays erased; and the wrapped key is in
//! one row and nowhere else (not in events, which feeds keep, nor in remembered replies), so that erasing, which purges
//! rows and journal, leaves no copy in the shard's state. It holds no personal data and has no subject: it is stored in
//! clear, which is also what keeps sealing from recursing into itself. Deliberately absent: the unwrapped key, which
//! exists only in memory, in [`super::sealer`].

pub mod fence;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Reply};
pub use state::Keyring;

use crate::kernel::EntityId;

/// Index of living keyrings and of those that were announced ([`fence`]): key `<version, 4 bytes big endian><usr_id>`,
/// empty value. Drives the rotation of KEKs.
pub const BY_VERSION: &str = "keyring_by_version";

/// The table and key of the one row: the encoded [`crate::providers::keys::WrappedKey`].
pub const TABLE: &str = "key";
pub const ROW: &[u8] = b"wrapped";

/// The keyring of a person.
#[must_use]
pub fn keyring_id(user_id: &str) -> EntityId {
    EntityId::new("keyring", user_id)
}

/// The key of [`BY_VERSION`].
#[must_use]
pub fn by_version_key(version: u32, user_id: &str) -> Vec<u8> {
    [&version.to_be_bytes(), user_id.as_bytes()].concat()
}
