//! Applying operations: a function of the state and the operation alone, the same on every replica.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::PoisonError;

use crate::kernel::merkle;
use crate::kernel::{
    AuditRecord, Batch, Change, DedupeKey, EntityId, Op, OpOutcome, OutboxChange, OutboxRecord, ShardId, Timestamp,
    fail_point,
};

use super::keys::{self, Parts};
use super::records::{self, Head};
use super::{Inner, StateError, StateOptions};

/// Remembered messages forgotten by one batch at most; the rest follow with later batches.
const PRUNE_MESSAGES: usize = 256;
/// Expired requests forgotten by one batch that remembers another: more than one, so that memory shrinks.
const PRUNE_REQUESTS: usize = 2;
/// Expired requests forgotten by one [`Op::Expire`].
const EXPIRE_REQUESTS: usize = 16_384;
/// Feed entries trimmed by one batch that appends another.
const TRIM_FEED: u64 = 2;

impl Inner {
    pub(super) fn apply(&mut self, shard: ShardId, options: &StateOptions, op: &Op) -> Result<OpOutcome, StateError> {
        match op {
            Op::Batch(batch) => return self.batch(shard, options, batch),
            Op::Outbox(changes) => self.outbox_changes(changes)?,
            Op::Consumed { consumer, position } => self.consumed_up_to(consumer, *position),
            Op::Audit(records) => self.audit(shard, records)?,
            Op::DropTimer { entity, name, due } => self.drop_timer(entity, name, *due)?,
            Op::Expire { before } => self.expire(*before, EXPIRE_REQUESTS)?,
        }
        Ok(OpOutcome::Applied)
    }

    fn batch(&mut self, shard: ShardId, options: &StateOptions, batch: &Batch) -> Result<OpOutcome, StateError> {
        if let Some(key) = &batch.dedupe
            && let Some(reply) = self.remembered(&batch.entity, key)?
        {
            return Ok(OpOutcome::Duplicate { reply });
        }
        let head = self.layers.get(&keys::entity(&batch.entity))?.map(|stored| Head::decode(&stored)).transpose()?;
        let actual = head.as_ref().map_or(0, |head| head.sequence);
        if actual != batch.expected {
            return Ok(OpOutcome::SequenceConflict { actual });
        }
        if head.is_none() {
            self.header.entities += 1;
        }
        self.journal(batch)?;
        self.settle(&batch.settles)?;
        fail_point::reach("apply.half_a_batch");
        self.append_outbox(batch)?;
        for (name, due) in &batch.fired {
            self.drop_timer(&batch.entity, name, *due)?;
        }
        for change in &batch.changes {
            self.change(&batch.entity, change)?;
        }
        self.audit(shard, &batch.audit)?;
        self.append_feed(options, batch)?;
        if let Some(key) = &batch.dedupe {
            self.remember(batch, key)?;
        }
        Ok(OpOutcome::Applied)
    }

    fn journal(&mut self, batch: &Batch) -> Result<(), StateError> {
        let id = &batch.entity;
        if batch.purge {
            self.erase_journal(id)?;
            for key in self.layers.keys(&keys::rows(id), usize::MAX)? {
                self.layers.remove(key);
            }
            self.layers.remove(keys::snapshot(id));
        }
        let sequence = batch.next_sequence();
        if let Some(state) = &batch.snapshot {
            if !batch.purge {
                self.erase_journal(id)?;
            }
            self.layers.put(keys::snapshot(id), records::encode_snapshot(sequence, state));
        } else {
            for (event, after) in batch.events.iter().zip(batch.expected + 1..) {
                self.layers.put(keys::event(id, after), event.clone());
            }
        }
        let head = Head { sequence, subject: batch.subject.clone() };
        self.layers.put(keys::entity(id), head.encode()?);
        Ok(())
    }

