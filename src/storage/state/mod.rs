//! The applied state of one shard: what its log has built so far, readable at any time.
//!
//! Changes live in a bounded overlay in memory and go to sled about every second ([`store`]); the log, not this
//! module, makes an acknowledged operation durable. Invariants: an entry is applied whole or not at all, in the order
//! of the log; the applied index is never ahead of the state, in memory (one lock) and on disk (the redo file, and the
//! header written last); applying is deterministic, a function of the state and the operations alone.
//! Deliberately absent: time, sealing and any knowledge of what an entity is.

mod apply;
mod base;
mod compact;
#[cfg(test)]
mod crash_tests;
mod database;
mod install;
mod keys;
mod layers;
mod machine;
#[cfg(test)]
mod machine_tests;
mod read;
mod records;
mod redo;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Notify, watch};

use crate::kernel::codec::CodecError;
use crate::kernel::{EntityId, Op, OpOutcome, ShardId, Timestamp, fail_point};

use base::Base;
pub use compact::{Compaction, compact};
pub use database::damage_set_aside;
use keys::Parts;
use layers::{Changes, Layers};
pub use machine::ShardMachine;
pub use records::{Header, LogPosition, Membership};
use redo::Round;
pub use snapshot::{SnapshotFile, plant};
use store::Wake;
pub use store::{StateStore, StoreOptions};

/// Why the state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state store failed: {0}")]
    Sled(#[from] sled::Error),
    #[error("a stored record cannot be read or written")]
    Codec(#[from] CodecError),
    #[error("{what} in the state store is damaged (key {})", hex::encode(key))]
    Corrupt { what: &'static str, key: Vec<u8> },
    #[error("log entry {found} cannot be applied after {applied}")]
    OutOfOrder { applied: u64, found: u64 },
    #[error("the state failed earlier and answers nothing any more")]
    Failed,
    #[error("the state store cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Neither the database nor a snapshot reaches up to where the log begins.
    #[error(
        "shard {shard}: database and snapshots under {data_dir} hold nothing beyond entry {held}, and the log begins after \
         {purged}. Lost: what was applied in between. Remedy: restore the data directory from a backup; in a cluster, remove this node \
         and let it join again with an empty directory"
    )]
    Gap { shard: ShardId, data_dir: String, held: u64, purged: u64 },
    /// The log ends before what was already applied.
    #[error(
        "shard {shard}: the log under {data_dir}/wal ends at entry {last}, and entry {applied} was applied before. Lost: \
         operations acknowledged after that one, if there were any. Remedy: put the missing segments back, or restore the \
         data directory from a backup; in a cluster, remove this node and let it join again with an empty directory"
    )]
    LogLost { shard: ShardId, data_dir: String, last: u64, applied: u64 },
}

impl StateError {
    /// Whether stored bytes are not what was written.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. }
                | Self::Codec(_)
                | Self::Sled(sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))
        )
    }
}

/// An entity as stored. `tail` holds the events after the snapshot, each with the sequence number after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntity {
    pub sequence: u64,
    pub subject: Option<String>,
    pub snapshot: Option<(u64, Vec<u8>)>,
    pub tail: Vec<(u64, Vec<u8>)>,
}

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerEntry {
    pub entity: EntityId,
    pub name: String,
    pub due: Timestamp,
}

/// The events of one batch in the shard's feed. `first_sequence` is the entity's sequence number after the first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FeedEntry {
    pub position: u64,
    pub entity: EntityId,
    pub first_sequence: u64,
    pub subject: Option<String>,
    #[serde(with = "crate::kernel::codec::byte_strings")]
    pub events: Vec<Vec<u8>>,
    pub at: Timestamp,
}

/// How far the state is; sent after every applied log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub applied_index: u64,
    pub feed_head: u64,
    /// The number of the newest outbox record.
    pub outbox_head: u64,
    /// Grows whenever a timer is set, so that whoever sleeps until the next one looks again.
    pub timers_changed: u64,
}

/// Sizes, for metrics and the admin endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateCounts {
    pub entities: u64,
    pub outbox_pending: u64,
    pub timers: u64,
    pub feed_length: u64,
    pub audit_size: u64,
    pub overlay_bytes: u64,
}

