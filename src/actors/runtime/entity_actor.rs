//! The actor around one entity: loads it, decides, proposes, answers.
//!
//! Commands are pipelined: after a decision is proposed its events are applied to the state in memory at once, and the
//! next command is decided on that, while the commit is under way. No caller hears of any of it before it is durable:
//! replies of writes wait for their commit, replies of reads for the commit of what they saw. If a commit does not
//! happen as decided, the actor is replaced by one that starts from the durable state.
//!
//! Architecture invariant: a batch names the sequence number it follows and the log refuses any other, so that even a
//! second actor of the same entity could do no harm.

use std::any::type_name;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use super::directory::Vitals;
use super::log::unreadable;
use super::message::{Answer, Durable, EntityMessage, Failure, Request, Standing, Work};
use super::proposal::{Asked, Stop, panic_text};
use super::sealing::{Place, open};
use super::shard::ShardParts;
use crate::kernel::{
    Context, Decision, DedupeKey, Entity, EntityId, Error, ErrorCode, Principal, Timestamp, codec, fail_point, snapshot,
};
use crate::storage::seal::DataKey;

/// When an outbox that is full may be asked again, in seconds.
const OUTBOX_AGAIN: u32 = 10;

/// What an entity actor starts with.
pub struct EntityArguments {
    pub id: EntityId,
    pub parts: Arc<ShardParts>,
    pub vitals: Arc<Vitals>,
}

/// The actor of entities of kind `E`.
pub struct EntityActor<E>(PhantomData<fn() -> E>);

impl<E> Default for EntityActor<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// The actor's state: the entity as decided so far.
pub struct Live<E: Entity> {
    id: EntityId,
    parts: Arc<ShardParts>,
    vitals: Arc<Vitals>,
    /// `None` until the first request loads it.
    entity: Option<Loaded<E>>,
}

pub(super) struct Loaded<E> {
    pub(super) state: E,
    pub(super) sequence: u64,
    pub(super) snapshot_at: u64,
    /// What it was read from: its snapshot and the events after it.
    stored_bytes: usize,
    pub(super) subject: Option<String>,
    pub(super) key: Option<DataKey>,
    pub(super) durable: watch::Sender<Durable>,
    /// Timers and outbox records taken up by batches that are not durable yet, with the sequence of those batches.
    pub(super) taken: HashMap<Taken, u64>,
}

#[derive(PartialEq, Eq, Hash)]
pub(super) enum Taken {
    Timer(String, Timestamp),
    Outbox(u64),
}

