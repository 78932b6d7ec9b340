//! What a durable thing of the product is: a pure state machine with commands, events and state.
//!
//! The life of a command: `decide` reads the state and answers with a [`Decision`]; the runtime commits everything in
//! it as one batch; `apply` folds the events into the state; only then does the caller get the reply.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::CodecError;
use super::id::type_id;
use super::{AuditRecord, EntityId, Error, Origin, Slot, Timestamp, codec};

/// A durable entity kind. The implementing type is its state, serialized whole into snapshots.
///
/// Architecture invariant: `decide` and `apply` are synchronous, total and pure; time, randomness and ids come from
/// [`Context`]. Commands, events and state are persisted: enums grow only at the end, what an event holds stays as it is,
/// and a state that gains members says how an older one becomes it ([`Entity::upgrade`]).
pub trait Entity: Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Lower-case name of the kind, the first part of [`EntityId`]. Never changes once released.
    const KIND: &'static str;
    /// Whether entities of this kind live on the meta shard instead of the shard of their slot.
    const META: bool = false;
    /// Events between snapshots.
    const SNAPSHOT_EVERY: u64 = 64;
    /// The version of the state's form in snapshots. A state that gains a member gets the next one.
    const STATE_VERSION: u16 = 1;

    type Command: Serialize + DeserializeOwned + Send + 'static;
    type Event: Serialize + DeserializeOwned + Send + 'static;
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Decides what a command does. No events, effects or changes means a query: nothing is written.
    ///
    /// # Errors
    /// The refusal the caller sees; nothing was changed.
    fn decide(&self, command: Self::Command, context: &Context) -> Result<Decision<Self>, Error>;

    /// Folds one event into the state.
    fn apply(&mut self, event: &Self::Event);

    /// A stored event. For a kind whose events once changed their form in place; what is new is a variant at the end.
    ///
    /// # Errors
    /// [`CodecError`] when it is not one.
    fn read_event(bytes: &[u8]) -> Result<Self::Event, CodecError> {
        codec::decode(bytes)
    }

    /// The bytes of a state of an older `version` as the version after it writes them. `None`: there was no such version.
    fn upgrade(_version: u16, _state: Vec<u8>) -> Option<Vec<u8>> {
        None
    }

    /// The person whose data key seals this entity's events, snapshots, rows and effects on disk. Constant once the
    /// first event is applied. `None`: holds no personal data and is stored in clear.
    fn subject(&self, _id: &EntityId) -> Option<String> {
        None
    }

    /// The command a due timer stands for. `None`: the timer is stale and is dropped.
    fn on_timer(_name: &str) -> Option<Self::Command> {
        None
    }

    /// The command that reports how the effect tagged `tag` ended. `None`: nobody waits for it.
    fn on_outcome(_tag: &str, _outcome: Outcome) -> Option<Self::Command> {
        None
    }
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum Outcome {
    /// It was done. For a told entity the bytes are its encoded reply; for a provider, its encoded receipt.
    Done(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The other side refused for good.
    Refused(Error),
    /// Whether it was done is not known and cannot be found out now. Never retried blindly.
    Unknown(String),
}

/// What surrounds a decision: the only source of time, randomness and new ids.
#[derive(Debug, Clone)]
pub struct Context {
    pub id: EntityId,
    /// Events applied so far; 0 for an entity that does not exist yet.
    pub sequence: u64,
    pub now: Timestamp,
    pub origin: Origin,
    /// Fresh for every command, from the operating system's generator.
    pub entropy: [u8; 32],
}

impl Context {
    /// 32 random bytes, the same for the same label within one decision.
    #[must_use]
    pub fn random(&self, label: &str) -> [u8; 32] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.entropy);
        let tag = ring::hmac::sign(&key, label.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// A new public id on this entity's shard. `label` tells ids made in one decision apart.
    #[must_use]
    pub fn new_id(&self, prefix: &str, label: &str) -> String {
        self.new_id_at(prefix, label, self.id.slot())
    }

    /// A new public id on another slot.
    #[must_use]
    pub fn new_id_at(&self, prefix: &str, label: &str, slot: Slot) -> String {
        let random = self.random(&format!("{prefix}:{label}"));
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&random[..8]);
        type_id(prefix, self.now, slot, bytes)
    }
}

/// A provider family; each has its own dispatch lane, so that a stuck one delays only itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
pub enum ProviderKind {
    Email,
    Sms,
    Push,
    Payment,
    Webhook,
}

impl ProviderKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Push => "push",
            Self::Payment => "payment",
            Self::Webhook => "webhook",
        }
    }
}

