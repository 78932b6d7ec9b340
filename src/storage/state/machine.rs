//! The state of a shard as openraft sees it.
//!
//! Entries are applied to the overlay; what sled lacks after a crash, the log still has, because it is purged only up
//! to a snapshot, and a snapshot is made of what sled holds durably and is synced before anyone hears of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::{Stream, TryStreamExt};
use metrics::{Counter, Gauge, Histogram};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, EntryPayload};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::task_tracker::{TaskTracker, TaskTrackerToken};

use super::records::{Header, LogPosition, Membership};
use super::snapshot::{SnapshotFile, Snapshots};
use super::{ShardState, StateError, StateStore};
use crate::kernel::{ShardId, fail_point};
use crate::storage::types::{ShardReply, TypeConfig};

type EntryId = alias::LogIdOf<TypeConfig>;
type Members = alias::StoredMembershipOf<TypeConfig>;
type Meta = alias::SnapshotMetaOf<TypeConfig>;
type Current = alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// The replicated state machine of one shard.
#[derive(Clone)]
pub struct ShardMachine {
    store: Arc<StateStore>,
    state: Arc<ShardState>,
    snapshots: Arc<Snapshots>,
    /// Written and not yet handed to openraft, for which a snapshot that fails is the end of the group.
    ready: Arc<Mutex<Option<SnapshotFile>>>,
    /// One file at a time: the shard's tree stands still while it is written, and files share a name until they are whole.
    writing: Arc<tokio::sync::Mutex<()>>,
    measures: Measures,
    /// Whose this handle is, where somebody waits until nobody has one any more.
    _holder: Option<TaskTrackerToken>,
}

#[derive(Clone)]
struct Measures {
    applied: Gauge,
    overlay: Gauge,
    seconds: Histogram,
    operations: Counter,
    snapshots: Counter,
}

impl Measures {
    fn of(shard: ShardId) -> Self {
        let shard = shard.to_string();
        Self {
            applied: metrics::gauge!("construct_shard_applied_index", "shard" => shard.clone()),
            overlay: metrics::gauge!("construct_shard_overlay_bytes", "shard" => shard.clone()),
            seconds: metrics::histogram!("construct_shard_apply_seconds", "shard" => shard.clone()),
            operations: metrics::counter!("construct_shard_operations_total", "shard" => shard.clone()),
            snapshots: metrics::counter!("construct_shard_snapshots_total", "shard" => shard),
        }
    }
}

impl ShardMachine {
    /// Snapshots are kept under `data_dir/snapshots/<shard>`, the newest `keep` of them.
    ///
    /// # Errors
    /// [`StateError::Io`] when the directory cannot be made.
    pub fn new(
        data_dir: &Path,
        store: Arc<StateStore>,
        state: Arc<ShardState>,
        keep: usize,
    ) -> Result<Self, StateError> {
        let dir = data_dir.join("snapshots").join(state.shard().to_string());
        let measures = Measures::of(state.shard());
        let (snapshots, ready, writing) = (Arc::new(Snapshots::at(dir, keep)?), Arc::default(), Arc::default());
        snapshots.clear_cut()?;
        Ok(Self { snapshots, ready, writing, store, state, measures, _holder: None })
    }

    #[must_use]
    pub fn state(&self) -> &Arc<ShardState> {
        &self.state
    }

    /// A handle that counts, with all that are made of it, among those that are waited for.
    #[must_use]
    pub fn held_by(&self, holders: &TaskTracker) -> Self {
        Self { _holder: Some(holders.token()), ..self.clone() }
    }

