//! What a keyring is told, what it records and what it answers. Persisted: variants go last.

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;
use crate::providers::keys::WrappedKey;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Answers [`Reply::Absent`], [`Reply::Held`] or [`Reply::Erased`].
    Get,
    /// Stores the person's first key. Refused with `conflict` when there is one and `gone` after erasure. The answer
    /// does not repeat the key, so that nothing but the journal ever holds it.
    Create { wrapped: WrappedKey },
    /// Replaces the wrapping made under version `from` by another one of the same key.
    Rewrap { from: u32, wrapped: WrappedKey },
    /// Destroys the key for good; also bars one from being made. Repeats are answered alike.
    Erase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Created { wrapped: WrappedKey },
    Rewrapped { wrapped: WrappedKey },
    Erased { at: Timestamp },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// No key was ever made.
    Absent,
    Held(WrappedKey),
    Erased {
        at: Timestamp,
    },
    /// The command was carried out.
    Accepted,
}
