//! One shard's replica on this node: its log and state, and while this node leads it, the actors, timers, outbox and
//! feed consumers on them.
//!
//! A task per replica follows the log's leadership. Gained: a [`Shard`] of that term is started, and with it what works
//! by itself, so that due timers and waiting effects bring their entities back at once and all others come when they
//! are asked for. Lost: nothing is routed to it any more, its tasks end, its actors stop.
//!
//! Architecture invariant: a `Shard` serves one term, and whatever it proposes can commit in that term alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::NodeClock;
use super::feed::{self, FeedConsumer};
use super::log::{Leadership, ShardLog, ShardReport};
use super::outbox::Outbox;
use super::router::Router;
use super::sealer::Sealer;
use super::shard::{Common, Shard};
use super::timers::Timers;
use crate::kernel::{Entity, EntityId, Error, ProviderKind, ShardId, snapshot};
use crate::providers::Provider;
use crate::storage::state::ShardState;

/// A shard while this node leads it.
#[derive(Clone)]
pub struct Led {
    pub shard: Arc<Shard>,
    /// `None` until the node goes.
    work: Option<Work>,
}

/// What a led shard does by itself.
#[derive(Clone)]
struct Work {
    timers: Arc<Timers>,
    outbox: Arc<Outbox>,
}

impl Led {
    /// Lets a held effect happen, or gives it up; whether it was held.
    ///
    /// # Errors
    /// `unavailable` before the shard works by itself, or when it cannot be committed.
    pub async fn decide_held(&self, number: u64, release: bool) -> Result<bool, Error> {
        let starting = || Error::unavailable("The node is still starting.");
        self.work.as_ref().ok_or_else(starting)?.outbox.decide_held(number, release).await
    }

    /// Whether nothing is due, being delivered or waiting to be delivered, apart from effects waiting for a retry.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.timers.is_quiet() && work.outbox.is_quiet())
    }
}

/// What led shards need beside their log.
pub struct Means {
    pub common: Common,
    pub clock: Arc<NodeClock>,
    pub providers: BTreeMap<ProviderKind, Arc<dyn Provider>>,
    pub consumers: Mutex<Vec<Arc<dyn FeedConsumer>>>,
    /// Whether shards may work by themselves.
    pub going: watch::Sender<bool>,
}

/// A shard on this node, led or not.
pub struct Replica {
    pub log: Arc<dyn ShardLog>,
    common: Common,
    led: RwLock<Option<Led>>,
}

impl Replica {
    #[must_use]
    pub fn new(log: Arc<dyn ShardLog>, common: Common) -> Self {
        Self { log, common, led: RwLock::new(None) }
    }

    #[must_use]
    pub fn id(&self) -> ShardId {
        self.log.shard()
    }

    /// The applied state; behind what is acknowledged by however far this replica is.
    #[must_use]
    pub fn state(&self) -> &Arc<ShardState> {
        self.log.state()
    }

    #[must_use]
    pub fn leadership(&self) -> Leadership {
        *self.log.leadership().borrow()
    }

    /// # Panics
    /// Before the node is composed.
    #[must_use]
    pub fn sealer(&self) -> &dyn Sealer {
        self.common.sealer.get().expect("the sealer is set before anything is read").as_ref()
    }

