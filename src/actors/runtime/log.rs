//! What the runtime needs of a shard's replicated log. Implemented by `cluster::raft`.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::kernel::{Error, Op, OpOutcome, ShardId, Timestamp};
use crate::storage::state::{LogPosition, ShardState, StateError};

/// Names a backup while it is taken.
pub type CutId = [u8; 16];
/// In place of an offset: what was set aside is not needed any more.
pub const CUT_READ: u64 = u64::MAX;

/// Why an operation did not commit here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The queue in front of the log is full; the operation was not accepted.
    #[error("the shard's queue is full")]
    Overloaded,
    /// There is too little space on the disk; the operation was not accepted.
    #[error("the disk is full")]
    DiskFull,
    /// The operation is larger than an entry of the log may be; it was not accepted.
    #[error("an operation of {bytes} bytes is above the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// This node does not lead the shard, or not in the term it was asked for. The operation will never commit.
    #[error("this node does not lead the shard")]
    NotLeader { leader: Option<u64> },
    /// This node lost the shard while the operation was on its way. Whether it commits is not known.
    #[error("this node lost the shard while the operation was on its way")]
    Deposed,
    /// The log stopped: shutdown or a failed disk. Whether an accepted operation commits is not known.
    #[error("the shard's log has stopped")]
    Stopped,
}

/// What a caller hears when the state cannot be read: of a node that is about to stop because its disk failed, that another
/// try may help.
pub fn unreadable(error: &StateError) -> Error {
    if matches!(error, StateError::Failed) {
        return Error::unavailable("The storage of this node failed.");
    }
    tracing::error!(%error, "the state store cannot be read");
    if error.is_damage() { Error::internal() } else { Error::unavailable("The storage of this node failed.") }
}

/// Who decides for a shard, as this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The term in which this node leads, once its state holds everything acknowledged before it.
    pub leading: Option<u64>,
    /// The node that leads, if one is known.
    pub leader: Option<u64>,
    /// Whether this node has a replica; without one its state is nobody's.
    pub replica: bool,
}

/// How a shard's log stands, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// The node that leads, if one is known.
    pub leader: Option<u64>,
    pub term: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Operations waiting for an append.
    pub queued: usize,
    pub replicas: Vec<Replica>,
}

/// A shard as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    pub log: LogStatus,
    /// Entities live in memory of the node that answered.
    pub live: u64,
    pub feed_head: u64,
    pub audit_size: u64,
    /// When the earliest timer is due.
    pub next_timer: Option<Timestamp>,
}

/// One member of a shard's Raft group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub node: u64,
    /// Whether it votes. In the midst of a change who comes or goes is listed twice, with a vote and without.
    pub voter: bool,
    /// Index of the last entry known to be on it; known to the leader alone.
    pub matched: Option<u64>,
}

/// Hears once how an operation ended: durable on a majority and applied here, or not. Dropped unheard, it hears
/// [`LogError::Stopped`]. What it does must be short: it runs between two others.
pub struct Completion(Option<Box<dyn FnOnce(Result<OpOutcome, LogError>) + Send>>);

impl Completion {
    pub fn new(hear: impl FnOnce(Result<OpOutcome, LogError>) + Send + 'static) -> Self {
        Self(Some(Box::new(hear)))
    }

    pub fn complete(mut self, outcome: Result<OpOutcome, LogError>) {
        if let Some(hear) = self.0.take() {
            hear(outcome);
        }
    }

    /// Hears that the operation was not accepted; `error` to be returned to whoever proposed it.
    pub fn refuse(self, error: LogError) -> LogError {
        self.complete(Err(error.clone()));
        error
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(hear) = self.0.take() {
            hear(Err(LogError::Stopped));
        }
    }
}

/// The replicated log of one shard, and the state it builds.
#[async_trait]
pub trait ShardLog: Send + Sync + 'static {
    fn shard(&self) -> ShardId;

    /// Follows who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Queues an operation decided while this node led in `term`; operations of a term commit in the order of these
    /// calls, and in no other term.
    ///
    /// # Errors
    /// [`LogError::Overloaded`] when the bounded queue is full; nothing was queued, and `done` has heard the same.
    fn propose_then(&self, term: u64, op: Op, done: Completion) -> Result<(), LogError>;

    /// As [`ShardLog::propose_then`], with a receiver that yields the outcome.
    ///
    /// # Errors
    /// As [`ShardLog::propose_then`].
    fn propose(&self, term: u64, op: Op) -> Result<oneshot::Receiver<Result<OpOutcome, LogError>>, LogError> {
        let (answer, outcome) = oneshot::channel();
        // Whoever asked may be gone.
        self.propose_then(term, op, Completion::new(move |ended| drop(answer.send(ended))))?;
        Ok(outcome)
    }

    /// Returns once reads of [`ShardLog::state`] see everything acknowledged before this call, and this node has led
    /// in `term` at some time since then (lease read).
    ///
    /// # Errors
    /// [`LogError`] when this node cannot prove it.
    async fn read_barrier(&self, term: u64) -> Result<(), LogError>;

    /// Holds back whatever is proposed from now on, until [`ShardLog::release`] or for a short while, and begins to set
    /// aside what is applied by now: everything acknowledged. Answers up to where that is.
    ///
    /// # Errors
    /// [`LogError`] when this node does not lead in `term`, or not everything is applied in time.
    async fn cut(&self, _term: u64, _id: CutId) -> Result<Option<LogPosition>, LogError> {
        Err(LogError::Stopped)
    }

    /// Ends a hold; whether it lasted, in `term`, from the answer of [`ShardLog::cut`] until now.
    async fn release(&self, _term: u64, _id: CutId) -> bool {
        false
    }

    /// A piece of what was set aside, as a snapshot file holds it; empty at its end. [`CUT_READ`] as the offset removes it.
    ///
    /// # Errors
    /// Why it is not there.
    async fn read_cut(&self, _id: CutId, _offset: u64, _limit: usize) -> Result<Vec<u8>, String> {
        Err("this log sets nothing aside".to_owned())
    }

    /// The shard's applied state. Reads are cheap and synchronous.
    fn state(&self) -> &Arc<ShardState>;

    /// How the log stands now.
    fn status(&self) -> LogStatus;

    /// Whether this node votes in the group, by its own log.
    fn votes(&self) -> bool;
}
