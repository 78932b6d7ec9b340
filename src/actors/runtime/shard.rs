//! One shard on the node that leads it, for the term it leads: admission, activation and delivery of requests to its
//! entities. What is decided here is proposed for this term and commits in no other; whoever leads next starts anew.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use ractor::{Actor, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::RuntimeOptions;
use super::aftermath::Aftermath;
use super::background::Background;
use super::directory::{Directory, Handle};
use super::kinds::Kinds;
use super::log::{LogError, ShardLog};
use super::message::{Answer, EntityMessage, Failure, Request, Standing, Work};
use super::sealer::Sealer;
use super::supervisor::{CrashReport, Supervisor, SupervisorMessage};
use crate::kernel::{Clock, DedupeKey, EntityId, Error, Op, OpOutcome, Origin, Principal};

/// Times a request is sent again after an actor was replaced under it, before the caller hears `unavailable`.
const RESENDS: usize = 4;

/// What all shards of a node share.
#[derive(Clone)]
pub struct Common {
    pub kinds: Kinds,
    pub clock: Arc<dyn Clock>,
    pub options: RuntimeOptions,
    pub sealer: Arc<OnceLock<Arc<dyn Sealer>>>,
    pub aftermath: Arc<OnceLock<Aftermath>>,
    pub background: Arc<Background>,
}

/// What the actors of a shard share. All of it immutable or internally synchronized.
pub struct ShardParts {
    pub log: Arc<dyn ShardLog>,
    /// The term in which this node leads the shard.
    pub term: u64,
    pub kinds: Kinds,
    pub clock: Arc<dyn Clock>,
    pub options: RuntimeOptions,
    pub directory: Directory,
    /// Set once at start: the keyring answers through the runtime itself.
    pub sealer: Arc<OnceLock<Arc<dyn Sealer>>>,
    pub background: Arc<Background>,
    aftermath: Arc<OnceLock<Aftermath>>,
    started: Instant,
}

impl ShardParts {
    /// Milliseconds since the shard started here.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// # Panics
    /// Before the node is composed; the runtime delivers nothing before that.
    #[must_use]
    pub fn sealer(&self) -> &dyn Sealer {
        self.sealer.get().expect("the sealer is set before the first delivery").as_ref()
    }

    /// How the cluster began, where that was as an earlier state of another.
    #[must_use]
    pub fn aftermath(&self) -> Option<&Aftermath> {
        self.aftermath.get()
    }

    /// Queues an operation for the log, to commit in this term or never.
    ///
    /// # Errors
    /// As [`ShardLog::propose`].
    pub fn propose(&self, op: Op) -> Result<oneshot::Receiver<Result<OpOutcome, LogError>>, LogError> {
        self.log.propose(self.term, op)
    }
}

/// The shard, as the router sees it.
pub struct Shard {
    pub parts: Arc<ShardParts>,
    supervisor: ActorRef<SupervisorMessage>,
    outside: Arc<Semaphore>,
    inside: Arc<Semaphore>,
}

/// What an entity answered, once it is safe to look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivered {
    Reply(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The timer or outcome meant nothing to the entity.
    Stale,
}

/// Why something asked of a shard was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// The caller is to hear this.
    Refused(Error),
    /// Nothing was done: this node does not lead the shard any more.
    Moved,
}

impl From<Error> for Undelivered {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// For those who can only try again later.
impl From<Undelivered> for Error {
    fn from(undelivered: Undelivered) -> Self {
        match undelivered {
            Undelivered::Refused(error) => error,
            Undelivered::Moved => Self::unavailable("The shard has no leader here; nothing was done."),
        }
    }
}

impl Shard {
    /// Starts the shard's supervisor on a log this node leads in `term`.
    ///
    /// # Errors
    /// When the supervisor actor cannot be spawned.
    pub async fn start(log: Arc<dyn ShardLog>, term: u64, common: &Common) -> Result<Self, ractor::SpawnErr> {
        let Common { kinds, clock, options, sealer, aftermath, background } = common.clone();
        let (outside, inside) = (options.in_flight_outside, options.in_flight_inside);
        let directory = Directory::default();
        let started = Instant::now();
        let parts = Arc::new(ShardParts {
            log,
            term,
            kinds,
            clock,
            options,
            directory,
            sealer,
            background,
            aftermath,
            started,
        });
        let (supervisor, _) = Supervisor::spawn(None, Supervisor, Arc::clone(&parts)).await?;
        supervisor.send_interval(std::time::Duration::from_secs(1), || SupervisorMessage::Sweep);
        let (outside, inside) = (Arc::new(Semaphore::new(outside)), Arc::new(Semaphore::new(inside)));
        Ok(Self { parts, supervisor, outside, inside })
    }

