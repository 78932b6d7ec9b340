//! A shard's Raft group without a network: who votes, who has the log, who leads, and how a change of votes goes through
//! its two sets. What [`step`](crate::cluster::raft::membership::step) asks for is done in the order openraft does it.

use std::collections::BTreeSet;

use crate::actors::runtime::log::{LogStatus, Replica};
use crate::cluster::raft::membership::{Standing, Step, listed};

#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// One set of voters, or two that decide together.
    pub sets: Vec<BTreeSet<u64>>,
    pub learners: BTreeSet<u64>,
    /// Live members that have the log.
    pub has_log: BTreeSet<u64>,
    pub leader: Option<u64>,
    /// The set at which a change of the leader's ends.
    changing: Option<BTreeSet<u64>>,
    /// Copies that were begun.
    pub copies: usize,
}

impl Group {
    pub fn of(voters: BTreeSet<u64>, learners: BTreeSet<u64>, leader: Option<u64>) -> Self {
        let has_log = voters.union(&learners).copied().collect();
        Self { sets: vec![voters], learners, has_log, leader, ..Self::default() }
    }

    pub fn voters(&self) -> BTreeSet<u64> {
        self.sets.iter().flatten().copied().collect()
    }

    pub fn members(&self) -> BTreeSet<u64> {
        self.voters().union(&self.learners).copied().collect()
    }

    pub fn is_joint(&self) -> bool {
        self.sets.len() > 1
    }

    /// Whether each set has a majority among these nodes.
    pub fn has_majority(&self, of: impl Fn(u64) -> bool) -> bool {
        self.sets.iter().all(|set| 2 * set.iter().filter(|node| of(**node)).count() > set.len())
    }

    pub fn standing(&self, own: u64) -> Standing {
        let current = self.members().intersection(&self.has_log).copied().collect();
        let incoming = self.sets.get(1).cloned();
        Standing {
            own,
            voters: self.voters(),
            learners: self.learners.clone(),
            current,
            incoming,
            unnamed: BTreeSet::new(),
        }
    }

    pub fn status(&self) -> LogStatus {
        let members = listed(&self.sets, self.learners.iter().copied());
        let replicas = members.into_iter().map(|(node, voter)| Replica { node, voter, matched: None }).collect();
        LogStatus { leader: self.leader, term: 1, applied: 1, queued: 0, replicas }
    }

    /// Begins a step; how many entries it puts into the log. A change of votes ends with [`Group::end_change`].
    pub fn take(&mut self, step: &Step) -> usize {
        match step {
            Step::Name(node) => unreachable!("{node} is named when it is taken in"),
            Step::AddLearner(node) => {
                assert!(!self.voters().contains(node) && self.learners.insert(*node), "taken in twice");
                self.copies += 1;
                1
            }
            Step::SetVoters(voters) => {
                let new = voters.difference(&self.voters()).copied().collect::<BTreeSet<u64>>();
                assert!(new.is_subset(&self.has_log), "{new:?} vote without the log: {self:?}");
                assert!(new.is_subset(&self.learners), "{new:?} were no learners");
                let last = self.sets.last().cloned().unwrap_or_default();
                self.changing = Some(voters.clone());
                if last == *voters {
                    return 1;
                }
                self.learners.retain(|node| !voters.contains(node));
                self.sets = vec![last, voters.clone()];
                2
            }
            Step::RemoveLearner(node) => {
                assert!(self.learners.remove(node), "forgotten twice");
                self.has_log.remove(node);
                1
            }
            Step::HandOver(node) => {
                assert!(self.voters().contains(node) && self.has_log.contains(node), "node {node} cannot lead");
                self.lead(Some(*node));
                1
            }
        }
    }

    /// The second half of a change of votes: whoever lost the vote is no member any more.
    pub fn end_change(&mut self) {
        let Some(voters) = self.changing.take() else { return };
        self.sets = vec![voters];
        let members = self.members();
        self.has_log.retain(|node| members.contains(node));
    }

    /// Another leads, or nobody; what the one before had begun stays as far as it came.
    pub fn lead(&mut self, leader: Option<u64>) {
        (self.leader, self.changing) = (leader, None);
    }

    pub fn lose(&mut self, node: u64) {
        self.has_log.remove(&node);
        if self.leader == Some(node) {
            self.lead(None);
        }
    }
}
