//! What an entity actor is sent, and what it answers.

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::kernel::{DedupeKey, Error, Origin, Outcome, Timestamp};

/// What is asked of an entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// An encoded command of the entity's kind.
    Command(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A timer of the entity came due.
    Timer { name: String, due: Timestamp },
    /// The effect in outbox record `number` ended.
    Outcome { number: u64, tag: String, outcome: Outcome },
}

/// One request in an entity's mailbox.
pub struct Request {
    pub work: Work,
    pub origin: Origin,
    pub dedupe: Option<DedupeKey>,
    pub reply: oneshot::Sender<Result<Answer, Failure>>,
    /// Held until the reply is sent: admission counts what is in flight, not only what is queued.
    pub permit: OwnedSemaphorePermit,
}

/// The encoded reply or the entity's refusal, and what the caller must still wait for before it may look at it: a refusal
/// tells as much of the state as a reply.
pub struct Answer {
    pub reply: Result<Vec<u8>, Error>,
    pub standing: Standing,
}

/// How firm an answer is.
pub enum Standing {
    /// Committed and applied (or remembered from before).
    Durable,
    /// A query or a refusal, which saw the state at `sequence`: valid once that is durable and the read barrier passed.
    Read { sequence: u64, durable: watch::Receiver<Durable> },
    /// The timer or outcome means nothing to the entity; nothing was written.
    Stale,
}

/// How far an entity's speculative state is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    pub sequence: u64,
    /// A commit failed: the speculative state was wrong and the actor is being replaced.
    pub failed: bool,
}

/// Why a request was not answered.
pub enum Failure {
    /// The caller is to hear this.
    Refused(Error),
    /// Nothing was done and the actor is being replaced: the request may be sent again.
    Reset,
    /// Nothing was done: this node does not lead the shard any more.
    Moved,
}

/// The mailbox type of every entity actor, whatever its kind.
pub enum EntityMessage {
    Deliver(Box<Request>),
    /// A batch of this actor did not commit as decided; its state is not to be trusted.
    CommitFailed,
}

impl ractor::Message for EntityMessage {}
