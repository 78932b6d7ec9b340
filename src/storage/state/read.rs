//! What the runtime reads of a shard's state. Synchronous; each call sees one applied index.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::kernel::{DedupeKey, EntityId, OutboxRecord, Timestamp};

use super::keys::{self, Parts};
use super::records::{self, Head};
use super::{FeedEntry, Inner, ShardState, StateCounts, StateError, StoredEntity, TimerEntry};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Goes on until `found` holds `limit`.
fn until<T>(found: &[T], limit: usize) -> ControlFlow<()> {
    if found.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl ShardState {
    /// Sequence number, newest snapshot and the events after it; `None` for an entity that was never written.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn entity(&self, id: &EntityId) -> Result<Option<StoredEntity>, StateError> {
        let inner = self.read()?;
        let Some(head) = inner.layers.get(&keys::entity(id))? else { return Ok(None) };
        let Head { sequence, subject } = Head::decode(&head)?;
        let key = keys::snapshot(id);
        let snapshot = inner.layers.get(&key)?.map(|stored| records::decode_snapshot(&key, &stored)).transpose()?;
        let journal = keys::journal(id);
        let mut tail = Vec::new();
        inner.layers.scan_prefix(&journal, |key, event| {
            let mut parts = Parts::of(key);
            parts.text()?;
            tail.push((parts.number()?, event));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Some(StoredEntity { sequence, subject, snapshot, tail }))
    }

    /// The stored reply of the first delivery under this key, if there was one that is not forgotten.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn remembered(&self, entity: &EntityId, key: &DedupeKey) -> Result<Option<Vec<u8>>, StateError> {
        self.read()?.remembered(entity, key)
    }

    /// Timers due at `now` or before, earliest first.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn timers_due(&self, now: Timestamp, limit: usize) -> Result<Vec<TimerEntry>, StateError> {
        let inner = self.read()?;
        let mut due = Vec::new();
        if limit == 0 {
            return Ok(due);
        }
        inner.scan_timers(|timer| {
            if timer.due > now {
                return ControlFlow::Break(());
            }
            due.push(timer);
            until(&due, limit)
        })?;
        Ok(due)
    }

    /// When this timer of an entity is due, if it is set.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn timer(&self, entity: &EntityId, name: &str) -> Result<Option<Timestamp>, StateError> {
        self.read()?.timer(entity, name)
    }

    /// When the earliest timer is due.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn next_timer(&self) -> Result<Option<Timestamp>, StateError> {
        let inner = self.read()?;
        let mut next = None;
        inner.scan_timers(|timer| {
            next = Some(timer.due);
            ControlFlow::Break(())
        })?;
        Ok(next)
    }

    /// Unsettled outbox records numbered above `after`, ascending.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn outbox(&self, after: u64, limit: usize) -> Result<Vec<OutboxRecord>, StateError> {
        let inner = self.read()?;
        let mut records = Vec::new();
        let from = after.saturating_add(1).max(inner.outbox_floor.load(Ordering::Relaxed));
        if limit == 0 || from >= inner.header.next_outbox {
            return Ok(records);
        }
        inner.layers.scan(&keys::outbox(from), keys::end_of(&[keys::OUTBOX]).as_deref(), false, |_, stored| {
            records.push(records::decode_outbox(&stored)?);
            Ok(until(&records, limit))
        })?;
        Ok(records)
    }

    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn outbox_record(&self, number: u64) -> Result<Option<OutboxRecord>, StateError> {
        self.read()?.layers.get(&keys::outbox(number))?.map(|stored| records::decode_outbox(&stored)).transpose()
    }

    /// The smallest unsettled number, or the next one to be given when everything is settled.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn settled_below(&self) -> Result<u64, StateError> {
        let inner = self.read()?;
        let before = inner.outbox_floor.load(Ordering::Relaxed);
        let from = keys::outbox(before);
        if inner.layers.contains(&from)? {
            return Ok(before);
        }
        let mut floor = inner.header.next_outbox;
        inner.layers.scan(&from, keys::end_of(&[keys::OUTBOX]).as_deref(), false, |key, _| {
            floor = Parts::of(key).number()?;
            Ok(ControlFlow::Break(()))
        })?;
        // Numbers only grow, so nothing unsettled can appear below; the lock keeps writers out meanwhile.
        inner.outbox_floor.store(floor, Ordering::Relaxed);
        Ok(floor)
    }

    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn index_get(&self, index: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.read()?.layers.get(&keys::index(index, key))
    }

    /// Keys (without the index's name) that start with `prefix`, beyond `after` in the direction of the scan.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn index_scan(
        &self,
        index: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Pairs, StateError> {
        self.read()?.page(&keys::index(index, &[]), prefix, after, limit, reverse)
    }

    /// Rows of one of the entity's tables, values as stored, beyond `after` in the direction of the scan.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn rows(
        &self,
        entity: &EntityId,
        table: &str,
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Pairs, StateError> {
        self.read()?.page(&keys::table(entity, table), &[], after, limit, reverse)
    }

    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn row(&self, entity: &EntityId, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.read()?.layers.get(&keys::row(entity, table, key))
    }

    /// Feed entries beyond `after` in commit order. Entries every registered consumer has handled are trimmed, but the
    /// newest [`super::StateOptions::feed_keep`] stay.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn feed(&self, after: u64, limit: usize) -> Result<Vec<FeedEntry>, StateError> {
        let inner = self.read()?;
        let mut entries = Vec::new();
        let from = after.saturating_add(1).max(inner.header.feed_tail);
        if limit == 0 || from > inner.header.feed_head {
            return Ok(entries);
        }
        inner.layers.scan(&keys::feed(from), keys::end_of(&[keys::FEED]).as_deref(), false, |key, stored| {
            entries.push(records::decode_feed(Parts::of(key).number()?, &stored)?);
            Ok(until(&entries, limit))
        })?;
        Ok(entries)
    }

    /// The position of the newest feed entry; 0 when there was none.
    #[must_use]
    pub fn feed_head(&self) -> u64 {
        self.lock_read().header.feed_head
    }

    /// The position up to which `consumer` has handled the feed; 0 when it never reported.
    ///
    /// # Errors
    /// [`StateError`] when the state has failed.
    pub fn consumed(&self, consumer: &str) -> Result<u64, StateError> {
        Ok(self.read()?.consumers.get(consumer).copied().unwrap_or(0))
    }

    /// Entries of the shard's audit log.
    #[must_use]
    pub fn audit_size(&self) -> u64 {
        self.lock_read().header.audit_size
    }

    /// The leaf bytes of an audit entry.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn audit_entry(&self, index: u64) -> Result<Option<Vec<u8>>, StateError> {
        self.read()?.layers.get(&keys::audit(index))
    }

    /// The hash of a complete subtree of the audit log.
    ///
    /// # Errors
    /// [`StateError`] when stored bytes cannot be read.
    pub fn audit_node(&self, level: u8, index: u64) -> Result<Option<[u8; 32]>, StateError> {
        self.read()?.audit_node(level, index)
    }

    /// For metrics and the admin endpoint.
    #[must_use]
    pub fn counts(&self) -> StateCounts {
        let inner = self.lock_read();
        StateCounts {
            entities: inner.header.entities,
            outbox_pending: inner.header.outbox_pending,
            timers: inner.header.timers,
            feed_length: inner.header.feed_head + 1 - inner.header.feed_tail,
            audit_size: inner.header.audit_size,
            overlay_bytes: inner.layers.bytes() as u64,
        }
    }
}

