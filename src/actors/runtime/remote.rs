//! The way to other nodes, as the runtime sees it: one call carries one encoded request to the node that leads a shard.
//!
//! Implemented by the entity lane between nodes ([`Remote`]) and, on the receiving side, by the runtime
//! ([`RemoteHandler`]). Requests and replies are bytes of the runtime's own versioned enums; whoever carries them looks
//! at nothing but their length. What the entity itself refuses is part of the reply; a [`Refusal`] says that the request
//! did not reach it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::kernel::ShardId;

/// The largest request or reply that is carried.
pub const REMOTE_BYTES: usize = 12 << 20;

/// What the other node answers instead of a reply. Append-only: crosses the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Nothing was done: the node does not lead the shard. The leader, as far as it knows.
    #[error("the node does not lead the shard")]
    NotLeader { leader: Option<u64> },
    /// Nothing was done: a window or queue is full.
    #[error("the node is overloaded")]
    Overloaded,
    /// Nothing was done: the node has no replica of the shard.
    #[error("the node does not know the shard")]
    UnknownShard,
    /// Nothing was done: the deadline had passed before the request was looked at.
    #[error("the deadline passed before the request was looked at")]
    Expired,
    /// Nothing was done: the request is of a version that this build does not read.
    #[error("the node does not read this request")]
    Unreadable,
    /// It was done, and its reply is larger than is carried. Whoever calls hears of it as [`RemoteError::Lost`].
    #[error("the reply is larger than is carried")]
    ReplyTooLarge,
}

/// Why a call brought no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request did not leave this node: nothing was done.
    #[error("node {node} cannot be reached")]
    Unreachable { node: u64 },
    /// The request was sent and no reply came by the deadline, or the connection broke. What was done is not known.
    #[error("node {node} did not answer")]
    Lost { node: u64 },
}

/// Carries requests to other nodes. Bounded: a full window refuses at once with [`Refusal::Overloaded`].
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Carries `request` about `shard` to `node` and its reply back, by `deadline`.
    ///
    /// # Errors
    /// [`RemoteError`]; every refusal and [`RemoteError::Unreachable`] mean that nothing was done.
    async fn call(
        &self,
        node: u64,
        shard: ShardId,
        request: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<u8>, RemoteError>;
}

/// Answers requests of other nodes. May be called concurrently; the caller bounds how many are under way.
#[async_trait]
pub trait RemoteHandler: Send + Sync + 'static {
    /// `from` is the authenticated sender.
    ///
    /// # Errors
    /// [`Refusal`], all of which mean that nothing was done.
    async fn handle(&self, from: u64, shard: ShardId, request: Vec<u8>, deadline: Instant) -> Result<Vec<u8>, Refusal>;
}
