//! Where shards should be: a pure function of the members and of where they are now.
//!
//! A shard has [`REPLICAS`] voters on distinct members, in distinct zones where there are enough, and the meta shard a
//! copy on every member, which one that leaves gives up last, with a vote on at most [`META_VOTERS`]. What is there stays there unless it has to move: because
//! its member leaves, drains and can be replaced, or holds at least two more than another. Leaders are spread evenly over
//! members that are up. Deliberately absent: time, the network, and whether a member can be reached.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::actors::members::{MemberState, Replicas, View};
use crate::kernel::ShardId;

/// Voters of a data shard, with enough members.
pub const REPLICAS: usize = 3;
/// Voters of the meta shard, with enough members; the others hold copies.
pub const META_VOTERS: usize = 5;

/// Where every shard should be. Where `view` already says so, the answer is what it says.
#[must_use]
pub fn plan(view: &View) -> BTreeMap<ShardId, Replicas> {
    let mut planned = Planned::new(view);
    let meta = planned.meta();
    let mut placement: BTreeMap<ShardId, Replicas> = BTreeMap::from([(ShardId::META, meta)]);
    for shard in (1..=view.shards).map(ShardId) {
        let staying = planned.current(shard);
        planned.count(&staying, 1);
    }
    for shard in (1..=view.shards).map(ShardId) {
        let current = planned.current(shard);
        planned.count(&current, -1);
        let voters = planned.voters(&current);
        planned.count(&voters, 1);
        placement.insert(shard, Replicas { voters, ..Replicas::default() });
    }
    planned.even_out(&mut placement);
    planned.lead(&mut placement);
    placement
}

/// The shards whose placement differs from the plan, and their new placements: those of leaving members first, so that
/// whoever is gone holds up nothing else. Before all of them members get their copy of the meta shard: one that led a shard
/// without it would not hear what becomes of that.
#[must_use]
pub fn moves(view: &View) -> Vec<(ShardId, Replicas)> {
    if view.members.len() < 2 && view.placement.is_empty() {
        // A cluster of one is where it was formed.
        return Vec::new();
    }
    let gone = |node: &u64| view.members.get(node).is_none_or(|known| known.state == MemberState::Leaving);
    let waits = |shard: &ShardId| {
        let held = view.placement.get(shard);
        !held.is_some_and(|held| held.voters.iter().chain(&held.learners).any(gone))
    };
    let mut moves: Vec<_> =
        plan(view).into_iter().filter(|(shard, wanted)| view.placement.get(shard) != Some(wanted)).collect();
    moves.sort_by_key(|(shard, _)| (waits(shard), *shard));
    if let Some(copies) = missing_copies(view) {
        moves.retain(|(shard, _)| *shard != ShardId::META);
        moves.insert(0, (ShardId::META, copies));
    }
    moves
}

/// The meta shard as it is, with a copy for every member that stays and has none; that waits for nobody.
pub(super) fn missing_copies(view: &View) -> Option<Replicas> {
    let mut held = view.placement.get(&ShardId::META)?.clone();
    let staying = view.members.iter().filter(|(_, known)| known.state != MemberState::Leaving).map(|(node, _)| *node);
    let missing: Vec<u64> =
        staying.filter(|node| !held.voters.contains(node) && !held.learners.contains(node)).collect();
    held.learners.extend(&missing);
    (!missing.is_empty()).then_some(held)
}

/// The plan while it is made.
struct Planned<'a> {
    view: &'a View,
    /// Members that may take replicas, with their load and zone.
    load: BTreeMap<u64, usize>,
}

impl<'a> Planned<'a> {
    fn new(view: &'a View) -> Self {
        let up = view.members.iter().filter(|(_, known)| known.state == MemberState::Up);
        Self { view, load: up.map(|(id, _)| (*id, 0)).collect() }
    }

    fn zone(&self, node: u64) -> &str {
        self.view.members.get(&node).map_or("", |known| &known.member.zone)
    }

    fn state(&self, node: u64) -> Option<MemberState> {
        self.view.members.get(&node).map(|known| known.state)
    }

    /// Voters as placed; where nothing was placed, the members of the first hour.
    fn current(&self, shard: ShardId) -> BTreeSet<u64> {
        self.view.placement.get(&shard).map(|replicas| replicas.voters.clone()).unwrap_or_default()
    }

    /// Everyone who stays has the meta shard; those who voted keep their vote. Whoever leaves keeps a copy until it holds
    /// nothing else: it may lead a shard, and must hear who is to take over.
    fn meta(&self) -> Replicas {
        let current = self.current(ShardId::META);
        let leaves = |node: &u64| self.state(*node) == Some(MemberState::Leaving);
        let members = self.view.members.keys().copied();
        let staying: BTreeSet<u64> = members.clone().filter(|node| !leaves(node)).collect();
        let leaving = members.filter(|node| leaves(node) && self.holds_data(*node));
        let mut voters: BTreeSet<u64> = current.intersection(&staying).copied().take(META_VOTERS).collect();
        for node in self.load.keys().chain(&staying) {
            if voters.len() < META_VOTERS {
                voters.insert(*node);
            }
        }
        let learners = staying.difference(&voters).copied().chain(leaving).collect();
        Replicas { voters, learners, leader: None }
    }