    /// Delivers work to an entity and waits until its answer is durable (or, for a query, linearizable).
    ///
    /// # Errors
    /// The entity's refusal; `overloaded` when a bound is reached; [`Undelivered::Moved`] when nothing was done because
    /// this node does not lead any more.
    pub async fn deliver(
        &self,
        id: &EntityId,
        work: &Work,
        origin: &Origin,
        dedupe: Option<&DedupeKey>,
    ) -> Result<Delivered, Undelivered> {
        for _ in 0..RESENDS {
            let permit = self.admit(origin)?;
            let handle = self.activate(id).await?;
            if handle.vitals.depth.load(Ordering::Relaxed) >= self.parts.options.mailbox {
                return Err(Error::overloaded("The object's mailbox").into());
            }
            let (reply, answered) = oneshot::channel();
            let request =
                Request { work: work.clone(), origin: origin.clone(), dedupe: dedupe.cloned(), reply, permit };
            handle.vitals.depth.fetch_add(1, Ordering::AcqRel);
            handle.vitals.last_used_ms.store(self.parts.uptime_ms(), Ordering::Relaxed);
            if handle.actor.cast(EntityMessage::Deliver(Box::new(request))).is_err() {
                self.parts.directory.remove(id, handle.actor.get_id());
                continue;
            }
            match answered.await {
                Ok(Ok(answer)) => {
                    if let Some(delivered) = self.settle(answer).await? {
                        return Ok(delivered);
                    }
                }
                Ok(Err(Failure::Refused(error))) => return Err(error.into()),
                Ok(Err(Failure::Moved)) => return Err(Undelivered::Moved),
                // Nothing was proposed: the actor stopped before it came to this request, or lost its place.
                Ok(Err(Failure::Reset)) | Err(_) => self.parts.directory.remove(id, handle.actor.get_id()),
            }
        }
        Err(Error::unavailable("The object keeps restarting; nothing was done.").into())
    }

    /// Waits for what the answer stands on. `None`: it fell, ask again.
    async fn settle(&self, answer: Answer) -> Result<Option<Delivered>, Undelivered> {
        let (sequence, mut durable) = match answer.standing {
            Standing::Durable => return Ok(Some(Delivered::Reply(answer.reply?))),
            Standing::Stale => return Ok(Some(Delivered::Stale)),
            Standing::Read { sequence, durable } => (sequence, durable),
        };
        let Ok(reached) = durable.wait_for(|now| now.failed || now.sequence >= sequence).await.map(|now| *now) else {
            return Ok(None);
        };
        if reached.sequence < sequence {
            return Ok(None);
        }
        self.barrier().await?;
        Ok(Some(Delivered::Reply(answer.reply?)))
    }

    /// Returns once reads here are linearizable.
    ///
    /// # Errors
    /// [`Undelivered::Moved`] when this node cannot prove that it leads the shard in this term.
    pub async fn barrier(&self) -> Result<(), Undelivered> {
        let passed = self.parts.log.read_barrier(self.parts.term).await;
        passed.map_err(|_| Undelivered::Moved)
    }

    /// Whether a request from outside is under way.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.outside.available_permits() < self.parts.options.in_flight_outside
    }

    fn admit(&self, origin: &Origin) -> Result<OwnedSemaphorePermit, Error> {
        let lane = if origin.principal == Principal::System { &self.inside } else { &self.outside };
        Arc::clone(lane).try_acquire_owned().map_err(|_| {
            metrics::counter!("construct_overloaded_total", "shard" => self.parts.log.shard().to_string()).increment(1);
            Error::overloaded("The shard's admission window")
        })
    }

    async fn activate(&self, id: &EntityId) -> Result<Handle, Undelivered> {
        if let Some(handle) = self.parts.directory.get(id) {
            return Ok(handle);
        }
        let (reply, activated) = oneshot::channel();
        let activate = SupervisorMessage::Activate(id.clone(), reply);
        self.supervisor.cast(activate).map_err(|_| Undelivered::Moved)?;
        Ok(activated.await.map_err(|_| Undelivered::Moved)??)
    }

    /// The entities that crashed lately.
    pub async fn crashes(&self) -> Vec<CrashReport> {
        let (reply, listed) = oneshot::channel();
        if self.supervisor.cast(SupervisorMessage::ListCrashes(reply)).is_err() {
            return Vec::new();
        }
        listed.await.unwrap_or_default()
    }

    /// Puts a parked entity back into service; whether it was parked.
    pub async fn unpark(&self, id: &EntityId) -> bool {
        let (reply, done) = oneshot::channel();
        if self.supervisor.cast(SupervisorMessage::Unpark(id.clone(), reply)).is_err() {
            return false;
        }
        done.await.unwrap_or(false)
    }

    /// Stops every actor that holds data of this person in memory; what they are asked next finds what is stored.
    pub fn evict(&self, subject: &str) {
        for handle in self.parts.directory.take_subject(subject) {
            handle.actor.stop(Some("the person it belongs to was erased".to_owned()));
        }
    }

    /// Stops the supervisor and with it every actor of the shard.
    pub fn stop(&self) {
        self.supervisor.stop(Some("this node does not lead the shard any more".to_owned()));
    }
}
