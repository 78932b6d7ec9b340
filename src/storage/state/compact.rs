//! Rewrites the database when most of it is of no use any more: sled gives no space back, and under a steady load its
//! file grows to many times what it holds.
//!
//! The copy is made beside the original while the node serves, a slice at a time between rounds; what rounds write
//! meanwhile goes to both, as far as the copy has come. Then it takes the original's name in two renames. A crash
//! before the first leaves the original; between them, opening puts the original back; after them, the copy is in
//! place. Every value is checked on the way, so that a damaged database is never made to look whole. A copy that fails
//! is given up and costs nothing but a later try.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::base::Base;
use super::layers::Changes;
use super::snapshot::Snapshots;
use super::store::{Gate, Shared};
use super::{StateError, StateStore, StoreOptions, database, keys};
use crate::kernel::{ShardId, fail_point};

const COPY: &str = "state.compacting";
const ORIGINAL: &str = "state.before-compacting";

/// Bytes copied at once; a flush waits that long.
const SLICE_BYTES: usize = 1 << 20;
/// How many times larger than the newest snapshots and the log the database may be, and than it was when it was last
/// rewritten.
const GROWN: u64 = 4;
const GROWN_AGAIN: u64 = 2;
/// Room that a copy must find, against the newest snapshots.
const ROOM: u64 = 3;
/// Pause after a copy that failed.
const AGAIN: Duration = Duration::from_secs(600);

/// What rewriting gained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub shards: usize,
    pub values: u64,
}

/// Rewrites the state database under `data_dir`. The node must not run; one that runs does it by itself.
///
/// # Errors
/// [`StateError`] when the database is in use, damaged, or cannot be read or written; it is left as it was.
pub fn compact(data_dir: &Path) -> Result<Compaction, StateError> {
    restore(data_dir)?;
    let path = data_dir.join("state");
    if !path.exists() {
        return Err(
            io::Error::new(io::ErrorKind::NotFound, format!("there is no database in {}", path.display())).into()
        );
    }
    // Opening finishes what a crash left half-written, and sets a damaged database aside.
    let store = StateStore::open(data_dir, StoreOptions { compact_min_bytes: u64::MAX, ..StoreOptions::default() })?;
    let done = if store.rebuilding() {
        Err(StateError::Corrupt { what: "the database", key: Vec::new() })
    } else {
        store.compact()
    };
    store.close()?;
    done
}

/// Undoes a compaction that did not come to its end.
pub(super) fn restore(data_dir: &Path) -> io::Result<()> {
    let (path, copy, original) = (data_dir.join("state"), data_dir.join(COPY), data_dir.join(ORIGINAL));
    if original.exists() {
        if path.exists() {
            fs::remove_dir_all(&original)?;
        } else {
            fs::rename(&original, &path)?;
        }
    }
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    Ok(())
}

/// The compaction that is under way, and what is known of the last one.
#[derive(Default)]
pub(super) struct Compacting {
    copy: Option<Copy>,
    /// Size of the database after the last one.
    last_bytes: u64,
    not_before: Option<Instant>,
}

/// A database that is being filled.
struct Copy {
    path: PathBuf,
    db: sled::Db,
    /// The shards that there are, and where they go.
    targets: Vec<(ShardId, Base)>,
    /// Targets that are complete.
    complete: usize,
    /// Of the target after those: the last key that it has.
    last: Option<Vec<u8>>,
    values: u64,
    began: Instant,
    before_bytes: u64,
}

impl Compacting {
    /// Gives the copy up, if there is one.
    pub(super) fn abandon(&mut self, why: &str) {
        if let Some(copy) = self.copy.take() {
            tracing::warn!(why, "the rewriting of the state database is given up for now");
            metrics::counter!("construct_state_compactions_total", "outcome" => "abandoned").increment(1);
            self.not_before = Some(Instant::now() + AGAIN);
            let path = copy.path.clone();
            drop(copy);
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, path = %path.display(), "a copy that is of no use is left until the next start");
            }
        }
    }

    /// Writes to the copy what a round wrote, as far as it has come.
    pub(super) fn follow(&mut self, shard: ShardId, changes: &Changes) {
        let Some(copy) = &self.copy else { return };
        if let Err(error) = copy.follow(shard, changes) {
            self.abandon(&error.to_string());
        }
    }
}

