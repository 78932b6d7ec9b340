//! The state of an inbox and its two pure functions.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Item, NewItem, Position, Reply};
use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp, codec};

/// The table of the items' rows.
pub const ITEMS: &str = "items";
/// Items kept; older ones are trimmed.
pub const HISTORY: usize = 1000;
/// Ids one `Read` may name.
const MAX_IDS: usize = 500;

/// What the state knows of one kept item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// The first 8 bytes of the id's SHA-256: enough to tell a thousand apart, in a quarter of the space.
    digest: u64,
    read_at: Option<Timestamp>,
}

/// One person's channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Inbox {
    epoch: String,
    /// The newest offset given out.
    last: u64,
    /// Marks of the offsets `last - marks.len() + 1 ..= last`.
    marks: VecDeque<Mark>,
    unread: u64,
}

/// Rows sort by offset.
#[must_use]
pub fn row_key(offset: u64) -> Vec<u8> {
    offset.to_be_bytes().to_vec()
}

#[must_use]
pub fn row_offset(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn digest(id: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Inbox {
    fn first(&self) -> u64 {
        self.last + 1 - self.marks.len() as u64
    }

    fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), offset: self.last, first: self.first(), unread: self.unread }
    }

    fn mark(&self, offset: u64) -> Option<&Mark> {
        self.marks.get(usize::try_from(offset.checked_sub(self.first())?).ok()?)
    }

    fn offset_of(&self, id: &str) -> Option<u64> {
        let wanted = digest(id);
        let place = self.marks.iter().rposition(|mark| mark.digest == wanted)?;
        Some(self.first() + place as u64)
    }

    fn append(&self, new: NewItem, context: &Context) -> Decision<Self> {
        if let Some(offset) = self.offset_of(&new.id) {
            return Decision::reply(Reply::Appended { offset });
        }
        let offset = self.last + 1;
        let NewItem { id, category, title, body, url } = new;
        let item = Item { id, offset, category, title, body, url, created_at: context.now };
        let row = codec::encode(&item).expect("items are small and serializable");
        let mut decision = self.opened(Reply::Appended { offset }, context);
        if self.marks.len() >= HISTORY {
            decision = decision.row(ITEMS, row_key(self.first()), None);
        }
        decision.event(Event::Appended { item }).row(ITEMS, row_key(offset), Some(row))
    }

    /// A decision that starts with the channel's epoch if it has none yet.
    fn opened(&self, reply: Reply, context: &Context) -> Decision<Self> {
        let decision = Decision::reply(reply);
        if self.epoch.is_empty() { decision.event(Event::Opened { epoch: new_epoch(context) }) } else { decision }
    }

    fn read(&self, ids: &[String], context: &Context) -> Result<Decision<Self>, Error> {
        if ids.len() > MAX_IDS {
            return Err(Error::invalid("/ids", format!("At most {MAX_IDS} ids at once.")));
        }
        let mut offsets: Vec<u64> = ids.iter().filter_map(|id| self.offset_of(id)).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.retain(|offset| self.mark(*offset).is_some_and(|mark| mark.read_at.is_none()));
        let marked = offsets.len() as u64;
        let decision = Decision::reply(Reply::Marked { marked, unread: self.unread - marked });
        if marked == 0 {
            return Ok(decision);
        }
        Ok(decision.event(Event::Read { offsets, at: context.now }))
    }

    fn read_up_to(&self, offset: u64, context: &Context) -> Decision<Self> {
        let kept = self.first()..=offset.min(self.last);
        let marked = kept.filter(|o| self.mark(*o).is_some_and(|mark| mark.read_at.is_none())).count() as u64;
        let decision = Decision::reply(Reply::Marked { marked, unread: self.unread - marked });
        if marked == 0 { decision } else { decision.event(Event::ReadUpTo { offset, at: context.now }) }
    }

    fn set_read(&mut self, offset: u64, at: Timestamp) {
        let first = self.first();
        let place = offset.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(mark) = place.and_then(|place| self.marks.get_mut(place))
            && mark.read_at.is_none()
        {
            mark.read_at = Some(at);
            self.unread = self.unread.saturating_sub(1);
        }
    }
}

fn new_epoch(context: &Context) -> String {
    hex::encode(&context.random("epoch")[..4])
}

impl Entity for Inbox {
    const KIND: &'static str = "inbox";
    const SNAPSHOT_EVERY: u64 = 128;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Open if self.epoch.is_empty() => {
                let epoch = new_epoch(context);
                let position = Position { epoch: epoch.clone(), ..self.position() };
                Ok(Decision::reply(Reply::Position(position)).event(Event::Opened { epoch }))
            }
            Command::Open | Command::GetPosition => Ok(Decision::reply(Reply::Position(self.position()))),
            Command::Append(new) => Ok(self.append(new, context)),
            Command::Read { ids } => self.read(&ids, context),
            Command::ReadUpTo { offset } => Ok(self.read_up_to(offset, context)),
            Command::GetMarks { after, limit } => {
                let from = (after.saturating_add(1)).max(self.first());
                let read_at = (from..=self.last).take(limit).map(|o| self.mark(o).and_then(|m| m.read_at)).collect();
                Ok(Decision::reply(Reply::Marks { position: self.position(), from, read_at }))
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Opened { epoch } => self.epoch.clone_from(epoch),
            Event::Appended { item } => {
                if self.marks.len() >= HISTORY
                    && let Some(trimmed) = self.marks.pop_front()
                    && trimmed.read_at.is_none()
                {
                    self.unread = self.unread.saturating_sub(1);
                }
                self.marks.push_back(Mark { digest: digest(&item.id), read_at: None });
                self.last = item.offset;
                self.unread += 1;
            }
            Event::Read { offsets, at } => {
                for offset in offsets {
                    self.set_read(*offset, *at);
                }
            }
            Event::ReadUpTo { offset, at } => {
                for offset in self.first()..=(*offset).min(self.last) {
                    self.set_read(offset, *at);
                }
            }
        }
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }
}
