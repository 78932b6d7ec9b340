//! What the groups' handles and the writer thread share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::WalOptions;
use super::index::GroupIndex;
use super::queue::Queue;
use super::stats::Counters;

/// A group's index, shared by its handles and the writer.
pub type SharedIndex = Arc<Mutex<GroupIndex>>;

/// Lock order: a group's index before the queue; never two groups.
pub struct Shared {
    pub options: WalOptions,
    pub queue: Queue,
    pub counters: Counters,
    pub failed: watch::Sender<Option<String>>,
    groups: Mutex<BTreeMap<u16, SharedIndex>>,
    tickets: AtomicU64,
}

impl Shared {
    pub fn new(options: WalOptions, groups: BTreeMap<u16, GroupIndex>, first_ticket: u64) -> Self {
        let groups = groups.into_iter().map(|(group, index)| (group, Arc::new(Mutex::new(index)))).collect();
        Self {
            queue: Queue::new(options.queue_bytes),
            options,
            counters: Counters::new(),
            failed: watch::Sender::new(None),
            groups: Mutex::new(groups),
            tickets: AtomicU64::new(first_ticket),
        }
    }

    /// A number no other entry has.
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// The index of `group`, empty when it is new.
    pub fn group(&self, group: u16) -> SharedIndex {
        Arc::clone(self.groups.lock().unwrap_or_else(PoisonError::into_inner).entry(group).or_default())
    }

    pub fn groups(&self) -> Vec<(u16, SharedIndex)> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.iter().map(|(group, index)| (*group, Arc::clone(index))).collect()
    }

    /// Stops the log for good: what waits fails, what comes is refused, the node hears why.
    pub fn fail(&self, reason: &str) {
        tracing::error!(reason, "the write-ahead log failed and accepts nothing more");
        self.queue.fail(reason);
        self.failed.send_replace(Some(reason.to_owned()));
    }
}

/// The lock of a group's index. Its changes keep its invariant at every step, so that a panic of another holder
/// leaves it usable for reading; writing goes through the queue, which refuses after the writer panicked.
pub fn lock(index: &Mutex<GroupIndex>) -> MutexGuard<'_, GroupIndex> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}
