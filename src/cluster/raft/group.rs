//! One shard's Raft group on this node.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cut::Cuts;
use super::membership::decided;
use super::network::Network;
use super::proposer::Raft;
use super::running::{Parts, Running};
use super::{GroupSettings, RaftGroupError, naming};
use crate::actors::runtime::log::{Completion, CutId, Leadership, LogError, LogStatus, Replica, ShardLog};
use crate::kernel::{Op, ShardId, fail_point};
use crate::storage::state::{LogPosition, ShardMachine, ShardState};
use crate::storage::types::TypeConfig;
use crate::storage::wal::GroupLog;

/// How long the core may take to take over a snapshot that is written, and how often it is asked.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
const TAKE_TRIES: u32 = 12;

/// A shard's replicated log and state; what the runtime calls [`ShardLog`].
pub struct ShardGroup {
    parts: Parts,
    running: RwLock<Arc<Running>>,
    /// Why it can neither run nor be given up.
    broken: OnceLock<String>,
    cuts: Cuts,
    /// A member that was not heard for this long does not answer.
    silence: Duration,
}

impl ShardGroup {
    /// Starts the group; see [`Parts::run`].
    pub(super) async fn start(
        settings: &GroupSettings,
        log: GroupLog,
        machine: ShardMachine,
        network: &Network,
    ) -> Result<Arc<Self>, RaftGroupError> {
        let cuts = Cuts::default();
        let parts = Parts {
            log,
            machine,
            network: network.clone(),
            leadership: watch::Sender::default(),
            turn: Arc::clone(&cuts.turn),
            own: settings.key.as_ref().map(naming::name_of),
            stop: CancellationToken::new(),
            settings: settings.clone(),
        };
        let running = RwLock::new(Arc::new(parts.run().await?));
        let silence = Duration::from_millis(settings.election_ms.saturating_mul(2));
        Ok(Arc::new(Self { parts, running, broken: OnceLock::new(), cuts, silence }))
    }

