//! What the leader of the meta shard does next: one move at a time, and the next once the group of the last has arrived.
//!
//! Pure, and driven by the [`Coordinator`](super::coordinator::Coordinator): it reads the view, asks after the shards that
//! [`Plan::unsure`] names, tells [`Plan::heard`] what it heard, and does what [`Plan::next`] says. A planner knows nothing
//! that the next one could not find out again.

use std::collections::{BTreeMap, BTreeSet};

use super::placement::{missing_copies, moves};
use crate::actors::members::{Command, MemberState, Replicas, View};
use crate::actors::runtime::log::LogStatus;
use crate::kernel::ShardId;

/// What the planner has seen.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Shards whose groups are where they should be.
    arrived: BTreeMap<ShardId, Replicas>,
    /// Those that were heard of last and are not.
    apart: BTreeSet<ShardId>,
    /// The view under which nothing was left to do.
    settled: Option<View>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Tell the members this, and look again.
    Tell(Command),
    /// A group is on its way.
    Wait,
    /// Nothing until the view changes.
    Rest,
}

impl Plan {
    /// Whether nothing is left to do under this view.
    pub fn is_settled(&self, view: &View) -> bool {
        self.settled.as_ref() == Some(view) || (view.members.len() < 2 && view.placement.is_empty())
    }

    /// The shards whose groups are not known to have arrived, to be asked after before what is [`next`](Plan::next).
    pub fn unsure(&mut self, view: &View) -> Vec<ShardId> {
        self.apart.clear();
        self.not_arrived(view)
    }

    fn not_arrived(&self, view: &View) -> Vec<ShardId> {
        let unsure = view.placement.iter().filter(|(shard, wanted)| self.arrived.get(shard) != Some(wanted));
        unsure.map(|(shard, _)| *shard).collect()
    }

    /// How a shard's group stands, as its leader says.
    pub fn heard(&mut self, view: &View, shard: ShardId, status: &LogStatus) {
        match view.placement.get(&shard) {
            Some(wanted) if has_arrived(status, wanted) => drop(self.arrived.insert(shard, wanted.clone())),
            _ => drop(self.apart.insert(shard)),
        }
    }

    /// What is next under `view`, after what was heard.
    pub fn next(&mut self, view: View) -> Task {
        if let Some(replicas) = missing_copies(&view) {
            // Whoever waits may wait for one that hears nothing.
            return Task::Tell(Command::Place { shard: ShardId::META, replicas });
        }
        let under_way = self.not_arrived(&view);
        // A move that turned out to be wrong is replaced; else the next one waits for it, and for whoever did not answer.
        // Copies of the meta shard may be on their way beside another move; its votes may not, nor beside one that nobody
        // answered for.
        let replaced =
            |shard: &ShardId| self.apart.contains(shard) && (*shard != ShardId::META || under_way.len() == 1);
        let mut moves = moves(&view).into_iter();
        if let Some((shard, replicas)) = moves.find(|(shard, _)| under_way.is_empty() || replaced(shard)) {
            return Task::Tell(Command::Place { shard, replicas });
        }
        if !under_way.is_empty() {
            return Task::Wait;
        }
        // Whoever leaves and holds nothing any more.
        if let Some((node, _)) = view.members.iter().find(|(_, known)| known.state == MemberState::Leaving) {
            return Task::Tell(Command::Forget { node: *node });
        }
        self.settled = Some(view);
        Task::Rest
    }
}

/// Whether the group's members are those that are wanted.
pub(super) fn has_arrived(status: &LogStatus, wanted: &Replicas) -> bool {
    let of = |voter| status.replicas.iter().filter(move |replica| replica.voter == voter).map(|replica| replica.node);
    of(true).eq(wanted.voters.iter().copied()) && of(false).eq(wanted.learners.iter().copied())
}
