//! The one thread that writes: takes everything queued, writes it, syncs once, tells everyone, and again.
//!
//! Invariants: a write begins only after the one before it was synced; a segment is begun only after the one before
//! it was sealed and synced; nothing is reported durable before its sync; after any error nothing is written again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::error::WalError;
use super::frame::{self, Frame, Kind};
use super::queue::{EntryKey, Item, NO_GROUP, Record};
use super::segment::{HEADER_BYTES, Header, Place, Segment};
use super::shared::{Shared, lock};
use crate::kernel::fail_point;

/// The most one write carries before it is synced and its callers are told.
const MAX_WRITE_BYTES: usize = 8 << 20;

/// How long the writer waits at most for the callers of the last write to come back; never over a quarter of a sync.
const LONGEST_PATIENCE: Duration = Duration::from_millis(1);

/// The segments that hold the newest vote, committed and purged log id of a group, and its mark; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateMarks {
    vote: u64,
    committed: u64,
    purged: u64,
    emptied: u64,
}

impl StateMarks {
    /// A record of `kind` was written into segment `number`.
    pub fn note(&mut self, kind: Kind, number: u64) {
        match kind {
            Kind::Vote => self.vote = number,
            Kind::Committed => self.committed = number,
            Kind::Purge => self.purged = number,
            Kind::State => *self = Self { vote: number, committed: number, purged: number, emptied: number },
            Kind::Emptied => *self = Self { vote: number, emptied: number, ..Self::default() },
            Kind::Append | Kind::Truncate | Kind::Moved | Kind::Freed | Kind::Seal => {}
        }
    }

    /// Whether freeing every segment up to `number` would lose one of them.
    pub fn need(&self, number: u64) -> bool {
        [self.vote, self.committed, self.purged, self.emptied].iter().any(|at| (1..=number).contains(at))
    }
}

/// Places of an item's records, in order, once staged.
struct Staged {
    item: Item,
    places: Vec<Place>,
}

/// An entry whose bytes are in memory although they are on disk.
struct Cached {
    group: u16,
    key: EntryKey,
    bytes: usize,
}

pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    /// Written no more, oldest first.
    pub(super) sealed: VecDeque<Arc<Segment>>,
    pub(super) marks: BTreeMap<u16, StateMarks>,
    /// The segment on its way out.
    pub(super) freeing: Option<u64>,
    head: Arc<Segment>,
    /// Where the next write goes.
    offset: u32,
    buffer: Vec<u8>,
    buffered_records: u64,
    /// How long the last write and sync took.
    last_sync: Duration,
    cached: VecDeque<Cached>,
    cached_bytes: usize,
}

