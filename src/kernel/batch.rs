//! What goes through Raft: the persisted form of decisions. Append-only and versioned, with golden bytes.

use serde::{Deserialize, Serialize};

use super::codec;
use super::entity::{Change, ProviderKind};
use super::{EntityId, ShardId, Timestamp};

/// One entry of the audit log before the log gives it an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub at: Timestamp,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub outcome: String,
    pub source: String,
    pub request_id: String,
}

/// What makes a second delivery of the same command recognizable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DedupeKey {
    /// An outbox record of `shard`. Every record of that shard numbered below `settled_below` is settled and will
    /// never be sent again, so what is remembered of them may be forgotten.
    Message { shard: ShardId, number: u64, settled_below: u64 },
    /// A request under an idempotency key; remembered until `expires` (domain time).
    Request { hash: [u8; 32], expires: Timestamp },
}

/// Where an outbox record goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Entity(EntityId),
    Provider(ProviderKind),
}

/// How far an outbox record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboxState {
    /// Not tried before `not_before`: the wall time (not domain time) at which it was decided, zero where nobody knows.
    Waiting { attempts: u32, not_before: Timestamp },
    /// Handed to the other side, not before `since`; after a crash the outcome is unknown until reconciled.
    Sending { attempts: u32, since: Timestamp },
    /// Waits for an operator to release or drop it: the cluster that this one was made from may have done it.
    Held { since: Timestamp },
    /// Released by an operator; as waiting.
    Released { attempts: u32 },
}

/// An effect waiting to happen. `number` is given by the shard when the batch is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRecord {
    pub number: u64,
    /// The entity that decided it, the sequence number of that decision's batch, and its place in it; with [`Self::BULK`]
    /// where it can wait for others.
    pub source: EntityId,
    pub sequence: u64,
    pub position: u16,
    pub target: Target,
    pub tag: String,
    /// Sealed under `subject`'s key when there is one.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    pub subject: Option<String>,
    pub traceparent: Option<String>,
    pub state: OutboxState,
}

impl OutboxRecord {
    /// The bit of `position` that says that the record was made in number. Builds that do not know it see a high position.
    pub const BULK: u16 = 1 << 15;

    /// Whether it can wait for those that were not made in number. As constant as its key.
    #[must_use]
    pub const fn is_bulk(&self) -> bool {
        self.position & Self::BULK != 0
    }

    /// Whether it waits for an operator.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.state, OutboxState::Held { .. })
    }

    /// The idempotency key the other side sees; the same for every attempt, on any node.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}:{}:{}", self.source, self.sequence, self.position)
    }
}

/// Progress of an outbox record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboxChange {
    Set { number: u64, state: OutboxState },
    Settle { number: u64 },
}

/// One decision of one entity. Applied whole, or refused when `expected` is not the entity's sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub entity: EntityId,
    /// The entity's sequence number this batch follows. After it: `expected + max(1, events.len())`.
    pub expected: u64,
    pub at: Timestamp,
    pub subject: Option<String>,
    pub dedupe: Option<DedupeKey>,
    /// The encoded reply, kept with `dedupe` to answer repeats. Sealed under `subject`'s key when there is one.
    #[serde(with = "serde_bytes")]
    pub reply: Vec<u8>,
    /// Encoded events, each sealed when there is a subject.
    #[serde(with = "codec::byte_strings")]
    pub events: Vec<Vec<u8>>,
    /// The encoded (and sealed) state after this batch, when it is time for one.
    #[serde(with = "serde_bytes")]
    pub snapshot: Option<Vec<u8>>,
    pub purge: bool,
    /// New outbox records; their `number` is assigned on apply.
    pub outbox: Vec<OutboxRecord>,
    /// Outbox records of this shard settled by this batch.
    pub settles: Vec<u64>,
    /// Timers of this entity that this batch consumed, with the due time they had: dropped only if still the same.
    pub fired: Vec<(String, Timestamp)>,
    /// Row values sealed like events.
    pub changes: Vec<Change>,
    pub audit: Vec<AuditRecord>,
}

impl Batch {
    /// One that changes nothing.
    #[cfg(test)]
    #[must_use]
    pub fn empty(entity: EntityId, expected: u64) -> Self {
        Self {
            entity,
            expected,
            at: Timestamp::ZERO,
            subject: None,
            dedupe: None,
            reply: Vec::new(),
            events: Vec::new(),
            snapshot: None,
            purge: false,
            outbox: Vec::new(),
            settles: Vec::new(),
            fired: Vec::new(),
            changes: Vec::new(),
            audit: Vec::new(),
        }
    }

    /// The entity's sequence number after this batch. Every batch advances it, also one without events.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.expected + (self.events.len() as u64).max(1)
    }
}

/// One operation of a shard's state machine. A Raft entry carries many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Batch(Box<Batch>),
    Outbox(Vec<OutboxChange>),
    /// A feed consumer has handled everything up to and including `position`.
    Consumed {
        consumer: String,
        position: u64,
    },
    /// Audit entries that belong to no entity's decision.
    Audit(Vec<AuditRecord>),
    /// Drops a timer whose entity does not know it (any more).
    DropTimer {
        entity: EntityId,
        name: String,
        due: Timestamp,
    },
    /// Forgets remembered requests that expired before this time.
    Expire {
        before: Timestamp,
    },
}

/// What applying an [`Op`] answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpOutcome {
    Applied,
    /// The entity is at `actual`; nothing was done.
    SequenceConflict {
        actual: u64,
    },
    /// The dedupe key is already known; nothing was done. The remembered reply as it was stored.
    Duplicate {
        #[serde(with = "serde_bytes")]
        reply: Vec<u8>,
    },
}
