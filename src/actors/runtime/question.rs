//! What one node asks another about a shard or about itself: the wire form, versioned and append-only.

use serde::{Deserialize, Serialize};

use super::audit;
use super::inventory::Inventory;
use super::log::{CutId, ShardReport};
use super::message::Work;
use super::router::{Entries, Page};
use super::shard::Delivered;
use crate::kernel::codec::{self, CodecError};
use crate::kernel::{AuditRecord, DedupeKey, EntityId, Error, Origin, ProviderKind, Timestamp};
use crate::storage::state::{FeedEntry, LogPosition};

const QUESTION: u8 = 0x51;
const ANSWER: u8 = 0x52;
const VERSION: u16 = 1;

/// A question to the node that leads a shard, or to a node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Work for an entity.
    Deliver { id: EntityId, work: Work, origin: Origin, dedupe: Option<DedupeKey> },
    /// Rows of an entity, opened.
    Rows { id: EntityId, table: String, page: Page },
    /// Keys under a prefix of an index.
    Scan { index: String, prefix: Vec<u8>, page: Page },
    /// Audit entries that belong to no entity's decision.
    Audit(Vec<AuditRecord>),
    /// A question about the shard's audit log.
    ReadAudit(audit::Query),
    /// Whose key seals the stored entity.
    Subject(EntityId),
    /// When the earliest timer after now and up to this time is due.
    NextDue(Timestamp),
    /// Whether the shard is at rest at this time, to which a virtual clock is moved.
    Rest(Timestamp),
    /// How the shard stands.
    Report,
    /// Holds the shard for a backup, and sets aside what it has applied.
    Cut(CutId),
    /// Lets the shard go on; whether it was held without a break.
    Release(CutId),
    /// A piece of what was set aside.
    ReadCut { id: CutId, offset: u64 },
    /// Effects that wait for an operator, numbered above this.
    Held { after: u64 },
    /// Lets a held effect happen, or gives it up; whether it was held.
    DecideHeld { number: u64, release: bool },
    /// What happens on the shard from now on, or after this position of its feed, to entities of these kinds. Waits for it,
    /// for a while.
    Follow { after: Option<u64>, kinds: Vec<Followed> },
    /// The actors of the node, whatever it leads.
    Inventory,
    /// Of the node itself, as the next two: a version of the key-encryption key, encrypted under the root key.
    HandOutKey { version: u32 },
    /// To keep such a version.
    TakeInKey { version: u32, sealed: Vec<u8> },
    /// Which versions it has.
    KeyVersions,
    /// Puts a parked entity back into service; whether it was parked.
    Unpark(EntityId),
}

impl Question {
    /// Whether it may be asked again when nobody knows whether it was heard.
    #[must_use]
    pub fn repeatable(&self) -> bool {
        match self {
            Self::Deliver { dedupe, .. } => dedupe.is_some(),
            Self::Audit(_) | Self::Cut(_) | Self::Release(_) | Self::DecideHeld { .. } | Self::Unpark(_) => false,
            Self::Rows { .. }
            | Self::Scan { .. }
            | Self::ReadAudit(_)
            | Self::Subject(_)
            | Self::NextDue(_)
            | Self::Rest(_)
            | Self::Report
            | Self::ReadCut { .. }
            | Self::Held { .. }
            | Self::Follow { .. }
            | Self::Inventory
            | Self::HandOutKey { .. }
            | Self::TakeInKey { .. }
            | Self::KeyVersions => true,
        }
    }

    /// # Errors
    /// [`CodecError`] when it is larger than a record may be.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(QUESTION, VERSION, self)
    }

    /// # Errors
    /// [`CodecError`] for bytes of another kind or a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(QUESTION, bytes)
    }
}

/// What a [`Question`] is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Delivered(Delivered),
    Entries(Entries),
    Done,
    Audit(audit::Answer),
    /// Outer `None`: there is no such entity. Inner: it is stored in clear.
    Subject(Option<Option<String>>),
    Due(Option<Timestamp>),
    Rest {
        quiet: bool,
        applied: u64,
    },
    Report(ShardReport),
    Cut(Option<LogPosition>),
    Released(bool),
    Piece(#[serde(with = "serde_bytes")] Vec<u8>),
    Held(Vec<HeldEffect>),
    /// What was looked at, up to `reached`; `gap`: there was more before it that cannot be seen any more.
    News {
        reached: u64,
        gap: bool,
        entries: Vec<FeedEntry>,
    },
    Inventory(Inventory),
    /// Oldest first.
    KeyVersions(Vec<u32>),
}

/// A kind of entities whose entries in a feed are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    pub kind: String,
    /// Whether their events are, too; else only that something happened.
    pub events: bool,
}

impl Followed {
    /// The entry as it is wanted, if it is.
    #[must_use]
    pub fn pick(kinds: &[Self], mut entry: FeedEntry) -> Option<FeedEntry> {
        let wanted = kinds.iter().find(|wanted| wanted.kind == entry.entity.kind())?;
        if !wanted.events {
            entry.events.clear();
        }
        Some(entry)
    }
}

/// An effect that waits for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldEffect {
    pub number: u64,
    pub provider: ProviderKind,
    /// The entity that decided it.
    pub source: EntityId,
    /// Whose it is, if somebody's.
    pub subject: Option<String>,
}

/// # Errors
/// [`CodecError`] when the answer is larger than a record may be.
pub fn encode_answer(answer: &Result<Answer, Error>) -> Result<Vec<u8>, CodecError> {
    codec::encode_record(ANSWER, VERSION, answer)
}

/// # Errors
/// [`CodecError`] for bytes of another kind or a later version.
pub fn decode_answer(bytes: &[u8]) -> Result<Result<Answer, Error>, CodecError> {
    codec::decode_record(ANSWER, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::{fuzz, keeps_its_form};

    #[test]
    fn any_bytes_as_a_question_or_its_answer() {
        let id = EntityId::new("user", "usr_1");
        let page = Page { after: Some(vec![1]), limit: 10, reverse: false };
        let questions = [
            Question::Rows { id: id.clone(), table: "items".to_owned(), page: page.clone() },
            Question::Scan { index: "users".to_owned(), prefix: vec![2], page },
            Question::Subject(id.clone()),
            Question::Unpark(id),
            Question::NextDue(Timestamp::ZERO),
            Question::Report,
            Question::Inventory,
            Question::HandOutKey { version: 2 },
            Question::TakeInKey { version: 2, sealed: vec![7; 60] },
            Question::KeyVersions,
            Question::Follow { after: Some(3), kinds: vec![Followed { kind: "inbox".to_owned(), events: false }] },
        ];
        let answers = [
            Ok(Answer::Done),
            Ok(Answer::Subject(Some(Some("usr_1".to_owned())))),
            Ok(Answer::Rest { quiet: true, applied: 7 }),
            Ok(Answer::Inventory(Inventory { more_crashes: 3, ..Inventory::default() })),
            Ok(Answer::KeyVersions(vec![1, 2])),
            Err(Error::invalid("/name", "is too long")),
        ];
        let mut seeds: Vec<Vec<u8>> = questions.iter().map(|asked| asked.encode().expect("encodes")).collect();
        seeds.extend(answers.iter().map(|answer| encode_answer(answer).expect("encodes")));
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        fuzz("question", &seeds, |bytes| {
            let ways = [
                keeps_its_form(bytes, Question::decode, |asked| asked.encode().expect("encodes")),
                keeps_its_form(bytes, decode_answer, |answer| encode_answer(answer).expect("encodes")),
            ];
            ways.join(" ")
        });
    }
}
