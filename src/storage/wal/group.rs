//! The log of one Raft group, as openraft wants it.
//!
//! An append is readable when the call returns and durable when its callback comes; a vote is durable when the call
//! returns. Truncations, purges and the committed log id need no sync of their own: they stand in the log before
//! whatever is made durable next, and when a crash loses them, Raft repeats them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use openraft::errors::LeaderChanged;
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::Handle;
use super::error::WalError;
use super::frame::Kind;
use super::index::EntryRef;
use super::queue::{Completion, EntryKey, Item, Record};
use super::record::{Mark, State, encode_emptied, encode_entry, encode_log_id, encode_vote};
use super::shared::{SharedIndex, lock};
use crate::kernel::fail_point;
use crate::storage::types::{Entry, LeaderId, LogId, TypeConfig, Vote};

type StreamError = LeaderBoundedStreamError<TypeConfig>;

/// Handle of one group's log. Clones are the same log; the log stays open while one of them lives.
#[derive(Clone)]
pub struct GroupLog {
    handle: Arc<Handle>,
    group: u16,
    index: SharedIndex,
}

impl GroupLog {
    pub(super) fn new(handle: Arc<Handle>, group: u16) -> Self {
        let index = handle.shared.group(group);
        Self { handle, group, index }
    }

    /// The id of the last entry, or of the last purged one when there is none.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        lock(&self.index).last()
    }

    /// What the group had when it was emptied; none when it never was.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        lock(&self.index).state.emptied
    }

    /// Whether the group has everything again that it had when it was emptied, or something newer.
    #[must_use]
    pub fn reaches_mark(&self) -> bool {
        let index = lock(&self.index);
        index.state.emptied.is_none_or(|mark| index.last() >= mark.upto)
    }

    /// Drops the entries, durably. What stays is the vote, which is that of `leader` unless it is newer, and the id of the
    /// last entry that the group ever had. To be called again, once what the entries made is gone, with `unfinished` false.
    ///
    /// # Errors
    /// [`WalError::Stopped`] when the log failed or was closed.
    pub async fn empty(&self, leader: Option<Vote>, unfinished: bool) -> Result<(), WalError> {
        let (sender, durable) = TypeConfig::oneshot();
        {
            let mut index = lock(&self.index);
            let upto = index.last().max(index.state.emptied.and_then(|mark| mark.upto));
            let (vote, mark) = (index.state.vote, Mark { upto, unfinished });
            let vote = if vote < leader { leader } else { vote };
            let record = self.record(Kind::Emptied, encode_emptied(vote.as_ref(), &mark)?);
            self.handle.shared.queue.forget_committed(self.group);
            self.push(vec![record], Completion::of(IOFlushed::signal(sender)))?;
            index.empty(State { vote, emptied: Some(mark), ..State::default() });
        }
        let stopped = |what: String| WalError::Stopped(what);
        durable.await.map_err(|error| stopped(error.to_string()))?.map_err(|error| stopped(error.to_string()))
    }

    fn record(&self, kind: Kind, body: bytes::Bytes) -> Record {
        Record { group: self.group, kind, body, entry: None }
    }

    fn push(&self, records: Vec<Record>, done: Completion) -> Result<(), WalError> {
        self.handle.shared.queue.push(Item::new(records, done))
    }

    /// Encodes `entries` and checks that each follows the one before.
    fn prepare<I: IntoIterator<Item = Entry>>(&self, entries: I) -> Result<(Vec<Record>, Vec<EntryRef>), WalError> {
        let mut records = Vec::new();
        let mut added = Vec::new();
        for entry in entries {
            let body = encode_entry(&entry)?;
            let (log_id, ticket) = (entry.log_id, self.handle.shared.ticket());
            let key = EntryKey { index: log_id.index, ticket };
            records.push(Record { group: self.group, kind: Kind::Append, body: body.clone(), entry: Some(key) });
            added.push(EntryRef { log_id, ticket, place: None, cached: Some(body), fresh: Some(entry) });
        }
        Ok((records, added))
    }

    fn enqueue(
        &self,
        records: Vec<Record>,
        added: Vec<EntryRef>,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), WalError> {
        let mut index = lock(&self.index);
        let mut previous = None;
        for entry in &added {
            if let Some(what) = index.refusal(previous, &entry.log_id) {
                return Err(WalError::Contract { group: self.group, what });
            }
            previous = Some(entry.log_id);
        }
        self.push(records, Completion::of(callback))?;
        for entry in added {
            index.push(entry);
        }
        Ok(())
    }

    /// The entries in `start..end` that are there, as many as `limit_bytes` allows and at least one.
    async fn read(&self, start: u64, end: u64, limit_bytes: usize) -> io::Result<Vec<Entry>> {
        self.handle.shared.queue.check()?;
        let found = lock(&self.index).range(start, end, limit_bytes);
        decode(found).await
    }

    /// As [`read`](Self::read), for a leader only while it is the one this node voted for.
    async fn read_for(&self, leader: LeaderId, start: u64, end: u64) -> Result<Vec<Entry>, StreamError> {
        self.handle.shared.queue.check().map_err(io::Error::from)?;
        let found = {
            let mut index = lock(&self.index);
            match index.state.vote {
                Some(vote) if vote.leader_id == leader && vote.committed => {}
                other => return Err(LeaderChanged::new(leader, other).into()),
            }
            index.range(start, end, self.handle.shared.options.read_bytes)
        };
        Ok(decode(found).await?)
    }

    /// `start..end` in pieces, so that a long range is never in memory at once.
    fn stream_pieces(
        self,
        leader: Option<LeaderId>,
        start: u64,
        end: u64,
    ) -> impl Stream<Item = Result<Entry, StreamError>> + Send + 'static {
        let limit = self.handle.shared.options.read_bytes;
        let pieces = stream::try_unfold((self, start, false), move |(log, next, begun)| async move {
            if next >= end {
                return Ok(None);
            }
            let piece = match leader {
                Some(leader) => log.read_for(leader, next, end).await?,
                None => log.read(next, end, limit).await?,
            };
            let (Some(first), Some(last)) = (piece.first(), piece.last()) else { return Ok(None) };
            if begun && first.log_id.index != next {
                let gone = format!("entries from {next} on were purged while they were read");
                return Err(io::Error::other(gone).into());
            }
            let next = last.log_id.index + 1;
            Ok::<_, StreamError>(Some((piece, (log, next, true))))
        });
        pieces.map_ok(|piece| stream::iter(piece.into_iter().map(Ok))).try_flatten()
    }
}

