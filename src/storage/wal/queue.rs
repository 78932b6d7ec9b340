//! What waits to be written: everything that all groups asked for while the previous write and sync were in flight.
//!
//! Per group the order of the queue is the order of its calls, because a group pushes under the lock of its index.
//! Memory is bounded: an append waits for room first.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::IOFlushed;
use tokio::sync::Notify;

use super::error::WalError;
use super::frame::Kind;
use super::record::encode_log_id;
use crate::storage::types::{LogId, TypeConfig};

/// The group of records that belong to none.
pub const NO_GROUP: u16 = u16::MAX;

/// Which entry of its group a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryKey {
    pub index: u64,
    pub ticket: u64,
}

/// One record to be written.
pub struct Record {
    pub group: u16,
    pub kind: Kind,
    pub body: Bytes,
    pub entry: Option<EntryKey>,
}

/// Records of one call, and whom to tell when all of them are durable.
pub struct Item {
    pub records: Vec<Record>,
    pub done: Completion,
    /// The segment that may be removed then.
    pub frees: Option<u64>,
}

impl Item {
    pub fn new(records: Vec<Record>, done: Completion) -> Self {
        Self { records, done, frees: None }
    }

    fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.body.len()).sum()
    }
}

/// Tells the caller the outcome exactly once; dropped without one, that it failed.
pub struct Completion(Option<IOFlushed<TypeConfig>>);

impl Completion {
    pub fn none() -> Self {
        Self(None)
    }

    pub fn of(callback: IOFlushed<TypeConfig>) -> Self {
        Self(Some(callback))
    }

    pub fn complete(mut self, outcome: io::Result<()>) {
        if let Some(callback) = self.0.take() {
            callback.io_completed(outcome);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            let reason = "the log stopped before this was durable".to_owned();
            callback.io_completed(Err(WalError::Stopped(reason).into()));
        }
    }
}

#[derive(Default)]
struct Waiting {
    items: Vec<Item>,
    /// Written with the next items, never on their own.
    committed: BTreeMap<u16, Option<LogId>>,
    bytes: usize,
    /// How many items the writer waits for; it is woken when so many are there.
    wanted: usize,
    closing: bool,
    failed: Option<String>,
}

/// The queue between the groups and the writer.
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    room: Notify,
    limit_bytes: usize,
}

impl Queue {
    pub fn new(limit_bytes: usize) -> Self {
        Self { waiting: Mutex::default(), wake: Condvar::new(), room: Notify::new(), limit_bytes }
    }

    /// Every change of `Waiting` is a single step, so a panic elsewhere cannot leave it half done.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`WalError::Stopped`] once the log failed or is closing.
    pub fn push(&self, item: Item) -> Result<(), WalError> {
        let mut waiting = self.lock();
        waiting.refuse()?;
        waiting.bytes += item.bytes();
        waiting.items.push(item);
        let enough = waiting.items.len() >= waiting.wanted;
        drop(waiting);
        if enough {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Notes how far `group` is committed, to be written when something else is.
    pub fn note_committed(&self, group: u16, committed: Option<LogId>) -> Result<(), WalError> {
        let mut waiting = self.lock();
        waiting.refuse()?;
        waiting.committed.insert(group, committed);
        Ok(())
    }

    /// Drops what [`note_committed`](Self::note_committed) noted and was not written yet.
    pub fn forget_committed(&self, group: u16) {
        self.lock().committed.remove(&group);
    }

    /// # Errors
    /// [`WalError::Stopped`] once the log failed or is closing.
    pub fn check(&self) -> Result<(), WalError> {
        self.lock().refuse()
    }

    /// Waits until less than the limit waits to be written.
    pub async fn room(&self) {
        loop {
            let freed = self.room.notified();
            {
                let waiting = self.lock();
                if waiting.bytes < self.limit_bytes || waiting.refuse().is_err() {
                    return;
                }
            }
            freed.await;
        }
    }

    /// Waits for something to write and takes all of it; none when the log was closed and all is taken.
    ///
    /// The callers of the write before need a moment to come back with their next. So once there is something, this
    /// waits for as many items as were taken last, but no longer than `patience`: without that, writes of few and of
    /// many items would alternate, and a lone caller never waits.
    pub fn take(&self, patience: Duration) -> Result<Option<Vec<Item>>, WalError> {
        let mut waiting = self.lock();
        let usual = std::mem::replace(&mut waiting.wanted, 1);
        while waiting.items.is_empty() && !waiting.closing {
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.wanted = usual;
        let few = |waiting: &mut Waiting| waiting.items.len() < usual && !waiting.closing;
        let waited = self.wake.wait_timeout_while(waiting, patience, few);
        (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        waiting.wanted = waiting.items.len();
        let mut items = std::mem::take(&mut waiting.items);
        let committed = std::mem::take(&mut waiting.committed);
        waiting.bytes = 0;
        drop(waiting);
        self.room.notify_waiters();
        if !committed.is_empty() {
            let record = |(group, id): (u16, Option<LogId>)| {
                Ok(Record { group, kind: Kind::Committed, body: encode_log_id(id.as_ref())?, entry: None })
            };
            let records = committed.into_iter().map(record).collect::<Result<_, WalError>>()?;
            items.push(Item::new(records, Completion::none()));
        }
        Ok((!items.is_empty()).then_some(items))
    }

    /// Accepts nothing more; what waits is still written.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
        self.room.notify_waiters();
    }

    /// Accepts nothing more, and fails what waits.
    pub fn fail(&self, reason: &str) {
        let mut waiting = self.lock();
        waiting.failed.get_or_insert_with(|| reason.to_owned());
        let items = std::mem::take(&mut waiting.items);
        waiting.committed.clear();
        waiting.bytes = 0;
        drop(waiting);
        self.room.notify_waiters();
        for item in items {
            item.done.complete(Err(WalError::Stopped(reason.to_owned()).into()));
        }
    }
}

impl Waiting {
    fn refuse(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(reason) => Err(WalError::Stopped(reason.clone())),
            None if self.closing => Err(WalError::Stopped("it was closed".to_owned())),
            None => Ok(()),
        }
    }
}