    /// Whether nothing is applied, or all of it was given back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.position().is_ok_and(|(applied, _)| applied.is_none())
    }

    /// Gives back what was applied, and every snapshot. Nothing may be applied meanwhile.
    ///
    /// # Errors
    /// What removing it said; then it is there in part, and to be emptied again.
    pub async fn empty(&self) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let emptied = self.blocking(|machine| {
            machine.store.replace(&machine.state, |_| Ok(()))?;
            fail_point::reach("collect.state_emptied");
            Ok(machine.snapshots.remove_all()?)
        });
        emptied.await?;
        self.measures.applied.set(0.0);
        self.measures.overlay.set(0.0);
        Ok(())
    }

    /// To be called before the log is replayed, with the last entry that was purged from it and the last one in it: when
    /// the state must be rebuilt, makes sure that the snapshot it will be rebuilt from is whole. Reads files.
    ///
    /// # Errors
    /// [`StateError`] when files cannot be read, or when state, snapshots and log together have a gap.
    pub fn prepare(&self, data_dir: &Path, purged: Option<u64>, last: Option<u64>) -> Result<(), StateError> {
        let (applied, membership) = self.state.position()?;
        if self.snapshots.newest()?.is_some_and(|newest| newest.header.applied > applied) {
            self.snapshots.verify_newest()?;
        }
        let newest = self.snapshots.newest()?.and_then(|newest| newest.header.applied);
        let (shard, data_dir) = (self.state.shard(), data_dir.display().to_string());
        let held = applied.max(newest).map_or(0, |at| at.index);
        if let Some(purged) = purged.filter(|purged| *purged > held) {
            return Err(StateError::Gap { shard, data_dir, held, purged });
        }
        let (applied, last) = (applied.map_or(0, |at| at.index), last.unwrap_or(0));
        // A crash may come after a snapshot of the leader was installed and before the log was purged for it. Else entries
        // and votes that this member had confirmed to others are gone, and it must not take part as if it never had.
        let installed = membership.nodes.len() > 1 && newest.is_some_and(|at| at.index == applied);
        if last < applied && !installed {
            return Err(StateError::LogLost { shard, data_dir, last, applied });
        }
        Ok(())
    }

    /// Writes a snapshot of what is applied by now, for openraft to be handed when it asks for one next. Whether there was
    /// anything to write: the state may have been emptied while this waited.
    ///
    /// # Errors
    /// What writing it said; nothing else comes of that, and an older snapshot and the log stay what they were.
    pub async fn write_snapshot(&self) -> io::Result<bool> {
        let _turn = self.writing.lock().await;
        if self.is_empty() {
            return Ok(false);
        }
        let file = self.blocking(|machine| machine.snapshots.write(&machine.store, &machine.state)).await?;
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(true)
    }

    /// The header of the newest snapshot.
    ///
    /// # Errors
    /// [`StateError`] when the directory cannot be read.
    pub fn newest(&self) -> Result<Option<Header>, StateError> {
        Ok(self.snapshots.newest()?.map(|newest| newest.header))
    }

    /// The turn to write a file of the shard; for [`ShardMachine::cut`].
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.writing).lock_owned().await
    }

    /// Writes what is applied by now into a file for a backup. `taken` hears up to where, before the writing begins.
    ///
    /// # Errors
    /// What writing it said.
    pub async fn cut(
        &self,
        turn: OwnedMutexGuard<()>,
        taken: impl FnOnce(Option<LogPosition>) + Send + 'static,
    ) -> io::Result<PathBuf> {
        let done = self.blocking(move |machine| {
            let _turn = turn;
            machine.snapshots.cut(&machine.store, &machine.state, |header| taken(header.applied))
        });
        done.await
    }

    /// Up to where the log may be purged: what sled holds durably, and all kept snapshots cover.
    ///
    /// # Errors
    /// [`StateError::Io`] when the snapshots cannot be listed.
    pub fn purgeable(&self) -> Result<Option<u64>, StateError> {
        let durable = self.state.durable().map(|at| at.index);
        Ok(self.snapshots.covered()?.zip(durable).map(|(covered, durable)| covered.min(durable)))
    }

    /// The size of the newest snapshot in bytes.
    ///
    /// # Errors
    /// [`StateError::Io`] when it cannot be looked at.
    pub fn snapshot_bytes(&self) -> Result<u64, StateError> {
        Ok(self.snapshots.newest_bytes()?)
    }

    /// The directory where a snapshot of another node is received.
    ///
    /// # Errors
    /// [`StateError::Io`] when it cannot be made.
    pub fn incoming(&self) -> Result<PathBuf, StateError> {
        Ok(self.snapshots.incoming()?)
    }

    /// Sees to it that a snapshot is whole before another node is given it; one that is not is set aside, and the next
    /// try finds the one before it.
    ///
    /// # Errors
    /// When it is damaged or cannot be read.
    pub async fn verify_before_sending(file: &SnapshotFile) -> io::Result<()> {
        let file = file.clone();
        let verified =
            tokio::task::spawn_blocking(move || file.verify_or_set_aside()).await.map_err(io::Error::other)?;
        verified.map_err(io_error)
    }

    /// A snapshot file of another node, as openraft installs it.
    ///
    /// # Errors
    /// What the file's beginning says when it is not one.
    pub async fn received(&self, path: &Path) -> io::Result<Current> {
        let path = path.to_owned();
        // A damaged one is refused here: one that fails while it is installed is the end of the group.
        let opened = self.blocking(move |_| SnapshotFile::open(path).and_then(|file| file.verify().map(|()| file)));
        current_of(opened.await?)
    }

    fn apply_entry(&self, entry: &alias::EntryOf<TypeConfig>) -> Result<ShardReply, StateError> {
        let started = Instant::now();
        let position = position_of(&entry.log_id);
        let (ops, membership) = match &entry.payload {
            EntryPayload::Blank => (&[][..], None),
            EntryPayload::Normal(command) => (&command.ops[..], None),
            EntryPayload::Membership(members) => {
                let nodes = members.nodes().map(|(id, node)| (*id, node.addr.clone())).collect();
                let voters = members.get_joint_config().clone();
                (&[][..], Some(Membership { at: Some(position), voters, nodes }))
            }
        };
        let outcomes = self.state.apply_at(position, membership, ops)?;
        self.measures.seconds.record(started.elapsed());
        self.measures.operations.increment(outcomes.len() as u64);
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.measures.applied.set(position.index as f64);
        Ok(ShardReply { outcomes })
    }

    /// Runs work on files away from the tasks of the runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StateError> + Send + 'static,
    ) -> io::Result<T> {
        let machine = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&machine)).await.map_err(io::Error::other)?;
        done.map_err(io_error)
    }
}

