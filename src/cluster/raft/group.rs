//! One shard's Raft group on this node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{BasicNode, Config, RaftMetrics};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cut::Cuts;
use super::leadership;
use super::membership::decided;
use super::network::{Network, Voting};
use super::proposer::{Queue, Raft};
use super::{GroupSettings, RaftGroupError, naming};
use crate::actors::runtime::log::{Completion, CutId, Leadership, LogError, LogStatus, Replica, ShardLog};
use crate::kernel::{Op, ShardId, fail_point};
use crate::settings::HEARTBEAT_STEP_MS;
use crate::storage::state::{LogPosition, ShardMachine, ShardState};
use crate::storage::types::TypeConfig;
use crate::storage::wal::GroupLog;

/// The longest a single voter may take to become leader before starting counts as failed.
const LEADERSHIP: Duration = Duration::from_secs(30);

/// How long the core may take to take over a snapshot that is written, and how often it is asked.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
const TAKE_TRIES: u32 = 12;

/// A shard's replicated log and state; what the runtime calls [`ShardLog`].
pub struct ShardGroup {
    shard: ShardId,
    raft: Raft,
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    machine: ShardMachine,
    queue: Queue,
    cuts: Cuts,
    leadership: watch::Receiver<Leadership>,
    /// A member that was not heard for this long does not answer.
    silence: Duration,
    /// What memberships must call this node to mean it.
    own: Option<String>,
    stop: CancellationToken,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl ShardGroup {
    /// Starts the group. A new one is formed with this node as its only voter by the founder; else it waits until a leader
    /// takes it in. The only voter of a group leads it when this returns; who is one of many may not know a leader yet.
    pub(super) async fn start(
        settings: &GroupSettings,
        log: GroupLog,
        machine: ShardMachine,
        network: &Network,
    ) -> Result<Arc<Self>, RaftGroupError> {
        let shard = machine.state().shard();
        let failed = |what: &str, error: String| RaftGroupError::Group { shard, what: what.to_owned(), error };
        let config = Config { enable_elect: false, ..config(settings) };
        let config = config.validate().map_err(|error| failed("is not configured well", error.to_string()))?;
        // The longest a leader may believe that nobody else was elected.
        let lease = Duration::from_millis(config.election_timeout_max);
        let node = settings.node_id;
        let raft = Raft::new(node, Arc::new(config), network.of(shard), log, machine.clone())
            .await
            .map_err(|error| failed("cannot start", error.to_string()))?;
        let formed = raft.is_initialized().await.map_err(|error| failed("cannot start", error.to_string()))?;
        let own = settings.key.as_ref().map(naming::name_of);
        let named = naming::means(&raft.metrics().borrow_watched(), own.as_deref());
        let only = formed && named && raft.voter_ids().eq([node]);
        let stop = CancellationToken::new();
        // Before it ended, this node may have promised a leader not to vote for another for as long as a lease.
        let promised = if formed && !only { lease } else { Duration::ZERO };
        network.register(shard, raft.clone(), machine.clone(), Voting { promised, own: own.clone() });
        let electing = tokio::spawn(stand(raft.clone(), Voting { promised, own: own.clone() }, stop.clone()));
        if only {
            // The only voter need not wait for an election time-out.
            raft.trigger().elect(false).await.map_err(|error| failed("cannot elect", error.to_string()))?;
        }
        if !formed && settings.founder {
            // Who forms a cluster had no earlier life in it.
            let members = std::collections::BTreeMap::from([(node, BasicNode::new(settings.address.clone()))]);
            raft.initialize(members).await.map_err(|error| failed("cannot be formed", error.to_string()))?;
        }
        let limits = (settings.queue_ops, settings.queue_bytes);
        let full = Arc::clone(&settings.disk_full);
        let cuts = Cuts::default();
        let turn = Arc::clone(&cuts.turn);
        let (queue, proposer) = Queue::start(shard, raft.clone(), limits, full, turn, stop.clone());
        let (mut leadership, watching) = leadership::follow(raft.clone(), stop.clone());
        if only || (!formed && settings.founder) {
            let elected = raft.wait(Some(LEADERSHIP)).current_leader(node, "this node leads").await;
            elected.map_err(|error| failed("has no leader", error.to_string()))?;
            // Recovery takes as long as there is log to apply.
            let leads = leadership.wait_for(|now| now.leading.is_some()).await;
            leads.map_err(|error| failed("cannot recover", error.to_string()))?;
        }
        let tasks = std::sync::Mutex::new(vec![proposer, watching, electing]);
        let (metrics, silence) = (raft.metrics(), Duration::from_millis(settings.election_ms.saturating_mul(2)));
        Ok(Arc::new(Self { shard, raft, metrics, machine, queue, cuts, leadership, silence, own, stop, tasks }))
    }

    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    pub(super) fn machine(&self) -> &ShardMachine {
        &self.machine
    }

    pub(super) fn is_disk_full(&self) -> bool {
        self.queue.is_disk_full()
    }

    pub(super) fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// What speaks Raft with other nodes.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Why the group stopped by itself; `None` while it runs or after [`ShardGroup::shutdown`].
    #[must_use]
    pub fn fatal(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match &metrics.running_state {
            Err(error) if !self.stop.is_cancelled() => Some(error.to_string()),
            _ => None,
        }
    }

    /// Whether this node is the only voter, leads in this term, and has applied an entry of its own term: then what is applied here is
    /// all that anybody was ever told, and no question to the group's core is needed. A second voter shows in the
    /// metrics before the joint configuration that this node is still needed for can have ended.
    fn decides_alone(&self, term: u64) -> bool {
        let metrics = self.metrics.borrow_watched();
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
        self.raft.metrics().borrow_watched().snapshot.map_or(0, |at| at.index)
    }

    /// Bytes proposed since the start.
    pub(super) fn log_bytes(&self) -> u64 {
        self.queue.proposed_bytes()
    }

    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.machine.snapshot_bytes().unwrap_or(0)
    }

