//! The entity kinds a node knows: how to spawn an actor of each, and where it lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};

use super::entity_actor::{EntityActor, EntityArguments};
use super::message::EntityMessage;
use crate::kernel::{Entity, EntityId, ShardId};
use crate::telemetry::Meter;

type Spawned = BoxFuture<'static, Result<ActorRef<EntityMessage>, SpawnErr>>;

/// One kind, without its type.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub meta: bool,
    pub spawn: fn(EntityArguments, ActorCell) -> Spawned,
}

impl Kind {
    #[must_use]
    pub fn of<E: Entity>() -> Self {
        Self { name: E::KIND, meta: E::META, spawn: spawn::<E> }
    }
}

fn spawn<E: Entity>(arguments: EntityArguments, supervisor: ActorCell) -> Spawned {
    Box::pin(async move {
        let (actor, _) = EntityActor::<E>::spawn_linked(None, EntityActor::default(), arguments, supervisor).await?;
        Ok(actor)
    })
}

struct Known {
    kind: Kind,
    /// Commands by the code they ended with.
    commands: Meter<&'static str>,
}

/// All kinds, by name, and the number of data shards the cluster was formed with.
#[derive(Clone)]
pub struct Kinds {
    by_name: Arc<HashMap<&'static str, Known>>,
    shards: u16,
}

impl Kinds {
    #[must_use]
    pub fn new(kinds: &[Kind], shards: u16) -> Self {
        let known = kinds.iter().map(|kind| (kind.name, Known { kind: *kind, commands: Meter::new() }));
        Self { by_name: Arc::new(known.collect()), shards }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.by_name.get(name).map(|known| &known.kind)
    }

    /// Counts a command to an entity of this kind.
    pub fn count(&self, name: &str, outcome: &'static str, elapsed: Duration) {
        let Some(known) = self.by_name.get(name) else { return };
        let kind = known.kind.name;
        known.commands.record(outcome, elapsed, |outcome| {
            let counter = metrics::counter!("construct_commands_total", "kind" => kind, "outcome" => *outcome);
            (counter, metrics::histogram!("construct_command_seconds", "kind" => kind))
        });
    }

    /// The names of all kinds.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.by_name.keys().copied()
    }

    /// The shard an entity lives on: the meta shard for kinds that say so, else that of its slot.
    #[must_use]
    pub fn shard_of(&self, id: &EntityId) -> ShardId {
        match self.get(id.kind()) {
            Some(kind) if kind.meta => ShardId::META,
            _ => id.slot().shard(self.shards),
        }
    }
}
