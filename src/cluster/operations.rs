//! What an operator asks of the cluster: each answers when it is done, or says how far it is when that takes longer.
//!
//! All of it is written into the members entity and carried out by the [`Coordinator`](super::coordinator::Coordinator);
//! nothing here is needed for it to go on.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::coordinator::Coordinator;
use super::placement::moves;
use super::planner::has_arrived;
use crate::actors::members::{self, Command, Members, Replicas, View};
use crate::actors::runtime::log::ShardReport;
use crate::kernel::{Error, Origin, ShardId};

/// The longest an operator waits for the end of something; it goes on after that.
const WAIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: bool,
    /// Shards that are still to move, or led by a member that should not lead.
    pub left: usize,
}

/// What an operator waits for.
#[derive(Debug, Clone, Copy)]
enum Goal {
    Leads(ShardId, u64),
    Drained(u64),
    Gone(u64),
    Balanced,
}

impl Coordinator {
    /// Every shard as its leader knows it; without one as far as this node does.
    pub async fn shards(&self) -> BTreeMap<ShardId, ShardReport> {
        let asked = self.router().replicas().map(|replica| async move {
            let id = replica.id();
            let report = self.router().report(id).await;
            (id, report.unwrap_or_else(|_| replica.report()))
        });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    /// Lets a voter lead a shard.
    ///
    /// # Errors
    /// `not_found` for a shard that does not exist; `conflict` when `to` cannot lead it.
    pub async fn transfer(&self, shard: ShardId, to: u64, origin: &Origin) -> Result<Progress, Error> {
        let report = self.router().report(shard).await?;
        if report.log.leader == Some(to) {
            return Ok(Progress { done: true, left: 0 });
        }
        let view = self.ask(Command::Get).await?;
        for (shard, replicas) in handed_over(&view, shard, to)? {
            self.tell(Command::Place { shard, replicas }, origin).await?;
        }
        self.until(Goal::Leads(shard, to)).await
    }

    /// Takes leads, and where others can take them replicas, from a member.
    ///
    /// # Errors
    /// `not_found`; `conflict` when nobody else is up.
    pub async fn drain(&self, node: u64, origin: &Origin) -> Result<Progress, Error> {
        self.tell(Command::Drain { node }, origin).await?;
        self.until(Goal::Drained(node)).await
    }

    /// Lets a member that was drained take part again, without a restart. Nothing happens to one that is not drained.
    ///
    /// # Errors
    /// `not_found`; `conflict` for a member that is leaving.
    pub async fn undrain(&self, node: u64, origin: &Origin) -> Result<Progress, Error> {
        self.tell(Command::Undrain { node }, origin).await?;
        self.until(Goal::Balanced).await
    }

    /// Takes everything from a member, reachable or not, and forgets it.
    ///
    /// # Errors
    /// `not_found`; `conflict` when nobody else is up.
    pub async fn remove(&self, node: u64, origin: &Origin) -> Result<Progress, Error> {
        self.tell(Command::Remove { node }, origin).await?;
        self.until(Goal::Gone(node)).await
    }

    /// Answers once every shard is where it should be and led by whom it should be.
    ///
    /// # Errors
    /// `unavailable` without a leader of the meta shard.
    pub async fn rebalance(&self) -> Result<Progress, Error> {
        self.until(Goal::Balanced).await
    }

    async fn tell(&self, command: Command, origin: &Origin) -> Result<(), Error> {
        self.router().ask::<Members>(&members::id(), command, origin).await.map(|_| ())
    }

    /// Looks until nothing is left, for as long as an operator waits.
    async fn until(&self, goal: Goal) -> Result<Progress, Error> {
        let give_up = Instant::now() + WAIT;
        loop {
            let left = self.left(goal).await?;
            if left == 0 || Instant::now() >= give_up {
                return Ok(Progress { done: left == 0, left });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many shards the goal still waits for.
    async fn left(&self, goal: Goal) -> Result<usize, Error> {
        let view = self.ask(Command::Get).await?;
        match goal {
            Goal::Leads(shard, to) => {
                let report = self.router().report(shard).await;
                Ok(usize::from(!report.is_ok_and(|report| report.log.leader == Some(to))))
            }
            Goal::Drained(node) => {
                let leads = self.shards().await.values().filter(|report| report.log.leader == Some(node)).count();
                Ok(leads + moves(&view).len())
            }
            Goal::Gone(node) => {
                let holds = |held: &&Replicas| held.voters.contains(&node) || held.learners.contains(&node);
                Ok(view.placement.values().filter(holds).count() + usize::from(view.members.contains_key(&node)))
            }
            Goal::Balanced => {
                let shards = self.shards().await;
                let arrived = |(shard, wanted): &(&ShardId, &Replicas)| {
                    let report = shards.get(shard);
                    report.is_some_and(|report| has_arrived(&report.log, wanted) && report.log.leader == wanted.leader)
                };
                Ok(moves(&view).len() + view.placement.iter().filter(|placed| !arrived(placed)).count())
            }
        }
    }
}

/// The placements under which `to` leads a shard and the plan has nothing against it: where leads would not be even any
/// more, another shard goes the other way.
fn handed_over(view: &View, shard: ShardId, to: u64) -> Result<Vec<(ShardId, Replicas)>, Error> {
    let led_by = |view: &View, shard: ShardId, to: u64| {
        let replicas = view.placement.get(&shard).filter(|replicas| replicas.voters.contains(&to))?;
        Some((shard, Replicas { leader: Some(to), ..replicas.clone() }))
    };
    let no_vote = || Error::conflict(format!("Node {to} has no vote in shard {shard}."));
    let change = led_by(view, shard, to).ok_or_else(no_vote)?;
    let with = |changes: &[(ShardId, Replicas)]| {
        let mut view = view.clone();
        view.placement.extend(changes.iter().cloned());
        view
    };
    if moves(&with(std::slice::from_ref(&change))).is_empty() {
        return Ok(vec![change]);
    }
    let from = view.placement.get(&shard).and_then(|replicas| replicas.leader);
    let led = view.placement.iter().filter(|(other, held)| **other != shard && held.leader == Some(to));
    let swaps = led.filter_map(|(other, _)| led_by(view, *other, from?));
    let mut pairs = swaps.map(|swap| vec![change.clone(), swap]);
    Ok(pairs.find(|pair| moves(&with(pair)).is_empty()).unwrap_or_else(|| vec![change.clone()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::members::{Known, Member, MemberState};

    #[test]
    fn a_hand_over_is_not_undone_by_the_plan() {
        let mut view = View { cluster: [1; 16], shards: 8, ..View::default() };
        for id in 1..=3 {
            let member = Member { id, address: format!("127.0.0.1:{id}"), zone: String::new(), version: String::new() };
            view.members.insert(id, Known { member, state: MemberState::Up });
        }
        while let Some((shard, replicas)) = moves(&view).into_iter().next() {
            view.placement.insert(shard, replicas);
        }
        for shard in (0..=8).map(ShardId) {
            for to in 1..=3 {
                let changes = handed_over(&view, shard, to).expect("has a vote");
                view.placement.extend(changes);
                assert_eq!(view.placement[&shard].leader, Some(to));
                assert!(moves(&view).is_empty(), "shard {shard} to node {to}");
            }
        }
        assert!(handed_over(&view, ShardId(1), 4).is_err() && handed_over(&view, ShardId(9), 1).is_err());
    }
}
