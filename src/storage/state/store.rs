//! All shards' states of a node in one sled database, and the thread that takes their changes there.
//!
//! Invariants: a round takes every dirty change of a shard together with its header under the shard's lock, syncs the
//! redo file, writes sled with the header last, flushes sled, and only then lets go of what it held in memory. A round is
//! written once the log holds durably what it was made from: others may have committed an entry that this node's own disk
//! does not have yet, and a state ahead of its log looks as if the log had been lost. A
//! failed write or flush fails the store for good: nothing is tried again as if it had worked. The log may be purged
//! up to [`ShardState::durable`] and no further. A database that does not open, or whose values are damaged, is set
//! aside under another name (`state.damaged-<n>`), said loudly, and rebuilt from local snapshots and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tokio::sync::watch;

use crate::kernel::{ShardId, fail_point};
use crate::storage::wal::Wal;

use super::base::{Base, Damage};
use super::compact::Compacting;
use super::layers::Changes;
use super::redo::{Redo, Round};
use super::{Inner, ShardState, StateError, StateOptions, compact, database, keys};

/// The file that says that the database is damaged.
pub(super) const DAMAGED: &str = "state.damaged";

/// How the state store of a node is set up.
#[derive(Debug, Clone, Copy)]
pub struct StoreOptions {
    pub cache_bytes: u64,
    /// The longest a change waits in memory.
    pub flush_every: Duration,
    /// Size of the database from which it is rewritten when most of it is of no use any more.
    pub compact_min_bytes: u64,
    pub shard: StateOptions,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 128 << 20,
            flush_every: Duration::from_secs(1),
            compact_min_bytes: 256 << 20,
            shard: StateOptions::default(),
        }
    }
}

/// The state store of a node.
pub struct StateStore {
    pub(super) shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    rebuilding: bool,
}

/// The log that the state follows.
pub trait Log: Send + Sync {
    /// Blocks until it is durable as far as it was written.
    ///
    /// # Errors
    /// When it cannot become durable.
    fn settle(&self) -> io::Result<()>;

    /// What it holds that may be younger than the newest snapshots, in bytes.
    fn kept_bytes(&self) -> u64;
}

impl Log for Wal {
    fn settle(&self) -> io::Result<()> {
        self.wait().map_err(Into::into)
    }

    fn kept_bytes(&self) -> u64 {
        self.stats().live_bytes
    }
}

pub(super) struct Shared {
    pub(super) data_dir: PathBuf,
    pub(super) options: StoreOptions,
    pub(super) damage: Arc<Damage>,
    /// Held by whoever writes sled: a flush, or for a moment the installation of a snapshot.
    gate: Mutex<Gate>,
    pub(super) log: OnceLock<Box<dyn Log>>,
    /// A snapshot was finished.
    unpaused: Condvar,
    wake: Arc<Wake>,
    failed: watch::Sender<Option<String>>,
}

pub(super) struct Gate {
    pub(super) db: sled::Db,
    pub(super) compacting: Compacting,
    pub(super) redo: Redo,
    pub(super) shards: BTreeMap<ShardId, Arc<ShardState>>,
    /// Shards whose tree is being read for a snapshot and must not change meanwhile, or is being replaced by one.
    pub(super) paused: BTreeSet<ShardId>,
    /// Snapshots that are being installed.
    pub(super) installing: usize,
}

/// Tells the flusher to start now.
#[derive(Default)]
pub(super) struct Wake {
    state: Mutex<WakeState>,
    changed: Condvar,
}

/// A shard that is not flushed for as long as this lives.
pub(super) struct Pause<'a> {
    pub(super) shared: &'a Shared,
    pub(super) shard: ShardId,
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.shared.gate().paused.remove(&self.shard);
        self.shared.unpaused.notify_all();
        self.shared.wake.now();
    }
}

#[derive(Default)]
struct WakeState {
    now: bool,
    stop: bool,
}

impl Wake {
    pub(super) fn now(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).now = true;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.changed.notify_all();
    }

    /// Waits for the next round; false: stop.
    fn wait(&self, at_most: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, at_most, |state| !state.now && !state.stop);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.now = false;
        !state.stop
    }
}

impl StateStore {
    /// Opens (or makes) the store under `data_dir` and starts its flusher.
    ///
    /// # Errors
    /// [`StateError`] when the directory cannot be used, for example because another process uses it.
    pub fn open(data_dir: &Path, options: StoreOptions) -> Result<Arc<Self>, StateError> {
        match Self::open_once(data_dir, options) {
            Err(error) if error.is_damage() => {
                Damage::at(data_dir.join(DAMAGED), watch::Sender::new(None)).report(&error);
                Self::open_once(data_dir, options)
            }
            opened => opened,
        }
    }