/// Decodes on this thread what is in memory; reads from disk on a blocking one.
async fn decode(found: Vec<EntryRef>) -> io::Result<Vec<Entry>> {
    let in_memory = found.iter().all(|entry| entry.fresh.is_some() || entry.cached.is_some());
    let decode_all = move || found.into_iter().map(EntryRef::decode).collect::<Result<Vec<_>, WalError>>();
    if in_memory {
        return Ok(decode_all()?);
    }
    Ok(tokio::task::spawn_blocking(decode_all).await.map_err(io::Error::other)??)
}

/// `start..end` of any range.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, self.handle.shared.options.read_bytes).await
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, StreamError>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.clone().stream_pieces(Some(leader), start, end).boxed()
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let pieces = self.clone().stream_pieces(None, start, end);
        let plain = pieces.map_err(|error| match error {
            LeaderBoundedStreamError::IoError(error) => error,
            LeaderBoundedStreamError::LeaderChanged(changed) => io::Error::other(changed),
        });
        plain.boxed()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.handle.shared.queue.check()?;
        Ok(lock(&self.index).state.vote)
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.handle.shared.queue.check()?;
        let index = lock(&self.index);
        Ok(LogState { last_purged_log_id: index.state.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let body = encode_vote(vote).map_err(WalError::from)?;
        let (sender, durable) = TypeConfig::oneshot();
        {
            let mut index = lock(&self.index);
            self.push(vec![self.record(Kind::Vote, body)], Completion::of(IOFlushed::signal(sender)))?;
            index.state.vote = Some(*vote);
        }
        durable.await.map_err(io::Error::other)?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut index = lock(&self.index);
        self.handle.shared.queue.note_committed(self.group, committed)?;
        index.state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.handle.shared.queue.check()?;
        Ok(lock(&self.index).state.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (records, added) = self.prepare(entries)?;
        self.handle.shared.queue.room().await;
        Ok(self.enqueue(records, added, callback)?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let body = encode_log_id(last.as_ref()).map_err(WalError::from)?;
        let mut index = lock(&self.index);
        self.push(vec![self.record(Kind::Truncate, body)], Completion::none())?;
        index.truncate_after(last.map(|last| last.index));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let body = encode_log_id(Some(&upto)).map_err(WalError::from)?;
        let mut index = lock(&self.index);
        self.push(vec![self.record(Kind::Purge, body)], Completion::none())?;
        index.purge(upto);
        fail_point::reach("wal.purge_queued");
        Ok(())
    }
}
