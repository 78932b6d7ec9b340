//! The entity runtime: durable actors on replicated logs.
//!
//! A request comes in through [`Router`], is delivered by a [`shard::Shard`] to an [`entity_actor`], which decides and
//! proposes one batch to the shard's [`log::ShardLog`]; the answer leaves when the batch is durable. What the batch
//! left to do is done by [`timers`] and [`outbox`]; what others want to know of it they read from its feed
//! ([`feed`]). The [`supervisor`] of a shard restarts and parks its actors.
//!
//! Architecture invariant: nothing here knows a concrete entity, provider or log.

pub mod advance;
pub mod clock;
pub mod directory;
pub mod entity_actor;
mod entropy;
pub mod feed;
mod gauges;
pub mod kinds;
pub mod log;
pub mod message;
pub mod outbox;
mod proposal;
pub mod remote;
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

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use entropy::entropy;
pub use router::{Page, Router, Scope};

use self::kinds::Kinds;
use self::log::ShardLog;
use self::outbox::Outbox;
use self::sealer::Sealer;
use self::shard::Shard;
use self::timers::Timers;
use crate::kernel::{Clock, ProviderKind, ShardId};
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
    /// Outbox records of one family known to a shard's scheduler at once (not their payloads); the rest waits in the
    /// state store. A window for each family: the backlog of a stuck provider hides nothing that goes elsewhere.
    pub outbox_window: usize,
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
    outboxes: Vec<Arc<Outbox>>,
    timers: Vec<Arc<Timers>>,
    sealer: Arc<OnceLock<Arc<dyn Sealer>>>,
    providers: BTreeMap<ProviderKind, Arc<dyn Provider>>,
    advancing: tokio::sync::Mutex<()>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Runtime {
    /// Starts the shards. Timers and outboxes stand still until [`Runtime::go`].
    ///
    /// # Errors
    /// When a supervisor cannot be spawned.
    pub async fn start(parts: RuntimeParts) -> Result<Self, ractor::SpawnErr> {
        let sealer = Arc::new(OnceLock::new());
        let mut shards = BTreeMap::new();
        for log in parts.logs {
            let id = log.shard();
            let clock = Arc::clone(&parts.clock) as Arc<dyn Clock>;
            let kinds = parts.kinds.clone();
            let shard = Shard::start(log, kinds, clock, parts.options.clone(), Arc::clone(&sealer)).await?;
            shards.insert(id, Arc::new(shard));
        }
        let router = Router::new(shards, parts.kinds, Arc::clone(&parts.clock) as Arc<dyn Clock>, parts.options);
        let providers = parts.providers.into_iter().map(|provider| (provider.kind(), provider)).collect();
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (outboxes, timers, advancing) = (Vec::new(), Vec::new(), tokio::sync::Mutex::new(()));
        Ok(Self { router, clock: parts.clock, outboxes, timers, sealer, providers, advancing, stopping, tasks })
    }

    /// Sets the sealer; once, before anything is delivered.
    pub fn set_sealer(&self, sealer: Arc<dyn Sealer>) {
        let _ = self.sealer.set(sealer);
    }

    /// Starts timers and outboxes of every shard.
    pub fn go(&mut self) {
        for shard in self.router.shards() {
            let outbox = Arc::new(Outbox::new(Arc::clone(shard), self.router.clone(), self.providers.clone()));
            self.tasks.spawn(Arc::clone(&outbox).run(self.stopping.clone()));
            self.outboxes.push(outbox);
            let timers = Arc::new(Timers::new(Arc::clone(shard), Arc::clone(&self.clock)));
            self.tasks.spawn(Arc::clone(&timers).run(self.stopping.clone()));
            self.timers.push(timers);
        }
    }

    /// Starts a feed consumer on every shard.
    pub fn follow(&self, consumer: &Arc<dyn feed::FeedConsumer>) {
        for shard in self.router.shards() {
            self.tasks.spawn(feed::consume(Arc::clone(shard), Arc::clone(consumer), self.stopping.clone()));
        }
    }

    /// The shards' ids, in order.
    #[must_use]
    pub fn shard_ids(&self) -> Vec<ShardId> {
        self.router.shards().map(|shard| shard.parts.log.shard()).collect()
    }

    /// Whether nothing is due, being delivered or waiting to be delivered, apart from effects waiting for a retry.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.timers.iter().all(|timers| timers.is_quiet()) && self.outboxes.iter().all(|outbox| outbox.is_quiet())
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
        for shard in self.router.shards() {
            shard.stop();
        }
    }
}
