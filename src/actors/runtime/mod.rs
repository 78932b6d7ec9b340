//! The entity runtime: durable actors on replicated logs.
//!
//! A request comes in through [`Router`], is delivered by a [`shard::Shard`] to an [`entity_actor`], which decides and
//! proposes one batch to the shard's [`log::ShardLog`]; the answer leaves when the batch is durable. What the batch
//! left to do is done by [`timers`] and [`outbox`]; what others want to know of it they read from its feed
//! ([`feed`]). The [`supervisor`] of a shard restarts and parks its actors.
//!
//! A [`replica`] of every shard is here; where it is led, its [`shard::Shard`] is, for the term it is led in. What is
//! asked of a shard that is led elsewhere goes there as a question ([`remote`]).
//!
//! Architecture invariant: nothing here knows a concrete entity, provider or log.

pub mod advance;
pub mod aftermath;
mod answer;
pub mod audit;
pub mod background;
pub mod clock;
pub mod directory;
mod elsewhere;
pub mod entity_actor;
mod entropy;
pub mod feed;
pub mod follow;
mod gauges;
pub mod inventory;
pub mod kinds;
pub mod log;
mod member;
pub mod message;
pub mod outbox;
mod proposal;
mod question;
pub mod remote;
pub mod replica;
pub mod router;
pub mod sealer;
pub mod sealing;
pub mod shard;
pub mod steady;
pub mod supervisor;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use entropy::entropy;
pub use question::Followed;
pub use router::{Page, Router, Scope};

use self::aftermath::Aftermath;
use self::answer::Answering;
use self::background::Background;
use self::elsewhere::Way;
use self::kinds::Kinds;
use self::log::ShardLog;
use self::replica::{Means, Replica};
use self::sealer::Sealer;
use self::shard::Common;
use crate::kernel::{Clock, ShardId};
use crate::providers::Provider;

/// Bounds and periods of the runtime.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Requests from outside in flight per shard, queued or committing.
    pub in_flight_outside: usize,
    /// The same for the runtime's own: timers, messages, outcomes.
    pub in_flight_inside: usize,
    /// Requests in one entity's mailbox.
    pub mailbox: usize,
    /// An actor unused for this long is passivated.
    pub idle_after_ms: u64,
    /// Memory for live actors per shard; beyond it the least recently used are passivated.
    pub memory_budget_bytes: usize,
    /// The longest a request may take before its caller hears `deadline_exceeded`.
    pub deadline_ms: u64,
    /// Outbox records under way per lane and shard.
    pub outbox_lane: usize,
    /// Outbox records of one line known to a shard's scheduler at once (not their payloads); the rest waits in the
    /// state store. A window for each line: the backlog of a stuck provider hides nothing that goes elsewhere.
    pub outbox_window: usize,
    /// Outbox records of a shard beyond which it decides nothing for callers from outside that is made in number.
    pub outbox_most: u64,
    /// Attempts of a provider call before it is given up.
    pub provider_attempts: u32,
    /// The longest a single provider call may take before its outcome counts as unknown.
    pub provider_deadline_ms: u64,
    /// Pauses between deliveries of a message or a call that was put off: the first, doubling, at most the second.
    pub retry_ms: (u64, u64),
    /// Pause of an entity after a crash: the first, doubling, at most the second.
    pub restart_ms: (u64, u64),
    /// Crashes within ten minutes after which an entity is parked.
    pub park_after: u32,
    /// How long a request under an idempotency key is remembered, in hours of domain time.
    pub remember_hours: i64,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            in_flight_outside: 4096,
            in_flight_inside: 4096,
            mailbox: 1024,
            idle_after_ms: 60_000,
            memory_budget_bytes: 64 << 20,
            deadline_ms: 10_000,
            outbox_lane: 64,
            outbox_window: 8192,
            outbox_most: 250_000,
            provider_attempts: 12,
            provider_deadline_ms: 30_000,
            retry_ms: (20, 30_000),
            restart_ms: (50, 30_000),
            park_after: 5,
            remember_hours: 25,
        }
    }
}

/// What the runtime is made of.
pub struct RuntimeParts {
    pub logs: Vec<Arc<dyn ShardLog>>,
    pub kinds: Kinds,
    pub clock: Arc<clock::NodeClock>,
    pub providers: Vec<Arc<dyn Provider>>,
    pub options: RuntimeOptions,
}

