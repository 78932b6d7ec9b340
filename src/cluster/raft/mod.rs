//! The shards of this node as Raft groups: the only place, with the storage, that knows openraft.
//!
//! An operation's way: [`ShardGroup::propose`](crate::actors::runtime::log::ShardLog::propose) → [`proposer`] (one
//! entry for all that queued meanwhile) → openraft → the write-ahead log → the state machine → the answer. [`upkeep`]
//! makes snapshots and lets go of the log they cover. [`leadership`] says who leads, and [`network`] is the way to the
//! replicas on other nodes. Every node runs every shard's group: one it has no replica of has no members and does nothing
//! until a leader takes it in.

mod collect;
mod cut;
mod formation;
mod group;
mod leadership;
pub mod membership;
pub mod naming;
mod network;
pub mod planting;
mod proposer;
mod running;
#[cfg(test)]
mod tests;
mod upkeep;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kernel::ShardId;
use crate::storage::state::{ShardMachine, StateError, StateStore};
use crate::storage::wal::Wal;
pub use collect::Leader;
pub use formation::{
    Formation, FormationError, SHARDS_LIMIT, adopt, form, formed, is_formed, joined_shards, must_have_log, note_log,
};
pub use group::ShardGroup;
pub use network::Network;

/// How this node takes part in its groups.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    pub node_id: u64,
    /// Whether this node forms groups that are not formed yet; else it waits until their leaders take it in.
    pub founder: bool,
    /// Where other nodes reach this one.
    pub address: String,
    /// SHA-256 of the public key by which memberships name this node; none where they mean it by its id alone.
    pub key: Option<[u8; 32]>,
    /// Data shards; fixed when the cluster is formed. The meta shard comes on top.
    pub shards: u16,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    /// Operations and bytes that may wait in front of one shard's log.
    pub queue_ops: usize,
    pub queue_bytes: usize,
    /// The longest a shard goes without a snapshot while it changes.
    pub snapshot_every: Duration,
    /// Bytes of log of a shard at which a snapshot is made earlier.
    pub snapshot_log_bytes: u64,
    pub snapshots_kept: usize,
    /// Free space of the data directory below which nothing more is accepted.
    pub min_free_bytes: u64,
    /// Whether it is below that; the same for all clones.
    pub disk_full: Arc<AtomicBool>,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            node_id: 1,
            founder: true,
            address: "127.0.0.1:8082".to_owned(),
            key: None,
            shards: 8,
            heartbeat_ms: 200,
            election_ms: 400,
            queue_ops: 4096,
            queue_bytes: 16 << 20,
            snapshot_every: Duration::from_secs(900),
            snapshot_log_bytes: 64 << 20,
            snapshots_kept: 2,
            min_free_bytes: 0,
            disk_full: Arc::default(),
        }
    }
}

/// Why the groups cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RaftGroupError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("shard {shard} {what}: {error}")]
    Group { shard: ShardId, what: String, error: String },
    #[error("a task of the groups ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// All groups of this node.
pub struct Groups {
    /// By shard; the meta shard is the first.
    shards: Vec<Arc<ShardGroup>>,
    store: Arc<StateStore>,
    wal: Wal,
    failed: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Groups {
    /// Starts the meta shard and the data shards of a formed data directory. Where this node is the only voter it leads once
    /// this returns; other shards may not have a leader yet.
    ///
    /// # Errors
    /// [`RaftGroupError`].
    pub async fn start(
        data_dir: &Path,
        wal: Wal,
        store: Arc<StateStore>,
        settings: GroupSettings,
        network: Network,
    ) -> Result<Self, RaftGroupError> {
        store.follow(Box::new(wal.clone()));
        let mut starting = Vec::new();
        for shard in 0..=settings.shards {
            let (store, dir, mut log) = (Arc::clone(&store), data_dir.to_owned(), wal.group(shard));
            let (settings, network) = (settings.clone(), network.clone());
            starting.push(tokio::spawn(async move {
                let unfinished = log.mark().is_some_and(|mark| mark.unfinished);
                let held = log.get_log_state().await.map_err(StateError::from)?;
                let (purged, last) = (held.last_purged_log_id.map(|id| id.index), held.last_log_id.map(|id| id.index));
                let machine = tokio::task::spawn_blocking(move || {
                    let state = store.shard(ShardId(shard))?;
                    let machine = ShardMachine::new(&dir, store, state, settings.snapshots_kept)?;
                    if !unfinished {
                        machine.prepare(&dir, purged, last)?;
                    }
                    Ok::<_, StateError>((machine, settings))
                });
                let (machine, settings) = machine.await??;
                if unfinished {
                    collect::end(ShardId(shard), &log, &machine).await?;
                }
                ShardGroup::start(&settings, log, machine, &network).await
            }));
        }
        let mut shards = Vec::with_capacity(starting.len());
        for group in starting {
            shards.push(group.await??);
        }
        let stop = CancellationToken::new();
        let (failed, tasks) = upkeep::start(&shards, &wal, &store, data_dir, &settings, &stop);
        Ok(Self { shards, store, wal, failed, stop, tasks: std::sync::Mutex::new(tasks) })
    }

    /// All shards, the meta shard first.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<ShardGroup>> {
        self.shards.iter()
    }

    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&Arc<ShardGroup>> {
        self.shards.get(usize::from(shard.0))
    }

    /// Lets other voters lead what this node leads, where there are any: a node that stops costs nobody an election.
    pub async fn hand_over(&self) {
        futures::future::join_all(self.shards.iter().map(|group| group.hand_over())).await;
    }

    /// Why the node must stop, once something failed that nothing can be committed without.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Finishes what is queued, stops the groups, takes the state to disk and closes the log.
    ///
    /// # Errors
    /// [`RaftGroupError::State`] when the last flush failed; the log still has what it lacks.
    pub async fn shutdown(&self) -> Result<(), RaftGroupError> {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        futures::future::join_all(self.shards.iter().map(|group| group.shutdown())).await;
        let (store, wal) = (Arc::clone(&self.store), self.wal.clone());
        let closed = tokio::task::spawn_blocking(move || {
            let closed = store.close();
            wal.close();
            closed
        });
        Ok(closed.await??)
    }
}
