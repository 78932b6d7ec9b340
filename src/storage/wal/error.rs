//! What can go wrong with the log, and where.

use std::io;
use std::path::PathBuf;

use crate::kernel::codec::CodecError;

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("write-ahead log: cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Bytes that were once durable are no longer what was written. Never repaired by guessing: the replica has to be
    /// rebuilt from the others, or the file restored.
    #[error(
        "write-ahead log is corrupt: {path} at offset {offset}: {what}. Lost with it: operations that were acknowledged \
         and that the state may not hold yet. Remedy: put back a good copy of this file, or restore the data directory \
         from a backup; in a cluster, remove this node and let it join again with an empty directory. The log is left as it \
         is"
    )]
    Corrupt { path: PathBuf, offset: u64, what: String },
    #[error("write-ahead log: {path} at offset {offset} holds a record this build cannot read: {source}")]
    Unreadable {
        path: PathBuf,
        offset: u64,
        #[source]
        source: CodecError,
    },
    #[error("write-ahead log: a record cannot be encoded: {0}")]
    Encode(#[from] CodecError),
    /// The caller broke the contract of a Raft log (a hole, an index already taken); nothing was written.
    #[error("write-ahead log: group {group}: {what}")]
    Contract { group: u16, what: String },
    /// An earlier write or sync failed, or the log was closed. Nothing is accepted any more.
    #[error("write-ahead log stopped: {0}")]
    Stopped(String),
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        Self::other(error)
    }
}
