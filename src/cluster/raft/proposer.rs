//! From operations to Raft entries: what queued while an append was in flight goes into the next entry.
//!
//! Invariants: operations reach the log in the order they were queued; one entry is in flight until it is committed,
//! while entries committed before it may still be applied; every operation is answered exactly once. An entry waits for company
//! for a few turns of the scheduler (ADR 115). Deliberately absent: waiting for time, retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use metrics::{Gauge, Histogram};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::vote::RaftLeaderId;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::actors::runtime::log::{Completion, LogError};
use crate::kernel::{Change, Op, ShardId, fail_point};
use crate::storage::state::ShardMachine;
use crate::storage::types::{LeaderId, ShardCommand, TypeConfig};

/// openraft's handle of one group.
pub type Raft = openraft::Raft<TypeConfig, ShardMachine>;
type Completed = OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>;

const ENTRY_OPS: usize = 1024;
const ENTRY_BYTES: usize = 1 << 20;
/// The largest operation; far below what a record of the log may hold.
const OP_BYTES: usize = 8 << 20;
/// How often everybody who can run has a turn before an entry is proposed that has less company than those before it.
const TURNS: usize = 4;
/// Entries committed and not yet applied at which proposing waits.
const APPLYING: usize = 64;

struct Proposal {
    /// The term in which the operation was decided, and the only one in which it may commit.
    term: u64,
    op: Op,
    bytes: usize,
    done: Completion,
}

/// What waits in front of a shard's log; bounded in operations and bytes.
pub(super) struct Queue {
    proposals: mpsc::Sender<Proposal>,
    waiting: Arc<Waiting>,
    limit_bytes: usize,
    disk_full: Arc<AtomicBool>,
}

struct Waiting {
    ops: AtomicUsize,
    bytes: AtomicUsize,
    proposed: AtomicU64,
    depth: Gauge,
    batch: Histogram,
}

impl Queue {
    /// Starts proposing to `raft` until `stop`; what is queued by then is still proposed.
    pub(super) fn start(
        shard: ShardId,
        raft: Raft,
        limits: (usize, usize),
        disk_full: Arc<AtomicBool>,
        turn: Arc<Mutex<()>>,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (limit_ops, limit_bytes) = limits;
        let (proposals, queued) = mpsc::channel(limit_ops.max(1));
        let shard = shard.to_string();
        let waiting = Arc::new(Waiting {
            ops: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            proposed: AtomicU64::new(0),
            depth: metrics::gauge!("construct_shard_queue_depth", "shard" => shard.clone()),
            batch: metrics::histogram!("construct_shard_batch_operations", "shard" => shard),
        });
        let proposer = Proposer { raft, queued, waiting: Arc::clone(&waiting), turn, stop };
        let task = tokio::spawn(proposer.run());
        (Self { proposals, waiting, limit_bytes: limit_bytes.max(OP_BYTES), disk_full }, task)
    }

    pub(super) fn push(&self, term: u64, op: Op, done: Completion) -> Result<(), LogError> {
        let bytes = op_bytes(&op);
        if bytes > OP_BYTES {
            return Err(done.refuse(LogError::TooLarge { bytes, limit: OP_BYTES }));
        }
        if self.disk_full.load(Ordering::Relaxed) {
            return Err(done.refuse(LogError::DiskFull));
        }
        // Counted before it is queued, so that the count never falls below what is there.
        self.waiting.add(bytes);
        let proposal = Proposal { term, op, bytes, done };
        let (refused, proposal) = if self.waiting.bytes.load(Ordering::Relaxed) > self.limit_bytes {
            (LogError::Overloaded, proposal)
        } else {
            match self.proposals.try_send(proposal) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(proposal)) => (LogError::Overloaded, proposal),
                Err(mpsc::error::TrySendError::Closed(proposal)) => (LogError::Stopped, proposal),
            }
        };
        self.waiting.remove(1, bytes);
        Err(proposal.done.refuse(refused))
    }

    /// Bytes of all operations proposed so far.
    pub(super) fn proposed_bytes(&self) -> u64 {
        self.waiting.proposed.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.ops.load(Ordering::Relaxed)
    }
}

