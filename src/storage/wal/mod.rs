//! The write-ahead log: one per node, shared by all Raft groups; the place where "acknowledged" becomes "durable".
//!
//! A call's way through the files: [`group`] (openraft's traits; encodes, updates the index) → [`queue`] (waits while
//! the write before is in flight) → [`writer`] (one thread: one write and one `fdatasync` for all that waits, then the
//! callbacks) → [`segment`] and [`frame`] (the format) → [`disk`]. [`recovery`] reads it back, [`reclaim`] frees
//! segments, [`index`] knows in memory where everything stands.
//!
//! Invariants: a callback or a returned vote means synced; a group's records stand on disk in the order of its calls;
//! a failed write or sync ends the log ([`Wal::failed`]) and is never retried; memory and files stay bounded.
//! Deliberately absent: encryption (entries arrive sealed), compression, and reads of state: that is sled's.

mod disk;
mod error;
mod frame;
mod group;
mod index;
mod queue;
mod reclaim;
mod record;
mod recovery;
mod segment;
mod shared;
mod stats;
mod tail;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;
use tokio::sync::watch;

use self::disk::{Disk, OsDisk};
pub use self::error::WalError;
pub use self::group::GroupLog;
use self::queue::{Completion, Item};
pub use self::record::{Mark, decode_entry, encode_entry};
pub use self::recovery::{Cut, Recovered};
use self::shared::Shared;
pub use self::stats::WalStats;
use self::writer::Writer;
use crate::storage::types::TypeConfig;

/// Sizes of the log, all in bytes.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// One segment file; between 4 KiB and 1 GiB. A single larger record gets a segment of its own size.
    pub segment_bytes: u64,
    /// Recent entries kept in memory, so that applying and replicating them does not read the disk.
    pub cache_bytes: usize,
    /// What may wait to be written before an append has to wait.
    pub queue_bytes: usize,
    /// What one limited read returns at most (one entry always).
    pub read_bytes: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 64 << 20, queue_bytes: 32 << 20, read_bytes: 2 << 20 }
    }
}

/// The log of a node. It stays open while this or a [`GroupLog`] of it lives; the last one to go writes what waits,
/// seals the segment and joins the writer.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Wal {
    /// Opens or creates the log in `dir`. Reads the whole log: call it off the async threads.
    ///
    /// # Errors
    /// [`WalError`] when a file cannot be read or written, or the log is damaged in a way that no crash leaves.
    pub fn open(dir: &Path, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        let disk =
            OsDisk::open(dir).map_err(|source| WalError::Io { action: "create", path: dir.to_owned(), source })?;
        Self::open_on(Arc::new(disk), options)
    }

    fn open_on(disk: Arc<dyn Disk>, mut options: WalOptions) -> Result<(Self, Recovered), WalError> {
        options.segment_bytes = options.segment_bytes.clamp(4 << 10, 1 << 30);
        let recovery = recovery::recover(&*disk)?;
        let shared = Arc::new(Shared::new(options, recovery.groups, recovery.next_ticket));
        let writer = Writer::new(Arc::clone(&shared), disk, recovery.segments, recovery.marks)?;
        let thread = std::thread::Builder::new().name("wal".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(|error| WalError::Stopped(format!("its thread cannot be started: {error}")))?;
        let handle = Arc::new(Handle { shared, writer: Mutex::new(Some(thread)) });
        Ok((Self { handle }, recovery.report))
    }

    /// The log of Raft group `group`.
    ///
    /// # Panics
    /// For group 65535, which stands for no group on disk.
    #[must_use]
    pub fn group(&self, group: u16) -> GroupLog {
        assert_ne!(group, queue::NO_GROUP, "group 65535 stands for no group");
        GroupLog::new(Arc::clone(&self.handle), group)
    }

    /// The groups that have anything in the log.
    #[must_use]
    pub fn groups(&self) -> Vec<u16> {
        let groups = self.handle.shared.groups();
        groups.into_iter().filter(|(_, index)| !shared::lock(index).is_empty()).map(|(group, _)| group).collect()
    }

    /// Why the log failed, once it did. The node must stop then: nothing it is told to store will be stored.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.handle.shared.failed.subscribe()
    }

    /// Returns once everything that was appended by now is durable. Blocks its thread.
    ///
    /// # Errors
    /// [`WalError::Stopped`] when the log failed.
    pub fn wait(&self) -> Result<(), WalError> {
        let (sender, durable) = TypeConfig::oneshot();
        // Items are written in their order, so one without records ends when all before it have.
        let item = Item::new(Vec::new(), Completion::of(IOFlushed::signal(sender)));
        if self.handle.shared.queue.push(item).is_ok()
            && let Ok(Ok(())) = futures::executor::block_on(durable)
        {
            return Ok(());
        }
        // A log that is closed has written what waited.
        self.handle.close();
        match &*self.handle.shared.failed.borrow() {
            None => Ok(()),
            Some(why) => Err(WalError::Stopped(why.clone())),
        }
    }

    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.handle.shared.counters.snapshot()
    }

    /// Writes what waits and ends the log; every later call is refused. Blocks until it is done.
    pub fn close(&self) {
        self.handle.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic of the writer has already been reported as the failure of the log.
            let _ = writer.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
