//! The way to an entity, wherever it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context as Digest, SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use super::RuntimeOptions;
use super::aftermath::Aftermath;
use super::answer::too_late;
use super::audit;
use super::background::Background;
use super::clock::NodeClock;
use super::elsewhere::Way;
use super::kinds::Kinds;
use super::log::{CutId, ShardReport};
use super::message::Work;
use super::question::{Answer, HeldEffect, Question};
use super::remote::Remote;
use super::replica::Replica;
use super::shard::{Delivered, Shard, Undelivered};
use crate::kernel::{
    AuditRecord, Clock, DedupeKey, Entity, EntityId, Error, Origin, Principal, ShardId, Timestamp, codec,
};
use crate::storage::state::LogPosition;

/// How long an operator waits to hear of a shard.
const REPORT: Duration = Duration::from_secs(2);

/// A part of an ordered listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Only keys beyond this one (below it when `reverse`).
    pub after: Option<Vec<u8>>,
    pub limit: usize,
    pub reverse: bool,
}

/// Where an index is scanned.
#[derive(Debug, Clone)]
pub enum Scope {
    /// Only the shard of this entity.
    ShardOf(EntityId),
    /// Every shard; the parts are merged by key.
    All,
}

/// Keys and values of a listing, in order.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Sends commands to entities and reads their listings, wherever they live. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    replicas: Arc<BTreeMap<ShardId, Arc<Replica>>>,
    kinds: Kinds,
    clock: Arc<NodeClock>,
    options: Arc<RuntimeOptions>,
    way: Arc<Way>,
    background: Arc<Background>,
}

impl Router {
    /// Every shard has a replica here, if only one that nobody replicates to.
    #[must_use]
    pub(super) fn new(
        replicas: BTreeMap<ShardId, Arc<Replica>>,
        kinds: Kinds,
        clock: Arc<NodeClock>,
        options: RuntimeOptions,
        way: Way,
        background: Arc<Background>,
    ) -> Self {
        let (replicas, options, way) = (Arc::new(replicas), Arc::new(options), Arc::new(way));
        Self { replicas, kinds, clock, options, way, background }
    }

    /// What this node does by itself, which gives way to those who wait.
    #[must_use]
    pub fn background(&self) -> &Arc<Background> {
        &self.background
    }

    /// Connects this node to the others. Later calls change nothing.
    pub fn connect(&self, node: u64, remote: Arc<dyn Remote>) {
        self.way.connect(node, remote);
    }

    /// The nodes that may be asked where a shard is that this node has no replica of.
    pub fn set_peers(&self, peers: Vec<u64>) {
        self.way.set_peers(peers);
    }

    /// Shards that are meant to have no replica here. One that was taken away may not know it, and think that it follows a
    /// leader that sends it nothing any more.
    pub fn set_away(&self, shards: BTreeSet<ShardId>) {
        self.way.away().send_if_modified(|away| {
            let changed = *away != shards;
            *away = shards;
            changed
        });
    }

    pub(super) fn away(&self) -> watch::Receiver<BTreeSet<ShardId>> {
        self.way.away().subscribe()
    }

    /// Sends a command and waits for its reply, which is durable (or, for a query, linearizable).
    ///
    /// Under [`Origin::idempotency`] each (entity, variant of command) takes effect once; a repeat answers the first
    /// reply. A handler that sends the same variant to the same entity twice in one request must not rely on that.
    ///
    /// # Errors
    /// The entity's refusal, `overloaded`, `unavailable`, or `deadline_exceeded` (it may still take effect).
    pub async fn ask<E: Entity>(&self, id: &EntityId, command: E::Command, origin: &Origin) -> Result<E::Reply, Error> {
        debug_assert_eq!(id.kind(), E::KIND, "the command is of the entity's kind");
        let bytes = codec::encode(&command).map_err(|error| {
            tracing::error!(entity = %id, %error, "a command does not encode");
            Error::internal()
        })?;
        drop(command);
        let dedupe = origin.idempotency.map(|scope| self.request_key(&scope, id, &bytes));
        let work = Work::Command(bytes);
        match self.deliver(id, &work, origin, dedupe.as_ref()).await? {
            Delivered::Reply(reply) => codec::decode(&reply).map_err(|error| {
                tracing::error!(entity = %id, %error, "a reply does not decode");
                Error::internal()
            }),
            Delivered::Stale => Err(Error::internal()),
        }
    }