    /// The shard, if this node leads it.
    #[must_use]
    pub fn shard(&self) -> Option<Arc<Shard>> {
        self.led.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|led| Arc::clone(&led.shard))
    }

    /// The shard and its work, if this node leads it.
    #[must_use]
    pub fn led(&self) -> Option<Led> {
        self.led.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the shard stands as far as this node knows.
    #[must_use]
    pub fn report(&self) -> ShardReport {
        let (log, state) = (self.log.status(), self.state());
        ShardReport {
            log,
            live: self.shard().map_or(0, |shard| shard.parts.directory.len() as u64),
            feed_head: state.feed_head(),
            audit_size: state.audit_size(),
            next_timer: state.next_timer().ok().flatten(),
        }
    }

    /// An entity that is stored in clear, as it is on this replica, and its sequence number.
    ///
    /// # Errors
    /// `internal` when it cannot be read.
    pub fn peek<E: Entity>(&self, id: &EntityId) -> Result<Option<(u64, E)>, Error> {
        let unreadable = |error: &dyn std::error::Error| {
            tracing::error!(entity = %id, %error, "an entity cannot be read");
            Error::internal()
        };
        let stored = self.state().entity(id).map_err(|error| super::log::unreadable(&error))?;
        let Some(stored) = stored.filter(|stored| stored.subject.is_none()) else { return Ok(None) };
        let mut entity = match &stored.snapshot {
            Some((_, bytes)) => snapshot::decode::<E>(bytes).map_err(|error| unreadable(&error))?,
            None => E::default(),
        };
        for (_, bytes) in &stored.tail {
            entity.apply(&E::read_event(bytes).map_err(|error| unreadable(&error))?);
        }
        Ok(Some((stored.sequence, entity)))
    }

    fn set(&self, led: Option<Led>) {
        *self.led.write().unwrap_or_else(PoisonError::into_inner) = led;
    }

    /// Starts the shard for `term`; nothing works by itself yet.
    pub(super) async fn take_up(&self, term: u64) -> Result<(), ractor::SpawnErr> {
        let shard = Arc::new(Shard::start(Arc::clone(&self.log), term, &self.common).await?);
        self.set(Some(Led { shard, work: None }));
        Ok(())
    }

    /// Follows the leadership until the runtime stops.
    pub(super) async fn run(self: Arc<Self>, router: Router, means: Arc<Means>, stopping: CancellationToken) {
        let mut leadership = self.log.leadership();
        while !stopping.is_cancelled() {
            let leading = leadership.borrow_and_update().leading;
            if let Some(term) = leading {
                self.lead(term, &router, &means, &mut leadership, &stopping).await;
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Leads in `term` until another leads or the runtime stops.
    async fn lead(
        &self,
        term: u64,
        router: &Router,
        means: &Means,
        leadership: &mut watch::Receiver<Leadership>,
        stopping: &CancellationToken,
    ) {
        let started = self.shard().filter(|shard| shard.parts.term == term);
        if started.is_none()
            && let Err(error) = self.take_up(term).await
        {
            tracing::error!(shard = %self.id(), %error, "a shard cannot be taken up");
            tokio::select! {
                () = stopping.cancelled() => {}
                _ = leadership.changed() => {}
            }
            return;
        }
        let Some(shard) = self.shard() else { return };
        let (over, tasks) = (stopping.child_token(), TaskTracker::new());
        let mut going = means.going.subscribe();
        let ended = async {
            let _ = leadership.wait_for(|now| now.leading != Some(term)).await;
        };
        let work = async {
            if going.wait_for(|going| *going).await.is_ok() {
                self.work(&shard, router, means, &over, &tasks);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stopping.cancelled() => {}
            () = ended => tracing::info!(shard = %self.id(), term, "this node does not lead the shard any more"),
            () = work => {}
        }
        self.set(None);
        over.cancel();
        shard.stop();
        tasks.close();
        tasks.wait().await;
    }

    /// Starts what the shard does by itself.
    fn work(&self, shard: &Arc<Shard>, router: &Router, means: &Means, over: &CancellationToken, tasks: &TaskTracker) {
        let outbox = Arc::new(Outbox::new(Arc::clone(shard), router.clone(), means.providers.clone()));
        tasks.spawn(Arc::clone(&outbox).run(over.clone()));
        let timers = Arc::new(Timers::new(Arc::clone(shard), Arc::clone(&means.clock)));
        tasks.spawn(Arc::clone(&timers).run(over.clone()));
        for consumer in means.consumers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            tasks.spawn(feed::consume(Arc::clone(shard), Arc::clone(consumer), over.clone()));
        }
        self.set(Some(Led { shard: Arc::clone(shard), work: Some(Work { timers, outbox }) }));
    }
}
