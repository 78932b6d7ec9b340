//! Clusters of 3 to 100 members that join, drain, leave and come back, and every step of every plan.

use proptest::prelude::*;

use super::*;
use crate::actors::members::{Known, Member};

#[derive(Debug, Clone)]
enum Act {
    Join,
    Drain(usize),
    Return(usize),
    Leave(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => Just(Act::Join),
        1 => any::<usize>().prop_map(Act::Drain),
        1 => any::<usize>().prop_map(Act::Return),
        2 => any::<usize>().prop_map(Act::Leave),
    ];
    proptest::collection::vec(act, 1..12)
}

fn member(id: u64, zones: u64) -> Known {
    let zone = if zones == 0 { String::new() } else { format!("z{}", id % zones) };
    let member = Member { id, address: format!("10.0.0.1:{id}"), zone, version: String::new() };
    Known { member, state: MemberState::Up }
}

fn cluster(members: u64, shards: u16, zones: u64) -> View {
    let members = (1..=members).map(|id| (id, member(id, zones))).collect();
    View { cluster: [1; 16], shards, members, placement: BTreeMap::new() }
}

/// Carries out one move after the other until none is left; every shard keeps a majority of what it had, or what it had
/// is no more. Answers how many copies were made.
fn settle(view: &mut View) -> usize {
    let (mut copies, mut steps) = (0, 0);
    while let Some((shard, replicas)) = moves(view).into_iter().next() {
        let before = view.placement.get(&shard).map(|held| held.voters.clone()).unwrap_or_default();
        assert!(!replicas.voters.is_empty(), "shard {shard} has nobody");
        assert!(replicas.voters.iter().all(|node| view.members.contains_key(node)));
        assert!(replicas.leader.is_none_or(|leader| replicas.voters.contains(&leader)));
        copies += replicas.voters.difference(&before).count();
        view.placement.insert(shard, replicas);
        steps += 1;
        assert!(steps <= 8 * (usize::from(view.shards) + 1), "the plan does not come to rest");
    }
    let held: BTreeSet<u64> =
        view.placement.values().flat_map(|held| held.voters.union(&held.learners)).copied().collect();
    view.members.retain(|id, known| known.state != MemberState::Leaving || held.contains(id));
    copies
}

fn ids(view: &View, state: MemberState) -> Vec<u64> {
    view.members.iter().filter(|(_, known)| known.state == state).map(|(id, _)| *id).collect()
}

fn check(view: &View, zones: u64) {
    let up = ids(view, MemberState::Up);
    assert!(ids(view, MemberState::Leaving).is_empty(), "whoever left holds nothing");
    let (mut load, mut leads) = (BTreeMap::<u64, usize>::new(), BTreeMap::<u64, usize>::new());
    up.iter().for_each(|node| assert!(load.insert(*node, 0).is_none() && leads.insert(*node, 0).is_none()));
    for (shard, replicas) in &view.placement {
        let leader = replicas.leader.expect("somebody is up");
        *leads.get_mut(&leader).expect("leaders are up") += 1;
        if *shard == ShardId::META {
            let everyone: BTreeSet<u64> = replicas.voters.union(&replicas.learners).copied().collect();
            assert_eq!(everyone, view.members.keys().copied().collect(), "all have the meta shard");
            assert_eq!(replicas.voters.len(), META_VOTERS.min(view.members.len()));
            continue;
        }
        assert!(replicas.learners.is_empty() && replicas.voters.len() <= REPLICAS);
        assert!(replicas.voters.len() >= REPLICAS.min(up.len()), "shard {shard}: {replicas:?}");
        let held: BTreeSet<u64> = replicas.voters.iter().map(|node| node % zones.max(1)).collect();
        let named: BTreeSet<u64> = up.iter().map(|node| node % zones.max(1)).collect();
        if zones > 0 && replicas.voters.iter().all(|node| up.contains(node)) {
            assert_eq!(
                held.len(),
                named.len().min(replicas.voters.len()),
                "shard {shard} in zones {held:?} of {named:?}"
            );
        }
        replicas.voters.iter().for_each(|node| {
            load.entry(*node).and_modify(|held| *held += 1);
        });
    }
    let spread = |of: &BTreeMap<u64, usize>| of.values().max().unwrap_or(&0) - of.values().min().unwrap_or(&0);
    if zones == 0 {
        assert!(spread(&load) <= 1, "copies are spread evenly: {load:?}");
        assert!(spread(&leads) <= 2, "leads are spread evenly: {leads:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_is_sound_even_and_comes_to_rest(
        members in 3u64..100,
        shards in 1u16..48,
        zones in prop_oneof![Just(0u64), 3u64..6],
        acts in acts(),
    ) {
        let mut view = cluster(members, shards, zones);
        settle(&mut view);
        check(&view, zones);
        let mut next = members + 1;
        for act in acts {
            let pick = |from: Vec<u64>, at: usize| (!from.is_empty()).then(|| from[at % from.len()]);
            let (up, draining) = (ids(&view, MemberState::Up), ids(&view, MemberState::Draining));
            let (who, state) = match act {
                Act::Join => {
                    view.members.insert(next, member(next, zones));
                    next += 1;
                    (None, MemberState::Up)
                }
                Act::Drain(at) if up.len() > 1 => (pick(up, at), MemberState::Draining),
                Act::Return(at) => (pick(draining, at), MemberState::Up),
                Act::Leave(at) if up.len() > 1 => (pick(up, at), MemberState::Leaving),
                Act::Drain(_) | Act::Leave(_) => (None, MemberState::Up),
            };
            if let Some(known) = who.and_then(|id| view.members.get_mut(&id)) {
                known.state = state;
            }
            settle(&mut view);
            check(&view, zones);
        }
    }

    #[test]
    fn a_member_that_joins_takes_its_share_and_nothing_else_moves(members in 3u64..100, shards in 1u16..64) {
        let mut view = cluster(members, shards, 0);
        settle(&mut view);
        view.members.insert(members + 1, member(members + 1, 0));
        let before = view.placement.clone();
        settle(&mut view);
        let data = |placement: &BTreeMap<ShardId, Replicas>| -> Vec<BTreeSet<u64>> {
            placement.iter().filter(|(shard, _)| **shard != ShardId::META).map(|(_, held)| held.voters.clone()).collect()
        };
        for (old, new) in data(&before).iter().zip(data(&view.placement)) {
            prop_assert!(new.difference(old).all(|node| *node == members + 1), "only the new member gets copies");
        }
        let share = (REPLICAS * usize::from(shards)).div_ceil(usize::try_from(members + 1).unwrap());
        let got = data(&view.placement).iter().filter(|held| held.contains(&(members + 1))).count();
        prop_assert!(got <= share, "{got} copies for a share of {share}");
    }
}

#[test]
fn a_cluster_grows_from_one_to_four_and_shrinks_again() {
    let mut view = cluster(1, 8, 0);
    for (members, copies) in [(1, 0), (2, 18), (3, 9), (4, 7)] {
        view.members.entry(members).or_insert_with(|| member(members, 0));
        assert_eq!(settle(&mut view), copies, "with member {members}");
        if members > 1 {
            check(&view, 0);
        }
    }
    view.members.get_mut(&2).expect("is there").state = MemberState::Leaving;
    assert_eq!(settle(&mut view), 6, "what it held, once");
    check(&view, 0);
    view.members.get_mut(&3).expect("is there").state = MemberState::Draining;
    assert_eq!(settle(&mut view), 0, "nobody can take over: the copies stay, the leads go");
    check(&view, 0);
    assert!(view.placement.values().all(|held| held.leader != Some(3)));
}