    fn request_key(&self, scope: &[u8; 32], id: &EntityId, command: &[u8]) -> DedupeKey {
        let mut digest = Digest::new(&SHA256);
        digest.update(scope);
        digest.update(id.as_str().as_bytes());
        // The codec writes the variant of an enum as its first four bytes.
        digest.update(command.get(..4).unwrap_or(command));
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.finish().as_ref());
        let expires = self.clock.now().plus_minutes(self.options.remember_hours * 60);
        DedupeKey::Request { hash, expires }
    }

    /// Delivers work of any sort within the deadline.
    ///
    /// # Errors
    /// As [`Router::ask`].
    pub async fn deliver(
        &self,
        id: &EntityId,
        work: &Work,
        origin: &Origin,
        dedupe: Option<&DedupeKey>,
    ) -> Result<Delivered, Error> {
        let shard = self.kinds.shard_of(id);
        let started = tokio::time::Instant::now();
        let until = started + Duration::from_millis(self.options.deadline_ms);
        let span = tracing::debug_span!("deliver", entity = %id, request_id = %origin.request_id, traceparent = origin.traceparent);
        let result = self.deliver_by(until, shard, id, work, origin, dedupe).instrument(span).await;
        let outcome = result.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok");
        self.kinds.count(id.kind(), outcome, started.elapsed());
        result
    }

    async fn deliver_by(
        &self,
        until: Instant,
        shard: ShardId,
        id: &EntityId,
        work: &Work,
        origin: &Origin,
        dedupe: Option<&DedupeKey>,
    ) -> Result<Delivered, Error> {
        if let Some(here) = self.replica(shard).and_then(|replica| replica.shard()) {
            match tokio::time::timeout_at(until, here.deliver(id, work, origin, dedupe)).await {
                Ok(Ok(delivered)) => return Ok(delivered),
                Ok(Err(Undelivered::Refused(error))) => return Err(error),
                Ok(Err(Undelivered::Moved)) => {}
                Err(_) => return Err(too_late()),
            }
        }
        // Where the shard is led it counts by itself.
        let _waited = (origin.principal != Principal::System).then(|| self.background.waited());
        let (id, work, origin) = (id.clone(), work.clone(), origin.clone());
        let question = Question::Deliver { id, work, origin, dedupe: dedupe.cloned() };
        match self.settle(shard, &question, until).await? {
            Answer::Delivered(delivered) => Ok(delivered),
            _ => Err(Error::internal()),
        }
    }

    /// Asks whoever leads the shard, within the deadline.
    async fn question(&self, shard: ShardId, question: &Question) -> Result<Answer, Error> {
        self.settle(shard, question, Instant::now() + Duration::from_millis(self.options.deadline_ms)).await
    }

    /// Rows of an entity, opened. Linearizable.
    ///
    /// # Errors
    /// `gone` when the person they belong to was erased; `unavailable` without a leader.
    pub async fn rows(&self, id: &EntityId, table: &str, page: Page) -> Result<Entries, Error> {
        let question = Question::Rows { id: id.clone(), table: table.to_owned(), page };
        match self.question(self.kinds.shard_of(id), &question).await? {
            Answer::Entries(rows) => Ok(rows),
            _ => Err(Error::internal()),
        }
    }

    /// Keys under `prefix` of an index, merged over the shards of the scope. Linearizable per shard.
    ///
    /// # Errors
    /// `unavailable` when a shard has no leader.
    pub async fn scan(&self, scope: Scope, index: &str, prefix: &[u8], page: Page) -> Result<Entries, Error> {
        let shards: Vec<ShardId> = match scope {
            Scope::ShardOf(id) => vec![self.kinds.shard_of(&id)],
            Scope::All => self.shard_ids().collect(),
        };
        let (limit, reverse) = (page.limit, page.reverse);
        let question = Question::Scan { index: index.to_owned(), prefix: prefix.to_vec(), page };
        let parts = shards.into_iter().map(|shard| self.question(shard, &question));
        let mut found = Entries::new();
        for part in futures::future::try_join_all(parts).await? {
            let Answer::Entries(part) = part else { return Err(Error::internal()) };
            found.extend(part);
        }
        found.sort_by(|a, b| if reverse { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) });
        found.truncate(limit);
        Ok(found)
    }

    /// Writes audit entries that belong to no entity's decision, on the shard of `near`.
    ///
    /// # Errors
    /// `overloaded` or `unavailable`; then they were not acknowledged.
    pub async fn audit(&self, near: &EntityId, records: Vec<AuditRecord>) -> Result<(), Error> {
        self.question(self.kinds.shard_of(near), &Question::Audit(records)).await.map(|_| ())
    }

    /// Asks one shard's audit log. Linearizable.
    ///
    /// # Errors
    /// `not_found` for a shard that does not exist, `unavailable`, or the refusal of [`audit::answer`].
    pub async fn read_audit(&self, shard: ShardId, query: &audit::Query) -> Result<audit::Answer, Error> {
        match self.question(shard, &Question::ReadAudit(query.clone())).await? {
            Answer::Audit(answer) => Ok(answer),
            _ => Err(Error::internal()),
        }
    }

    /// Whose key seals a stored entity. Outer `None`: there is no such entity.
    ///
    /// # Errors
    /// `unavailable` without a leader.
    pub async fn stored_subject(&self, id: &EntityId) -> Result<Option<Option<String>>, Error> {
        match self.question(self.kinds.shard_of(id), &Question::Subject(id.clone())).await? {
            Answer::Subject(subject) => Ok(subject),
            _ => Err(Error::internal()),
        }
    }

    /// How a shard stands, as its leader knows it.
    ///
    /// # Errors
    /// `unavailable` without a leader.
    pub async fn report(&self, shard: ShardId) -> Result<ShardReport, Error> {
        let until = Instant::now() + REPORT;
        match self.settle(shard, &Question::Report, until).await? {
            Answer::Report(report) => Ok(report),
            _ => Err(Error::internal()),
        }
    }

    /// Holds a shard still and sets aside what it has applied; up to where that is. See [`super::log::ShardLog::cut`].
    ///
    /// # Errors
    /// `unavailable` without a leader, or when it cannot be held.
    pub async fn cut(&self, shard: ShardId, id: CutId) -> Result<Option<LogPosition>, Error> {
        match self.question(shard, &Question::Cut(id)).await? {
            Answer::Cut(position) => Ok(position),
            _ => Err(Error::internal()),
        }
    }

    /// Lets a held shard go on; whether it was held without a break.
    ///
    /// # Errors
    /// `unavailable` without a leader.
    pub async fn release(&self, shard: ShardId, id: CutId) -> Result<bool, Error> {
        match self.question(shard, &Question::Release(id)).await? {
            Answer::Released(lasted) => Ok(lasted),
            _ => Err(Error::internal()),
        }
    }

    /// A piece of what was set aside; empty at its end.
    ///
    /// # Errors
    /// `unavailable` when it is gone.
    pub async fn read_cut(&self, shard: ShardId, id: CutId, offset: u64) -> Result<Vec<u8>, Error> {
        match self.question(shard, &Question::ReadCut { id, offset }).await? {
            Answer::Piece(piece) => Ok(piece),
            _ => Err(Error::internal()),
        }
    }

    /// Effects of a shard that wait for an operator, numbered above `after`.
    ///
    /// # Errors
    /// `unavailable` without a leader.
    pub async fn held(&self, shard: ShardId, after: u64) -> Result<Vec<HeldEffect>, Error> {
        match self.question(shard, &Question::Held { after }).await? {
            Answer::Held(held) => Ok(held),
            _ => Err(Error::internal()),
        }
    }

    /// Lets a held effect happen, or gives it up; whether it was held.
    ///
    /// # Errors
    /// `unavailable` without a leader.
    pub async fn decide_held(&self, shard: ShardId, number: u64, release: bool) -> Result<bool, Error> {
        match self.question(shard, &Question::DecideHeld { number, release }).await? {
            Answer::Released(was_held) => Ok(was_held),
            _ => Err(Error::internal()),
        }
    }

    /// Puts a parked entity back into service, wherever its shard is led; whether it was parked.
    ///
    /// # Errors
    /// `unavailable` without a leader, or when one of an earlier version does not know the question.
    pub async fn unpark(&self, id: &EntityId) -> Result<bool, Error> {
        match self.question(self.kinds.shard_of(id), &Question::Unpark(id.clone())).await? {
            Answer::Released(was_parked) => Ok(was_parked),
            _ => Err(Error::internal()),
        }
    }

    /// The earliest due time of a shard's timers after now and up to `upto`.
    pub(super) async fn next_due(&self, shard: ShardId, upto: Timestamp) -> Result<Option<Timestamp>, Error> {
        match self.question(shard, &Question::NextDue(upto)).await? {
            Answer::Due(due) => Ok(due),
            _ => Err(Error::internal()),
        }
    }

    /// Whether a shard is at rest at `now`, and how far it is.
    pub(super) async fn at_rest(&self, shard: ShardId, now: Timestamp) -> Result<(bool, u64), Error> {
        match self.question(shard, &Question::Rest(now)).await? {
            Answer::Rest { quiet, applied } => Ok((quiet, applied)),
            _ => Err(Error::internal()),
        }
    }

    /// Where an entity lives.
    #[must_use]
    pub fn shard_of(&self, id: &EntityId) -> ShardId {
        self.kinds.shard_of(id)
    }

    /// Every shard of the cluster, in order.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.replicas.keys().copied()
    }

    /// This node's replicas, in order; some may have no members.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas.values()
    }

    #[must_use]
    pub fn replica(&self, shard: ShardId) -> Option<&Arc<Replica>> {
        self.replicas.get(&shard)
    }

    /// The shards that this node leads now, in order.
    #[must_use]
    pub fn led(&self) -> Vec<Arc<Shard>> {
        self.replicas().filter_map(|replica| replica.shard()).collect()
    }

    /// The names of the entity kinds.
    pub fn kind_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.names()
    }

    /// How the cluster began, where that was as an earlier state of another.
    #[must_use]
    pub fn aftermath(&self) -> Option<&Aftermath> {
        self.way.aftermath()
    }

    /// The domain time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn clock(&self) -> &NodeClock {
        &self.clock
    }

    pub(super) fn way(&self) -> &Way {
        &self.way
    }
}
