//! The virtual cluster: nodes that run the planner and the steps of the product, in an order that chance decides.
//!
//! The members entity is the product's own, and so are [`Plan`] and [`step`]. Virtual are the Raft groups, the time, which
//! goes in rounds of one look of every node, and the network. A planner can be lost between any two of: reading the view,
//! hearing of each shard, deciding, and telling; what it was about to tell may still arrive later.

use std::collections::{BTreeMap, BTreeSet};

use super::group::Group;
use crate::actors::members::{Command, Member, Members, View};
use crate::actors::runtime::testing::Given;
use crate::cluster::placement::moves;
use crate::cluster::planner::{Plan, Task};
use crate::cluster::raft::membership::step;
use crate::kernel::dice::Dice;
use crate::kernel::{Error, ShardId};

/// Rounds after which a cluster that has not come to rest never will.
const ROUNDS: usize = 20_000;

/// How rough it is: in one of so many rounds, of a node or group each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Whoever leads the meta shard loses it, between two of its steps.
    pub deposed: usize,
    /// A shard's leader loses it though it lives.
    pub elections: usize,
    /// A node does not hear of the members.
    pub deaf: usize,
}

struct Node {
    alive: bool,
    /// The view it has, by number.
    seen: usize,
    /// Rounds for which it hears nothing of the members.
    deaf: usize,
}

/// A planner and how far it is.
struct Planner {
    node: u64,
    plan: Plan,
    phase: Phase,
}

enum Phase {
    Idle,
    Asking(View, Vec<ShardId>),
    Telling(Command),
}

/// Messages between nodes about a change.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What whoever leads the meta shard sent: entries of its log, and questions after shards.
    pub led: usize,
    /// What each node sent otherwise: entries of the logs it leads, and answers.
    pub sent: BTreeMap<u64, usize>,
    /// Changes of the members; each goes to every node.
    pub told: usize,
    /// Planners that began, each of which asks once after every shard.
    pub planners: usize,
}

pub(super) struct World {
    pub dice: Dice,
    pub weather: Weather,
    members: Given<Members>,
    views: Vec<View>,
    pub groups: BTreeMap<ShardId, Group>,
    nodes: BTreeMap<u64, Node>,
    planner: Option<Planner>,
    /// What lost planners had sent, and the commands of nodes and operators that found nobody.
    late: Vec<Command>,
    /// Of these, what lost planners sent since the last rest.
    stray: usize,
    pub ledger: Ledger,
}

pub(super) fn member(id: u64) -> Member {
    Member { id, address: format!("10.0.0.1:{id}"), zone: String::new(), version: String::new() }
}

impl World {
    /// A cluster at rest.
    pub fn new(seed: u64, size: u64, shards: u16, weather: Weather) -> Self {
        let mut members = Given::<Members>::new("members");
        members.when(Command::Form { cluster: [1; 16], shards, member: member(1) }).expect("forms");
        let (groups, nodes, views) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (dice, ledger) = (Dice(seed), Ledger::default());
        let mut world =
            Self { dice, weather, members, views, groups, nodes, planner: None, late: Vec::new(), stray: 0, ledger };
        for id in 1..=size {
            world.admit(id);
        }
        while let Some((shard, replicas)) = moves(world.view()).into_iter().next() {
            world.members.when(Command::Place { shard, replicas }).expect("is placed");
        }
        world.views = vec![world.view().clone()];
        let placed = world.view().placement.clone();
        world.groups = placed.into_iter().map(|(id, at)| (id, Group::of(at.voters, at.learners, at.leader))).collect();
        world.nodes.values_mut().for_each(|node| node.seen = 0);
        world.ledger = Ledger::default();
        world
    }

    pub fn view(&self) -> &View {
        self.members.state.view()
    }