    pub(super) const fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(super) fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the place of one that was ended.
    pub(super) fn set_running(&self, running: Running) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(running);
    }

    /// The group does not run and cannot be started: the node must stop.
    pub(super) fn set_broken(&self, why: &RaftGroupError) {
        let _ = self.broken.set(why.to_string());
    }

    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    /// This node.
    #[must_use]
    pub const fn node(&self) -> u64 {
        self.parts.settings.node_id
    }

    pub(super) const fn machine(&self) -> &ShardMachine {
        &self.parts.machine
    }

    pub(super) fn is_disk_full(&self) -> bool {
        self.parts.settings.disk_full.load(Ordering::Relaxed)
    }

    pub(super) fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// What speaks Raft with other nodes.
    #[must_use]
    pub fn raft(&self) -> Raft {
        self.running().raft.clone()
    }

    /// Why the group stopped by itself; `None` while it runs or after [`ShardGroup::shutdown`].
    #[must_use]
    pub fn fatal(&self) -> Option<String> {
        self.broken.get().cloned().or_else(|| self.running().fatal())
    }

    /// Whether this node is the only voter, leads in this term, and has applied an entry of its own term: then what is applied here is
    /// all that anybody was ever told, and no question to the group's core is needed. A second voter shows in the
    /// metrics before the joint configuration that this node is still needed for can have ended.
    fn decides_alone(&self, term: u64) -> bool {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        let metrics = running.metrics.borrow_watched();
        let voters = metrics.membership_config.membership().get_joint_config();
        let alone = voters.len() == 1 && voters[0].len() == 1 && voters[0].contains(&metrics.id);
        let leads = metrics.running_state.is_ok() && metrics.current_leader == Some(metrics.id);
        alone
            && leads
            && metrics.current_term == term
            && metrics.last_applied.is_some_and(|at| at.leader_id.term == metrics.current_term)
    }

    /// Up to where the newest snapshot goes.
    pub(super) fn snapshot_index(&self) -> u64 {
        self.running().metrics.borrow_watched().snapshot.map_or(0, |at| at.index)
    }

    /// Bytes proposed since the start.
    pub(super) fn log_bytes(&self) -> u64 {
        self.running().queue.proposed_bytes()
    }

    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.machine().snapshot_bytes().unwrap_or(0)
    }

    /// Makes a snapshot of what is applied by now, and then lets go of the log that older snapshots cover.
    pub(super) async fn snapshot(&self) -> Result<(), RaftGroupError> {
        let failed = |error: String| self.parts.failed("cannot make a snapshot", error);
        let raft = self.raft();
        let applied = self.state().applied().borrow().applied_index;
        if !self.machine().write_snapshot().await.map_err(|error| failed(error.to_string()))? {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            // Passed over while one is being made for a follower.
            raft.trigger().snapshot().await.map_err(|error| failed(error.to_string()))?;
            let made = |metrics: &RaftMetrics<TypeConfig>| metrics.snapshot.is_some_and(|at| at.index >= applied);
            tries += 1;
            match raft.wait(Some(TAKEN_WITHIN)).metrics(made, "a snapshot is made").await {
                Ok(_) => break,
                Err(WaitError::Timeout(..)) if tries < TAKE_TRIES => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        if let Some(upto) = self.machine().purgeable().map_err(|error| failed(error.to_string()))? {
            fail_point::reach("purge.before");
            raft.trigger().purge_log(upto).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Refuses new operations, finishes the queued ones and stops the group.
    pub(super) async fn shutdown(&self) {
        self.parts.stop.cancel();
        self.running().end().await;
    }
}

#[async_trait]
impl ShardLog for ShardGroup {
    fn shard(&self) -> ShardId {
        self.parts.shard()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.parts.leadership.subscribe()
    }

    fn propose_then(&self, term: u64, op: Op, done: Completion) -> Result<(), LogError> {
        self.running().queue.push(term, op, done)
    }

    async fn read_barrier(&self, term: u64) -> Result<(), LogError> {
        if self.decides_alone(term) {
            return Ok(());
        }
        // By the lease while it lasts; else the voters are asked at once and have as long as a lease to answer.
        let raft = self.raft();
        match raft.ensure_linearizable(LinearizerOption::new(None, true)).await {
            Ok(read) if read.committed_leader_id().term == term => Ok(()),
            Ok(_) => Err(LogError::NotLeader { leader: Some(*raft.node_id()) }),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(LogError::NotLeader { leader: to.leader_id })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(LogError::NotLeader { leader: None })
            }
            Err(RaftError::Fatal(_)) => Err(LogError::Stopped),
        }
    }

    async fn cut(&self, term: u64, id: CutId) -> Result<Option<LogPosition>, LogError> {
        self.begin_cut(term, id).await
    }

    async fn release(&self, term: u64, id: CutId) -> bool {
        self.end_cut(term, id).await
    }

    async fn read_cut(&self, id: CutId, offset: u64, limit: usize) -> Result<Vec<u8>, String> {
        self.piece(id, offset, limit).await
    }

    fn state(&self) -> &Arc<ShardState> {
        self.machine().state()
    }

    fn votes(&self) -> bool {
        let named = naming::votes(&self.running().metrics.borrow_watched(), self.parts.own.as_deref());
        named && self.parts.log.reaches_mark()
    }

    fn status(&self) -> LogStatus {
        let running = self.running();
        let metrics = running.metrics.borrow_watched();
        let own = metrics.last_log_index;
        let replicas = decided(&metrics).into_iter().map(|(node, voter)| Replica {
            node,
            voter,
            matched: if node == metrics.id {
                own
            } else {
                let replication = metrics.replication.as_ref();
                replication.and_then(|matched| matched.get(&node)).copied().flatten().map(|at| at.index)
            },
        });
        LogStatus {
            leader: metrics.current_leader,
            term: metrics.current_term,
            applied: metrics.last_applied.map_or(0, |at| at.index),
            queued: running.queue.len(),
            replicas: replicas.collect(),
        }
    }
}

impl std::fmt::Debug for ShardGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardGroup").field("shard", &self.parts.shard()).finish_non_exhaustive()
    }
}