impl Copy {
    fn begin(shared: &Shared, gate: &Gate, before_bytes: u64) -> Result<Self, StateError> {
        restore(&shared.data_dir)?;
        let path = shared.data_dir.join(COPY);
        let db = database::open(&path, shared.options.cache_bytes)?;
        let target = |shard| Ok((shard, Base(database::tree(&db, shard)?, Arc::clone(&shared.damage))));
        let targets = database::shards(&gate.db).into_iter().map(target).collect::<Result<_, StateError>>()?;
        tracing::info!(before_bytes, "the state database is being rewritten");
        Ok(Self { path, db, targets, complete: 0, last: None, values: 0, began: Instant::now(), before_bytes })
    }

    fn follow(&self, shard: ShardId, changes: &Changes) -> Result<(), StateError> {
        let Some(at) = self.targets.iter().position(|(target, _)| *target == shard) else {
            return Err(io::Error::other(format!("shard {shard} is new")).into());
        };
        for (key, value) in changes {
            if at < self.complete || (at == self.complete && self.last.as_ref().is_some_and(|last| key <= last)) {
                self.targets[at].1.write(key, value.as_deref())?;
            }
        }
        Ok(())
    }

    /// Copies the next slice; true when nothing is left.
    fn advance(&mut self, shared: &Shared, gate: &Gate, slice: usize) -> Result<bool, StateError> {
        let mut left = slice;
        while let Some((shard, target)) = self.targets.get(self.complete) {
            let source = shared.base(gate, *shard)?;
            let from = self.last.as_ref().map_or_else(Vec::new, |last| [&last[..], &[0]].concat());
            for item in source.range(&from, &[keys::CHUNK]) {
                let (key, stored) = item?;
                // The header goes last, as everywhere.
                if *key != keys::header() {
                    let value = source.decode(&key, &stored)?;
                    target.write(&key, Some(&value))?;
                    self.values += 1;
                    left = left.saturating_sub(key.len() + value.len());
                }
                self.last = Some(key.to_vec());
                if left == 0 {
                    return Ok(false);
                }
            }
            self.complete += 1;
            self.last = None;
        }
        Ok(true)
    }

    /// The copy has everything: gives it its headers and the witness of what is confirmed, and makes it durable.
    fn complete(&self, shared: &Shared, gate: &Gate) -> Result<(), StateError> {
        if !database::shards(&gate.db).iter().eq(self.targets.iter().map(|(shard, _)| shard)) {
            return Err(io::Error::other("there are other shards than at its beginning").into());
        }
        for (shard, target) in &self.targets {
            if let Some(header) = shared.base(gate, *shard)?.get(&keys::header())? {
                target.write(&keys::header(), Some(&header))?;
            }
        }
        self.db.flush()?;
        for file in ["redo-0", "redo-1"] {
            let copy = self.path.join(file);
            fs::copy(shared.data_dir.join("state").join(file), &copy)?;
            File::open(&copy)?.sync_all()?;
        }
        File::open(&self.path)?.sync_all()?;
        File::open(&shared.data_dir)?.sync_all()?;
        Ok(())
    }
}

