//! How one outbox record is delivered, and what its end means.
//!
//! An entity is told with the record's number as deduplication key, so a repeat is answered from memory. A provider
//! that deduplicates by key is called again with the same key until it answers, for as long as the other side remembers
//! keys: what was decided longer ago than that may have been done under a key that is forgotten, and is looked up first
//! or stays *unknown*. A provider that does not deduplicate is called only after a durable mark that the attempt began;
//! an attempt found begun after a crash is reconciled, and stays *unknown* when that cannot be done. The outcome then
//! commands the source entity in the batch that settles the record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tracing::Instrument;

use super::backoff;
use crate::actors::runtime::message::Work;
use crate::actors::runtime::router::Router;
use crate::actors::runtime::sealing::{Place, open};
use crate::actors::runtime::shard::{Delivered, Shard};
use crate::actors::runtime::steady::wall_now;
use crate::kernel::{
    DedupeKey, EntityId, Error, ErrorCode, Op, OutboxChange, OutboxRecord, OutboxState, Outcome, ProviderKind, Target,
    Timestamp, fail_point,
};
use crate::providers::{Provider, ProviderError};

/// How many times longer the pauses between provider calls are than those between messages.
const CALL_FACTOR: u32 = 10;

/// How an attempt to deliver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The record is gone from the outbox.
    Settled,
    /// It waits for an operator.
    Held,
    /// Try again after this pause.
    Later(Duration),
}

/// Delivers records of one shard.
pub struct Courier {
    pub(super) shard: Arc<Shard>,
    router: Router,
    providers: BTreeMap<ProviderKind, Arc<dyn Provider>>,
}

impl Courier {
    #[must_use]
    pub fn new(shard: Arc<Shard>, router: Router, providers: BTreeMap<ProviderKind, Arc<dyn Provider>>) -> Self {
        Self { shard, router, providers }
    }

    /// One attempt at record `number`, which failed `attempts` times since this node leads the shard.
    pub async fn deliver(&self, number: u64, attempts: u32) -> Attempt {
        let record = match self.shard.parts.log.state().outbox_record(number) {
            Ok(Some(record)) => record,
            Ok(None) => return Attempt::Settled,
            Err(error) => {
                tracing::error!(%error, number, "an outbox record cannot be read");
                return Attempt::Later(self.pause(u32::MAX));
            }
        };
        let payload = match self.open(&record).await {
            Ok(payload) => payload,
            Err(error) if error.code.may_retry() => {
                return Attempt::Later(self.pause(attempts));
            }
            Err(error) => return self.finish(&record, Outcome::Refused(error)).await,
        };
        let to = match &record.target {
            Target::Entity(to) => to.as_str(),
            Target::Provider(kind) => kind.as_str(),
        };
        let span =
            tracing::debug_span!("outbox", record = record.key(), to, attempts, traceparent = record.traceparent);
        self.send(&record, payload, attempts).instrument(span).await
    }

    async fn send(&self, record: &OutboxRecord, payload: Vec<u8>, attempts: u32) -> Attempt {
        match &record.target {
            Target::Entity(to) => self.tell(record, to, payload, attempts).await,
            Target::Provider(kind) => match self.providers.get(kind) {
                Some(provider) => self.call(record, provider.as_ref(), &payload, attempts).await,
                None => {
                    let detail = format!("No {} provider is configured.", kind.as_str());
                    self.finish(record, Outcome::Refused(Error::conflict(detail))).await
                }
            },
        }
    }

    pub(super) fn pause(&self, attempts: u32) -> Duration {
        let (first, longest) = self.shard.parts.options.retry_ms;
        backoff(attempts, Duration::from_millis(first), Duration::from_millis(longest))
    }

    async fn open(&self, record: &OutboxRecord) -> Result<Vec<u8>, Error> {
        let key = match &record.subject {
            Some(subject) => {
                let gone = || Error::new(ErrorCode::Gone, "The person this belonged to was erased.");
                Some(self.shard.parts.sealer().key(subject, false).await?.ok_or_else(gone)?)
            }
            None => None,
        };
        let place = Place::Effect(record.sequence, record.position);
        open(key.as_ref(), &record.source, &place, record.payload.clone())
    }

