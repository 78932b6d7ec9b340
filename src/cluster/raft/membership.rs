//! A shard's way from who holds it to who should: one step at a time, each an agreement of the group itself.
//!
//! A new holder is a learner first and gets a vote once it has the log; votes change by joint consensus; who leads and
//! should not hands over to a voter that has the log. [`step`] is a pure function of how the group stands, so whoever
//! leads next goes on wherever the last one stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{BasicNode, ChangeMembers, Instant as _, RaftMetrics};

use super::{RaftGroupError, ShardGroup, naming};
use crate::actors::members::Replicas;
use crate::actors::runtime::log::ShardLog;
use crate::storage::types::TypeConfig;

/// Entries that a copy may lack and still count as having the log: what is on its way.
const LAG: u64 = 256;
/// The longest one step may take; the next one looks again.
const STEP: Duration = Duration::from_secs(10);

/// The longest a node that stops waits for another to lead.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How a group stands, as its leader knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub own: u64,
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    /// Members that answer and have the log.
    pub current: BTreeSet<u64>,
    /// The voters to which a change was begun; until it is over they decide together with those before.
    pub incoming: Option<BTreeSet<u64>>,
    /// Members that are not named by the keys they joined with.
    pub unnamed: BTreeSet<u64>,
}

/// What a leader does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send the log to a new member.
    AddLearner(u64),
    /// Name a member by the key it joined with.
    Name(u64),
    /// Change who votes; who loses the vote leaves the group.
    SetVoters(BTreeSet<u64>),
    /// Forget a copy without a vote.
    RemoveLearner(u64),
    /// Let this voter lead.
    HandOver(u64),
}

/// The next step to `wanted`; `None` when there is nothing to do, or to be waited for.
#[must_use]
pub fn step(standing: &Standing, wanted: &Replicas) -> Option<Step> {
    if let Some(incoming) = &standing.incoming {
        // What was begun is ended first, whatever is wanted by now: those it names have the log.
        return set_voters(standing, incoming);
    }
    let held: BTreeSet<u64> = standing.voters.union(&standing.learners).copied().collect();
    let missing = wanted.voters.union(&wanted.learners).find(|node| !held.contains(node));
    if let Some(node) = missing {
        return Some(Step::AddLearner(*node));
    }
    // Before it gets a vote: it makes no use of one until its log names it.
    let stays = |node: &&u64| wanted.voters.contains(node) || wanted.learners.contains(node);
    if let Some(node) = standing.unnamed.iter().find(stays) {
        return Some(Step::Name(*node));
    }
    if standing.voters != wanted.voters {
        let joining = wanted.voters.difference(&standing.voters);
        if !joining.clone().all(|node| standing.current.contains(node)) {
            return None;
        }
        if with_leader(standing, &wanted.voters) != standing.voters {
            return set_voters(standing, &wanted.voters);
        }
        // Only this node is one too many: who takes over lets it go.
        let able = |node: &u64| standing.current.contains(node) && wanted.voters.contains(node);
        let to = wanted.leader.filter(able).or_else(|| wanted.voters.iter().copied().find(able));
        return to.map(Step::HandOver);
    }
    if let Some(node) = standing.learners.difference(&wanted.learners).next() {
        return Some(Step::RemoveLearner(*node));
    }
    let to = wanted.leader.filter(|leader| *leader != standing.own && standing.current.contains(leader));
    to.map(Step::HandOver)
}

/// Members in order, each with whether it votes. In the midst of a change who comes or goes is listed with a vote and
/// without: so the group is not taken for what it was or will be.
#[must_use]
pub fn listed(sets: &[BTreeSet<u64>], learners: impl Iterator<Item = u64>) -> BTreeSet<(u64, bool)> {
    let voters: BTreeSet<u64> = sets.iter().flatten().copied().collect();
    let changing = voters.iter().copied().filter(|node| !sets.iter().all(|set| set.contains(node)));
    let without = learners.chain(changing).map(|node| (node, false));
    voters.iter().map(|node| (*node, true)).chain(without).collect()
}

/// The members as they are decided: while a change of them is not, each is listed with a vote and without.
pub(super) fn decided(metrics: &RaftMetrics<TypeConfig>) -> BTreeSet<(u64, bool)> {
    let members = metrics.membership_config.membership();
    let mut sets = members.get_joint_config().clone();
    if metrics.membership_config.log_id().as_ref() > metrics.last_applied.as_ref() {
        sets.push(BTreeSet::new());
    }
    listed(&sets, members.learner_ids())
}