impl Writer {
    /// Begins a new segment after `sealed`.
    pub fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        sealed: VecDeque<Arc<Segment>>,
        marks: BTreeMap<u16, StateMarks>,
    ) -> Result<Self, WalError> {
        let number = sealed.back().map_or(1, |last| last.number() + 1);
        let oldest = sealed.front().map_or(number, |first| first.number());
        let head = Arc::new(Segment::create(&*disk, Header::new(number, oldest, shared.options.segment_bytes))?);
        let writer = Self {
            shared,
            disk,
            sealed,
            marks,
            freeing: None,
            head,
            offset: HEADER_BYTES,
            buffer: Vec::new(),
            buffered_records: 0,
            last_sync: Duration::ZERO,
            cached: VecDeque::new(),
            cached_bytes: 0,
        };
        writer.count_space();
        Ok(writer)
    }

    /// Runs until the log is closed or fails.
    pub fn run(mut self) {
        let _guard = FailOnPanic(Arc::clone(&self.shared));
        if let Err(error) = self.work() {
            self.shared.fail(&error.to_string());
        }
    }

    fn work(&mut self) -> Result<(), WalError> {
        self.reclaim()?;
        while let Some(items) = self.shared.queue.take((self.last_sync / 4).min(LONGEST_PATIENCE))? {
            self.commit(items)?;
            self.reclaim()?;
            self.count_space();
        }
        self.seal()?;
        self.head.cut(self.offset)
    }

    /// Writes and syncs `items`, telling each when all of it is durable.
    fn commit(&mut self, items: Vec<Item>) -> Result<(), WalError> {
        let mut staged = Vec::with_capacity(items.len());
        for item in items {
            let mut places = Vec::with_capacity(item.records.len());
            for record in &item.records {
                self.make_room(frame::size(record.body.len()), &mut staged)?;
                places.push(self.stage(record));
            }
            staged.push(Staged { item, places });
        }
        self.flush()?;
        self.settle(&mut staged)
    }

    /// Sees to it that a frame of `size` bytes fits behind the buffer. What is durable by then is settled before a new
    /// segment begins: its header names the oldest segment, and must not name one that `staged` has just freed.
    fn make_room(&mut self, size: u32, staged: &mut Vec<Staged>) -> Result<(), WalError> {
        let seal = u64::from(frame::size(0));
        if u64::from(self.end()) + u64::from(size) + seal > self.head.size() {
            self.seal()?;
            self.settle(staged)?;
            return self.begin_segment(u64::from(HEADER_BYTES) + u64::from(size) + seal);
        }
        if !self.buffer.is_empty() && self.buffer.len() + size as usize > MAX_WRITE_BYTES {
            self.flush()?;
            self.settle(staged)?;
        }
        Ok(())
    }

    /// Where the next frame goes.
    fn end(&self) -> u32 {
        self.offset + u32::try_from(self.buffer.len()).expect("a write is smaller than a segment")
    }

    fn put(&mut self, group: u16, kind: Kind, body: &[u8]) -> u32 {
        let offset = self.end();
        let frame = Frame { offset, batch: self.offset, group, kind, body };
        frame::put(&mut self.buffer, self.head.header.salt, &frame);
        self.buffered_records += 1;
        offset
    }

    fn stage(&mut self, record: &Record) -> Place {
        let offset = self.put(record.group, record.kind, &record.body);
        let body_len = u32::try_from(record.body.len()).expect("records are limited by the codec to far below 4 GiB");
        if record.group != NO_GROUP {
            self.marks.entry(record.group).or_default().note(record.kind, self.head.number());
        }
        Place { segment: Arc::clone(&self.head), offset, body_len }
    }

    /// Makes the buffer durable.
    fn flush(&mut self) -> Result<(), WalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        fail_point::reach("wal.before_write");
        self.head.write(&self.buffer, self.offset)?;
        fail_point::reach("wal.written");
        self.head.sync()?;
        fail_point::reach("wal.synced");
        self.last_sync = began.elapsed();
        self.shared.counters.committed(self.buffered_records, self.buffer.len() as u64, self.last_sync);
        self.offset = self.end();
        self.buffer.clear();
        self.buffer.shrink_to(MAX_WRITE_BYTES);
        self.buffered_records = 0;
        Ok(())
    }

    /// Makes the buffer durable, and the segment's end with it.
    fn seal(&mut self) -> Result<(), WalError> {
        self.put(NO_GROUP, Kind::Seal, &[]);
        self.flush()
    }

    fn begin_segment(&mut self, needed_bytes: u64) -> Result<(), WalError> {
        let sealed = Arc::clone(&self.head);
        let oldest = self.sealed.front().map_or(sealed.number(), |first| first.number());
        let bytes = needed_bytes.max(self.shared.options.segment_bytes);
        fail_point::reach("wal.segment_sealed");
        self.head = Arc::new(Segment::create(&*self.disk, Header::new(sealed.number() + 1, oldest, bytes))?);
        fail_point::reach("wal.segment_begun");
        self.offset = HEADER_BYTES;
        self.sealed.push_back(sealed);
        Ok(())
    }

    /// Tells the callers of what is durable now, and notes where it stands.
    fn settle(&mut self, staged: &mut Vec<Staged>) -> Result<(), WalError> {
        for Staged { item, places } in staged.drain(..) {
            self.note_places(&item, places);
            item.done.complete(Ok(()));
            if let Some(number) = item.frees {
                self.free(number)?;
            }
        }
        self.evict();
        Ok(())
    }

    fn note_places(&mut self, item: &Item, places: Vec<Place>) {
        let Some(group) = item.records.first().map(|record| record.group).filter(|group| *group != NO_GROUP) else {
            return;
        };
        let index = self.shared.group(group);
        let mut index = lock(&index);
        for (record, place) in item.records.iter().zip(places) {
            let Some(key) = record.entry else { continue };
            let held = index.set_place(key.index, key.ticket, place);
            if held && record.kind == Kind::Append {
                self.cached_bytes += record.body.len();
                self.cached.push_back(Cached { group, key, bytes: record.body.len() });
            }
        }
    }

    /// Keeps the bytes of recent entries within their budget, oldest out first.
    fn evict(&mut self) {
        while self.cached_bytes > self.shared.options.cache_bytes {
            let Some(Cached { group, key, bytes }) = self.cached.pop_front() else { break };
            self.cached_bytes -= bytes;
            lock(&self.shared.group(group)).evict(key.index, key.ticket);
        }
    }

    /// Removes the oldest segment, from which everything live was copied.
    fn free(&mut self, number: u64) -> Result<(), WalError> {
        self.freeing = None;
        let Some(oldest) = self.sealed.front().filter(|oldest| oldest.number() == number) else {
            return Err(WalError::Stopped(format!("segment {number} was to be freed but is not the oldest")));
        };
        if oldest.live() != 0 {
            let live = oldest.live();
            return Err(WalError::Stopped(format!("segment {number} was to be freed but holds {live} live bytes")));
        }
        fail_point::reach("wal.before_free");
        oldest.remove(&*self.disk)?;
        fail_point::reach("wal.freed");
        self.sealed.pop_front();
        self.shared.counters.freed();
        Ok(())
    }

    /// Bytes of all files and of the live entries in them.
    pub(super) fn space(&self) -> (u64, u64) {
        let segments = self.sealed.iter().chain([&self.head]);
        segments.fold((0, 0), |(disk, live), segment| (disk + segment.size(), live + segment.live()))
    }

    fn count_space(&self) {
        let (disk, live) = self.space();
        self.shared.counters.occupied(self.sealed.len() as u64 + 1, disk, live);
    }
}