impl<E: Entity> Actor for EntityActor<E> {
    type Msg = EntityMessage;
    type State = Live<E>;
    type Arguments = EntityArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<EntityMessage>,
        arguments: EntityArguments,
    ) -> Result<Live<E>, ActorProcessingErr> {
        let EntityArguments { id, parts, vitals } = arguments;
        Ok(Live { id, parts, vitals, entity: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<EntityMessage>,
        message: EntityMessage,
        live: &mut Live<E>,
    ) -> Result<(), ActorProcessingErr> {
        let request = match message {
            EntityMessage::CommitFailed => {
                myself.stop(Some("a commit failed".to_owned()));
                return Ok(());
            }
            EntityMessage::Deliver(request) => request,
        };
        live.vitals.depth.fetch_sub(1, Ordering::Relaxed);
        if live.entity.is_none() {
            match load::<E>(&live.id, &live.parts).await {
                Ok(loaded) => {
                    if let Some(subject) = &loaded.subject {
                        let _ = live.vitals.subject.set(subject.clone());
                    }
                    live.vitals.bytes.store(loaded.stored_bytes, Ordering::Relaxed);
                    live.entity = Some(loaded);
                }
                Err(failure) => {
                    let _ = request.reply.send(Err(failure));
                    myself.stop(Some("could not be loaded".to_owned()));
                    return Ok(());
                }
            }
        }
        let loaded = live.entity.as_mut().expect("loaded above");
        let mut turn = Turn { id: &live.id, parts: &live.parts, vitals: &live.vitals, myself: &myself, loaded };
        turn.take(*request).await
    }
}

async fn load<E: Entity>(id: &EntityId, parts: &ShardParts) -> Result<Loaded<E>, Failure> {
    // What was acknowledged before, by any leader, is in the state that is read now.
    parts.log.read_barrier(parts.term).await.map_err(|_| Failure::Moved)?;
    stored(id, parts).await.map_err(Failure::Refused)
}

/// The entity as it is stored.
async fn stored<E: Entity>(id: &EntityId, parts: &ShardParts) -> Result<Loaded<E>, Error> {
    let stored = parts.log.state().entity(id).map_err(|error| unreadable(&error))?;
    let Some(stored) = stored else {
        let (durable, _) = watch::channel(Durable { sequence: 0, failed: false });
        let (state, taken) = (E::default(), HashMap::new());
        return Ok(Loaded {
            state,
            sequence: 0,
            snapshot_at: 0,
            stored_bytes: 0,
            subject: None,
            key: None,
            durable,
            taken,
        });
    };
    let key = match &stored.subject {
        Some(subject) => Some(existing_key(parts, subject).await?),
        None => None,
    };
    let decode_failed = |error: codec::CodecError| {
        tracing::error!(entity = %id, %error, "a stored record does not decode");
        Error::internal()
    };
    let snapshot_bytes = stored.snapshot.as_ref().map_or(0, |(_, bytes)| bytes.len());
    let stored_bytes = stored.tail.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + snapshot_bytes;
    let (mut state, snapshot_at) = match stored.snapshot {
        Some((at, bytes)) => {
            let plain = open(key.as_ref(), id, &Place::Snapshot(at), bytes)?;
            (snapshot::decode::<E>(&plain).map_err(decode_failed)?, at)
        }
        None => (E::default(), 0),
    };
    for (sequence, bytes) in stored.tail {
        let plain = open(key.as_ref(), id, &Place::Event(sequence), bytes)?;
        state.apply(&E::read_event(&plain).map_err(decode_failed)?);
    }
    let (durable, _) = watch::channel(Durable { sequence: stored.sequence, failed: false });
    let (sequence, subject, taken) = (stored.sequence, stored.subject, HashMap::new());
    Ok(Loaded { state, sequence, snapshot_at, stored_bytes, subject, key, durable, taken })
}

async fn existing_key(parts: &ShardParts, subject: &str) -> Result<DataKey, Error> {
    let gone = || Error::new(ErrorCode::Gone, "The person this belonged to was erased.");
    parts.sealer().key(subject, false).await?.ok_or_else(gone)
}

/// One request on its way through a loaded entity.
pub(super) struct Turn<'a, E: Entity> {
    pub(super) id: &'a EntityId,
    pub(super) parts: &'a Arc<ShardParts>,
    pub(super) vitals: &'a Arc<Vitals>,
    pub(super) myself: &'a ActorRef<EntityMessage>,
    pub(super) loaded: &'a mut Loaded<E>,
}