/// Bounds of a shard's state.
#[derive(Debug, Clone, Copy)]
pub struct StateOptions {
    /// Feed entries kept although every consumer has handled them. The same on every node.
    pub feed_keep: u64,
    /// Bytes of changes in memory at which applying waits for the flusher.
    pub overlay_bytes: usize,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { feed_keep: 10_000, overlay_bytes: 64 << 20 }
    }
}

/// The applied state of one shard.
pub struct ShardState {
    shard: ShardId,
    options: StateOptions,
    inner: RwLock<Inner>,
    progress: watch::Sender<Progress>,
    /// Wakes whoever waits for the overlay to shrink.
    drained: Notify,
    /// None: nothing is ever flushed, and the overlay has no bound.
    wake: Option<Arc<Wake>>,
}

pub(super) struct Inner {
    layers: Layers,
    header: Header,
    /// Consumers of the feed and how far they are; few, and read on every append.
    consumers: BTreeMap<String, u64>,
    /// Below which number the memory of another shard's records was pruned.
    watermarks: BTreeMap<ShardId, u64>,
    /// No unsettled outbox record is numbered below; spares scans over removed ones.
    outbox_floor: AtomicU64,
    /// No timer's key is below.
    timer_floor: Mutex<Vec<u8>>,
    /// No remembered request's expiry key is below.
    expiry_floor: Vec<u8>,
    timers_changed: u64,
    /// Whether something was applied since the flusher took changes last.
    changed: bool,
    /// The header sled holds durably.
    durable: Header,
    /// Outbox records numbered below may be known to the flusher.
    taken_outbox: u64,
    failed: bool,
}

impl ShardState {
    /// An empty state that is kept in memory alone.
    #[must_use]
    pub fn in_memory(shard: ShardId, options: StateOptions) -> Self {
        Self::with(shard, options, Inner::new(Layers::default(), Header::default()), None)
    }

    fn open(shard: ShardId, options: StateOptions, base: Base, wake: Arc<Wake>) -> Result<Self, StateError> {
        Ok(Self::with(shard, options, Inner::over(base)?, Some(wake)))
    }

