//! Freeing of segments: the few live records of the oldest one are written again at the head, then its file goes.
//!
//! The copies pass through the queue, each group's under the lock of its index. So on disk they stand after every
//! truncation and purge that they respect, and before every one that follows; and the segment is removed only after
//! they are durable. A marker says so, that a file that comes back after a power cut is known to be of no use, and
//! one that is missing without a marker is noticed.

use super::error::WalError;
use super::frame::Kind;
use super::queue::{Completion, EntryKey, Item, NO_GROUP, Record};
use super::record::{encode_freed, encode_state};
use super::segment::Segment;
use super::shared::{SharedIndex, lock};
use super::writer::Writer;
use crate::kernel::fail_point;

/// A segment is worth copying when at most one part in so many of a full one is live.
const FEW: u64 = 8;
/// Or when the files are so many times larger than what is live in them, with some segments of slack.
const BLOAT: u64 = 2;
const SLACK_SEGMENTS: u64 = 4;

impl Writer {
    /// Queues the copies of what is live in the oldest segment, if it is time for that.
    pub(super) fn reclaim(&mut self) -> Result<(), WalError> {
        if self.freeing.is_some() {
            return Ok(());
        }
        let Some(oldest) = self.sealed.front().filter(|oldest| self.worth_freeing(oldest)) else { return Ok(()) };
        let number = oldest.number();
        for (group, index) in self.shared.groups() {
            if !self.queue_copies(number, group, &index)? {
                return Ok(());
            }
        }
        let marker = Record { group: NO_GROUP, kind: Kind::Freed, body: encode_freed(number)?, entry: None };
        let item = Item { records: vec![marker], done: Completion::none(), frees: Some(number) };
        if self.shared.queue.push(item).is_ok() {
            self.freeing = Some(number);
            fail_point::reach("wal.copies_queued");
        }
        Ok(())
    }

    fn worth_freeing(&self, oldest: &Segment) -> bool {
        let full = self.shared.options.segment_bytes;
        let (disk, live) = self.space();
        oldest.live() <= full / FEW || disk > live * BLOAT + full * SLACK_SEGMENTS
    }

    /// False when the log takes nothing more.
    fn queue_copies(&self, number: u64, group: u16, index: &SharedIndex) -> Result<bool, WalError> {
        let live = lock(index).standing_in(number);
        let mut copies = Vec::with_capacity(live.len());
        for entry in live {
            let key = EntryKey { index: entry.log_id.index, ticket: entry.ticket };
            copies.push(Record { group, kind: Kind::Moved, body: entry.body()?, entry: Some(key) });
        }
        let mut index = lock(index);
        copies.retain(|copy| copy.entry.is_some_and(|key| index.holds(key.index, key.ticket)));
        let moved = copies.len() as u64;
        if self.marks.get(&group).is_some_and(|marks| marks.need(number)) {
            let body = encode_state(&index.state)?;
            copies.push(Record { group, kind: Kind::State, body, entry: None });
        }
        if copies.is_empty() {
            return Ok(true);
        }
        let accepted = self.shared.queue.push(Item::new(copies, Completion::none())).is_ok();
        drop(index);
        if accepted {
            self.shared.counters.moved(moved);
        }
        Ok(accepted)
    }
}
