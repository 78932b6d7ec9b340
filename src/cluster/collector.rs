//! Replicas of this node that were placed elsewhere give their space back (ADR 111).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::coordinator::Coordinator;
use super::raft::{Groups, Leader, ShardGroup};
use crate::actors::members::{Command, MemberState, Replicas, View};
use crate::actors::runtime::log::{LogStatus, ShardLog};
use crate::kernel::ShardId;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Members below this level could not read the log of a node that gave something back.
const SINCE_LEVEL: u16 = 3;
/// Pause after a leader did not say that it is without this node.
const AGAIN: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Gives back what this node has of shards that others hold, one at a time, for as long as it runs.
    pub(super) async fn collect(&self, groups: &Groups) {
        let left_over = metrics::gauge!("construct_replicas_left_over");
        let mut put_off: BTreeMap<ShardId, Instant> = BTreeMap::new();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let view = self.view().borrow().clone();
            let left = groups.shards().filter(|group| is_away(&view, group) && group.holds_anything());
            let left: Vec<_> = left.collect();
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            left_over.set(left.len() as f64);
            put_off.retain(|_, since| since.elapsed() < AGAIN);
            for group in left.into_iter().filter(|_| self.level() >= SINCE_LEVEL) {
                if !put_off.contains_key(&group.shard()) && !self.collect_one(group).await {
                    put_off.insert(group.shard(), Instant::now());
                }
            }
        }
    }

    /// Whether the replica gave its space back.
    async fn collect_one(&self, group: &ShardGroup) -> bool {
        // Asked before, too, so that a group is not stopped for nothing.
        if self.leader_without(group).await.is_none() {
            return false;
        }
        match group.collect(self.leader_without(group)).await {
            Ok(collected) => collected,
            Err(error) => {
                tracing::error!(%error, "a replica that was taken away cannot give its space back");
                false
            }
        }
    }

    /// Who leads the group, if it is without this node, and should be.
    async fn leader_without(&self, group: &ShardGroup) -> Option<Leader> {
        let report = self.router().report(group.shard()).await.ok()?;
        let leader = leads_without(&report.log, group.node())?;
        // The placement after the leader: what was placed here meanwhile is not removed.
        let view = self.ask(Command::Get).await.ok()?;
        is_away(&view, group).then_some(leader)
    }
}

/// Whether the shard should be on others alone. The meta shard is on every member; who drains or leaves has other cares.
fn is_away(view: &View, group: &ShardGroup) -> bool {
    let (shard, node) = (group.shard(), group.node());
    let up = view.members.get(&node).is_some_and(|known| known.state == MemberState::Up);
    let elsewhere = |at: &Replicas| !at.voters.is_empty() && !at.voters.contains(&node) && !at.learners.contains(&node);
    shard != ShardId::META && up && view.placement.get(&shard).is_some_and(elsewhere)
}

/// Who says this, if its group is without the node: by what it has decided, with no change under way.
fn leads_without(log: &LogStatus, node: u64) -> Option<Leader> {
    let leader = log.leader.filter(|leader| *leader != node)?;
    let named = |id: u64| log.replicas.iter().filter(|replica| replica.node == id).count();
    let decided = log.replicas.iter().all(|replica| named(replica.node) == 1);
    let leads = log.replicas.iter().any(|replica| replica.node == leader && replica.voter);
    (decided && leads && named(node) == 0).then_some(Leader { term: log.term, node: leader })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::log::Replica;

    #[test]
    fn only_a_leader_whose_members_are_decided_is_without_a_node() {
        let status = |leader, replicas: &[(u64, bool)]| LogStatus {
            leader,
            term: 7,
            applied: 0,
            queued: 0,
            replicas: replicas
                .iter()
                .map(|(node, voter)| Replica { node: *node, voter: *voter, matched: None })
                .collect(),
        };
        let without = |leader, replicas: &[(u64, bool)]| leads_without(&status(leader, replicas), 1);
        let others = [(2, true), (3, true), (4, false)];
        assert_eq!(without(Some(2), &others), Some(Leader { term: 7, node: 2 }));
        assert_eq!(without(None, &others), None, "nobody leads");
        assert_eq!(without(Some(4), &others), None, "who learns does not lead");
        assert_eq!(without(Some(1), &others), None, "it is this node");
        assert_eq!(without(Some(2), &[(1, false), (2, true), (3, true)]), None, "a copy");
        let changing = [(2, true), (2, false), (3, true), (3, false)];
        assert_eq!(without(Some(2), &changing), None, "who goes may be a member of what is applied");
    }
}