/// The running runtime of a node.
pub struct Runtime {
    pub router: Router,
    pub clock: Arc<clock::NodeClock>,
    means: Arc<Means>,
    advancing: tokio::sync::Mutex<()>,
    /// The replicas whose lag was published, by shard.
    told: Mutex<BTreeMap<ShardId, BTreeSet<u64>>>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Runtime {
    /// Starts to follow the shards: those this node leads answer. Timers and outboxes stand still until
    /// [`Runtime::go`].
    ///
    /// # Errors
    /// When a supervisor cannot be spawned.
    pub async fn start(parts: RuntimeParts) -> Result<Self, ractor::SpawnErr> {
        let common = Common {
            kinds: parts.kinds.clone(),
            clock: Arc::clone(&parts.clock) as Arc<dyn Clock>,
            options: parts.options.clone(),
            sealer: Arc::new(OnceLock::new()),
            aftermath: Arc::new(OnceLock::new()),
            background: Background::new(),
        };
        let mut replicas = BTreeMap::new();
        for log in parts.logs {
            let replica = Arc::new(Replica::new(log, common.clone()));
            if let Some(term) = replica.leadership().leading {
                replica.take_up(term).await?;
            }
            replicas.insert(replica.id(), replica);
        }
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let way = Way::new(stopping.clone(), Arc::clone(&common.aftermath));
        let background = Arc::clone(&common.background);
        let router = Router::new(replicas, parts.kinds, Arc::clone(&parts.clock), parts.options, way, background);
        let providers = parts.providers.into_iter().map(|provider| (provider.kind(), provider)).collect();
        let (clock, consumers) = (Arc::clone(&parts.clock), Mutex::default());
        let means = Arc::new(Means { common, clock, providers, consumers, going: watch::channel(false).0 });
        for replica in router.replicas() {
            tasks.spawn(Arc::clone(replica).run(router.clone(), Arc::clone(&means), stopping.clone()));
        }
        let (stop, watching) = (
            stopping.clone(),
            Arc::clone(router.background()).watch({
                let router = router.clone();
                move || router.replicas().any(|replica| replica.shard().is_some_and(|shard| shard.is_waited_for()))
            }),
        );
        tasks.spawn(async move { stop.run_until_cancelled(watching).await.unwrap_or_default() });
        if let Some(meta) = router.replica(ShardId::META).filter(|_| parts.clock.mode() == clock::ClockMode::Virtual) {
            let (stop, following) = (stopping.clone(), clock::follow(Arc::clone(&parts.clock), Arc::clone(meta)));
            tasks.spawn(async move { stop.run_until_cancelled(following).await.unwrap_or_default() });
        }
        let (advancing, told) = (tokio::sync::Mutex::new(()), Mutex::default());
        Ok(Self { router, clock: parts.clock, means, advancing, told, stopping, tasks })
    }

    /// Sets the sealer; once, before anything is delivered.
    pub fn set_sealer(&self, sealer: Arc<dyn Sealer>) {
        let _ = self.means.common.sealer.set(sealer);
    }

    /// Says how the cluster began, if it did as an earlier state of another; once, before anything is delivered.
    pub fn set_aftermath(&self, aftermath: Aftermath) {
        let _ = self.means.common.aftermath.set(aftermath);
    }

    /// Adds a feed consumer; before [`Runtime::go`].
    pub fn follow(&self, consumer: Arc<dyn feed::FeedConsumer>) {
        self.means.consumers.lock().unwrap_or_else(PoisonError::into_inner).push(consumer);
    }

    /// Starts timers, outboxes and feed consumers of every shard this node leads, now and later.
    pub fn go(&self) {
        self.means.going.send_replace(true);
    }

    /// Whether nothing is due, being delivered or waiting to be delivered on the shards this node leads, apart from
    /// effects waiting for a retry.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.router.replicas().filter_map(|replica| replica.led()).all(|led| led.is_quiet())
    }

    /// What answers the questions of other nodes.
    #[must_use]
    pub fn handler(&self) -> Arc<dyn remote::RemoteHandler> {
        Arc::new(Answering { router: self.router.clone() })
    }

    /// A token that is cancelled when the runtime stops.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Stops timers, outboxes and actors. What was under way is resumed at the next start.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