impl Waiting {
    fn add(&self, bytes: usize) {
        self.ops.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, ops: usize, bytes: usize) {
        self.ops.fetch_sub(ops, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct Proposer {
    raft: Raft,
    queued: mpsc::Receiver<Proposal>,
    waiting: Arc<Waiting>,
    /// Held while an entry is in flight; a backup takes it to hold the shard still.
    turn: Arc<Mutex<()>>,
    stop: CancellationToken,
}

impl Proposer {
    async fn run(mut self) {
        let (completions, completed) = mpsc::channel(APPLYING);
        let answers = tokio::spawn(answer(completed));
        let (mut carried, mut before, mut company) = (None, 0, 0);
        while let Some(first) = self.next(carried.take()).await {
            self.assemble(company).await;
            let turn = Arc::clone(&self.turn);
            let _turn = turn.lock().await;
            let leader = LeaderId::new(first.term, *self.raft.node_id());
            let (ops, answers);
            (ops, answers, carried) = self.gather(first);
            (before, company) = (ops.len(), before + ops.len());
            #[expect(clippy::cast_precision_loss, reason = "a histogram")]
            self.waiting.batch.record(ops.len() as f64);
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            self.waiting.depth.set(self.waiting.ops.load(Ordering::Relaxed) as f64);
            let (responder, committed, completed) = ProgressResponder::new();
            fail_point::reach("raft.before_append");
            if let Err(error) = self.raft.write(ShardCommand { ops }).with_leader(leader).responder(responder).await {
                tracing::error!(%error, "the shard's log has stopped");
                break;
            }
            if completions.send((completed, answers)).await.is_err() {
                break;
            }
            // Fails when the entry was refused; whoever answers hears why.
            let _ = committed.await;
            fail_point::reach("raft.committed");
        }
        drop(completions);
        let _ = answers.await;
    }

    /// Who was answered together asks again one after the other, and an entry costs the same whoever is in it: lets those who
    /// are about to ask do so until so many operations wait, as long as others can run at all.
    async fn assemble(&self, company: usize) {
        for _ in 0..TURNS {
            if self.waiting.ops.load(Ordering::Relaxed) >= company.min(ENTRY_OPS) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn next(&mut self, carried: Option<Proposal>) -> Option<Proposal> {
        if carried.is_some() {
            return carried;
        }
        tokio::select! {
            biased;
            proposal = self.queued.recv() => proposal,
            () = self.stop.cancelled() => {
                self.queued.close();
                self.queued.recv().await
            }
        }
    }

    /// Everything of the same term that waits and fits into one entry with `first`, and what was taken and does not.
    fn gather(&mut self, first: Proposal) -> (Vec<Op>, Vec<Completion>, Option<Proposal>) {
        let term = first.term;
        let (mut ops, mut answers, mut bytes, mut carried) = (Vec::new(), Vec::new(), 0, None);
        let mut next = Some(first);
        while let Some(proposal) = next {
            if !ops.is_empty() && (bytes + proposal.bytes > ENTRY_BYTES || proposal.term != term) {
                carried = Some(proposal);
                break;
            }
            bytes += proposal.bytes;
            ops.push(proposal.op);
            answers.push(proposal.done);
            next = if ops.len() < ENTRY_OPS { self.queued.try_recv().ok() } else { None };
        }
        self.waiting.remove(ops.len(), bytes);
        self.waiting.proposed.fetch_add(bytes as u64, Ordering::Relaxed);
        (ops, answers, carried)
    }
}

/// Hands out outcomes as entries are applied, in order.
async fn answer(mut entries: mpsc::Receiver<(Completed, Vec<Completion>)>) {
    while let Some((completed, answers)) = entries.recv().await {
        let result = match completed.await {
            Ok(Ok(written)) => Ok(written.data.outcomes),
            Ok(Err(error)) => Err(refusal(&error)),
            Err(_) => Err(LogError::Stopped),
        };
        match result {
            Ok(outcomes) => {
                debug_assert_eq!(outcomes.len(), answers.len(), "one outcome for each operation");
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    answer.complete(Ok(outcome));
                }
            }
            Err(error) => {
                for answer in answers {
                    answer.complete(Err(error.clone()));
                }
            }
        }
    }
}

fn refusal(error: &ClientWriteError<TypeConfig>) -> LogError {
    match error {
        ClientWriteError::ForwardToLeader(to) => LogError::NotLeader { leader: to.leader_id },
        ClientWriteError::LogEntryDiscarded(_) => LogError::Deposed,
        // Operations never change the membership.
        _ => LogError::NotLeader { leader: None },
    }
}

/// About how many bytes an operation takes in the log.
fn op_bytes(op: &Op) -> usize {
    const RECORD: usize = 64;
    const AUDIT: usize = 256;
    match op {
        Op::Batch(batch) => {
            let events: usize = batch.events.iter().map(|event| event.len() + 8).sum();
            let outbox: usize = batch.outbox.iter().map(|record| record.payload.len() + 2 * RECORD).sum();
            let changes: usize = batch.changes.iter().map(change_bytes).sum();
            let lists = batch.settles.len() * 8 + batch.fired.len() * RECORD + batch.audit.len() * AUDIT;
            let snapshot = batch.snapshot.as_ref().map_or(0, Vec::len);
            2 * RECORD + batch.reply.len() + events + snapshot + outbox + changes + lists
        }
        Op::Outbox(changes) => RECORD + changes.len() * 32,
        Op::Audit(records) => RECORD + records.len() * AUDIT,
        Op::Consumed { .. } | Op::DropTimer { .. } | Op::Expire { .. } => 2 * RECORD,
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Timer { .. } => 64,
        Change::Index { key, value, .. } | Change::Row { key, value, .. } => {
            64 + key.len() + value.as_ref().map_or(0, Vec::len)
        }
    }
}
