//! The Merkle tree of the audit log: RFC 9162 §2.1 over SHA-256, as pure functions.
//!
//! A tree is stored as the hashes of its complete subtrees: node `(level, index)` covers the leaves
//! `index·2^level .. (index+1)·2^level`. Appending leaf `n` completes one subtree per trailing one-bit of `n`, so a
//! tree of `n` leaves has fewer than `2n` nodes and every root and proof reads O(log n) of them. Nodes are never
//! rewritten. Deliberately absent: storage, signatures and any idea of what a leaf means beyond [`leaf_bytes`].

use ring::digest::{Context as Digest, SHA256};
use serde::Serialize;

use super::{AuditRecord, ShardId};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Why a root or proof cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MerkleError {
    #[error("tree node {index} of level {level} is missing")]
    MissingNode { level: u8, index: u64 },
    #[error("the positions asked for lie outside the tree")]
    OutOfRange,
}

/// A proof that proves nothing: the log was changed, or the proof belongs to something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("the proof does not fit a tree of this size")]
    Shape,
    #[error("the proof leads to another root")]
    Mismatch,
}

/// What is hashed into a leaf. The member order is part of the format and never changes.
#[derive(Serialize)]
struct Leaf<'a> {
    index: u64,
    shard: u16,
    at: super::Timestamp,
    actor: &'a str,
    action: &'a str,
    target: &'a str,
    outcome: &'a str,
    source: &'a str,
    request_id: &'a str,
}

/// The canonical bytes of an audit entry: compact JSON (RFC 8259, UTF-8, no spaces) with the members `index`, `shard`,
/// `at` (RFC 3339, UTC, milliseconds), `actor`, `action`, `target`, `outcome`, `source`, `request_id` in this order.
#[must_use]
pub fn leaf_bytes(shard: ShardId, index: u64, record: &AuditRecord) -> Vec<u8> {
    let leaf = Leaf {
        index,
        shard: shard.0,
        at: record.at,
        actor: &record.actor,
        action: &record.action,
        target: &record.target,
        outcome: &record.outcome,
        source: &record.source,
        request_id: &record.request_id,
    };
    serde_json::to_vec(&leaf).expect("text and integers always serialize")
}

/// `SHA-256(0x00 ‖ bytes)`.
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    digest(&[&[0], bytes])
}

/// `SHA-256(0x01 ‖ left ‖ right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    digest(&[&[1], left, right])
}

/// The root of the tree without leaves: the hash of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    digest(&[])
}

fn digest(parts: &[&[u8]]) -> Hash {
    let mut digest = Digest::new(&SHA256);
    for part in parts {
        digest.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

/// The nodes that leaf `index` with this leaf hash completes, level 0 first. `read` gives stored nodes.
///
/// A left sibling that `read` does not know ends the climb; roots and proofs over the gap then report
/// [`MerkleError::MissingNode`] instead of a wrong hash.
#[must_use]
pub fn append(index: u64, leaf: Hash, read: impl Fn(u8, u64) -> Option<Hash>) -> Vec<(u8, u64, Hash)> {
    let mut nodes = vec![(0, index, leaf)];
    let (mut level, mut position, mut hash) = (0u8, index, leaf);
    while position & 1 == 1 && level < 63 {
        let Some(left) = read(level, position - 1) else { break };
        hash = node_hash(&left, &hash);
        level += 1;
        position >>= 1;
        nodes.push((level, position, hash));
    }
    nodes
}

/// The root of the first `size` leaves.
///
/// # Errors
/// [`MerkleError::MissingNode`] when a node of the tree is not stored.
pub fn root(size: u64, read: impl Fn(u8, u64) -> Option<Hash>) -> Result<Hash, MerkleError> {
    if size == 0 { Ok(empty_root()) } else { range(0, size, &read) }
}

/// The hashes that lead from leaf `index` to the root of the first `size` leaves, bottom up (RFC 9162 §2.1.3.1).
///
/// # Errors
/// [`MerkleError::OutOfRange`] unless `index < size`; [`MerkleError::MissingNode`].
pub fn inclusion_proof(
    index: u64,
    size: u64,
    read: impl Fn(u8, u64) -> Option<Hash>,
) -> Result<Vec<Hash>, MerkleError> {
    if index >= size {
        return Err(MerkleError::OutOfRange);
    }
    let (mut begin, mut end, mut path) = (0, size, Vec::new());
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            path.push(range(middle, end, &read)?);
            end = middle;
        } else {
            path.push(range(begin, middle, &read)?);
            begin = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show the first `old` leaves to be a prefix of the first `new` (RFC 9162 §2.1.4.1). Empty when
/// `old` is 0 or `new`.
///
/// # Errors
/// [`MerkleError::OutOfRange`] unless `old <= new`; [`MerkleError::MissingNode`].
pub fn consistency_proof(old: u64, new: u64, read: impl Fn(u8, u64) -> Option<Hash>) -> Result<Vec<Hash>, MerkleError> {
    if old > new {
        return Err(MerkleError::OutOfRange);
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut begin, mut end, mut path) = (0, new, Vec::new());
    // Invariant: begin < old <= end. The old tree ends where `old == end`.
    while old != end {
        let middle = begin + split(end - begin);
        if old <= middle {
            path.push(range(middle, end, &read)?);
            end = middle;
        } else {
            path.push(range(begin, middle, &read)?);
            begin = middle;
        }
    }
    if begin != 0 {
        path.push(range(begin, end, &read)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that `leaf` is at `index` of the tree of `size` leaves with this root (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`] when it is not.
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Shape);
    }
    let (mut position, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Shape);
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, &hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    match (last == 0, hash == *root) {
        (false, _) => Err(ProofError::Shape),
        (true, false) => Err(ProofError::Mismatch),
        (true, true) => Ok(()),
    }
}

/// Checks that the tree of `new` leaves only adds to the tree of `old` leaves (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`ProofError`] when it does not.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Hash,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new || (proof.is_empty() != (old == 0 || old == new)) {
        return Err(ProofError::Shape);
    }
    if old == new && old_root != new_root {
        return Err(ProofError::Mismatch);
    }
    if old == 0 {
        return same(*old_root == empty_root());
    }
    if old == new {
        return Ok(());
    }
    let (first, rest) = if old.is_power_of_two() { (old_root, proof) } else { (&proof[0], &proof[1..]) };
    let (mut position, mut last) = (old - 1, new - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Shape);
        }
        if position & 1 == 1 || position == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Shape);
    }
    same(old_hash == *old_root && new_hash == *new_root)
}

fn same(equal: bool) -> Result<(), ProofError> {
    if equal { Ok(()) } else { Err(ProofError::Mismatch) }
}

/// The largest power of two below `size`, for `size > 1`.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// The hash of the leaves `begin..end`, where `begin` is a multiple of the power of two at or above the length.
fn range(begin: u64, end: u64, read: &impl Fn(u8, u64) -> Option<Hash>) -> Result<Hash, MerkleError> {
    let size = end - begin;
    if size.is_power_of_two() {
        let level = size.trailing_zeros() as u8;
        let index = begin >> level;
        return read(level, index).ok_or(MerkleError::MissingNode { level, index });
    }
    let middle = begin + split(size);
    Ok(node_hash(&range(begin, middle, read)?, &range(middle, end, read)?))
}

#[cfg(test)]
#[path = "merkle_tests.rs"]
mod tests;
