//! A group while it runs: openraft's core of it and the tasks around. It can be stopped and started again beneath the handle
//! that the rest of the node has ([`ShardGroup`](super::ShardGroup)).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{BasicNode, Config, RaftMetrics};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::network::{Network, Voting};
use super::proposer::{Queue, Raft};
use super::{GroupSettings, RaftGroupError, leadership, naming};
use crate::actors::runtime::log::Leadership;
use crate::kernel::ShardId;
use crate::settings::HEARTBEAT_STEP_MS;
use crate::storage::state::ShardMachine;
use crate::storage::types::TypeConfig;
use crate::storage::wal::GroupLog;

/// The longest a single voter may take to become leader before starting counts as failed.
const LEADERSHIP: Duration = Duration::from_secs(30);

/// What a group is made of, whether it runs or not.
pub(super) struct Parts {
    pub settings: GroupSettings,
    pub log: GroupLog,
    pub machine: ShardMachine,
    pub network: Network,
    pub leadership: watch::Sender<Leadership>,
    /// Whoever has it proposes.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// What memberships must call this node to mean it.
    pub own: Option<String>,
    /// For good.
    pub stop: CancellationToken,
}

pub(super) struct Running {
    pub raft: Raft,
    pub metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    pub queue: Queue,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// openraft's handles of the state: it applies for a moment longer than it runs.
    holders: TaskTracker,
}

impl Parts {
    pub fn shard(&self) -> ShardId {
        self.machine.state().shard()
    }

    pub fn failed(&self, what: &str, error: impl ToString) -> RaftGroupError {
        RaftGroupError::Group { shard: self.shard(), what: what.to_owned(), error: error.to_string() }
    }

    /// Starts the group. A new one is formed with this node as its only voter by the founder; else it waits until a leader
    /// takes it in. The only voter of a group leads it when this returns; who is one of many may not know a leader yet.
    pub async fn run(&self) -> Result<Running, RaftGroupError> {
        let (shard, settings) = (self.shard(), &self.settings);
        let config = Config { enable_elect: false, ..config(settings) };
        let config = config.validate().map_err(|error| self.failed("is not configured well", error))?;
        // The longest a leader may believe that nobody else was elected.
        let lease = Duration::from_millis(config.election_timeout_max);
        let (node, holders) = (settings.node_id, TaskTracker::new());
        holders.close();
        let (network, machine) = (self.network.of(shard), self.machine.held_by(&holders));
        let raft = Raft::new(node, Arc::new(config), network, self.log.clone(), machine)
            .await
            .map_err(|error| self.failed("cannot start", error))?;
        let formed = raft.is_initialized().await.map_err(|error| self.failed("cannot start", error))?;
        let named = naming::means(&raft.metrics().borrow_watched(), self.own.as_deref());
        let mark = self.log.mark();
        let only = formed && named && self.log.reaches_mark() && raft.voter_ids().eq([node]);
        // A replica that was emptied is not one of a cluster that is to be formed.
        let forms = !formed && settings.founder && mark.is_none();
        let stop = self.stop.child_token();
        let voting = Voting {
            // Before it ended, this node may have promised a leader not to vote for another for as long as a lease.
            promised: if formed && !only { lease } else { Duration::ZERO },
            own: self.own.clone(),
            mark: mark.and_then(|mark| mark.upto),
            stands: Arc::new(AtomicBool::new(false)),
        };
        self.network.register(shard, raft.clone(), self.machine.clone(), voting.clone());
        let electing = tokio::spawn(stand(raft.clone(), self.log.clone(), voting, stop.clone()));
        if only {
            // The only voter need not wait for an election time-out.
            raft.trigger().elect(false).await.map_err(|error| self.failed("cannot elect", error))?;
        }
        if forms {
            // Who forms a cluster had no earlier life in it.
            let members = BTreeMap::from([(node, BasicNode::new(settings.address.clone()))]);
            raft.initialize(members).await.map_err(|error| self.failed("cannot be formed", error))?;
        }
        let limits = (settings.queue_ops, settings.queue_bytes);
        let (full, turn) = (Arc::clone(&settings.disk_full), Arc::clone(&self.turn));
        let (queue, proposer) = Queue::start(shard, raft.clone(), limits, full, turn, stop.clone());
        let watching = leadership::follow(raft.clone(), self.leadership.clone(), stop.clone());
        if only || forms {
            let elected = raft.wait(Some(LEADERSHIP)).current_leader(node, "this node leads").await;
            elected.map_err(|error| self.failed("has no leader", error))?;
            // Recovery takes as long as there is log to apply.
            let mut leadership = self.leadership.subscribe();
            let leads = leadership.wait_for(|now| now.leading.is_some()).await;
            leads.map_err(|error| self.failed("cannot recover", error))?;
        }
        let tasks = Mutex::new(vec![proposer, watching, electing]);
        Ok(Running { metrics: raft.metrics(), raft, queue, stop, tasks, holders })
    }
}

impl Running {
    /// Why the group stopped by itself; `None` while it runs or after [`Running::end`].
    pub fn fatal(&self) -> Option<String> {
        match &self.metrics.borrow_watched().running_state {
            Err(error) if !self.stop.is_cancelled() => Some(error.to_string()),
            _ => None,
        }
    }

    /// Refuses new operations, finishes the queued ones and stops the group. Nothing is applied any more once this returns.
    pub async fn end(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "a group did not stop cleanly");
        }
        self.holders.wait().await;
    }
}

/// Lets the group stand for election once no promise of an earlier process can hold any more, its log names this node, and it
/// has again what it had when it was emptied.
async fn stand(raft: Raft, log: GroupLog, voting: Voting, stop: CancellationToken) {
    let may = |metrics: &RaftMetrics<TypeConfig>| naming::means(metrics, voting.own.as_deref()) && log.reaches_mark();
    let waiting = async {
        tokio::time::sleep(voting.promised).await;
        raft.wait(None).metrics(may, "the log names this node").await.is_ok()
    };
    if stop.run_until_cancelled(waiting).await == Some(true) {
        voting.stands.store(true, Ordering::Relaxed);
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
