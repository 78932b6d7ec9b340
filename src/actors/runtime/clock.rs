//! The source of domain time of a node: the system's clock, or a virtual one that stands still until advanced.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::follow::Follower;
use super::replica::Replica;
use super::steady::SteadyClock;
use crate::kernel::{Clock, Context, Decision, Entity, EntityId, Error, Timestamp};

/// Which time the cluster runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockMode {
    System,
    Virtual,
}

/// The clock of a node.
pub struct NodeClock {
    mode: ClockMode,
    system: SteadyClock,
    virtual_now: AtomicI64,
    changed: watch::Sender<()>,
}

impl NodeClock {
    #[must_use]
    pub fn system() -> Self {
        let (system, virtual_now) = (SteadyClock::default(), AtomicI64::new(0));
        Self { mode: ClockMode::System, system, virtual_now, changed: watch::channel(()).0 }
    }

    /// A virtual clock; `now` as the cluster last had it, or the real time at first start.
    #[must_use]
    pub fn virtual_at(now: Timestamp) -> Self {
        let (system, virtual_now) = (SteadyClock::default(), AtomicI64::new(now.as_millis()));
        Self { mode: ClockMode::Virtual, system, virtual_now, changed: watch::channel(()).0 }
    }

    #[must_use]
    pub fn mode(&self) -> ClockMode {
        self.mode
    }

    /// Moves a virtual clock forward; never back.
    pub fn set(&self, now: Timestamp) {
        self.virtual_now.fetch_max(now.as_millis(), Ordering::AcqRel);
        self.changed.send_replace(());
    }

    /// Notices of [`NodeClock::set`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        match self.mode {
            ClockMode::System => self.system.now(),
            ClockMode::Virtual => Timestamp::from_millis(self.virtual_now.load(Ordering::Acquire)),
        }
    }
}

/// The virtual clock of the cluster, durable: `clock/clock` on the meta shard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct VirtualClock {
    now: Option<Timestamp>,
}

impl VirtualClock {
    #[must_use]
    pub fn id() -> EntityId {
        EntityId::new(Self::KIND, "clock")
    }

    /// Its time; `None` when it has never run.
    #[must_use]
    pub fn stands_at(&self) -> Option<Timestamp> {
        self.now
    }
}

/// Keeps this node's virtual clock where the cluster has it, by this node's copy of the meta shard.
pub async fn follow(clock: Arc<NodeClock>, meta: Arc<Replica>) {
    let mut follower = Follower::new(Arc::clone(&meta));
    let mut moved = true;
    loop {
        if moved && let Ok(Some((_, VirtualClock { now: Some(now) }))) = meta.peek(&VirtualClock::id()) {
            clock.set(now);
        }
        let Some(news) = follower.next().await else { return };
        moved = news.gap || news.entries.iter().any(|entry| entry.entity.kind() == VirtualClock::KIND);
    }
}

/// What the virtual clock is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum ClockCommand {
    /// Starts it at this time if it has never run; answers its time.
    Start(Timestamp),
    /// Moves it to this time.
    Advance(Timestamp),
}

/// The virtual clock moved.
#[derive(Debug, Serialize, Deserialize)]
pub enum ClockEvent {
    Moved(Timestamp),
}

impl Entity for VirtualClock {
    const KIND: &'static str = "clock";
    const META: bool = true;
    type Command = ClockCommand;
    type Event = ClockEvent;
    type Reply = Timestamp;

    fn decide(&self, command: ClockCommand, _context: &Context) -> Result<Decision<Self>, Error> {
        match (command, self.now) {
            (ClockCommand::Start(_), Some(now)) => Ok(Decision::reply(now)),
            (ClockCommand::Start(at), None) => Ok(Decision::reply(at).event(ClockEvent::Moved(at))),
            (ClockCommand::Advance(to), Some(now)) if to < now => {
                Err(Error::invalid("/advance_to", format!("The clock stands at {now} and only moves forward.")))
            }
            (ClockCommand::Advance(to), _) => Ok(Decision::reply(to).event(ClockEvent::Moved(to))),
        }
    }

    fn apply(&mut self, event: &ClockEvent) {
        let ClockEvent::Moved(to) = event;
        self.now = Some(*to);
    }
}