    fn with(shard: ShardId, options: StateOptions, inner: Inner, wake: Option<Arc<Wake>>) -> Self {
        let progress = watch::Sender::new(inner.progress());
        Self { shard, options, inner: RwLock::new(inner), progress, drained: Notify::new(), wake }
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How far the state is, now and from now on.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Applies one log entry, whole. The outcomes answer the operations in order.
    ///
    /// # Errors
    /// [`StateError::OutOfOrder`] for an entry that is not after the last one. Any other error leaves the state failed
    /// for good: what sled holds stays as it was.
    pub fn apply(&self, log_index: u64, ops: &[Op]) -> Result<Vec<OpOutcome>, StateError> {
        self.apply_at(LogPosition { term: 0, node: 0, index: log_index }, None, ops)
    }

    /// As [`ShardState::apply`], for an entry of a replicated log; an entry may also change the membership.
    ///
    /// # Errors
    /// As [`ShardState::apply`].
    pub fn apply_at(
        &self,
        position: LogPosition,
        membership: Option<Membership>,
        ops: &[Op],
    ) -> Result<Vec<OpOutcome>, StateError> {
        let mut inner = self.write()?;
        if let Some(applied) = inner.header.applied
            && position.index <= applied.index
        {
            return Err(StateError::OutOfOrder { applied: applied.index, found: position.index });
        }
        fail_point::reach("apply.begun");
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            match inner.apply(self.shard, &self.options, op) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    inner.failed = true;
                    return Err(error);
                }
            }
        }
        fail_point::reach("apply.operations_done");
        inner.header.applied = Some(position);
        if let Some(membership) = membership {
            inner.header.membership = membership;
        }
        inner.changed = true;
        let (progress, dirty) = (inner.progress(), inner.layers.dirty_bytes());
        drop(inner);
        self.progress.send_replace(progress);
        if let Some(wake) = &self.wake
            && dirty > self.options.overlay_bytes / 2
        {
            wake.now();
        }
        Ok(outcomes)
    }

    /// Returns once the overlay is below its bound: to be awaited before [`ShardState::apply_at`].
    ///
    /// # Errors
    /// [`StateError::Failed`] when the flusher has failed, so that it never will be.
    pub async fn room(&self) -> Result<(), StateError> {
        let Some(wake) = &self.wake else { return Ok(()) };
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.read()?.layers.bytes() < self.options.overlay_bytes {
                return Ok(());
            }
            wake.now();
            drained.await;
        }
    }

    /// The log position up to which sled holds everything durably.
    #[must_use]
    pub fn durable(&self) -> Option<LogPosition> {
        self.lock_read().durable.applied
    }

    /// Hands the flusher all changes since the last time, and the header they lead to. Without changes, or when without
    /// `permit`, a round that only names what sled holds, and false.
    fn take(&self, permit: bool) -> Result<(Round<Arc<Changes>>, bool), StateError> {
        let mut inner = self.write()?;
        let follows = inner.durable.applied;
        let changed = permit && std::mem::take(&mut inner.changed);
        let (header, changes) =
            if changed { (inner.header.clone(), inner.layers.take()) } else { (inner.durable.clone(), Arc::default()) };
        inner.taken_outbox = if changed { header.next_outbox } else { inner.taken_outbox };
        Ok((Round { shard: self.shard, follows, header, changes }, changed))
    }

    fn flushed(&self, durable: Header) {
        let mut inner = self.lock_write();
        inner.layers.flushed();
        inner.durable = durable;
        drop(inner);
        self.drained.notify_waiters();
    }

    /// What lies below has moved to another database.
    fn rebase(&self, base: Base) {
        self.lock_write().layers.rebase(base);
    }

    fn fail(&self) {
        self.lock_write().failed = true;
        self.drained.notify_waiters();
    }

    /// Exchanges everything for what `fill` put into the tree it returns; readers wait meanwhile.
    fn replace(&self, fill: impl FnOnce() -> Result<Base, StateError>) -> Result<(), StateError> {
        let mut inner = self.write()?;
        let timers_changed = inner.timers_changed + 1;
        match fill().and_then(Inner::over) {
            Ok(new) => *inner = Inner { timers_changed, ..new },
            Err(error) => {
                inner.failed = true;
                return Err(error);
            }
        }
        let progress = inner.progress();
        drop(inner);
        self.progress.send_replace(progress);
        self.drained.notify_waiters();
        Ok(())
    }

    /// The last applied log entry and the membership as of it.
    ///
    /// # Errors
    /// [`StateError::Failed`].
    pub fn position(&self) -> Result<(Option<LogPosition>, Membership), StateError> {
        let inner = self.read()?;
        Ok((inner.header.applied, inner.header.membership.clone()))
    }

    fn lock_read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, Inner>, StateError> {
        let inner = self.inner.read().map_err(|_| StateError::Failed)?;
        if inner.failed { Err(StateError::Failed) } else { Ok(inner) }
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, Inner>, StateError> {
        let inner = self.inner.write().map_err(|_| StateError::Failed)?;
        if inner.failed { Err(StateError::Failed) } else { Ok(inner) }
    }
}

impl Inner {
    fn new(layers: Layers, header: Header) -> Self {
        let header_outbox = header.next_outbox;
        Self {
            layers,
            header,
            consumers: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            outbox_floor: AtomicU64::new(1),
            timer_floor: Mutex::new(vec![keys::DUE]),
            expiry_floor: vec![keys::EXPIRY],
            timers_changed: 0,
            changed: false,
            durable: Header::default(),
            taken_outbox: header_outbox,
            failed: false,
        }
    }

    /// What a tree holds. A tree without a header was left half-written by an installation and is emptied.
    fn over(base: Base) -> Result<Self, StateError> {
        let header = base.header()?;
        if header.is_none() {
            base.0.clear()?;
        }
        let mut inner = Self::new(Layers::over(base), header.unwrap_or_default());
        inner.durable = inner.header.clone();
        let Self { layers, consumers, watermarks, .. } = &mut inner;
        layers.scan_prefix(&[keys::CONSUMER], |key, value| {
            consumers.insert(Parts::of(key).text()?, records::decode_number(key, &value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        layers.scan_prefix(&[keys::WATERMARK], |key, value| {
            watermarks.insert(Parts::of(key).shard()?, records::decode_number(key, &value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(inner)
    }

    fn progress(&self) -> Progress {
        Progress {
            applied_index: self.header.applied.map_or(0, |applied| applied.index),
            feed_head: self.header.feed_head,
            outbox_head: self.header.next_outbox - 1,
            timers_changed: self.timers_changed,
        }
    }
}
