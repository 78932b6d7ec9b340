//! Opening: reads the segments back into the index, cuts a torn tail, refuses what was damaged.
//!
//! The last write before a crash may be there in part: it was never acknowledged as a whole, and what is valid of it
//! up to the first bad frame is kept. That part is written and synced again before anyone sees it, because after a
//! failed sync the system may show pages that are not on the disk. Everything before the last write was synced; if
//! it is not valid any more, or a segment is missing or cut off, the log is refused with the file and the offset. So it
//! is when the last write was there whole and is damaged ([`tail`] tells): someone may have been told of it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Disk;
use super::error::WalError;
use super::frame::{self, Frame, Kind};
use super::index::{EntryRef, GroupIndex};
use super::queue::NO_GROUP;
use super::record::{self, State};
use super::segment::{self, HEADER_BYTES, Place, Segment, UNFINISHED};
use super::tail::{self, Tail};
use super::writer::StateMarks;
use crate::kernel::codec::CodecError;
use crate::storage::types::LogId;

/// What was found on opening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    pub segments: usize,
    pub records: u64,
    pub groups: Vec<u16>,
    /// The torn end of the last write, if there was one.
    pub cut: Option<Cut>,
}

/// Bytes after the last valid record, dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: u64,
}

pub struct Recovery {
    pub report: Recovered,
    /// Every segment, all sealed now, oldest first.
    pub segments: VecDeque<Arc<Segment>>,
    pub groups: BTreeMap<u16, GroupIndex>,
    pub marks: BTreeMap<u16, StateMarks>,
    pub next_ticket: u64,
}

/// # Errors
/// [`WalError`] when a file cannot be read or the log is damaged.
pub fn recover(disk: &dyn Disk) -> Result<Recovery, WalError> {
    let mut numbers = list(disk)?;
    let mut replay = Replay::default();
    let mut report = Recovered::default();
    let mut segments = VecDeque::new();
    if let Some(last) = numbers.last().copied() {
        let last = Segment::open(disk, last)?;
        let oldest = oldest_needed(&last)?;
        remove_freed(disk, &mut numbers, oldest)?;
        require_all(disk, &numbers, oldest).map_err(|missing| first_damage(&last).unwrap_or(missing))?;
        for number in numbers {
            let is_last = number == last.number();
            let segment = Arc::new(Segment::open(disk, number)?);
            let read = replay.read(&segment)?;
            report.records += read.records;
            if is_last {
                report.cut = seal_tail(&segment, &read)?;
            } else if !read.sealed {
                seal_again(&segment, &read)?;
            }
            segments.push_back(segment);
        }
    }
    report.segments = segments.len();
    report.groups = replay.groups.keys().copied().collect();
    let next_ticket = replay.next_ticket;
    let marks = replay.groups.iter().map(|(group, replay)| (*group, replay.marks)).collect();
    let groups = replay.finish(disk)?;
    Ok(Recovery { report, segments, groups, marks, next_ticket })
}