/// Something that must happen because a decision was committed. Delivered by the outbox after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A command for another entity; takes effect once.
    Tell { to: EntityId, command: Vec<u8>, tag: String },
    /// A request to a provider, encoded in that provider's own request type.
    Call { provider: ProviderKind, request: Vec<u8>, tag: String },
}

impl Effect {
    /// Tells `to` a command; `tag` comes back in [`Entity::on_outcome`] with the encoded reply (empty tag: no report).
    #[must_use]
    pub fn tell<T: Entity>(to: EntityId, command: &T::Command, tag: &str) -> Self {
        debug_assert_eq!(to.kind(), T::KIND, "the command is of the told entity's kind");
        let command = codec::encode(command).expect("commands are small and serializable");
        Self::Tell { to, command, tag: tag.to_owned() }
    }

    /// Asks a provider; `request` is the provider module's request type.
    #[must_use]
    pub fn call<R: Serialize>(provider: ProviderKind, request: &R, tag: &str) -> Self {
        let request = codec::encode(request).expect("provider requests are small and serializable");
        Self::Call { provider, request, tag: tag.to_owned() }
    }
}

/// A change beside the events, committed with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum Change {
    /// Sets (or with `None` clears) this entity's timer of that name.
    Timer { name: String, due: Option<Timestamp> },
    /// Sets or removes a key of a shard-wide index. Stored in clear: never personal data.
    Index {
        index: String,
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
        #[serde(with = "serde_bytes")]
        value: Option<Vec<u8>>,
    },
    /// Sets or removes a row of this entity, sealed like its events, for collections too long for a snapshot.
    Row {
        table: String,
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
        #[serde(with = "serde_bytes")]
        value: Option<Vec<u8>>,
    },
}

/// Everything a command does, committed whole or not at all.
#[derive(Debug)]
pub struct Decision<E: Entity> {
    pub reply: E::Reply,
    pub events: Vec<E::Event>,
    pub effects: Vec<Effect>,
    pub changes: Vec<Change>,
    pub audit: Vec<AuditRecord>,
    /// Forget this entity's journal, snapshots and rows up to here; the events of this decision are all that is left.
    pub purge: bool,
    /// The effects are made in number and can wait for others.
    pub bulk: bool,
}

impl<E: Entity> Decision<E> {
    /// Answers `reply`; without further calls, a query.
    #[must_use]
    pub fn reply(reply: E::Reply) -> Self {
        let (events, effects, changes, audit) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { reply, events, effects, changes, audit, purge: false, bulk: false }
    }

    #[must_use]
    pub fn event(mut self, event: E::Event) -> Self {
        self.events.push(event);
        self
    }

    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    #[must_use]
    pub fn timer(mut self, name: &str, due: Timestamp) -> Self {
        self.changes.push(Change::Timer { name: name.to_owned(), due: Some(due) });
        self
    }

    #[must_use]
    pub fn clear_timer(mut self, name: &str) -> Self {
        self.changes.push(Change::Timer { name: name.to_owned(), due: None });
        self
    }

    #[must_use]
    pub fn index(mut self, index: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let value = Some(value.into());
        self.changes.push(Change::Index { index: index.to_owned(), key: key.into(), value });
        self
    }

    #[must_use]
    pub fn unindex(mut self, index: &str, key: impl Into<Vec<u8>>) -> Self {
        self.changes.push(Change::Index { index: index.to_owned(), key: key.into(), value: None });
        self
    }

    #[must_use]
    pub fn row(mut self, table: &str, key: impl Into<Vec<u8>>, value: Option<Vec<u8>>) -> Self {
        self.changes.push(Change::Row { table: table.to_owned(), key: key.into(), value });
        self
    }

    /// Writes an audit entry about `target` (an id) with the outcome `ok`, `denied` or `failed`.
    #[must_use]
    pub fn audit(mut self, context: &Context, action: &str, target: &str, outcome: &str) -> Self {
        self.audit.push(AuditRecord {
            at: context.now,
            actor: context.origin.principal.audit_name().to_owned(),
            action: action.to_owned(),
            target: target.to_owned(),
            outcome: outcome.to_owned(),
            source: context.origin.source.clone(),
            request_id: context.origin.request_id.clone(),
        });
        self
    }

    /// Lets its effects wait for those of other decisions when there is more to do than a node can. What an entity sends to
    /// another is kept in order among what is bulk, and among what is not.
    #[must_use]
    pub fn bulk(mut self) -> Self {
        self.bulk = true;
        self
    }

    #[must_use]
    pub fn purge(mut self) -> Self {
        self.purge = true;
        self
    }

    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_query(&self) -> bool {
        self.events.is_empty()
            && self.effects.is_empty()
            && self.changes.is_empty()
            && self.audit.is_empty()
            && !self.purge
    }
}