    fn holds_data(&self, node: u64) -> bool {
        let data = self.view.placement.iter().filter(|(shard, _)| **shard != ShardId::META);
        data.into_iter().any(|(_, held)| held.voters.contains(&node) || held.learners.contains(&node))
    }

    /// Who is to hold a shard that `current` hold now.
    fn voters(&self, current: &BTreeSet<u64>) -> BTreeSet<u64> {
        let mut voters: BTreeSet<u64> = current.iter().copied().filter(|node| self.load.contains_key(node)).collect();
        while voters.len() > REPLICAS {
            let zones = self.zones(&voters);
            let crowded = |node: &u64| (zones[self.zone(*node)], self.load[node], *node);
            let Some(out) = voters.iter().copied().max_by_key(crowded) else { break };
            voters.remove(&out);
        }
        while voters.len() < REPLICAS {
            let Some(node) = self.best(&voters) else { break };
            voters.insert(node);
        }
        // Where nobody can take over, a draining member keeps its copy.
        for node in current {
            if voters.len() < REPLICAS && self.state(*node) == Some(MemberState::Draining) {
                voters.insert(*node);
            }
        }
        if let Some((out, node)) = self.better_zone(&voters) {
            voters.remove(&out);
            voters.insert(node);
        }
        voters
    }

    /// The member that should take the next copy: in a new zone if there is one, with the least load.
    fn best(&self, voters: &BTreeSet<u64>) -> Option<u64> {
        let zones = self.zones(voters);
        let free = self.load.iter().filter(|(node, _)| !voters.contains(node));
        let rank = |(node, load): &(&u64, &usize)| (zones.get(self.zone(**node)).copied().unwrap_or(0), **load, **node);
        free.min_by_key(rank).map(|(node, _)| *node)
    }

    fn zones(&self, voters: &BTreeSet<u64>) -> BTreeMap<&str, usize> {
        let mut zones = BTreeMap::new();
        for node in voters {
            *zones.entry(self.zone(*node)).or_insert(0) += 1;
        }
        zones
    }

    /// A copy that shares its zone, and a member in a zone without one.
    fn better_zone(&self, voters: &BTreeSet<u64>) -> Option<(u64, u64)> {
        let zones = self.zones(voters);
        let shared = |node: &u64| zones[self.zone(*node)] > 1;
        let out = voters.iter().copied().filter(shared).max_by_key(|node| self.load.get(node).copied().unwrap_or(0))?;
        let node = self.best(voters)?;
        (!zones.contains_key(self.zone(node))).then_some((out, node))
    }

    fn count(&mut self, voters: &BTreeSet<u64>, by: isize) {
        for node in voters {
            if let Some(load) = self.load.get_mut(node) {
                *load = load.saturating_add_signed(by);
            }
        }
    }

    /// Moves copies from members that hold at least two more than another, where zones allow it: from the one that holds
    /// most to the one that holds least, so that a new member alone gets copies.
    fn even_out(&mut self, placement: &mut BTreeMap<ShardId, Replicas>) {
        while let Some(moves) = self.uneven(placement) {
            for Move { shard, out, into } in moves {
                self.count(&BTreeSet::from([out]), -1);
                self.count(&BTreeSet::from([into]), 1);
                let Some(replicas) = placement.get_mut(&shard) else { return };
                replicas.voters.remove(&out);
                replicas.voters.insert(into);
            }
        }
    }

    /// What takes a copy from one that holds too many to one that holds too few. Copies that are yet to be made cost
    /// nothing to move, and may be passed on over others; only without such a way one that is there moves.
    fn uneven(&self, placement: &BTreeMap<ShardId, Replicas>) -> Option<Vec<Move>> {
        let mut by_load: Vec<(usize, u64)> = self.load.iter().map(|(node, load)| (*load, *node)).collect();
        by_load.sort_unstable();
        let (lightest, _) = *by_load.first()?;
        let to_be_made = self.to_be_made(placement);
        for (heavy, out) in by_load.iter().rev().take_while(|(heavy, _)| *heavy >= lightest + 2) {
            if let Some(moves) = self.pass_on(placement, &to_be_made, *out, heavy - 2) {
                return Some(moves);
            }
        }
        for (heavy, out) in by_load.iter().rev() {
            for (_, into) in by_load.iter().take_while(|(light, _)| *heavy >= light + 2) {
                let movable = |(shard, held): &(&ShardId, &Replicas)| {
                    **shard != ShardId::META && held.voters.contains(out) && self.can_take(&held.voters, *out, *into)
                };
                if let Some((shard, _)) = placement.iter().find(movable) {
                    return Some(vec![Move { shard: *shard, out: *out, into: *into }]);
                }
            }
        }
        None
    }

