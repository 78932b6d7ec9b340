//! What a keyring is told, what it records and what it answers. Persisted: variants go last. Neither events nor
//! replies carry the wrapped key.

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;
use crate::providers::keys::WrappedKey;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Answers [`Reply::Absent`], [`Reply::Held`] or [`Reply::Erased`].
    Get,
    /// Stores the person's first key, which was announced to its shard's [`super::fence`] before. Refused with `conflict`
    /// when there is one and `gone` after erasure; [`Reply::Superseded`] when its version was barred.
    Create { wrapped: WrappedKey },
    /// Replaces the wrapping made under version `from` by another one of the same key.
    Rewrap { from: u32, wrapped: WrappedKey },
    /// Destroys the key for good; also bars one from being made. Repeats are answered alike.
    Erase,
    /// Ends what was announced under version `from`: no key is taken under a version below `lowest` from now on. Refused
    /// with `conflict` while there is a key under `from`, which is to be wrapped anew instead.
    Bar { from: u32, lowest: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Created { version: u32 },
    Rewrapped { version: u32 },
    Erased { at: Timestamp },
    Barred { lowest: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// No key was ever made.
    Absent,
    /// There is a key; its row is wrapped under this version of the KEK.
    Held {
        version: u32,
    },
    Erased {
        at: Timestamp,
    },
    /// The command was carried out.
    Accepted,
    /// Nothing was stored: the key's version is being destroyed. Wrap it under a newer one.
    Superseded,
}