    /// Makes a snapshot of what is applied by now, and then lets go of the log that older snapshots cover.
    pub(super) async fn snapshot(&self) -> Result<(), RaftGroupError> {
        let failed = |error: String| {
            let what = "cannot make a snapshot".to_owned();
            RaftGroupError::Group { shard: self.shard, what, error }
        };
        let applied = self.state().applied().borrow().applied_index;
        self.machine.write_snapshot().await.map_err(|error| failed(error.to_string()))?;
        let mut tries = 0;
        loop {
            // Passed over while one is being made for a follower.
            self.raft.trigger().snapshot().await.map_err(|error| failed(error.to_string()))?;
            let made = |metrics: &RaftMetrics<TypeConfig>| metrics.snapshot.is_some_and(|at| at.index >= applied);
            tries += 1;
            match self.raft.wait(Some(TAKEN_WITHIN)).metrics(made, "a snapshot is made").await {
                Ok(_) => break,
                Err(WaitError::Timeout(..)) if tries < TAKE_TRIES => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        if let Some(upto) = self.machine.purgeable().map_err(|error| failed(error.to_string()))? {
            fail_point::reach("purge.before");
            self.raft.trigger().purge_log(upto).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Refuses new operations, finishes the queued ones and stops the group.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(shard = %self.shard, %error, "the group did not stop cleanly");
        }
    }
}

/// Lets the group stand for election once no promise of an earlier process can hold any more, and its log names this node.
async fn stand(raft: Raft, voting: Voting, stop: CancellationToken) {
    let means = |metrics: &RaftMetrics<TypeConfig>| naming::means(metrics, voting.own.as_deref());
    let may = async {
        tokio::time::sleep(voting.promised).await;
        raft.wait(None).metrics(means, "the log names this node").await.is_ok()
    };
    if stop.run_until_cancelled(may).await == Some(true) {
        raft.runtime_config().elect(true);
    }
}

/// What is asked for so that heartbeats come every so many milliseconds. A leader looks only at moments of the grid whether
/// one is due, and the last one left a moment after its own: without the margin some would be a whole step late.
fn heartbeat(every_ms: u64) -> u64 {
    every_ms.saturating_sub(HEARTBEAT_STEP_MS / 5)
}

pub(super) fn config(settings: &GroupSettings) -> Config {
    Config {
        cluster_name: "construct".to_owned(),
        heartbeat_interval: heartbeat(settings.heartbeat_ms),
        election_timeout_min: settings.election_ms,
        election_timeout_max: settings.election_ms.saturating_mul(5) / 3 + 1,
        enable_pre_vote: Some(true),
        // A restarted leader stands for election: its new term's first entry proves what is committed, so that no
        // lease read can miss what it had applied before.
        enable_leader_restore: Some(false),
        // Snapshots and purges come from `upkeep`, which keeps the log back to the oldest kept snapshot.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

#[async_trait]
impl ShardLog for ShardGroup {
    fn shard(&self) -> ShardId {
        self.shard
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    fn propose_then(&self, term: u64, op: Op, done: Completion) -> Result<(), LogError> {
        self.queue.push(term, op, done)
    }

    async fn read_barrier(&self, term: u64) -> Result<(), LogError> {
        if self.decides_alone(term) {
            return Ok(());
        }
        // By the lease while it lasts; else the voters are asked at once and have as long as a lease to answer.
        match self.raft.ensure_linearizable(LinearizerOption::new(None, true)).await {
            Ok(read) if read.committed_leader_id().term == term => Ok(()),
            Ok(_) => Err(LogError::NotLeader { leader: Some(*self.raft.node_id()) }),
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
        self.machine.state()
    }

    fn votes(&self) -> bool {
        naming::votes(&self.raft.metrics().borrow_watched(), self.own.as_deref())
    }

    fn status(&self) -> LogStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
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
            queued: self.queue.len(),
            replicas: replicas.collect(),
        }
    }
}

impl std::fmt::Debug for ShardGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardGroup").field("shard", &self.shard).finish_non_exhaustive()
    }
}
