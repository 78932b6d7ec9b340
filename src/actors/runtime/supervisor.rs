//! One supervisor per shard: spawns entity actors, restarts them with backoff, parks those that keep crashing.
//!
//! An entity that panics costs its caller an `internal` error and itself a pause that doubles with every crash. After
//! [`RuntimeOptions::park_after`](super::RuntimeOptions) crashes within [`WINDOW`] it is parked: its requests are refused with `parked`, its timers and
//! messages wait, and an operator sees it. Its neighbours notice nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::directory::{Handle, Vitals};
use super::entity_actor::EntityArguments;
use super::outbox::backoff;
use super::shard::ShardParts;
use crate::kernel::{EntityId, Error, ErrorCode};

/// How long crashes are remembered.
pub const WINDOW: Duration = Duration::from_secs(600);
/// Crash records kept per shard; beyond it the oldest are forgotten.
const RECORDS: usize = 10_000;

/// What a shard's supervisor is asked.
pub enum SupervisorMessage {
    /// The handle of a live actor of this entity, spawned if need be.
    Activate(EntityId, oneshot::Sender<Result<Handle, Error>>),
    /// Let idle actors go.
    Sweep,
    /// Put a parked entity back into service; answers whether it was parked.
    Unpark(EntityId, oneshot::Sender<bool>),
    /// The entities that crashed lately.
    ListCrashes(oneshot::Sender<Vec<CrashReport>>),
}

impl ractor::Message for SupervisorMessage {}

/// An entity that crashed, as operators see it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CrashReport {
    pub entity: String,
    pub crashes: u32,
    pub parked: bool,
    pub reason: String,
}

struct Crash {
    count: u32,
    last: Instant,
    parked: bool,
    reason: String,
}

/// The supervisor's actor type.
pub struct Supervisor;

/// The supervisor's state.
pub struct Supervised {
    parts: Arc<ShardParts>,
    entities: HashMap<ActorId, EntityId>,
    crashes: HashMap<EntityId, Crash>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Supervised;
    type Arguments = Arc<ShardParts>;

    async fn pre_start(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        parts: Arc<ShardParts>,
    ) -> Result<Supervised, ActorProcessingErr> {
        Ok(Supervised { parts, entities: HashMap::new(), crashes: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Activate(id, reply) => {
                let _ = reply.send(state.activate(&myself, id).await);
            }
            SupervisorMessage::Sweep => state.sweep(),
            SupervisorMessage::Unpark(id, reply) => {
                let was = state.crashes.remove(&id).is_some_and(|crash| crash.parked);
                let _ = reply.send(was);
            }
            SupervisorMessage::ListCrashes(reply) => {
                let _ = reply.send(state.reports());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, ..) => drop(state.forget(cell.get_id())),
            SupervisionEvent::ActorFailed(cell, reason) => {
                if let Some(id) = state.forget(cell.get_id()) {
                    state.crashed(id, reason.to_string());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Supervised {
    async fn activate(&mut self, myself: &ActorRef<SupervisorMessage>, id: EntityId) -> Result<Handle, Error> {
        if let Some(handle) = self.parts.directory.get(&id) {
            return Ok(handle);
        }
        self.admit(&id)?;
        let Some(kind) = self.parts.kinds.get(id.kind()) else {
            tracing::error!(entity = %id, "no such entity kind");
            return Err(Error::internal());
        };
        let vitals = Arc::new(Vitals::default());
        let arguments = EntityArguments { id: id.clone(), parts: Arc::clone(&self.parts), vitals: Arc::clone(&vitals) };
        let actor = (kind.spawn)(arguments, myself.get_cell()).await.map_err(|error| {
            tracing::error!(entity = %id, %error, "an entity actor cannot be spawned");
            Error::internal()
        })?;
        metrics::counter!("construct_entity_activations_total", "kind" => kind.name).increment(1);
        self.entities.insert(actor.get_id(), id.clone());
        let handle = Handle { actor, vitals };
        self.parts.directory.insert(id, handle.clone());
        Ok(handle)
    }

    /// Refuses entities that are parked or pausing after a crash.
    fn admit(&mut self, id: &EntityId) -> Result<(), Error> {
        let Some(crash) = self.crashes.get(id) else { return Ok(()) };
        if crash.parked {
            let detail = "This object keeps failing and was taken out of service; an operator has been told.";
            return Err(Error::new(ErrorCode::Parked, detail).retry_after(60));
        }
        let age = crash.last.elapsed();
        if age > WINDOW {
            self.crashes.remove(id);
            return Ok(());
        }
        let (first, longest) = self.parts.options.restart_ms;
        let pause = backoff(crash.count - 1, Duration::from_millis(first), Duration::from_millis(longest));
        if age < pause {
            return Err(Error::unavailable("This object is restarting after a failure; nothing was done."));
        }
        Ok(())
    }

    fn forget(&mut self, actor: ActorId) -> Option<EntityId> {
        let id = self.entities.remove(&actor)?;
        self.parts.directory.remove(&id, actor);
        Some(id)
    }

    fn crashed(&mut self, id: EntityId, reason: String) {
        if self.crashes.len() >= RECORDS
            && let Some(oldest) = self.crashes.iter().min_by_key(|(_, crash)| crash.last).map(|(id, _)| id.clone())
        {
            self.crashes.remove(&oldest);
        }
        let fresh = Crash { count: 0, last: Instant::now(), parked: false, reason: String::new() };
        let crash = self.crashes.entry(id.clone()).or_insert(fresh);
        crash.count = if crash.last.elapsed() > WINDOW { 1 } else { crash.count + 1 };
        crash.last = Instant::now();
        crash.parked = crash.count >= self.parts.options.park_after;
        crash.reason.clone_from(&reason);
        let kind = id.kind().to_owned();
        metrics::counter!("construct_entity_restarts_total", "kind" => kind).increment(1);
        tracing::error!(entity = %id, %reason, crashes = crash.count, parked = crash.parked, "an entity crashed");
    }

    fn sweep(&mut self) {
        let options = &self.parts.options;
        let cutoff = self.parts.uptime_ms().saturating_sub(options.idle_after_ms);
        for handle in self.parts.directory.passivate(cutoff, options.memory_budget_bytes) {
            metrics::counter!("construct_entity_passivations_total").increment(1);
            handle.actor.stop(Some("passivated".to_owned()));
        }
    }

    fn reports(&self) -> Vec<CrashReport> {
        let live = self.crashes.iter().filter(|(_, crash)| crash.parked || crash.last.elapsed() <= WINDOW);
        live.map(|(id, crash)| CrashReport {
            entity: id.to_string(),
            crashes: crash.count,
            parked: crash.parked,
            reason: crash.reason.clone(),
        })
        .collect()
    }
}