/// A panic of the writer is a failure of the log like any other.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WalOptions;
    use super::super::disk::OsDisk;
    use super::super::queue::Completion;
    use super::super::record::encode_vote;
    use super::super::recovery::recover;
    use super::*;
    use crate::storage::types::Vote;

    fn votes(count: usize) -> Item {
        let body = encode_vote(&Vote::new(1, 1)).unwrap();
        let vote = Record { group: 1, kind: Kind::Vote, body, entry: None };
        let records = (0..count).map(|_| Record { body: vote.body.clone(), ..vote }).collect();
        Item::new(records, Completion::none())
    }

    #[test]
    fn a_segment_freed_by_the_last_write_before_another_begins_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(dir.path()).unwrap());
        let options = WalOptions { segment_bytes: 4 << 10, ..WalOptions::default() };
        let shared = Arc::new(Shared::new(options, BTreeMap::default(), 1));
        let mut writer = Writer::new(shared, Arc::clone(&disk), VecDeque::new(), BTreeMap::new()).unwrap();
        while writer.sealed.is_empty() {
            writer.commit(vec![votes(1)]).unwrap();
        }
        writer.reclaim().unwrap();
        let mut items = writer.shared.queue.take(Duration::ZERO).unwrap().expect("the marker of segment 1");
        // A little more than the rest of segment 2.
        items.push(votes((4 << 10) / frame::size(votes(1).records[0].body.len()) as usize));
        writer.commit(items).unwrap();
        assert_eq!(writer.head.number(), 3);
        assert!(writer.sealed.front().is_some_and(|oldest| oldest.number() == 2), "segment 1 is freed");
        drop(writer);
        recover(&*disk).expect("nothing is missing");
    }
}
