//! The way to an entity, wherever it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context as Digest, SHA256};
use tracing::Instrument;

use super::RuntimeOptions;
use super::kinds::Kinds;
use super::message::Work;
use super::sealing::{Place, open};
use super::shard::{Delivered, Shard};
use crate::kernel::{
    AuditRecord, Clock, DedupeKey, Entity, EntityId, Error, ErrorCode, Op, Origin, ShardId, Timestamp, codec,
};
use crate::storage::state::ShardState;

/// A part of an ordered listing.
#[derive(Debug, Clone, Default)]
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

/// Sends commands to entities and reads their listings. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    shards: Arc<BTreeMap<ShardId, Arc<Shard>>>,
    kinds: Kinds,
    clock: Arc<dyn Clock>,
    options: Arc<RuntimeOptions>,
}

impl Router {
    #[must_use]
    pub fn new(
        shards: BTreeMap<ShardId, Arc<Shard>>,
        kinds: Kinds,
        clock: Arc<dyn Clock>,
        options: RuntimeOptions,
    ) -> Self {
        Self { shards: Arc::new(shards), kinds, clock, options: Arc::new(options) }
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
        let shard = self.shard(self.kinds.shard_of(id))?;
        let started = tokio::time::Instant::now();
        let deadline = Duration::from_millis(self.options.deadline_ms);
        let span = tracing::debug_span!("deliver", entity = %id, request_id = %origin.request_id, traceparent = origin.traceparent);
        let delivered = tokio::time::timeout(deadline, shard.deliver(id, work, origin, dedupe)).instrument(span).await;
        let result = delivered.unwrap_or_else(|_| {
            let detail = "The deadline passed; whether the command took effect is not known.";
            Err(Error::new(ErrorCode::DeadlineExceeded, detail).retry_after(1))
        });
        let outcome = result.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok");
        self.kinds.count(id.kind(), outcome, started.elapsed());
        result
    }

    /// Rows of an entity, opened. Linearizable.
    ///
    /// # Errors
    /// `gone` when the person they belong to was erased; `unavailable` without a leader.
    pub async fn rows(&self, id: &EntityId, table: &str, page: Page) -> Result<Entries, Error> {
        let shard = self.shard(self.kinds.shard_of(id))?;
        shard.barrier().await?;
        let state = shard.parts.log.state();
        let Some(stored) = state.entity(id).map_err(|error| unreadable(&error))? else { return Ok(Vec::new()) };
        let rows = state.rows(id, table, page.after.as_deref(), page.limit, page.reverse);
        let rows = rows.map_err(|error| unreadable(&error))?;
        let key = match &stored.subject {
            Some(subject) => {
                let gone = || Error::new(ErrorCode::Gone, "The person this belonged to was erased.");
                Some(shard.parts.sealer().key(subject, false).await?.ok_or_else(gone)?)
            }
            None => None,
        };
        let opened = rows.into_iter().map(|(row, value)| {
            let place = Place::Row { table, key: &row };
            open(key.as_ref(), id, &place, value).map(|value| (row.clone(), value))
        });
        opened.collect()
    }

    /// Keys under `prefix` of an index, merged over the shards of the scope. Linearizable per shard.
    ///
    /// # Errors
    /// `unavailable` when a shard has no leader.
    pub async fn scan(&self, scope: Scope, index: &str, prefix: &[u8], page: Page) -> Result<Entries, Error> {
        let shards: Vec<&Arc<Shard>> = match scope {
            Scope::ShardOf(id) => vec![self.shard(self.kinds.shard_of(&id))?],
            Scope::All => self.shards.values().collect(),
        };
        let mut found = Entries::new();
        for shard in shards {
            shard.barrier().await?;
            let after = page.after.as_deref();
            let part = shard.parts.log.state().index_scan(index, prefix, after, page.limit, page.reverse);
            found.extend(part.map_err(|error| unreadable(&error))?);
        }
        found.sort_by(|a, b| if page.reverse { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) });
        found.truncate(page.limit);
        Ok(found)
    }

    /// Writes audit entries that belong to no entity's decision, on the shard of `near`.
    ///
    /// # Errors
    /// `overloaded` or `unavailable`; then they were not acknowledged.
    pub async fn audit(&self, near: &EntityId, records: Vec<AuditRecord>) -> Result<(), Error> {
        let shard = self.shard(self.kinds.shard_of(near))?;
        let unavailable = |_| Error::unavailable("The audit log cannot be written now.");
        let written =
            shard.parts.log.propose(Op::Audit(records)).map_err(|_| Error::overloaded("The shard's queue"))?;
        written.await.map_err(unavailable)?.map_err(|_| Error::unavailable("The audit log cannot be written now."))?;
        Ok(())
    }

    /// The applied state of a shard, for services that read logs and feeds.
    ///
    /// # Errors
    /// `not_found` when there is no such shard here.
    pub fn state(&self, shard: ShardId) -> Result<Arc<ShardState>, Error> {
        Ok(Arc::clone(self.shard(shard)?.parts.log.state()))
    }

    /// Where an entity lives.
    #[must_use]
    pub fn shard_of(&self, id: &EntityId) -> ShardId {
        self.kinds.shard_of(id)
    }

    /// The shards of this node, in order.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards.values()
    }

    /// The names of the entity kinds.
    pub fn kind_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.names()
    }

    /// The domain time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// # Errors
    /// `not_found` when there is no such shard here.
    pub fn shard(&self, id: ShardId) -> Result<&Arc<Shard>, Error> {
        self.shards.get(&id).ok_or_else(|| Error::not_found("shard"))
    }
}

fn unreadable(error: &crate::storage::state::StateError) -> Error {
    tracing::error!(%error, "the state store cannot be read");
    Error::internal()
}
