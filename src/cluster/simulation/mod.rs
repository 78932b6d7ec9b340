//! Clusters of 3 to 100 virtual nodes on which the product's own members, planner and steps run, in an order that a seed
//! decides: nodes join, drain, leave, die and return, and whoever plans is lost between any two of its steps.
//!
//! The suite runs one seed; `CONSTRUCT_TEST_SEED` runs another.

mod group;
mod world;

use std::collections::BTreeMap;

use self::world::{Ledger, Weather, World, member};
use super::placement::{META_VOTERS, REPLICAS};
use crate::actors::members::{Command, MemberState};
use crate::kernel::ShardId;

/// Messages between nodes that a change may cost each of them, planners that are lost included.
const MESSAGES: usize = 120;
const SIZES: [u64; 6] = [3, 5, 7, 16, 50, 100];

/// Nothing but the work, of one planner after the other.
const CALM: Weather = Weather { deposed: 24, elections: usize::MAX, deaf: usize::MAX };
const ROUGH: Weather = Weather { deposed: 12, elections: 200, deaf: 40 };

/// Of the runs that are part of the suite: the one that found two shards changing their voters at once.
const SEED: u64 = 141_764_807_826_866_297;

fn seed() -> u64 {
    let seed = std::env::var("CONSTRUCT_TEST_SEED").map_or(SEED, |text| text.parse().expect("a number"));
    println!("CONSTRUCT_TEST_SEED={seed}");
    seed
}

/// Two shards a node, so that what a node holds does not depend on how many there are.
fn shards(size: u64) -> u16 {
    u16::try_from(2 * size).expect("few")
}

impl World {
    fn ids(&self, state: MemberState) -> Vec<u64> {
        self.view().members.iter().filter(|(_, known)| known.state == state).map(|(id, _)| *id).collect()
    }

    /// Copies of data shards that a node holds.
    fn held(&self, node: u64) -> usize {
        let data = self.groups.iter().filter(|(shard, _)| **shard != ShardId::META);
        data.filter(|(_, group)| group.members().contains(&node)).count()
    }

    fn copies(&self) -> usize {
        self.groups.iter().filter(|(shard, _)| **shard != ShardId::META).map(|(_, group)| group.copies).sum()
    }

    /// What must be true of a cluster at rest.
    fn check_balance(&self) {
        let up = self.ids(MemberState::Up);
        assert!(self.ids(MemberState::Leaving).is_empty(), "whoever left is forgotten");
        let mut leads: BTreeMap<u64, usize> = up.iter().map(|node| (*node, 0)).collect();
        for (shard, group) in &self.groups {
            let leader = group.leader.expect("is led");
            *leads.get_mut(&leader).expect("leaders are up") += 1;
            let voters = if *shard == ShardId::META { META_VOTERS } else { REPLICAS };
            assert!(group.voters().len() >= voters.min(up.len()), "shard {shard}: {group:?}");
            assert!(*shard != ShardId::META || group.members().iter().eq(self.view().members.keys()));
        }
        let held: Vec<usize> = up.iter().map(|node| self.held(*node)).collect();
        let spread = |of: &[usize]| of.iter().max().expect("some") - of.iter().min().expect("some");
        assert!(spread(&held) <= 1, "copies are uneven: {held:?}");
        let leads: Vec<usize> = leads.into_values().collect();
        assert!(spread(&leads) <= 2, "leads are uneven: {leads:?}");
    }

    /// One change from rest to rest: the copies that were begun for it.
    fn change(&mut self, what: &str, change: impl FnOnce(&mut Self)) -> usize {
        let before = self.copies();
        self.ledger = Ledger::default();
        change(self);
        self.come_to_rest();
        self.check_balance();
        let copies = self.copies() - before;
        let (Ledger { led, sent, told, planners }, nodes) = (&self.ledger, self.view().members.len());
        let (all, most) = (sent.values().sum::<usize>(), sent.values().max().copied().unwrap_or(0));
        println!(
            "{what} at {nodes}: {copies} copies, {told} changes of the members, {planners} planners lost, messages of a \
             node {} on average and {most} at most, {led} of who leads the meta shard",
            all / nodes
        );
        // The same whatever the size; and of whoever leads the meta shard so many for each node.
        assert!(most <= MESSAGES && *led <= MESSAGES * nodes, "{what} at {nodes}: {most} and {led} messages");
        copies
    }
}

#[test]
fn a_change_moves_no_more_than_it_must() {
    let seed = seed();
    for size in SIZES {
        let mut world = World::new(seed ^ size, size, shards(size), CALM);
        let (all, next) = (REPLICAS * usize::from(shards(size)), size + 1);
        let nodes = usize::try_from(size).expect("few");

        let joined = world.change("a join", |world| world.admit(next));
        // Fewer could not be even.
        let share = (all / (nodes + 1), all.div_ceil(nodes + 1));
        assert!((share.0..=share.1).contains(&joined), "{joined} copies for a share of {share:?}, {size} nodes");

        let ids = world.ids(MemberState::Up);
        let node = world.dice.pick(&ids).expect("some");
        let held = world.held(node);
        let drained = world.change("a drain", |world| world.tell(Command::Drain { node }).expect("drains"));
        assert_eq!(drained, held, "the drain of {node} of {next}");

        let returned = world.change("a return", |world| world.tell(Command::Announce(member(node))).expect("is back"));
        assert!((share.0..=share.1).contains(&returned), "{returned} copies for a share of {share:?}, {size} nodes");

        let node = world.dice.pick(&ids).expect("some");
        let held = world.held(node);
        let removed = world.change("a removal", |world| world.tell(Command::Remove { node }).expect("leaves"));
        assert_eq!(removed, held, "the removal of {node} of {next}");
    }
}

#[test]
fn whatever_happens_no_shard_loses_its_majority_and_all_comes_to_rest() {
    let seed = seed();
    for size in SIZES {
        let (acts, times) = if size > 16 { (3, 1) } else { (12, 2) };
        for run in 0..times {
            chaos(seed ^ (size << 8) ^ run, size, acts);
        }
    }
}

fn chaos(seed: u64, size: u64, acts: usize) {
    let mut world = World::new(seed, size, shards(size), ROUGH);
    let mut next = size + 1;
    for _ in 0..acts {
        act(&mut world, &mut next);
        for _ in 0..world.dice.below(40) {
            world.round();
        }
    }
    let dead = world.nodes(false);
    for node in dead {
        // What is dead for good is given up, if there are enough.
        if world.dice.one_in(2) && world.tell(Command::Remove { node }).is_ok() {
            continue;
        }
        world.revive(node);
    }
    world.come_to_rest();
    world.check_balance();
}

/// Something that happens to a cluster. Refusals are part of life.
fn act(world: &mut World, next: &mut u64) {
    let alive = world.nodes(true);
    let Some(node) = world.dice.pick(&alive) else { return };
    match world.dice.below(8) {
        0 | 1 => {
            world.admit(*next);
            *next += 1;
        }
        2 => drop(world.tell(Command::Drain { node })),
        3 => drop(world.tell(Command::Remove { node })),
        4 | 5 if world.can_die(node) => world.kill(node),
        _ => {
            let dead = world.nodes(false);
            if let Some(node) = world.dice.pick(&dead) {
                world.revive(node);
            }
        }
    }
}
