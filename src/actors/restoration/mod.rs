//! `restoration/restoration` on the meta shard: that this cluster began as an earlier state of another, and what follows
//! from that. Written once, before anything else happens in the new cluster; every node reads it when it starts. Holds no
//! personal data.

use serde::{Deserialize, Serialize};

use crate::actors::runtime::aftermath::Aftermath;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp};

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new(Restoration::KIND, "restoration")
}

/// Why there is a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Restored from this backup, taken then.
    Backup { id: String, taken_at: Timestamp },
    /// The majority was lost; made of what these nodes had.
    LostMajority { nodes: Vec<u64> },
}

impl Cause {
    /// Action and target of the audit entry.
    fn audited(&self) -> (&'static str, String) {
        match self {
            Self::Backup { id, .. } => ("cluster.restored", format!("backup:{id}")),
            Self::LostMajority { nodes } => {
                let nodes: Vec<_> = nodes.iter().map(u64::to_string).collect();
                ("cluster.recovered", format!("nodes:{}", nodes.join(",")))
            }
        }
    }
}

/// A new beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The cluster whose state this one began with.
    pub from: [u8; 16],
    pub cause: Cause,
    pub aftermath: Aftermath,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoration {
    /// The last one.
    beginning: Option<Beginning>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// A repeat changes nothing.
    Begin(Beginning),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Begun(Beginning),
}

/// The last new beginning, if there was one.
pub type Reply = Option<Beginning>;

impl Entity for Restoration {
    const KIND: &'static str = "restoration";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let known = self.beginning.as_ref().map(|known| known.aftermath.cluster);
        match command {
            Command::Begin(beginning) if known != Some(beginning.aftermath.cluster) => {
                let (action, target) = beginning.cause.audited();
                let decision = Decision::reply(Some(beginning.clone())).audit(context, action, &target, "ok");
                Ok(decision.event(Event::Begun(beginning)))
            }
            Command::Get | Command::Begin(_) => Ok(Decision::reply(self.beginning.clone())),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::Begun(beginning) = event;
        self.beginning = Some(beginning.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::actors::runtime::testing::Given;

    #[test]
    fn a_beginning_is_written_once_and_another_one_takes_its_place() {
        let mut given = Given::<Restoration>::new("restoration");
        assert_eq!(given.when(Command::Get).expect("answered").reply, None);
        let beginning = |cluster, cause| Beginning {
            from: [9; 16],
            cause,
            aftermath: Aftermath { cluster: [cluster; 16], until: Timestamp::ZERO, floors: BTreeMap::new() },
        };
        let first = beginning(1, Cause::Backup { id: "b".into(), taken_at: Timestamp::ZERO });
        let begun = given.when(Command::Begin(first.clone())).expect("begun");
        assert_eq!((begun.audit[0].action.as_str(), begun.audit[0].target.as_str()), ("cluster.restored", "backup:b"));
        assert!(given.when(Command::Begin(first.clone())).expect("a repeat").is_query());
        assert_eq!(given.when(Command::Get).expect("answered").reply, Some(first));
        let second = beginning(2, Cause::Backup { id: "c".into(), taken_at: Timestamp::ZERO });
        let begun = given.when(Command::Begin(second.clone())).expect("begun");
        assert_eq!(begun.audit[0].target, "backup:c");
        assert_eq!(given.when(Command::Get).expect("answered").reply, Some(second));
        let third = given.when(Command::Begin(beginning(3, Cause::LostMajority { nodes: vec![2, 5] }))).expect("begun");
        let audited = (third.audit[0].action.as_str(), third.audit[0].target.as_str());
        assert_eq!(audited, ("cluster.recovered", "nodes:2,5"));
    }
}