    async fn tell(&self, record: &OutboxRecord, to: &EntityId, command: Vec<u8>, attempts: u32) -> Attempt {
        let settled_below = self.shard.parts.log.state().settled_below().unwrap_or(0);
        let shard = self.shard.parts.log.shard();
        let dedupe = DedupeKey::Message { shard, number: record.number, settled_below };
        let work = Work::Command(command);
        fail_point::reach("message.before_send");
        let delivered = self.router.deliver(to, &work, &self.origin(record), Some(&dedupe)).await;
        fail_point::reach("message.taken");
        match delivered {
            Ok(Delivered::Reply(reply)) => self.finish(record, Outcome::Done(reply)).await,
            Ok(Delivered::Stale) => self.finish(record, Outcome::Done(Vec::new())).await,
            Err(error) if error.code.may_retry() => {
                tracing::debug!(record = record.key(), %error, "a message is put off");
                Attempt::Later(self.pause(attempts))
            }
            Err(error) => {
                tracing::warn!(record = record.key(), %to, %error, "a message was refused");
                self.finish(record, Outcome::Refused(error)).await
            }
        }
    }

    async fn call(&self, record: &OutboxRecord, provider: &dyn Provider, request: &[u8], attempts: u32) -> Attempt {
        let (key, kind) = (self.key(record), provider.kind().as_str());
        let tried = attempts.max(match record.state {
            OutboxState::Waiting { attempts, .. }
            | OutboxState::Sending { attempts, .. }
            | OutboxState::Released { attempts } => attempts,
            OutboxState::Held { .. } => return Attempt::Held,
        });
        if let Some(attempt) = self.of_before(record, provider, request, tried).await {
            return attempt;
        }
        let forgotten = forgotten(record, provider, request);
        if forgotten || matches!(record.state, OutboxState::Sending { .. }) {
            match provider.reconcile(&key, request).await {
                Ok(Some(receipt)) => return self.finish(record, Outcome::Done(receipt)).await,
                Ok(None) => {}
                Err(ProviderError::Refused(error)) if forgotten => {
                    return self.finish(record, Outcome::Refused(error)).await;
                }
                Err(error) if forgotten => return self.in_doubt(record, tried, &error.to_string()).await,
                Err(_) if provider.idempotent() => {}
                Err(error) => return self.finish(record, Outcome::Unknown(error.to_string())).await,
            }
        }
        if !provider.idempotent() {
            let state = OutboxState::Sending { attempts: tried, since: wall_now() };
            if !self.set(record, state).await {
                return Attempt::Later(self.pause(u32::MAX));
            }
            fail_point::reach("call.marked");
        }
        // What was decided under a lease that ran out must not reach the outside: another node may be at it already.
        if self.shard.barrier().await.is_err() {
            return Attempt::Later(self.pause(attempts));
        }
        fail_point::reach("call.before_send");
        let deadline = Duration::from_millis(self.shard.parts.options.provider_deadline_ms);
        let answered = tokio::time::timeout(deadline, provider.execute(&key, request, tried)).await;
        let answered = answered.unwrap_or_else(|_| Err(ProviderError::Unknown("no answer within the deadline".into())));
        fail_point::reach("call.answered");
        let outcome = match &answered {
            Ok(_) => "done",
            Err(ProviderError::Retry(_)) => "retry",
            Err(ProviderError::Refused(_)) => "refused",
            Err(ProviderError::Unknown(_)) => "unknown",
        };
        counter!("construct_provider_calls_total", "provider" => kind, "outcome" => outcome).increment(1);
        match answered {
            Ok(receipt) => self.finish(record, Outcome::Done(receipt)).await,
            Err(ProviderError::Refused(error)) => self.finish(record, Outcome::Refused(error)).await,
            Err(ProviderError::Retry(why)) => self.again(record, provider.idempotent(), tried, &why).await,
            Err(ProviderError::Unknown(why)) => self.unknown(record, provider, request, tried, why).await,
        }
    }

    /// A definite failure of this attempt: later, until the attempts are used up. When an earlier attempt of a call
    /// that is repeated under its key ended unknown, giving up is unknown too.
    pub(super) async fn again(&self, record: &OutboxRecord, idempotent: bool, tried: u32, why: &str) -> Attempt {
        tracing::warn!(record = record.key(), tried, why, "a provider call is put off");
        let in_doubt = idempotent && matches!(record.state, OutboxState::Sending { .. });
        if tried + 1 >= self.shard.parts.options.provider_attempts {
            if in_doubt {
                return self.finish(record, Outcome::Unknown(why.to_owned())).await;
            }
            let detail = format!("Given up after {} attempts.", tried + 1);
            return self.finish(record, Outcome::Refused(Error::new(ErrorCode::Unavailable, detail))).await;
        }
        let pause = self.pause(tried).saturating_mul(CALL_FACTOR);
        let attempts = tried + 1;
        let state = match &record.state {
            OutboxState::Released { .. } => OutboxState::Released { attempts },
            _ if in_doubt => OutboxState::Sending { attempts, since: decided(record) },
            _ => OutboxState::Waiting { attempts, not_before: decided(record) },
        };
        while !self.set(record, state.clone()).await {
            tokio::time::sleep(self.pause(0)).await;
        }
        Attempt::Later(pause)
    }