impl<E: Entity> Turn<'_, E> {
    async fn take(&mut self, request: Request) -> Result<(), ActorProcessingErr> {
        let Request { work, origin, dedupe, reply, permit } = request;
        match self.before(&work, dedupe.as_ref()) {
            Ok(None) => {}
            Ok(Some(answer)) => return Ok(drop(reply.send(Ok(answer)))),
            Err(error) => return Ok(drop(reply.send(Err(Failure::Refused(error))))),
        }
        let command = match self.command(&work) {
            Ok(Some(command)) => command,
            Ok(None) => return Ok(drop(reply.send(Ok(Answer { reply: Ok(Vec::new()), standing: Standing::Stale })))),
            Err(error) => return Ok(drop(reply.send(Err(Failure::Refused(error))))),
        };
        let context = Context {
            id: self.id.clone(),
            sequence: self.loaded.sequence,
            now: self.parts.clock.now(),
            origin,
            entropy: super::entropy(),
        };
        let decided = catch_unwind(AssertUnwindSafe(|| self.loaded.state.decide(command, &context)));
        let decision = match decided {
            Ok(Ok(decision)) => decision,
            Ok(Err(error)) => return Ok(drop(reply.send(Ok(self.seen(Err(error)))))),
            Err(panic) => {
                let _ = reply.send(Err(Failure::Refused(Error::internal())));
                return Err(format!("{} panicked in decide: {}", type_name::<E>(), panic_text(&*panic)).into());
            }
        };
        if decision.is_query() && matches!(work, Work::Command(_)) {
            let _ = reply.send(self.read(&decision));
            return Ok(());
        }
        if let Err(error) = self.has_room(&decision, &context) {
            return Ok(drop(reply.send(Err(Failure::Refused(error)))));
        }
        fail_point::reach("command.decided");
        match self.prepare(decision, &context, &work, dedupe).await {
            Ok(prepared) => {
                let (id, traceparent) = (self.id, &context.origin.traceparent);
                let span = tracing::debug_span!("commit", entity = %id, traceparent);
                Ok(self.propose(prepared, &work, Asked { reply, permit, span }))
            }
            Err(Stop::Refused(error)) => Ok(drop(reply.send(Err(Failure::Refused(error))))),
            Err(Stop::Crashed(text)) => {
                let _ = reply.send(Err(Failure::Refused(Error::internal())));
                Err(text.into())
            }
        }
    }

    /// Answers what was already done: a remembered request, a settled record, a timer no longer set.
    fn before(&mut self, work: &Work, dedupe: Option<&DedupeKey>) -> Result<Option<Answer>, Error> {
        let durable = self.loaded.durable.borrow().sequence;
        self.loaded.taken.retain(|_, sequence| *sequence > durable);
        let state = self.parts.log.state();
        let unreadable = |error| unreadable(&error);
        let stale = || Ok(Some(Answer { reply: Ok(Vec::new()), standing: Standing::Stale }));
        let busy = || Err(Error::unavailable("The same delivery is under way."));
        match work {
            Work::Command(_) => {
                let Some(key) = dedupe else { return Ok(None) };
                let Some(stored) = state.remembered(self.id, key).map_err(unreadable)? else { return Ok(None) };
                let reply = open(self.loaded.key.as_ref(), self.id, &Place::Reply, stored)?;
                Ok(Some(Answer { reply: Ok(reply), standing: Standing::Durable }))
            }
            Work::Timer { name, due } => {
                if self.loaded.taken.contains_key(&Taken::Timer(name.clone(), *due)) {
                    return busy();
                }
                let set = state.timer(self.id, name).map_err(unreadable)?;
                if set == Some(*due) { Ok(None) } else { stale() }
            }
            Work::Outcome { number, .. } => {
                if self.loaded.taken.contains_key(&Taken::Outbox(*number)) {
                    return busy();
                }
                let record = state.outbox_record(*number).map_err(unreadable)?;
                if record.is_some() { Ok(None) } else { stale() }
            }
        }
    }

    /// What is made in number is not accepted faster than it is done, in the long run.
    fn has_room(&self, decision: &Decision<E>, context: &Context) -> Result<(), Error> {
        if !decision.bulk || decision.effects.is_empty() || context.origin.principal == Principal::System {
            return Ok(());
        }
        let pending = self.parts.log.state().counts().outbox_pending;
        if pending < self.parts.options.outbox_most {
            return Ok(());
        }
        metrics::counter!("construct_overloaded_total", "shard" => self.parts.log.shard().to_string()).increment(1);
        Err(Error::overloaded("The shard's outbox").retry_after(OUTBOX_AGAIN))
    }

    fn command(&self, work: &Work) -> Result<Option<E::Command>, Error> {
        match work {
            Work::Command(bytes) => codec::decode(bytes).map(Some).map_err(|error| {
                tracing::error!(entity = %self.id, %error, "a command does not decode");
                Error::internal()
            }),
            Work::Timer { name, .. } => Ok(E::on_timer(name)),
            Work::Outcome { tag, outcome, .. } => Ok(E::on_outcome(tag, outcome.clone())),
        }
    }

    fn read(&self, decision: &Decision<E>) -> Result<Answer, Failure> {
        let reply = codec::encode(&decision.reply).map_err(|error| {
            tracing::error!(entity = %self.id, %error, "a reply does not encode");
            Failure::Refused(Error::internal())
        })?;
        Ok(self.seen(Ok(reply)))
    }

    /// What was made of the state as it is now.
    fn seen(&self, reply: Result<Vec<u8>, Error>) -> Answer {
        let (sequence, durable) = (self.loaded.sequence, self.loaded.durable.subscribe());
        Answer { reply, standing: Standing::Read { sequence, durable } }
    }
}