impl Shared {
    /// Between two rounds: begins a copy when the database has grown, or goes on with it for half of the time that there
    /// is. A copy that fails is given up; a failed switch fails the store.
    pub(super) fn compact_some(&self) {
        let until = Instant::now() + self.options.flush_every / 2;
        loop {
            let mut gate = self.gate();
            if gate.installing > 0 {
                // A copy would lack what is being written.
                return;
            }
            if gate.compacting.copy.is_none() {
                let waits = gate.compacting.not_before.is_some_and(|time| Instant::now() < time);
                let grown = if waits { Ok(None) } else { self.grown(&gate) };
                match grown.and_then(|grown| grown.map(|bytes| Copy::begin(self, &gate, bytes)).transpose()) {
                    Ok(Some(copy)) => gate.compacting.copy = Some(copy),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the state database cannot be rewritten");
                        gate.compacting.not_before = Some(Instant::now() + AGAIN);
                        return;
                    }
                }
            }
            if self.compact_slice(&mut gate, SLICE_BYTES).is_some() || Instant::now() >= until {
                return;
            }
        }
    }

    /// Copies a slice, and switches after the last: then, what it gained.
    fn compact_slice(&self, gate: &mut Gate, slice: usize) -> Option<Result<Compaction, StateError>> {
        let mut copy = gate.compacting.copy.take()?;
        let advanced =
            copy.advance(self, gate, slice).and_then(|all| copy.db.flush().map(|_| all).map_err(StateError::from));
        gate.compacting.copy = Some(copy);
        match advanced {
            Ok(false) => None,
            Ok(true) => Some(self.switch(gate)),
            Err(error) => {
                gate.compacting.abandon(&error.to_string());
                Some(Err(error))
            }
        }
    }

    fn switch(&self, gate: &mut Gate) -> Result<Compaction, StateError> {
        self.round(gate)?;
        let Some(copy) = gate.compacting.copy.take() else {
            return Err(io::Error::other("the rewriting of the database was given up").into());
        };
        let completed = copy.complete(self, gate);
        if let Err(error) = completed {
            gate.compacting.copy = Some(copy);
            gate.compacting.abandon(&error.to_string());
            return Err(error);
        }
        fail_point::reach("compact.complete");
        let (path, original) = (self.data_dir.join("state"), self.data_dir.join(ORIGINAL));
        let switched = self.exchange(gate, &copy, (&path, &original));
        if let Err(error) = switched {
            self.fail(gate, &format!("the state database cannot be exchanged for its copy: {error}"));
            return Err(error);
        }
        fail_point::reach("compact.named");
        // Whoever still reads the original has it open.
        if let Err(error) = fs::remove_dir_all(&original) {
            tracing::warn!(%error, path = %original.display(), "the old database is left until the next start");
        }
        let after_bytes = bytes_of(&path)?;
        gate.compacting.last_bytes = after_bytes;
        let Copy { before_bytes, values, began, targets, .. } = copy;
        metrics::counter!("construct_state_compactions_total", "outcome" => "done").increment(1);
        metrics::histogram!("construct_state_compaction_seconds").record(began.elapsed());
        tracing::info!(before_bytes, after_bytes, values, took = ?began.elapsed(), "the state database is rewritten");
        Ok(Compaction { before_bytes, after_bytes, shards: targets.len(), values })
    }

    fn exchange(&self, gate: &mut Gate, copy: &Copy, names: (&Path, &Path)) -> Result<(), StateError> {
        let (path, original) = names;
        fs::rename(path, original)?;
        fail_point::reach("compact.set_aside");
        fs::rename(&copy.path, path)?;
        File::open(&self.data_dir)?.sync_all()?;
        gate.db = copy.db.clone();
        for (shard, state) in &gate.shards {
            state.rebase(self.base(gate, *shard)?);
        }
        Ok(())
    }

    /// The size of the database, if it is worth rewriting.
    fn grown(&self, gate: &Gate) -> Result<Option<u64>, StateError> {
        let bytes = bytes_of(&self.data_dir.join("state"))?;
        if bytes <= self.options.compact_min_bytes.max(GROWN_AGAIN * gate.compacting.last_bytes) {
            return Ok(None);
        }
        // Without a snapshot nobody knows how much of it is of use.
        let newest = self.snapshot_bytes()?;
        let live = newest + self.log.get().map_or(0, |log| log.kept_bytes());
        if newest == 0 || bytes <= GROWN * live {
            return Ok(None);
        }
        let free = fs4::available_space(&self.data_dir)?;
        if free < ROOM * live.max(SLICE_BYTES as u64) {
            let error = format!("{free} bytes are free, and a copy of {live} bytes needs {ROOM} times as many");
            return Err(io::Error::new(io::ErrorKind::StorageFull, error).into());
        }
        Ok(Some(bytes))
    }

    /// The newest snapshots of all shards: about what the database held then.
    fn snapshot_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        let shards = match fs::read_dir(self.data_dir.join("snapshots")) {
            Ok(shards) => shards,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        for shard in shards {
            bytes += Snapshots::at(shard?.path(), 1)?.newest_bytes()?;
        }
        Ok(bytes)
    }
}

impl StateStore {
    /// Rewrites the database now.
    fn compact(&self) -> Result<Compaction, StateError> {
        loop {
            if let Some(done) = self.compact_slice(SLICE_BYTES) {
                return done;
            }
        }
    }

    /// Goes on with the rewriting of the database, or begins it.
    pub(super) fn compact_slice(&self, slice: usize) -> Option<Result<Compaction, StateError>> {
        let mut gate = self.shared.gate();
        if gate.compacting.copy.is_none() {
            let begun = bytes_of(&self.shared.data_dir.join("state")).map_err(StateError::from);
            match begun.and_then(|bytes| Copy::begin(&self.shared, &gate, bytes)) {
                Ok(copy) => gate.compacting.copy = Some(copy),
                Err(error) => return Some(Err(error)),
            }
        }
        self.shared.compact_slice(&mut gate, slice)
    }
}

fn bytes_of(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { bytes_of(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}