/// The change of votes, once most of those who will have one have the log: a group whose majority is dead could neither
/// end the change nor decide anything again.
fn set_voters(standing: &Standing, voters: &BTreeSet<u64>) -> Option<Step> {
    let voters = with_leader(standing, voters);
    let live = voters.intersection(&standing.current).count();
    (2 * live > voters.len()).then_some(Step::SetVoters(voters))
}

/// The voters to change to while this node leads: it stays until another leads.
fn with_leader(standing: &Standing, voters: &BTreeSet<u64>) -> BTreeSet<u64> {
    voters.iter().copied().chain([standing.own]).collect()
}

/// How a group stands whose leader reports this; a member that was not heard for `silence` does not answer.
fn reported(metrics: &RaftMetrics<TypeConfig>, keys: &BTreeMap<u64, [u8; 32]>, silence: Duration) -> Option<Standing> {
    let members = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = members.voter_ids().collect();
    let learners = members.learner_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let matched = metrics.replication.as_ref()?;
    let heard = metrics.heartbeat.as_ref()?;
    let alive = |node: &u64| heard.get(node).is_some_and(|at| at.is_some_and(|at| at.elapsed() < silence));
    // The entry that made it a member must not be among what it lacks.
    let least = metrics.membership_config.log_id().map_or(0, |at| at.index).max(last.saturating_sub(LAG));
    let has_log = |node: &u64| matched.get(node).copied().flatten().is_some_and(|at| at.index >= least);
    let nodes = members.nodes().map(|(node, _)| *node);
    let current = nodes.filter(|node| *node == metrics.id || (alive(node) && has_log(node))).collect();
    let incoming = members.get_joint_config().get(1).cloned();
    let is_named = |id: &u64, node: &BasicNode| {
        keys.get(id).is_none_or(|joined| naming::key(&node.addr) == Some(&naming::name_of(joined)))
    };
    let unnamed = members.nodes().filter(|(id, node)| !is_named(id, node)).map(|(id, _)| *id).collect();
    Some(Standing { own: metrics.id, voters, learners, current, incoming, unnamed })
}

impl ShardGroup {
    /// How the group stands, whose members joined with these keys; `None` while this node does not lead it.
    #[must_use]
    pub fn standing(&self, keys: &BTreeMap<u64, [u8; 32]>) -> Option<Standing> {
        self.leadership().borrow().leading?;
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        reported(&metrics, keys, self.silence())
    }

    /// Lets another voter lead that has the log, and waits until this node does not; there may be none.
    pub(super) async fn hand_over(&self) {
        let Some(standing) = self.standing(&BTreeMap::new()) else { return };
        let able = |node: &u64| *node != standing.own && standing.current.contains(node);
        let Some(to) = standing.voters.iter().copied().find(able) else { return };
        let mut leadership = self.leadership();
        if let Err(error) = self.take(&Step::HandOver(to), "").await {
            tracing::warn!(%error, "a shard is not handed over");
            return;
        }
        let gone = leadership.wait_for(|now| now.leading.is_none());
        let _ = tokio::time::timeout(HAND_OVER, gone).await;
    }

    /// Takes one step; `member` is the address and the name of whom it is about.
    ///
    /// # Errors
    /// [`RaftGroupError::Group`] when it was refused or does not end in time; the next step is found out anew.
    pub async fn take(&self, step: &Step, member: &str) -> Result<(), RaftGroupError> {
        let raft = self.raft();
        let taken = async {
            let failed = |error: String| Err(error);
            match step {
                Step::AddLearner(node) => {
                    let added = raft.add_learner(*node, BasicNode::new(member), false).await;
                    added.map(|_| ()).or_else(|error| failed(error.to_string()))
                }
                Step::Name(node) => {
                    let change = ChangeMembers::SetNodes(BTreeMap::from([(*node, BasicNode::new(member))]));
                    let changed = raft.change_membership(change, false).await;
                    changed.map(|_| ()).or_else(|error| failed(error.to_string()))
                }
                Step::SetVoters(voters) => {
                    let changed = raft.change_membership(voters.clone(), false).await;
                    changed.map(|_| ()).or_else(|error| failed(error.to_string()))
                }
                Step::RemoveLearner(node) => {
                    let change = ChangeMembers::RemoveNodes(BTreeSet::from([*node]));
                    let changed = raft.change_membership(change, false).await;
                    changed.map(|_| ()).or_else(|error| failed(error.to_string()))
                }
                Step::HandOver(node) => {
                    raft.trigger().transfer_leader(*node).await.or_else(|error| failed(error.to_string()))
                }
            }
        };
        let taken = tokio::time::timeout(STEP, taken).await.unwrap_or_else(|_| Err("not in time".to_owned()));
        let what = || format!("cannot take the step {step:?}");
        taken.map_err(|error| RaftGroupError::Group { shard: self.shard(), what: what(), error })
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