    /// By member: shards of which it is to get a copy.
    fn to_be_made(&self, placement: &BTreeMap<ShardId, Replicas>) -> BTreeMap<u64, Vec<ShardId>> {
        let mut to_be_made = BTreeMap::<u64, Vec<ShardId>>::new();
        for (shard, planned) in placement.iter().filter(|(shard, _)| **shard != ShardId::META) {
            for node in planned.voters.difference(&self.current(*shard)) {
                to_be_made.entry(*node).or_default().push(*shard);
            }
        }
        to_be_made
    }

    /// The shortest way of copies that are yet to be made from `from` to a member that holds at most `enough`.
    fn pass_on(
        &self,
        placement: &BTreeMap<ShardId, Replicas>,
        to_be_made: &BTreeMap<u64, Vec<ShardId>>,
        from: u64,
        enough: usize,
    ) -> Option<Vec<Move>> {
        let mut reached = BTreeMap::<u64, Move>::new();
        let mut queue = VecDeque::from([from]);
        while let Some(out) = queue.pop_front() {
            for shard in to_be_made.get(&out).into_iter().flatten() {
                for (into, load) in self.load.iter().filter(|(into, _)| **into != from) {
                    if reached.contains_key(into) || !self.can_take(&placement[shard].voters, out, *into) {
                        continue;
                    }
                    reached.insert(*into, Move { shard: *shard, out, into: *into });
                    if *load <= enough {
                        return way_back(&reached, *into);
                    }
                    queue.push_back(*into);
                }
            }
        }
        None
    }

    fn can_take(&self, voters: &BTreeSet<u64>, out: u64, into: u64) -> bool {
        !voters.contains(&into) && self.keeps_zones(voters, out, into)
    }

    /// Whether no zone gets more crowded when `into` takes the copy of `out`.
    fn keeps_zones(&self, voters: &BTreeSet<u64>, out: u64, into: u64) -> bool {
        let others =
            |node: u64| voters.iter().filter(|other| **other != out && self.zone(**other) == self.zone(node)).count();
        others(into) <= others(out)
    }

    /// Names leaders: who leads stays where that is even enough.
    fn lead(&self, placement: &mut BTreeMap<ShardId, Replicas>) {
        let mut leads: BTreeMap<u64, usize> = self.load.keys().map(|node| (*node, 0)).collect();
        let fair = placement.len().div_ceil(leads.len().max(1));
        for (shard, replicas) in placement.iter_mut() {
            let before = self.view.placement.get(shard).and_then(|replicas| replicas.leader);
            let stays = |node: &u64| replicas.voters.contains(node) && leads.get(node).is_some_and(|held| *held < fair);
            replicas.leader = before.filter(stays);
            if let Some(held) = replicas.leader.and_then(|node| leads.get_mut(&node)) {
                *held += 1;
            }
        }
        for replicas in placement.values_mut().filter(|replicas| replicas.leader.is_none()) {
            let able = replicas.voters.iter().copied().filter(|node| leads.contains_key(node));
            replicas.leader = able.min_by_key(|node| (leads[node], *node));
            if let Some(held) = replicas.leader.and_then(|node| leads.get_mut(&node)) {
                *held += 1;
            }
        }
        even_leads(placement, &mut leads);
    }
}

/// A copy of a shard that one member is to have in place of another.
#[derive(Debug, Clone, Copy)]
struct Move {
    shard: ShardId,
    out: u64,
    into: u64,
}

/// The moves that led to `node`; `None` when two are of the same shard, and one may forbid the other.
fn way_back(reached: &BTreeMap<u64, Move>, node: u64) -> Option<Vec<Move>> {
    let way: Vec<Move> = std::iter::successors(reached.get(&node), |step| reached.get(&step.out)).copied().collect();
    let shards: BTreeSet<ShardId> = way.iter().map(|step| step.shard).collect();
    (shards.len() == way.len()).then_some(way)
}

/// Moves leads from members that have at least two more than another voter of the same shard.
fn even_leads(placement: &mut BTreeMap<ShardId, Replicas>, leads: &mut BTreeMap<u64, usize>) {
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for replicas in placement.values_mut() {
            let Some(from) = replicas.leader else { continue };
            let able = replicas.voters.iter().copied().filter(|node| leads.contains_key(node));
            let Some(to) = able.min_by_key(|node| (leads[node], *node)) else { continue };
            if leads[&from] >= leads[&to] + 2 {
                leads.entry(from).and_modify(|held| *held -= 1);
                leads.entry(to).and_modify(|held| *held += 1);
                replicas.leader = Some(to);
                moved = true;
            }
        }
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