    pub fn is_alive(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.alive)
    }

    pub fn nodes(&self, alive: bool) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.alive == alive).map(|(id, _)| *id).collect()
    }

    /// A new node joins with a token.
    pub fn admit(&mut self, id: u64) {
        let mut token = [0; 32];
        token[..8].copy_from_slice(&id.to_le_bytes());
        let expires = self.members.context.now.plus_minutes(10);
        if id != 1 {
            self.members.when(Command::AddToken { hash: token, expires }).expect("is added");
            let joined = self.members.when(Command::Join { token, key: token, member: member(id) });
            joined.expect("joins");
            self.publish();
        }
        let seen = self.views.len().saturating_sub(1);
        self.nodes.insert(id, Node { alive: true, seen, deaf: 0 });
    }

    /// An operator or a node tells the members something, and goes on until it was heard.
    pub fn tell(&mut self, command: Command) -> Result<(), Error> {
        if !self.meta_answers() {
            self.late.push(command);
            return Ok(());
        }
        let before = self.members.context.sequence;
        self.members.when(command)?;
        if self.members.context.sequence != before {
            self.publish();
        }
        Ok(())
    }

    fn meta_answers(&self) -> bool {
        let meta = &self.groups[&ShardId::META];
        meta.leader.is_some() && meta.has_majority(|node| self.is_alive(node))
    }

    /// A changed view goes into the log of every copy of the meta shard.
    fn publish(&mut self) {
        self.views.push(self.view().clone());
        self.ledger.told += 1;
        self.replicated(ShardId::META, 1);
        let known = self.view().members.clone();
        // A node that was forgotten is switched off.
        self.nodes.retain(|id, _| known.contains_key(id));
        for group in self.groups.values_mut() {
            let gone: Vec<u64> = group.members().into_iter().filter(|id| !known.contains_key(id)).collect();
            gone.into_iter().for_each(|id| group.lose(id));
        }
    }

    /// Entries of a group's log: the leader sends them to every other member, and each answers.
    fn replicated(&mut self, shard: ShardId, entries: usize) {
        let Some(group) = self.groups.get(&shard) else { return };
        let Some(leader) = group.leader else { return };
        let others: Vec<u64> = group.members().into_iter().filter(|node| *node != leader).collect();
        for node in others {
            if shard == ShardId::META {
                self.ledger.led += entries;
            } else {
                *self.ledger.sent.entry(leader).or_default() += entries;
            }
            if self.is_alive(node) {
                *self.ledger.sent.entry(node).or_default() += entries;
            }
        }
    }

    /// Whether a node may die so that every set of voters, and every one that is wanted, keeps its majority.
    pub fn can_die(&self, node: u64) -> bool {
        let lives = |other: u64| other != node && self.is_alive(other);
        let wanted = |at: &BTreeSet<u64>| 2 * at.iter().filter(|node| lives(**node)).count() > at.len();
        self.groups.values().all(|group| group.has_majority(lives))
            && self.view().placement.values().all(|at| wanted(&at.voters))
    }

    pub fn kill(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.alive = false;
        }
        self.groups.values_mut().for_each(|group| group.lose(id));
        if self.planner.as_ref().is_some_and(|planner| planner.node == id) {
            self.lose_planner();
        }
    }

    /// A dead node starts again: with its disk, but behind.
    pub fn revive(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.alive = true;
            self.tell(Command::Announce(member(id))).expect("is a member");
        }
    }

    fn lose_planner(&mut self) {
        if let Some(Planner { phase: Phase::Telling(command), .. }) = self.planner.take()
            && self.dice.one_in(2)
        {
            self.late.push(command);
            self.stray += 1;
        }
    }

    /// One look of every node.
    pub fn round(&mut self) {
        self.elect();
        for _ in 0..1 + self.dice.below(4) {
            self.plan();
            self.check();
        }
        if self.dice.one_in(2) {
            for command in std::mem::take(&mut self.late) {
                // Refused when it came too late.
                let _ = self.tell(command);
            }
        }
        self.follow();
        let shards: Vec<ShardId> = self.groups.keys().copied().collect();
        for shard in shards {
            self.hold(shard);
        }
        self.check();
    }

    /// Leaders are lost and found.
    fn elect(&mut self) {
        let alive: BTreeSet<u64> = self.nodes(true).into_iter().collect();
        let elections = self.weather.elections;
        for (shard, group) in &mut self.groups {
            if *shard != ShardId::META && group.leader.is_some() && self.dice.one_in(elections) {
                group.lead(None);
            }
            if group.leader.is_none() && group.has_majority(|node| alive.contains(&node)) && self.dice.one_in(2) {
                let able: Vec<u64> = group.voters().intersection(&group.has_log).copied().collect();
                group.lead(self.dice.pick(&able));
            }
        }
        let deposed = self.weather.deposed;
        let meta = self.groups.get_mut(&ShardId::META).expect("there is one");
        if self.dice.one_in(deposed) {
            meta.lead(None);
        }
        if self.planner.as_ref().map(|planner| planner.node) != meta.leader {
            let leader = meta.leader;
            self.lose_planner();
            self.ledger.planners += usize::from(leader.is_some());
            self.planner = leader.map(|node| Planner { node, plan: Plan::default(), phase: Phase::Idle });
        }
    }

    /// The planner goes on to the next point at which it can be lost.
    fn plan(&mut self) {
        let Some(mut planner) = self.planner.take() else { return };
        let own = planner.node;
        planner.phase = match planner.phase {
            Phase::Idle if planner.plan.is_settled(&self.views[self.nodes[&own].seen]) => Phase::Idle,
            Phase::Idle => {
                let view = self.view().clone();
                let unsure = planner.plan.unsure(&view);
                Phase::Asking(view, unsure)
            }
            Phase::Asking(view, mut unsure) => {
                for _ in 0..1 + self.dice.below(2 * unsure.len()) {
                    let Some(shard) = unsure.pop() else { break };
                    let Some(group) = self.groups.get(&shard) else { continue };
                    if let Some(leader) = group.leader {
                        planner.plan.heard(&view, shard, &group.status());
                        if leader != own {
                            self.ledger.led += 1;
                            *self.ledger.sent.entry(leader).or_default() += 1;
                        }
                    }
                }
                if unsure.is_empty() {
                    match planner.plan.next(view) {
                        Task::Tell(command) => Phase::Telling(command),
                        Task::Wait | Task::Rest => Phase::Idle,
                    }
                } else {
                    Phase::Asking(view, unsure)
                }
            }
            Phase::Telling(command) => {
                // Refused when the members have changed meanwhile.
                let _ = self.tell(command);
                Phase::Idle
            }
        };
        self.planner = Some(planner);
    }

    /// Copies of the meta shard take over what its log has, and nodes read it there.
    fn follow(&mut self) {
        let (latest, deaf) = (self.views.len() - 1, self.weather.deaf);
        let meta = &self.groups[&ShardId::META];
        for (id, node) in &mut self.nodes {
            if node.deaf > 0 {
                node.deaf -= 1;
            } else if self.dice.one_in(deaf) {
                node.deaf = 40;
            } else if node.alive && meta.has_log.contains(id) && !self.dice.one_in(4) {
                node.seen = latest;
            }
        }
    }

    /// Copies catch up, and the leader takes the next step to what it believes is wanted.
    fn hold(&mut self, shard: ShardId) {
        let group = self.groups.get_mut(&shard).expect("is there");
        let Some(leader) = group.leader else { return };
        for node in group.members() {
            if self.nodes.get(&node).is_some_and(|node| node.alive) && !self.dice.one_in(3) {
                group.has_log.insert(node);
            }
        }
        if self.dice.one_in(3) {
            return;
        }
        if group.is_joint() {
            group.end_change();
        }
        let known = &self.views[self.nodes[&leader].seen];
        let next = |view: &View, group: &Group| step(&group.standing(leader), view.placement.get(&shard)?);
        let Some(due) = next(known, group) else { return };
        // As the product does, it asks whoever leads the meta shard whether that is still so.
        let group = &self.groups[&shard];
        if !self.meta_answers() || next(self.view(), group).as_ref() != Some(&due) {
            return;
        }
        if self.groups[&ShardId::META].leader != Some(leader) {
            self.ledger.led += 1;
            *self.ledger.sent.entry(leader).or_default() += 1;
        }
        if let Some(group) = self.groups.get_mut(&shard) {
            let entries = group.take(&due);
            self.replicated(shard, entries);
            self.check();
        }
    }

    /// What must be true at any moment.
    fn check(&self) {
        for (shard, group) in &self.groups {
            assert!(group.has_majority(|node| self.is_alive(node)), "shard {shard} has lost its majority: {group:?}");
            assert!(group.leader.is_none_or(|leader| group.voters().contains(&leader) && self.is_alive(leader)));
        }
        let joint: Vec<_> = self.groups.iter().filter(|(_, group)| group.is_joint()).collect();
        assert!(joint.len() <= 1 + self.stray, "shards change their voters at once: {}", self.told_of(&joint));
    }

    /// Groups, with what is wanted and what their leaders believe is.
    fn told_of(&self, groups: &[(&ShardId, &Group)]) -> String {
        let (mut told, latest) = (String::new(), self.views.len() - 1);
        for (shard, group) in groups {
            let seen = group.leader.map_or(latest, |leader| self.nodes[&leader].seen);
            let (wanted, believed) = (&self.view().placement[shard], &self.views[seen].placement[shard]);
            told +=
                &format!("\n{shard}: wanted {wanted:?}, believed ({} behind) {believed:?}, {group:?}", latest - seen);
        }
        told
    }

    /// Whether everybody knows what is wanted and everything is there.
    fn is_at_rest(&self) -> bool {
        let latest = self.views.len() - 1;
        let settled = self.planner.as_ref().is_some_and(|planner| planner.plan.is_settled(self.view()));
        let arrived = self.view().placement.iter().all(|(shard, at)| {
            self.groups.get(shard).is_some_and(|group| {
                let whole = group.sets == [at.voters.clone()] && group.learners == at.learners;
                whole && group.leader == at.leader && group.has_log == group.members()
            })
        });
        let heard = self.nodes.values().all(|node| node.seen == latest);
        settled && arrived && heard && self.late.is_empty()
    }

    /// Goes on until nothing is left to do. How many rounds that took.
    pub fn come_to_rest(&mut self) -> usize {
        let weather = Weather { elections: usize::MAX, ..self.weather };
        let rough = std::mem::replace(&mut self.weather, weather);
        for round in 0..ROUNDS {
            if round > ROUNDS / 2 {
                // A planner must get to the end some day.
                self.weather.deposed = usize::MAX;
            }
            if self.is_at_rest() {
                (self.weather, self.stray) = (rough, 0);
                return round;
            }
            self.round();
        }
        let left: Vec<_> = moves(self.view()).into_iter().take(4).collect();
        let placed = |shard: &ShardId| &self.view().placement[shard];
        let apart = |(shard, group): &(&ShardId, &Group)| {
            group.sets != [placed(shard).voters.clone()] || group.leader != placed(shard).leader
        };
        let apart: Vec<_> = self.groups.iter().filter(apart).take(4).collect();
        panic!("no rest; moves {left:?}; dead {:?}{}", self.nodes(false), self.told_of(&apart));
    }
}
