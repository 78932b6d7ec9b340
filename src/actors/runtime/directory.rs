//! The live actors of one shard: handles by entity, and the vital signs that passivation and operators look at.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use ractor::ActorRef;

use super::message::EntityMessage;
use crate::kernel::EntityId;

/// What is known of a live actor from outside. Written by it and its callers, read by the sweep.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Requests in the mailbox.
    pub depth: AtomicUsize,
    /// Batches proposed and not yet durable.
    pub in_flight: AtomicUsize,
    /// Milliseconds on the shard's monotonic clock.
    pub last_used_ms: AtomicU64,
    /// Of the records that the state is made from: its snapshot and the events after it.
    pub bytes: AtomicUsize,
    /// The person whose data the actor holds in memory, once it is known.
    pub subject: OnceLock<String>,
}

impl Vitals {
    /// Whether the actor can be let go without a request noticing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.depth.load(Ordering::Acquire) == 0 && self.in_flight.load(Ordering::Acquire) == 0
    }
}

/// How to reach a live actor.
#[derive(Clone)]
pub struct Handle {
    pub actor: ActorRef<EntityMessage>,
    pub vitals: Arc<Vitals>,
}

/// A live ractor actor costs about this much beside its state.
const ACTOR_BYTES: usize = 11 << 10;
/// In memory a state is counted as so many times its records: strings and maps take more room there.
const IN_MEMORY: usize = 2;

/// Handles of the live actors of one shard.
#[derive(Default)]
pub struct Directory {
    handles: RwLock<HashMap<EntityId, Handle>>,
}

impl Directory {
    #[must_use]
    pub fn get(&self, id: &EntityId) -> Option<Handle> {
        self.handles.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned()
    }

    pub fn insert(&self, id: EntityId, handle: Handle) {
        self.handles.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id, handle);
    }

    /// Removes the handle if it still is that of this actor.
    pub fn remove(&self, id: &EntityId, actor: ractor::ActorId) {
        let mut handles = self.handles.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if handles.get(id).is_some_and(|handle| handle.actor.get_id() == actor) {
            handles.remove(id);
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.handles.read().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all handles, for listings.
    #[must_use]
    pub fn list(&self) -> Vec<(EntityId, Handle)> {
        let handles = self.handles.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        handles.iter().map(|(id, handle)| (id.clone(), handle.clone())).collect()
    }

    /// Takes out every actor that holds data of this person.
    #[must_use]
    pub fn take_subject(&self, subject: &str) -> Vec<Handle> {
        let mut handles = self.handles.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let holds = |handle: &Handle| handle.vitals.subject.get().is_some_and(|known| known == subject);
        handles.extract_if(|_, handle| holds(handle)).map(|(_, handle)| handle).collect()
    }

    /// Takes out what should be passivated: idle since before `cutoff_ms`, and then the least recently used until the
    /// rest fits `budget_bytes`. Actors with work under way stay.
    #[must_use]
    pub fn passivate(&self, cutoff_ms: u64, budget_bytes: usize) -> Vec<Handle> {
        let mut idle: Vec<(u64, usize, EntityId, Handle)> = Vec::new();
        let mut total = 0;
        for (id, handle) in self.list() {
            let bytes = ACTOR_BYTES + IN_MEMORY * handle.vitals.bytes.load(Ordering::Relaxed);
            total += bytes;
            if handle.vitals.is_idle() {
                idle.push((handle.vitals.last_used_ms.load(Ordering::Relaxed), bytes, id, handle));
            }
        }
        idle.sort_unstable_by_key(|(last_used, ..)| *last_used);
        let mut taken = Vec::new();
        for (last_used, bytes, id, handle) in idle {
            if last_used >= cutoff_ms && total <= budget_bytes {
                break;
            }
            total = total.saturating_sub(bytes);
            self.remove(&id, handle.actor.get_id());
            taken.push(handle);
        }
        taken
    }
}
