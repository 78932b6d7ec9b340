//! What can be asked of one shard's audit log, and the answers. Both cross the wire when another node leads the shard.

use serde::{Deserialize, Serialize};

use super::log::unreadable;
use crate::kernel::merkle::{self, Hash, MerkleError};
use crate::kernel::{Error, ErrorCode, ShardId};
use crate::storage::state::ShardState;

/// Entries one question may fetch.
pub const MAX_ENTRIES: u32 = 500;

/// A question about one shard's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The number of entries and the root over them.
    Head,
    /// The root over the first `size` entries.
    Root { size: u64 },
    /// The leaf bytes of up to `count` entries from `from` on.
    Entries { from: u64, count: u32 },
    /// Proof that entry `index` is among the first `size`.
    Inclusion { index: u64, size: u64 },
    /// Proof that the first `old` entries are a prefix of the first `new`.
    Consistency { old: u64, new: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Head { size: u64, root: Hash },
    Entries(Vec<Vec<u8>>),
    Proof { hashes: Vec<Hash> },
}

/// Where entries and tree nodes are kept.
pub trait Tree {
    fn size(&self) -> u64;

    /// # Errors
    /// When it cannot be read.
    fn entry(&self, index: u64) -> Result<Option<Vec<u8>>, Error>;

    /// # Errors
    /// When it cannot be read.
    fn node(&self, level: u8, index: u64) -> Result<Option<Hash>, Error>;
}

impl Tree for ShardState {
    fn size(&self) -> u64 {
        self.audit_size()
    }

    fn entry(&self, index: u64) -> Result<Option<Vec<u8>>, Error> {
        self.audit_entry(index).map_err(|error| unreadable(&error))
    }

    fn node(&self, level: u8, index: u64) -> Result<Option<Hash>, Error> {
        self.audit_node(level, index).map_err(|error| unreadable(&error))
    }
}

/// Answers a question from the state of `shard`.
///
/// # Errors
/// `invalid` when the positions lie outside the log; `internal` when the log has a hole.
pub fn answer(shard: ShardId, tree: &impl Tree, query: &Query) -> Result<Answer, Error> {
    let size = tree.size();
    let node = |level, index| tree.node(level, index).ok().flatten();
    let head = |size| merkle::root(size, node).map(|root| Answer::Head { size, root });
    let proof = |hashes: Result<Vec<Hash>, MerkleError>| hashes.map(|hashes| Answer::Proof { hashes });
    let answer = match *query {
        Query::Head => head(size),
        Query::Root { size: wanted } if wanted <= size => head(wanted),
        Query::Entries { from, count } => return entries(shard, tree, from, count.min(MAX_ENTRIES)),
        Query::Inclusion { index, size: wanted } if wanted <= size => {
            proof(merkle::inclusion_proof(index, wanted, node))
        }
        Query::Consistency { old, new } if new <= size => proof(merkle::consistency_proof(old, new, node)),
        Query::Root { .. } | Query::Inclusion { .. } | Query::Consistency { .. } => Err(MerkleError::OutOfRange),
    };
    answer.map_err(|error| match error {
        MerkleError::OutOfRange => outside(size),
        MerkleError::MissingNode { level, index } => {
            tracing::error!(%shard, level, index, "a node of the audit tree is missing");
            Error::internal()
        }
    })
}

fn entries(shard: ShardId, tree: &impl Tree, from: u64, count: u32) -> Result<Answer, Error> {
    let end = tree.size().min(from.saturating_add(u64::from(count)));
    let mut entries = Vec::new();
    for index in from..end {
        let Some(entry) = tree.entry(index)? else {
            tracing::error!(%shard, index, "an entry of the audit log is missing");
            return Err(Error::internal());
        };
        entries.push(entry);
    }
    Ok(Answer::Entries(entries))
}

fn outside(size: u64) -> Error {
    Error::new(ErrorCode::Invalid, format!("The positions asked for lie outside the log, which has {size} entries."))
}
