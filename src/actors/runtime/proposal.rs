//! From a decision to a durable batch: sealing, proposing, applying in memory, and following the commit to its end.

use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::ActorRef;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::directory::Vitals;
use super::entity_actor::{Taken, Turn};
use super::log::{Completion, LogError};
use super::message::{Answer, Durable, EntityMessage, Failure, Standing, Work};
use super::sealing::{Place, open, seal};
use super::steady::wall_now;
use crate::kernel::{
    Batch, Change, Context, Decision, DedupeKey, Effect, Entity, EntityId, Error, ErrorCode, Op, OpOutcome,
    OutboxRecord, OutboxState, Target, codec, fail_point, snapshot,
};
use crate::storage::seal::DataKey;

impl<E: Entity> Turn<'_, E> {
    /// Applies the events of a decision and seals it into a batch. On a refusal the state is as before.
    pub(super) async fn prepare(
        &mut self,
        decision: Decision<E>,
        context: &Context,
        work: &Work,
        dedupe: Option<DedupeKey>,
    ) -> Result<Prepared, Stop> {
        let before = self.loaded.sequence;
        let next = before + (decision.events.len() as u64).max(1);
        let snapshot_due = decision.purge || next - self.loaded.snapshot_at >= E::SNAPSHOT_EVERY;
        let reply = codec::encode(&decision.reply).map_err(|error| self.crashed("reply", &error))?;
        let mut events = Vec::with_capacity(decision.events.len());
        for event in &decision.events {
            events.push(codec::encode(event).map_err(|error| self.crashed("event", &error))?);
        }
        if decision.purge {
            self.loaded.state = E::default();
        }
        let state = &mut self.loaded.state;
        let applied = catch_unwind(AssertUnwindSafe(|| {
            for event in &decision.events {
                state.apply(event);
            }
        }));
        if let Err(panic) = applied {
            return Err(Stop::Crashed(format!("{} panicked in apply: {}", type_name::<E>(), panic_text(&*panic))));
        }
        let sealed = match self.first_subject().await {
            Ok(()) => self.batch(decision, context, work, dedupe, Encoded { events, reply: &reply, snapshot_due }),
            Err(error) => Err(Stop::Refused(error)),
        };
        sealed.map(|batch| Prepared { batch, reply, next, snapshot_due }).inspect_err(|_| self.roll_back())
    }

    /// Proposes a batch; whoever asked hears when it is durable, or why it is not.
    pub(super) fn propose(&mut self, prepared: Prepared, work: &Work, asked: Asked) {
        let Prepared { batch, reply, next, snapshot_due } = prepared;
        match &batch.snapshot {
            Some(state) => self.vitals.bytes.store(state.len(), Ordering::Relaxed),
            None => {
                let more = batch.events.iter().map(Vec::len).sum();
                self.vitals.bytes.fetch_add(more, Ordering::Relaxed);
            }
        }
        let watcher = Watcher {
            sequence: next,
            durable: self.loaded.durable.clone(),
            actor: self.myself.clone(),
            vitals: Arc::clone(self.vitals),
            key: self.loaded.key.clone(),
            id: self.id.clone(),
        };
        self.vitals.in_flight.fetch_add(1, Ordering::Relaxed);
        let done = Completion::new(move |ended| {
            let result = watcher.outcome(ended, reply);
            fail_point::reach("command.before_reply");
            let Asked { reply, permit, span } = asked;
            drop(span);
            let _ = reply.send(result);
            drop(permit);
        });
        if self.parts.log.propose_then(self.parts.term, Op::Batch(Box::new(batch)), done).is_err() {
            return self.roll_back();
        }
        fail_point::reach("command.proposed");
        self.loaded.sequence = next;
        if snapshot_due {
            self.loaded.snapshot_at = next;
        }
        match work {
            Work::Timer { name, due } => drop(self.loaded.taken.insert(Taken::Timer(name.clone(), *due), next)),
            Work::Outcome { number, .. } => drop(self.loaded.taken.insert(Taken::Outbox(*number), next)),
            Work::Command(_) => {}
        }
    }

    /// The state holds events that were not proposed; the next request starts from the durable one.
    fn roll_back(&mut self) {
        if self.loaded.sequence > 0 {
            return self.myself.stop(Some("a batch was not accepted".to_owned()));
        }
        self.loaded.state = E::default();
        (self.loaded.subject, self.loaded.key) = (None, None);
    }

    /// Learns whose data this is once the first events say so, and gets that person's key.
    async fn first_subject(&mut self) -> Result<(), Error> {
        if self.loaded.subject.is_some() {
            return Ok(());
        }
        let Some(subject) = self.loaded.state.subject(self.id) else { return Ok(()) };
        let gone = || Error::new(ErrorCode::Gone, "The person this belongs to was erased.");
        let key = self.parts.sealer().key(&subject, true).await?.ok_or_else(gone)?;
        let _ = self.vitals.subject.set(subject.clone());
        (self.loaded.subject, self.loaded.key) = (Some(subject), Some(key));
        Ok(())
    }

    fn batch(
        &self,
        decision: Decision<E>,
        context: &Context,
        work: &Work,
        dedupe: Option<DedupeKey>,
        encoded: Encoded<'_>,
    ) -> Result<Batch, Stop> {
        let (id, key, before) = (self.id, self.loaded.key.as_ref(), self.loaded.sequence);
        let numbered = encoded.events.into_iter().zip(before + 1..);
        let events: Vec<Vec<u8>> =
            numbered.map(|(event, sequence)| seal(key, id, &Place::Event(sequence), event)).collect();
        let next = before + (events.len() as u64).max(1);
        let snapshot = if encoded.snapshot_due {
            let state = snapshot::encode(&self.loaded.state).map_err(|error| self.crashed("state", &error))?;
            Some(seal(key, id, &Place::Snapshot(next), state))
        } else {
            None
        };
        let reply = match &dedupe {
            Some(_) => seal(key, id, &Place::Reply, encoded.reply.to_vec()),
            None => Vec::new(),
        };
        let first = if decision.bulk { OutboxRecord::BULK } else { 0 };
        let outbox = decision.effects.into_iter().zip(first..).map(|(effect, position)| {
            let (target, payload, tag) = match effect {
                Effect::Tell { to, command, tag } => (Target::Entity(to), command, tag),
                Effect::Call { provider, request, tag } => (Target::Provider(provider), request, tag),
            };
            OutboxRecord {
                number: 0,
                source: id.clone(),
                sequence: before,
                position,
                target,
                tag,
                payload: seal(key, id, &Place::Effect(before, position), payload),
                subject: self.loaded.subject.clone(),
                traceparent: context.origin.traceparent.clone(),
                state: OutboxState::Waiting { attempts: 0, not_before: wall_now() },
            }
        });
        let changes = decision.changes.into_iter().map(|change| match change {
            Change::Row { table, key: row, value: Some(value) } => {
                let value = Some(seal(key, id, &Place::Row { table: &table, key: &row }, value));
                Change::Row { table, key: row, value }
            }
            other => other,
        });
        let (settles, fired) = match work {
            Work::Command(_) => (Vec::new(), Vec::new()),
            Work::Timer { name, due } => (Vec::new(), vec![(name.clone(), *due)]),
            Work::Outcome { number, .. } => (vec![*number], Vec::new()),
        };
        Ok(Batch {
            entity: id.clone(),
            expected: before,
            at: context.now,
            subject: self.loaded.subject.clone(),
            dedupe,
            reply,
            events,
            snapshot,
            purge: decision.purge,
            outbox: outbox.collect(),
            settles,
            fired,
            changes: changes.collect(),
            audit: decision.audit,
        })
    }

    fn crashed(&self, what: &str, error: &codec::CodecError) -> Stop {
        Stop::Crashed(format!("the {what} of {} does not encode: {error}", self.id))
    }
}

