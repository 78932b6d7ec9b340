//! A harness for pure entity tests: given a history, when a command, then a decision.

use crate::kernel::{Context, Decision, Entity, EntityId, Error, Origin, Timestamp, codec};

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
        let snapshot = codec::encode(&self.state).expect("states encode");
        self.state = codec::decode(&snapshot).expect("states decode");
        Ok(decision)
    }
}