impl RaftStateMachine<TypeConfig> for ShardMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<EntryId>, Members)> {
        let (applied, membership) = self.state.position().map_err(io_error)?;
        Ok((applied.map(log_id_of), members_of(&membership)?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.state.room().await.map_err(io_error)?;
            let reply = self.apply_entry(&entry).map_err(io_error)?;
            fail_point::reach("apply.done");
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.measures.overlay.set(self.state.counts().overlay_bytes as f64);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotFile) -> io::Result<()> {
        if meta_of(&snapshot.header)? != *meta {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is not the one it is said to be"));
        }
        tracing::warn!(shard = %self.state.shard(), index = ?meta.last_log_id, "replacing the state by a snapshot");
        let _turn = self.writing.lock().await;
        self.blocking(move |machine| machine.snapshots.install(&machine.store, &machine.state, &snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Current>> {
        self.blocking(|machine| machine.snapshots.newest()).await?.map(current_of).transpose()
    }
}

impl RaftSnapshotBuilder<TypeConfig> for ShardMachine {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Current> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let newest = self.blocking(|machine| machine.snapshots.newest()).await?;
        // One that another took the place of meanwhile may be gone.
        let file = match ready.filter(|ready| newest.is_some_and(|newest| newest.path == ready.path)) {
            Some(file) => file,
            None => {
                let _turn = self.writing.lock().await;
                self.blocking(|machine| machine.snapshots.write(&machine.store, &machine.state)).await?
            }
        };
        self.measures.snapshots.increment(1);
        current_of(file)
    }
}

fn io_error(error: StateError) -> io::Error {
    match error {
        StateError::Io(error) => error,
        error => io::Error::other(error),
    }
}

fn position_of(id: &EntryId) -> LogPosition {
    let leader = id.committed_leader_id();
    LogPosition { term: leader.term, node: leader.node_id, index: id.index() }
}

fn log_id_of(at: LogPosition) -> EntryId {
    EntryId::new(RaftLeaderId::new(at.term, at.node), at.index)
}

fn members_of(membership: &Membership) -> io::Result<Members> {
    let Membership { at, voters, nodes } = membership.clone();
    if voters.is_empty() {
        return Ok(Members::default());
    }
    let nodes: std::collections::BTreeMap<_, _> =
        nodes.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
    let members = openraft::Membership::new(voters, nodes).map_err(io::Error::other)?;
    Ok(Members::new(at.map(log_id_of), members))
}

fn meta_of(header: &Header) -> io::Result<Meta> {
    Ok(Meta { last_log_id: header.applied.map(log_id_of), last_membership: members_of(&header.membership)? })
}

fn current_of(file: SnapshotFile) -> io::Result<Current> {
    Ok(Current { meta: meta_of(&file.header)?, snapshot: file })
}