    fn erase_journal(&mut self, id: &EntityId) -> Result<(), StateError> {
        for key in self.layers.keys(&keys::journal(id), usize::MAX)? {
            self.layers.erase(key);
        }
        Ok(())
    }

    fn append_outbox(&mut self, batch: &Batch) -> Result<(), StateError> {
        for record in &batch.outbox {
            let number = self.header.next_outbox;
            let record = OutboxRecord { number, ..record.clone() };
            self.layers.put(keys::outbox(number), records::encode_outbox(&record)?);
            self.header.next_outbox += 1;
            self.header.outbox_pending += 1;
        }
        Ok(())
    }

    fn settle(&mut self, numbers: &[u64]) -> Result<(), StateError> {
        for &number in numbers {
            let key = keys::outbox(number);
            if self.layers.contains(&key)? {
                // Numbers are given once, but a record that the flusher took may have been put again.
                if number < self.taken_outbox {
                    self.layers.remove(key)
                } else {
                    self.layers.erase(key)
                }
                self.header.outbox_pending -= 1;
            }
        }
        Ok(())
    }

    fn outbox_changes(&mut self, changes: &[OutboxChange]) -> Result<(), StateError> {
        for change in changes {
            match change {
                OutboxChange::Settle { number } => self.settle(&[*number])?,
                OutboxChange::Set { number, state } => {
                    let key = keys::outbox(*number);
                    if let Some(stored) = self.layers.get(&key)? {
                        let record = OutboxRecord { state: state.clone(), ..records::decode_outbox(&stored)? };
                        self.layers.put(key, records::encode_outbox(&record)?);
                    }
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, entity: &EntityId, change: &Change) -> Result<(), StateError> {
        match change {
            Change::Timer { name, due } => self.set_timer(entity, name, *due)?,
            Change::Index { index, key, value } => self.set(keys::index(index, key), value.clone()),
            Change::Row { table, key, value } => self.set(keys::row(entity, table, key), value.clone()),
        }
        Ok(())
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.layers.put(key, value),
            None => self.layers.remove(key),
        }
    }

    pub(super) fn timer(&self, entity: &EntityId, name: &str) -> Result<Option<Timestamp>, StateError> {
        let key = keys::timer(entity, name);
        self.layers.get(&key)?.map(|stored| records::decode_time(&key, &stored)).transpose()
    }

    fn set_timer(&mut self, entity: &EntityId, name: &str, due: Option<Timestamp>) -> Result<(), StateError> {
        if let Some(old) = self.timer(entity, name)? {
            self.layers.remove(keys::due(old, entity, name));
            self.layers.remove(keys::timer(entity, name));
            self.header.timers -= 1;
        }
        let Some(due) = due else { return Ok(()) };
        let key = keys::due(due, entity, name);
        let floor = self.timer_floor.get_mut().unwrap_or_else(PoisonError::into_inner);
        if key < *floor {
            floor.clone_from(&key);
        }
        self.layers.put(key, Vec::new());
        self.layers.put(keys::timer(entity, name), records::encode_time(due));
        self.header.timers += 1;
        self.timers_changed += 1;
        Ok(())
    }

    /// Removes a timer only if it still has this due time.
    fn drop_timer(&mut self, entity: &EntityId, name: &str, due: Timestamp) -> Result<(), StateError> {
        if self.timer(entity, name)? == Some(due) { self.set_timer(entity, name, None) } else { Ok(()) }
    }

    fn audit(&mut self, shard: ShardId, entries: &[AuditRecord]) -> Result<(), StateError> {
        for record in entries {
            let index = self.header.audit_size;
            let leaf = merkle::leaf_bytes(shard, index, record);
            let failed = RefCell::new(None);
            let nodes = merkle::append(index, merkle::leaf_hash(&leaf), |level, index| {
                self.audit_node(level, index).unwrap_or_else(|error| {
                    failed.replace(Some(error));
                    None
                })
            });
            if let Some(error) = failed.into_inner() {
                return Err(error);
            }
            for (level, index, hash) in nodes {
                self.layers.put(keys::node(level, index), hash.to_vec());
            }
            self.layers.put(keys::audit(index), leaf);
            self.header.audit_size += 1;
        }
        Ok(())
    }

    fn append_feed(&mut self, options: &StateOptions, batch: &Batch) -> Result<(), StateError> {
        if batch.events.is_empty() {
            return Ok(());
        }
        let position = self.header.feed_head + 1;
        self.layers.put(keys::feed(position), records::encode_feed(batch)?);
        self.header.feed_head = position;
        let handled = self.consumers.values().copied().min().unwrap_or(u64::MAX);
        for _ in 0..TRIM_FEED {
            let tail = self.header.feed_tail;
            if position + 1 - tail <= options.feed_keep || tail > handled {
                break;
            }
            self.layers.erase(keys::feed(tail));
            self.header.feed_tail += 1;
        }
        Ok(())
    }

    fn consumed_up_to(&mut self, consumer: &str, position: u64) {
        let old = self.consumers.entry(consumer.to_owned()).or_default();
        *old = position.max(*old);
        self.layers.put(keys::consumer(consumer), records::encode_number(*old));
    }

    fn remember(&mut self, batch: &Batch, key: &DedupeKey) -> Result<(), StateError> {
        match key {
            DedupeKey::Message { shard, number, settled_below } => {
                self.layers.put(keys::message(*shard, *number, &batch.entity), batch.reply.clone());
                self.prune_messages(*shard, *settled_below)
            }
            DedupeKey::Request { hash, expires } => {
                let request = keys::request(hash, &batch.entity);
                let expiry = keys::expiry(*expires, &request);
                if expiry < self.expiry_floor {
                    self.expiry_floor.clone_from(&expiry);
                }
                self.layers.put(expiry, Vec::new());
                self.layers.put(request, batch.reply.clone());
                self.expire(batch.at, PRUNE_REQUESTS)
            }
        }
    }

    fn prune_messages(&mut self, shard: ShardId, settled_below: u64) -> Result<(), StateError> {
        let pruned = self.watermarks.get(&shard).copied().unwrap_or(0);
        if settled_below <= pruned {
            return Ok(());
        }
        let (from, to) = (keys::messages(shard, pruned), keys::messages(shard, settled_below));
        let mut found = Vec::new();
        self.layers.scan(&from, Some(&to), false, |key, _| {
            found.push(key.to_vec());
            Ok(if found.len() > PRUNE_MESSAGES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        // When there were too many, the first one left says how far the memory is pruned.
        let below = match found.get(PRUNE_MESSAGES) {
            Some(left) => {
                let mut parts = Parts::of(left);
                parts.shard()?;
                parts.number()?
            }
            None => settled_below,
        };
        for key in found.into_iter().take(PRUNE_MESSAGES) {
            self.layers.erase(key);
        }
        self.watermarks.insert(shard, below);
        self.layers.put(keys::watermark(shard), records::encode_number(below));
        Ok(())
    }

    /// Forgets at most `limit` requests that expired before `before`, the earliest first.
    fn expire(&mut self, before: Timestamp, limit: usize) -> Result<(), StateError> {
        let end = keys::end_of(&[keys::EXPIRY]).unwrap_or_default();
        let (mut expired, mut floor) = (Vec::new(), end.clone());
        self.layers.scan(&self.expiry_floor, Some(&end), false, |key, _| {
            let mut parts = Parts::of(key);
            if parts.time()? >= before || expired.len() == limit {
                floor = key.to_vec();
                return Ok(ControlFlow::Break(()));
            }
            expired.push((key.to_vec(), [&[keys::REQUEST], parts.raw()].concat()));
            Ok(ControlFlow::Continue(()))
        })?;
        self.expiry_floor = floor;
        for (expiry, request) in expired {
            self.layers.remove(expiry);
            self.layers.remove(request);
        }
        Ok(())
    }
}