/// The numbers of the segments present, ascending. A segment that was never finished is removed.
fn list(disk: &dyn Disk) -> Result<Vec<u64>, WalError> {
    let io = |action| move |source| WalError::Io { action, path: disk.dir().to_owned(), source };
    let names = disk.list().map_err(io("list"))?;
    if names.iter().any(|name| name == UNFINISHED) {
        disk.remove(UNFINISHED).map_err(io("tidy"))?;
        disk.sync_dir().map_err(io("sync"))?;
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The oldest segment that still matters, by what the last one says.
fn oldest_needed(last: &Segment) -> Result<u64, WalError> {
    let mut oldest = last.header.oldest;
    last.scan(|frame| {
        if frame.kind == Kind::Freed {
            let freed = record::decode_freed(frame.body).map_err(|source| last.unreadable(frame.offset, source))?;
            oldest = oldest.max(freed + 1);
        }
        Ok(())
    })?;
    Ok(oldest)
}

/// Removes the files of segments that were freed before a crash.
fn remove_freed(disk: &dyn Disk, numbers: &mut Vec<u64>, oldest: u64) -> Result<(), WalError> {
    for number in numbers.extract_if(.., |number| *number < oldest) {
        // By name: what it holds is of no use, damaged or not.
        let removed = disk.remove(&segment::name(number)).and_then(|()| disk.sync_dir());
        removed.map_err(|source| WalError::Io {
            action: "remove",
            path: disk.dir().join(segment::name(number)),
            source,
        })?;
    }
    Ok(())
}

/// What is damaged in the last segment: it may hide that older ones were freed.
fn first_damage(last: &Segment) -> Option<WalError> {
    let end = last.scan(|_| Ok(())).ok()?;
    let bytes = last.read_all().ok()?;
    let hidden = frame::next_valid(&bytes, end, last.header.salt)?;
    Some(last.corrupt(end, &format!("a record is damaged, and there are others behind it, at {hidden}")))
}

fn require_all(disk: &dyn Disk, numbers: &[u64], oldest: u64) -> Result<(), WalError> {
    match numbers.iter().zip(oldest..).find(|(found, wanted)| **found != *wanted) {
        Some((_, missing)) => Err(WalError::Corrupt {
            path: disk.dir().join(segment::name(missing)),
            offset: 0,
            what: "the segment is missing".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Makes the end of the last segment durable and final.
fn seal_tail(last: &Segment, read: &Read) -> Result<Option<Cut>, WalError> {
    if read.sealed {
        last.cut(read.end)?;
        return Ok(None);
    }
    let bytes = last.read_all()?;
    let torn = match tail::judge(&bytes, read.end, read.last_batch, last.header.salt) {
        Tail::Damaged(what) => return Err(last.corrupt(read.end, &what)),
        Tail::Seal => return seal(last, read.end).map(|()| None),
        Tail::Empty => None,
        Tail::Torn(bytes) => Some(Cut { path: last.path().to_owned(), offset: u64::from(read.end), bytes }),
    };
    if last.header.reserved > bytes.len() as u64 {
        let what = format!("the file was cut off: it was made with {} bytes and was not sealed", last.header.reserved);
        return Err(WalError::Corrupt { path: last.path().to_owned(), offset: bytes.len() as u64, what });
    }
    let end = bytes.len().min(read.end as usize);
    last.write(&bytes[read.last_batch as usize..end], read.last_batch)?;
    seal(last, read.end)?;
    Ok(torn)
}

/// Writes the seal at `end`, and then gives back what follows: an unsealed file keeps its size.
fn seal(last: &Segment, end: u32) -> Result<(), WalError> {
    let mut seal = Vec::new();
    let frame = Frame { offset: end, batch: end, group: NO_GROUP, kind: Kind::Seal, body: &[] };
    frame::put(&mut seal, last.header.salt, &frame);
    last.write(&seal, end)?;
    last.sync()?;
    last.cut(frame.end())
}

/// An older segment ends in a seal. When what stands there is that seal, damaged, nothing is lost.
fn seal_again(segment: &Segment, read: &Read) -> Result<(), WalError> {
    let bytes = segment.read_all()?;
    match tail::judge(&bytes, read.end, read.last_batch, segment.header.salt) {
        Tail::Seal => {
            tracing::warn!(path = %segment.path().display(), "the seal of a segment was damaged and is written again");
            seal(segment, read.end)
        }
        _ => Err(segment.corrupt(read.end, "a record in the middle of the log is damaged or cut off")),
    }
}

/// What one segment held.
struct Read {
    records: u64,
    /// After the last valid frame.
    end: u32,
    /// Where the write began that the last valid frame was part of.
    last_batch: u32,
    sealed: bool,
}

#[derive(Default)]
struct Replay {
    groups: BTreeMap<u16, GroupReplay>,
    next_ticket: u64,
}

/// A group as the records read so far have it. Entries may still have holes: a copied entry stands further back.
#[derive(Default)]
struct GroupReplay {
    state: State,
    marks: StateMarks,
    entries: BTreeMap<u64, EntryRef>,
}

impl Replay {
    fn read(&mut self, segment: &Arc<Segment>) -> Result<Read, WalError> {
        let mut read = Read { records: 0, end: HEADER_BYTES, last_batch: HEADER_BYTES, sealed: false };
        read.end = segment.scan(|frame| {
            read.records += 1;
            read.last_batch = frame.batch;
            read.sealed = frame.kind == Kind::Seal;
            self.apply(segment, &frame).map_err(|source| segment.unreadable(frame.offset, source))
        })?;
        Ok(read)
    }

    fn apply(&mut self, segment: &Arc<Segment>, frame: &Frame<'_>) -> Result<(), CodecError> {
        if frame.group == NO_GROUP {
            return Ok(());
        }
        let group = self.groups.entry(frame.group).or_default();
        group.marks.note(frame.kind, segment.number());
        match frame.kind {
            Kind::Append | Kind::Moved => {
                let log_id = record::entry_log_id(frame.body)?;
                let body_len = u32::try_from(frame.body.len()).map_err(|_| CodecError::Short)?;
                let place = Some(Place { segment: Arc::clone(segment), offset: frame.offset, body_len });
                if group.state.purged.is_none_or(|purged| purged.index < log_id.index) {
                    let entry = EntryRef { log_id, ticket: self.next_ticket, place, cached: None, fresh: None };
                    group.entries.insert(log_id.index, entry);
                    self.next_ticket += 1;
                }
            }
            Kind::Vote => group.state.vote = Some(record::decode_vote(frame.body)?),
            Kind::Committed => group.state.committed = record::decode_log_id(frame.body)?,
            Kind::Truncate => {
                let first_gone = record::decode_log_id(frame.body)?.map_or(0, |last| last.index + 1);
                group.entries.split_off(&first_gone);
            }
            Kind::Purge => group.purge(record::decode_log_id(frame.body)?),
            Kind::State => {
                let state = record::decode_state(frame.body)?;
                group.purge(state.purged);
                group.state = state;
            }
            Kind::Emptied => {
                group.state = record::decode_emptied(frame.body)?;
                group.entries.clear();
            }
            Kind::Freed | Kind::Seal => {}
        }
        Ok(())
    }

    fn finish(self, disk: &dyn Disk) -> Result<BTreeMap<u16, GroupIndex>, WalError> {
        let mut groups = BTreeMap::new();
        for (group, replay) in self.groups {
            let mut index = GroupIndex::new(replay.state);
            for entry in replay.entries.into_values() {
                if let Some(hole) = index.refusal(None, &entry.log_id) {
                    return Err(missing_entry(disk, group, &entry, &hole));
                }
                if let Some(place) = &entry.place {
                    place.segment.add_live(place.bytes());
                }
                index.push(entry);
            }
            groups.insert(group, index);
        }
        Ok(groups)
    }
}

impl GroupReplay {
    fn purge(&mut self, upto: Option<LogId>) {
        let Some(upto) = upto else { return };
        self.entries = self.entries.split_off(&(upto.index + 1));
        self.state.purged = self.state.purged.max(Some(upto));
    }
}

fn missing_entry(disk: &dyn Disk, group: u16, entry: &EntryRef, hole: &str) -> WalError {
    let what = format!("group {group}: {hole}; records are missing");
    match &entry.place {
        Some(place) => place.segment.corrupt(place.offset, &what),
        None => WalError::Corrupt { path: disk.dir().to_owned(), offset: 0, what },
    }
}