    fn open_once(data_dir: &Path, options: StoreOptions) -> Result<Arc<Self>, StateError> {
        let failed = watch::Sender::new(None);
        let damage = Arc::new(Damage::at(data_dir.join(DAMAGED), failed.clone()));
        compact::restore(data_dir)?;
        let path = data_dir.join("state");
        let mut rebuilding = damage.reported();
        if rebuilding {
            database::set_aside(&path, "a damaged value was found earlier")?;
            damage.clear()?;
        }
        let db = match database::open(&path, options.cache_bytes) {
            Ok(db) => db,
            Err(StateError::Sled(sled::Error::Io(error))) => return Err(error.into()),
            Err(error) => {
                database::set_aside(&path, &error.to_string())?;
                rebuilding = true;
                database::open(&path, options.cache_bytes)?
            }
        };
        database::drop_unused(&db)?;
        let (redo, last) = Redo::open(&path)?;
        fs::File::open(data_dir)?.sync_all()?;
        let shared = Arc::new(Shared {
            data_dir: data_dir.to_owned(),
            options,
            damage,
            gate: Mutex::new(Gate {
                db,
                compacting: Compacting::default(),
                redo,
                shards: BTreeMap::new(),
                paused: BTreeSet::new(),
                installing: 0,
            }),
            log: OnceLock::new(),
            unpaused: Condvar::new(),
            wake: Arc::default(),
            failed,
        });
        rebuilding |= shared.write_again(last)?;
        shared.look_through(&shared.gate())?;
        let flusher = thread::Builder::new().name("state-flusher".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        Ok(Arc::new(Self { shared, flusher: Mutex::new(Some(flusher)), rebuilding }))
    }

    /// Whether the database was set aside at opening, or a shard in it had lost something, so that shards start empty and
    /// are rebuilt.
    #[must_use]
    pub fn rebuilding(&self) -> bool {
        self.rebuilding
    }

    /// The state of a shard, as of the last round that sled holds.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn shard(&self, shard: ShardId) -> Result<Arc<ShardState>, StateError> {
        let mut gate = self.shared.gate();
        if let Some(state) = gate.shards.get(&shard) {
            return Ok(Arc::clone(state));
        }
        let base = self.shared.base(&gate, shard)?;
        let wake = Arc::clone(&self.shared.wake);
        let state = Arc::new(ShardState::open(shard, self.shared.options.shard, base, wake)?);
        gate.shards.insert(shard, Arc::clone(&state));
        Ok(state)
    }

    /// Takes everything applied so far to sled, and returns once it is durable there.
    ///
    /// # Errors
    /// [`StateError`] when a write failed, now or earlier.
    pub fn flush(&self) -> Result<(), StateError> {
        self.shared.round(&mut self.shared.gate())
    }

    /// From now on nothing is written here that the log does not hold durably. Later calls change nothing.
    pub fn follow(&self, log: Box<dyn Log>) {
        let _ = self.shared.log.set(log);
    }

    /// Why the store failed, once it did and the node must stop.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.shared.failed.subscribe()
    }

    /// Flushes and stops the flusher. Changes applied later stay in memory.
    ///
    /// # Errors
    /// As [`StateStore::flush`].
    pub fn close(&self) -> Result<(), StateError> {
        self.shared.wake.stop();
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if flusher.is_some_and(|flusher| flusher.join().is_err()) {
            return Err(StateError::Failed);
        }
        self.flush()
    }

    /// Runs `read` over the shard's tree, which holds exactly what was applied up to the header's position and does not
    /// change meanwhile; applying goes on in memory.
    pub(super) fn still<T>(
        &self,
        state: &ShardState,
        read: impl FnOnce(&Base) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let shard = state.shard();
        let base = {
            let mut gate = self.shared.gate_of(shard);
            self.shared.round(&mut gate)?;
            let base = self.shared.base(&gate, shard)?;
            gate.paused.insert(shard);
            base
        };
        let _pause = Pause { shared: &self.shared, shard };
        read(&base)
    }
}

#[cfg(test)]
impl StateStore {
    /// A crash after `steps` of the writes of a round: 0 is before the redo file was complete.
    pub(super) fn crash_in(&self, state: &ShardState, steps: usize) {
        // The flusher may be at work on its own: much has piled up.
        let mut gate = self.shared.gate();
        let (round, changed) = state.take(true).unwrap();
        if !changed {
            return;
        }
        let next = gate.redo.next();
        gate.redo.write(std::slice::from_ref(&round)).unwrap();
        if steps == 0 {
            let length = fs::metadata(&next).unwrap().len();
            fs::File::options().write(true).open(&next).unwrap().set_len(length - 1).unwrap();
        }
        let base = self.shared.base(&gate, round.shard).unwrap();
        for (key, value) in round.changes.iter().take(steps) {
            base.write(key, value.as_deref()).unwrap();
        }
        if steps > round.changes.len() {
            base.write(&keys::header(), Some(&round.header.encode().unwrap())).unwrap();
        }
        drop(gate);
    }