impl Inner {
    pub(super) fn remembered(&self, entity: &EntityId, key: &DedupeKey) -> Result<Option<Vec<u8>>, StateError> {
        match key {
            DedupeKey::Message { shard, number, .. } => {
                // Below the watermark the source has settled the record; a late copy finds no reply and needs none.
                if self.watermarks.get(shard).is_some_and(|below| number < below) {
                    return Ok(Some(Vec::new()));
                }
                self.layers.get(&keys::message(*shard, *number, entity))
            }
            DedupeKey::Request { hash, .. } => self.layers.get(&keys::request(hash, entity)),
        }
    }

    pub(super) fn audit_node(&self, level: u8, index: u64) -> Result<Option<[u8; 32]>, StateError> {
        let key = keys::node(level, index);
        let Some(stored) = self.layers.get(&key)? else { return Ok(None) };
        let hash = stored.try_into().map_err(|_| StateError::Corrupt { what: "a hash", key })?;
        Ok(Some(hash))
    }

    fn scan_timers(&self, mut visit: impl FnMut(TimerEntry) -> ControlFlow<()>) -> Result<(), StateError> {
        let mut floor = self.timer_floor.lock().unwrap_or_else(PoisonError::into_inner);
        let end = keys::end_of(&[keys::DUE]).unwrap_or_default();
        let mut earliest = None;
        self.layers.scan(&floor, Some(&end), false, |key, _| {
            earliest.get_or_insert_with(|| key.to_vec());
            let mut parts = Parts::of(key);
            let due = parts.time()?;
            let entity = parts.entity()?;
            Ok(visit(TimerEntry { entity, name: parts.text()?, due }))
        })?;
        *floor = earliest.unwrap_or(end);
        Ok(())
    }

    fn page(
        &self,
        area: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Pairs, StateError> {
        let mut pairs = Vec::new();
        let start = [area, prefix].concat();
        let mut from = start.clone();
        let mut to = keys::end_of(&start);
        match (after, reverse) {
            (Some(after), false) => from = from.max([area, after, &[0]].concat()),
            (Some(after), true) => {
                let bound = [area, after].concat();
                to = Some(to.map_or_else(|| bound.clone(), |to| to.min(bound.clone())));
            }
            (None, _) => {}
        }
        if limit == 0 {
            return Ok(pairs);
        }
        self.layers.scan(&from, to.as_deref(), reverse, |key, value| {
            pairs.push((key[area.len()..].to_vec(), value));
            Ok(until(&pairs, limit))
        })?;
        Ok(pairs)
    }
}
