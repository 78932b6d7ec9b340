//! What one group has in the log: its vote, its marks, and where each entry stands. In memory only; recovery
//! rebuilds it from the segments.

use std::collections::VecDeque;

use bytes::Bytes;

use super::error::WalError;
use super::record::{State, decode_entry};
use super::segment::Place;
use crate::storage::types::{Entry, LogId};

/// One entry of the log.
#[derive(Clone)]
pub struct EntryRef {
    pub log_id: LogId,
    /// Tells this entry from one that was truncated away at the same index.
    pub ticket: u64,
    /// None until it is durable.
    pub place: Option<Place>,
    /// The encoded entry; always there while `place` is none.
    pub cached: Option<Bytes>,
    /// The entry as it was appended, for the first reader, who applies it.
    pub fresh: Option<Entry>,
}

impl EntryRef {
    /// The encoded entry, from memory or from disk.
    pub fn body(&self) -> Result<Bytes, WalError> {
        match (&self.cached, &self.place) {
            (Some(bytes), _) => Ok(bytes.clone()),
            (None, Some(place)) => place.segment.read(place.offset, place.body_len),
            (None, None) => Err(WalError::Stopped(format!("entry {} is neither in memory nor on disk", self.log_id))),
        }
    }

    pub fn decode(mut self) -> Result<Entry, WalError> {
        if let Some(entry) = self.fresh.take() {
            return Ok(entry);
        }
        let body = self.body()?;
        decode_entry(&body).map_err(|source| match &self.place {
            Some(place) => place.segment.unreadable(place.offset, source),
            None => WalError::Encode(source),
        })
    }

    /// Bytes of the encoded entry.
    pub fn body_len(&self) -> usize {
        match (&self.cached, &self.place) {
            (Some(bytes), _) => bytes.len(),
            (None, Some(place)) => place.body_len as usize,
            (None, None) => 0,
        }
    }

    fn release(self) {
        if let Some(place) = self.place {
            place.segment.subtract_live(place.bytes());
        }
    }
}

/// The log of one group.
///
/// Invariant: `entries` are consecutive, and the first follows `state.purged` when that is set.
#[derive(Default)]
pub struct GroupIndex {
    pub state: State,
    entries: VecDeque<EntryRef>,
}

impl GroupIndex {
    pub fn new(state: State) -> Self {
        Self { state, entries: VecDeque::new() }
    }

    /// The id of the last entry, or of the last purged one when there is none.
    pub fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.state.purged)
    }

    /// Why an entry of this id cannot be the next one, if so.
    pub fn refusal(&self, previous: Option<LogId>, next: &LogId) -> Option<String> {
        let previous = previous.or_else(|| self.last())?;
        (next.index != previous.index + 1).then(|| format!("entry {next} does not follow {previous}"))
    }

    pub fn push(&mut self, entry: EntryRef) {
        debug_assert!(self.refusal(None, &entry.log_id).is_none());
        self.entries.push_back(entry);
    }

    /// Drops every entry after `last`.
    pub fn truncate_after(&mut self, last: Option<u64>) {
        while let Some(entry) = self.entries.pop_back_if(|entry| last.is_none_or(|last| entry.log_id.index > last)) {
            entry.release();
        }
    }

    /// Drops every entry up to `upto`; false when that was done before.
    pub fn purge(&mut self, upto: LogId) -> bool {
        if self.state.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        self.state.purged = Some(upto);
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index <= upto.index) {
            entry.release();
        }
        true
    }

    /// Drops every entry and what was said of them.
    pub fn empty(&mut self, left: State) {
        self.truncate_after(None);
        self.state = left;
    }

    fn find(&mut self, index: u64, ticket: u64) -> Option<&mut EntryRef> {
        let first = self.entries.front()?.log_id.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.entries.get_mut(at).filter(|entry| entry.ticket == ticket)
    }

    /// Whether the entry is still in the log.
    pub fn holds(&mut self, index: u64, ticket: u64) -> bool {
        self.find(index, ticket).is_some()
    }

    /// The entry now stands (also) at `place`. False when it is no longer in the log.
    pub fn set_place(&mut self, index: u64, ticket: u64, place: Place) -> bool {
        let Some(entry) = self.find(index, ticket) else { return false };
        place.segment.add_live(place.bytes());
        if let Some(old) = entry.place.replace(place) {
            old.segment.subtract_live(old.bytes());
        }
        true
    }

    /// Drops the entry's bytes from memory, if they are also on disk.
    pub fn evict(&mut self, index: u64, ticket: u64) {
        if let Some(entry) = self.find(index, ticket).filter(|entry| entry.place.is_some()) {
            (entry.cached, entry.fresh) = (None, None);
        }
    }

    /// The entries in `start..end`, in order, as many as fit into `limit_bytes` and at least one. Takes along what is
    /// kept for the first reader.
    pub fn range(&mut self, start: u64, end: u64, limit_bytes: usize) -> Vec<EntryRef> {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else { return Vec::new() };
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.iter_mut().skip(skip).take_while(|entry| entry.log_id.index < end) {
            bytes += entry.body_len();
            if bytes > limit_bytes && !found.is_empty() {
                break;
            }
            let fresh = entry.fresh.take();
            found.push(EntryRef { fresh, ..entry.clone() });
        }
        found
    }

    /// The live entries that stand in segment `number`.
    pub fn standing_in(&self, number: u64) -> Vec<EntryRef> {
        let stands = |entry: &&EntryRef| entry.place.as_ref().is_some_and(|place| place.segment.number() == number);
        self.entries.iter().filter(stands).cloned().collect()
    }

    /// Whether the group has anything to keep.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.state == State::default()
    }
}