struct Encoded<'a> {
    events: Vec<Vec<u8>>,
    reply: &'a [u8],
    snapshot_due: bool,
}

/// A sealed batch, the reply that leaves with its commit, and the entity's sequence number after it.
pub(super) struct Prepared {
    batch: Batch,
    reply: Vec<u8>,
    next: u64,
    snapshot_due: bool,
}

/// Who waits for an answer, and what is held for them until then.
pub(super) struct Asked {
    pub(super) reply: oneshot::Sender<Result<Answer, Failure>>,
    pub(super) permit: OwnedSemaphorePermit,
    /// Lasts until the batch is durable.
    pub(super) span: tracing::Span,
}

pub(super) enum Stop {
    Refused(Error),
    Crashed(String),
}

/// Follows one proposed batch to its end.
struct Watcher {
    sequence: u64,
    durable: watch::Sender<Durable>,
    actor: ActorRef<EntityMessage>,
    vitals: Arc<Vitals>,
    key: Option<DataKey>,
    id: EntityId,
}

impl Watcher {
    fn outcome(self, committed: Result<OpOutcome, LogError>, reply: Vec<u8>) -> Result<Answer, Failure> {
        self.vitals.in_flight.fetch_sub(1, Ordering::Relaxed);
        if matches!(committed, Ok(OpOutcome::Applied)) {
            self.durable.send_modify(|durable| durable.sequence = durable.sequence.max(self.sequence));
            return Ok(Answer { reply: Ok(reply), standing: Standing::Durable });
        }
        if let Err(error @ (LogError::Overloaded | LogError::DiskFull | LogError::TooLarge { .. })) = &committed {
            // Not accepted, which whoever proposed it knows.
            return Err(Failure::Refused(refusal(error)));
        }
        self.durable.send_modify(|durable| durable.failed = true);
        let _ = self.actor.cast(EntityMessage::CommitFailed);
        match committed {
            Ok(OpOutcome::Duplicate { reply }) => {
                let reply = open(self.key.as_ref(), &self.id, &Place::Reply, reply).map_err(Failure::Refused)?;
                Ok(Answer { reply: Ok(reply), standing: Standing::Durable })
            }
            Ok(_) => Err(Failure::Reset),
            Err(LogError::NotLeader { .. }) => Err(Failure::Moved),
            Err(error) => Err(Failure::Refused(refusal(&error))),
        }
    }
}

fn refusal(error: &LogError) -> Error {
    match error {
        LogError::Overloaded => Error::overloaded("The shard's queue"),
        LogError::DiskFull => Error::overloaded("The disk"),
        LogError::TooLarge { .. } => Error::new(ErrorCode::TooLarge, "The change is larger than the log takes."),
        LogError::NotLeader { .. } => Error::unavailable("The shard has no leader here; nothing was done."),
        LogError::Deposed | LogError::Stopped => {
            Error::unavailable("The shard lost its leader; whether the command took effect is not known.")
        }
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
