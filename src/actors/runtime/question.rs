//! What one node asks another about a shard or about itself: the wire form, versioned and append-only.

use serde::{Deserialize, Serialize};

use super::audit;
use super::log::ShardReport;
use super::message::Work;
use super::router::{Entries, Page};
use super::shard::Delivered;
use crate::kernel::codec::{self, CodecError};
use crate::kernel::{AuditRecord, DedupeKey, EntityId, Error, Origin, Timestamp};

const QUESTION: u8 = 0x51;
const ANSWER: u8 = 0x52;
const VERSION: u16 = 1;

/// A question to the node that leads a shard.
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
}

impl Question {
    /// Whether it may be asked again when nobody knows whether it was heard.
    #[must_use]
    pub fn repeatable(&self) -> bool {
        match self {
            Self::Deliver { dedupe, .. } => dedupe.is_some(),
            Self::Audit(_) => false,
            Self::Rows { .. }
            | Self::Scan { .. }
            | Self::ReadAudit(_)
            | Self::Subject(_)
            | Self::NextDue(_)
            | Self::Rest(_)
            | Self::Report => true,
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