    pub(super) fn fail(&self) {
        self.shared.fail(&self.shared.gate(), "a test");
    }
}

impl Drop for StateStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the state store did not close cleanly; the log still has what it lacks");
        }
    }
}

impl Shared {
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gate once nobody makes or installs a snapshot of the shard.
    pub(super) fn gate_of(&self, shard: ShardId) -> MutexGuard<'_, Gate> {
        let gate = self.unpaused.wait_while(self.gate(), |gate| gate.paused.contains(&shard));
        gate.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn base(&self, gate: &Gate, shard: ShardId) -> Result<Base, StateError> {
        Ok(self.base_at(database::tree(&gate.db, shard)?))
    }

    pub(super) fn base_at(&self, tree: sled::Tree) -> Base {
        Base(tree, Arc::clone(&self.damage))
    }

    /// Writes the round that a crash may have left half-written.
    /// True when a shard had lost what it confirmed and is to be rebuilt.
    fn write_again(&self, rounds: Vec<Round<Changes>>) -> Result<bool, StateError> {
        let (mut lost, gate) = (0_u32, self.gate());
        for round in rounds {
            let base = self.base(&gate, round.shard)?;
            let held = base.header()?.and_then(|header| header.applied);
            if held == round.follows || held == round.header.applied {
                write_round(&base, &round.changes, &round.header.encode()?)?;
            } else {
                tracing::error!(shard = %round.shard, ?held, follows = ?round.follows,
                    "the state store lost a flush it had confirmed; the shard is rebuilt from its snapshot and the log");
                base.write(&keys::header(), None)?;
                lost += 1;
            }
        }
        gate.db.flush()?;
        metrics::gauge!("construct_state_rebuilt_shards").set(f64::from(lost));
        Ok(lost > 0)
    }

    /// Reads what opening a shard reads, so that damage there is found before anything stands on it.
    fn look_through(&self, gate: &Gate) -> Result<(), StateError> {
        for shard in database::shards(&gate.db) {
            Inner::over(self.base(gate, shard)?)?;
        }
        Ok(())
    }

    fn run(&self) {
        while self.wake.wait(self.options.flush_every) {
            let started = Instant::now();
            let round = catch_unwind(AssertUnwindSafe(|| self.round(&mut self.gate())));
            match round {
                Ok(Ok(())) => metrics::histogram!("construct_state_flush_seconds").record(started.elapsed()),
                Ok(Err(error)) => return tracing::error!(%error, "the state store failed; the node must stop"),
                Err(_) => {
                    self.fail(&self.gate(), "a flush panicked");
                    return tracing::error!("the state store panicked; the node must stop");
                }
            }
            self.compact_some();
        }
    }

    pub(super) fn fail(&self, gate: &Gate, why: &str) {
        self.failed.send_if_modified(|failed| {
            // The first reason is the one to know.
            let first = failed.is_none();
            failed.get_or_insert_with(|| why.to_owned());
            first
        });
        for state in gate.shards.values() {
            state.fail();
        }
    }

    pub(super) fn round(&self, gate: &mut Gate) -> Result<(), StateError> {
        if self.failed.borrow().is_some() {
            return Err(StateError::Failed);
        }
        let result = self.try_round(gate);
        if let Err(error) = &result {
            self.fail(gate, &format!("a flush failed: {error}"));
        }
        result
    }

    fn try_round(&self, gate: &mut Gate) -> Result<(), StateError> {
        let (mut rounds, mut any) = (Vec::new(), false);
        for (shard, state) in &gate.shards {
            // Shards with nothing to write are named too: the round is the witness of all of them.
            let (round, changed) = state.take(!gate.paused.contains(shard))?;
            any |= changed;
            rounds.push(round);
        }
        if !any {
            return Ok(());
        }
        fail_point::reach("flush.taken");
        if let Some(log) = self.log.get() {
            log.settle()?;
        }
        gate.redo.write(&rounds)?;
        fail_point::reach("flush.redo_synced");
        for round in rounds.iter().filter(|round| round.header.applied != round.follows) {
            write_round(&self.base(gate, round.shard)?, &round.changes, &round.header.encode()?)?;
            gate.compacting.follow(round.shard, &round.changes);
        }
        fail_point::reach("flush.written");
        gate.db.flush()?;
        fail_point::reach("flush.durable");
        for (state, round) in gate.shards.values().zip(rounds) {
            state.flushed(round.header);
        }
        Ok(())
    }
}

fn write_round(base: &Base, changes: &Changes, header: &[u8]) -> Result<(), StateError> {
    for (key, value) in changes {
        base.write(key, value.as_deref())?;
        fail_point::reach("flush.half_written");
    }
    base.write(&keys::header(), Some(header))
}