    /// It may have been done long ago, and cannot be looked up now: later, and never without having been looked up.
    async fn in_doubt(&self, record: &OutboxRecord, tried: u32, why: &str) -> Attempt {
        if tried + 1 >= self.shard.parts.options.provider_attempts {
            return self.finish(record, Outcome::Unknown(why.to_owned())).await;
        }
        self.again(record, true, tried, why).await
    }

    /// Nobody knows whether it was done: found out, or safely repeated under the same key, or left unknown.
    async fn unknown(
        &self,
        record: &OutboxRecord,
        provider: &dyn Provider,
        request: &[u8],
        tried: u32,
        why: String,
    ) -> Attempt {
        tracing::warn!(record = record.key(), tried, why, "the outcome of a provider call is unknown");
        match provider.reconcile(&self.key(record), request).await {
            Ok(Some(receipt)) => self.finish(record, Outcome::Done(receipt)).await,
            Ok(None) => self.again(record, false, tried, &why).await,
            Err(_) if provider.idempotent() && tried + 1 < self.shard.parts.options.provider_attempts => {
                let state = OutboxState::Sending { attempts: tried + 1, since: decided(record) };
                self.set(record, state).await;
                Attempt::Later(self.pause(tried).saturating_mul(CALL_FACTOR))
            }
            Err(_) => self.finish(record, Outcome::Unknown(why)).await,
        }
    }

    pub(super) async fn set(&self, record: &OutboxRecord, state: OutboxState) -> bool {
        let change = OutboxChange::Set { number: record.number, state };
        self.commit(vec![change]).await
    }

    async fn commit(&self, changes: Vec<OutboxChange>) -> bool {
        let Ok(done) = self.shard.parts.propose(Op::Outbox(changes)) else { return false };
        matches!(done.await, Ok(Ok(_)))
    }

    /// Tells the source how it ended and settles the record, in one batch. The outcome is known now and must not be
    /// lost, so this goes on until it is committed or the node stops.
    pub(super) async fn finish(&self, record: &OutboxRecord, outcome: Outcome) -> Attempt {
        let mut attempts = 0;
        loop {
            if self.try_finish(record, &outcome).await {
                fail_point::reach("outbox.settled");
                return Attempt::Settled;
            }
            tokio::time::sleep(self.pause(attempts)).await;
            attempts += 1;
        }
    }

    async fn try_finish(&self, record: &OutboxRecord, outcome: &Outcome) -> bool {
        if !record.tag.is_empty() {
            let work = Work::Outcome { number: record.number, tag: record.tag.clone(), outcome: outcome.clone() };
            let told = self.shard.deliver(&record.source, &work, &self.origin(record), None).await;
            match told.map_err(Error::from) {
                Ok(Delivered::Reply(_)) => return true,
                Ok(Delivered::Stale) => {}
                Err(error) if error.code.may_retry() => return false,
                Err(error) => {
                    tracing::error!(record = record.key(), %error, "the source refused the outcome of its effect");
                }
            }
        }
        self.commit(vec![OutboxChange::Settle { number: record.number }]).await
    }
}

/// When a record was decided, in wall time: it was not handed to the other side before that.
fn decided(record: &OutboxRecord) -> Timestamp {
    match record.state {
        OutboxState::Waiting { not_before: at, .. } | OutboxState::Sending { since: at, .. } => at,
        OutboxState::Held { .. } | OutboxState::Released { .. } => Timestamp::ZERO,
    }
}

/// Whether the other side may have had this request so long ago that it no longer knows its key, and can be asked.
fn forgotten(record: &OutboxRecord, provider: &dyn Provider, request: &[u8]) -> bool {
    let Some(kept) = provider.keeps_keys().filter(|_| !matches!(record.state, OutboxState::Released { .. })) else {
        return false;
    };
    let age = wall_now().millis_since(decided(record));
    u128::try_from(age).is_ok_and(|age| age > kept.as_millis()) && provider.can_find(request)
}
