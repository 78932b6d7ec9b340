//! `level/level` on the meta shard: the feature level of the cluster (ADR 118).
//!
//! Levels are versions of the wire. The level is the newest one that all members spoke at once, and only rises: what a member
//! of an older level could not read is written from then on, and a node that does not speak it is let in no more. It is an
//! entity of its own, because members before it read the state of [`Members`](super::Members).

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error};

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new(Level::KIND, "level")
}

/// 0 where members have not spoken of levels yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    pub reached: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// All members speak this version of the wire. One below the level changes nothing.
    Raise {
        to: u16,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Raised { to: u16 },
}

impl Entity for Level {
    const KIND: &'static str = "level";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    /// The level then.
    type Reply = u16;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Raise { to } if to > self.reached => {
                let raised = Decision::reply(to).event(Event::Raised { to });
                Ok(raised.audit(context, "cluster.level_raised", "cluster", "ok"))
            }
            Command::Get | Command::Raise { .. } => Ok(Decision::reply(self.reached)),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::Raised { to } = event;
        self.reached = *to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;

    #[test]
    fn the_level_only_rises_and_each_rise_is_in_the_audit_log() {
        let mut given = Given::<Level>::new("level");
        let raise = |to| Command::Raise { to };
        let rose = given.when(raise(3)).expect("raised");
        assert_eq!((rose.reply, rose.events.len(), rose.audit.len()), (3, 1, 1));
        for late in [raise(3), raise(2), Command::Get] {
            let kept = given.when(late).expect("answered");
            assert_eq!((kept.reply, kept.events.len(), kept.audit.len()), (3, 0, 0));
        }
        assert_eq!(given.when(raise(5)).expect("raised").reply, 5);
    }
}
