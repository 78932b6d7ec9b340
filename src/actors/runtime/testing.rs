//! Harnesses: pure entity tests (given a history, when a command, then a decision), and a runtime in memory.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::log::{Completion, Leadership, LogError, LogStatus, Replica, ShardLog};
use super::sealer::Sealer;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, Op, Origin, ShardId, Timestamp, codec, snapshot};
use crate::storage::seal::DataKey;
use crate::storage::state::{ShardState, StateOptions};

/// One entity in memory, with a clock and an origin under the test's control.
pub struct Given<E: Entity> {
    pub state: E,
    pub context: Context,
}

impl<E: Entity> Given<E> {
    /// A new entity with this key at 2026-01-31T10:00:00Z.
    pub fn new(key: &str) -> Self {
        let context = Context {
            id: EntityId::new(E::KIND, key),
            sequence: 0,
            now: "2026-01-31T10:00:00Z".parse().expect("a time"),
            origin: Origin::system("test"),
            entropy: [7; 32],
        };
        Self { state: E::default(), context }
    }

    /// Moves the clock.
    pub fn at(&mut self, now: &str) -> &mut Self {
        self.context.now = now.parse::<Timestamp>().expect("a time");
        self
    }

    /// Decides and applies; every applied state also survives a round trip through its snapshot.
    pub fn when(&mut self, command: E::Command) -> Result<Decision<E>, Error> {
        self.context.entropy[0] = self.context.entropy[0].wrapping_add(1);
        let bytes = codec::encode(&command).expect("commands encode");
        let command = codec::decode(&bytes).expect("commands decode");
        let decision = self.state.decide(command, &self.context)?;
        for event in &decision.events {
            let bytes = codec::encode(event).expect("events encode");
            let event: E::Event = codec::decode(&bytes).expect("events decode");
            self.state.apply(&event);
        }
        if !decision.is_query() {
            self.context.sequence += (decision.events.len() as u64).max(1);
        }
        let kept = snapshot::encode(&self.state).expect("states encode");
        self.state = snapshot::decode(&kept).expect("states decode");
        Ok(decision)
    }
}

/// A shard's log in memory: operations apply in order, one task hop after they were proposed. It leads in term 1 until
/// told otherwise; logs over one state are the replicas of a shard that is never behind.
pub struct MemoryLog {
    state: Arc<ShardState>,
    queue: mpsc::Sender<Proposed>,
    leadership: watch::Sender<Leadership>,
}

static APPLYING: Mutex<()> = Mutex::new(());

type Proposed = (u64, Op, Completion);

impl MemoryLog {
    /// Must be called within a runtime.
    pub fn start(shard: ShardId) -> Arc<Self> {
        Self::over(Arc::new(ShardState::in_memory(shard, StateOptions::default())))
    }

    /// A log that goes on where `state` is, as after a restart.
    pub fn over(state: Arc<ShardState>) -> Arc<Self> {
        let (queue, mut proposed) = mpsc::channel::<Proposed>(1024);
        let applying = Arc::clone(&state);
        let leads = Leadership { leading: Some(1), leader: Some(1), replica: true };
        let (leadership, leads) = watch::channel(leads);
        tokio::spawn(async move {
            while let Some((term, op, done)) = proposed.recv().await {
                // What an earlier log over the same state still had queued may apply in between.
                let _turn = APPLYING.lock().expect("not poisoned");
                let now = *leads.borrow();
                if now.leading != Some(term) {
                    done.complete(Err(LogError::NotLeader { leader: now.leader }));
                    continue;
                }
                let index = applying.applied().borrow().applied_index + 1;
                let outcomes = applying.apply(index, std::slice::from_ref(&op)).expect("memory does not fail");
                done.complete(Ok(outcomes[0].clone()));
            }
        });
        Arc::new(Self { state, queue, leadership })
    }

    /// Another leads, or this one in that term.
    pub fn lead(&self, leading: Option<u64>, leader: Option<u64>) {
        self.leadership.send_replace(Leadership { leading, leader, replica: true });
    }
}

#[async_trait]
impl ShardLog for MemoryLog {
    fn shard(&self) -> ShardId {
        self.state.shard()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn propose_then(&self, term: u64, op: Op, done: Completion) -> Result<(), LogError> {
        self.queue.try_send((term, op, done)).map_err(|refused| refused.into_inner().2.refuse(LogError::Overloaded))
    }

    async fn read_barrier(&self, term: u64) -> Result<(), LogError> {
        let now = *self.leadership.borrow();
        if now.leading == Some(term) { Ok(()) } else { Err(LogError::NotLeader { leader: now.leader }) }
    }

    fn state(&self) -> &Arc<ShardState> {
        &self.state
    }

    fn votes(&self) -> bool {
        true
    }

    fn status(&self) -> LogStatus {
        let applied = self.state.applied().borrow().applied_index;
        let replicas = vec![Replica { node: 1, voter: true, matched: Some(applied) }];
        LogStatus { leader: self.leadership.borrow().leader, term: 1, applied, queued: 0, replicas }
    }
}

/// Data keys in memory; a forgotten person has none.
#[derive(Default)]
pub struct MemoryKeys {
    erased: Mutex<HashSet<String>>,
}

impl MemoryKeys {
    pub fn erase(&self, subject: &str) {
        self.erased.lock().expect("not poisoned").insert(subject.to_owned());
    }
}

#[async_trait]
impl Sealer for MemoryKeys {
    async fn key(&self, subject: &str, _create: bool) -> Result<Option<DataKey>, Error> {
        if self.erased.lock().expect("not poisoned").contains(subject) {
            return Ok(None);
        }
        let mut key = [0x5a; 32];
        key[..subject.len().min(32)].copy_from_slice(&subject.as_bytes()[..subject.len().min(32)]);
        Ok(Some(DataKey::new(key)))
    }
}
