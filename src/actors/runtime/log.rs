//! What the runtime needs of a shard's replicated log. Implemented by `cluster::raft`.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::kernel::{Op, OpOutcome, ShardId};
use crate::storage::state::ShardState;

/// Why an operation did not commit here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The queue in front of the log is full; the operation was not accepted.
    #[error("the shard's queue is full")]
    Overloaded,
    /// This node does not lead the shard (any more). Whether an accepted operation commits is not known.
    #[error("this node does not lead the shard")]
    NotLeader { leader: Option<u64> },
    /// The log stopped: shutdown or a failed disk. Whether an accepted operation commits is not known.
    #[error("the shard's log has stopped")]
    Stopped,
}

/// The replicated log of one shard, and the state it builds.
#[async_trait]
pub trait ShardLog: Send + Sync + 'static {
    fn shard(&self) -> ShardId;

    /// Queues an operation; operations commit in the order of these calls. The receiver yields once the operation is
    /// durable on a majority and applied here. A dropped sender means [`LogError::Stopped`].
    ///
    /// # Errors
    /// [`LogError::Overloaded`] when the bounded queue is full; nothing was queued.
    fn propose(&self, op: Op) -> Result<oneshot::Receiver<Result<OpOutcome, LogError>>, LogError>;

    /// Returns once reads of [`ShardLog::state`] see everything acknowledged before this call (lease read).
    ///
    /// # Errors
    /// [`LogError`] when this node cannot prove that it still leads.
    async fn read_barrier(&self) -> Result<(), LogError>;

    /// The shard's applied state. Reads are cheap and synchronous.
    fn state(&self) -> &Arc<ShardState>;
}
