//! Steps taken one after the other, with any leader in between, always end where they should.

use std::sync::Arc;

use openraft::{Membership, StoredMembership};
use proptest::prelude::*;

use super::*;
use crate::storage::types::{LeaderId, LogId};

fn set(nodes: &[u64]) -> BTreeSet<u64> {
    nodes.iter().copied().collect()
}

fn standing(own: u64, voters: &[u64], learners: &[u64]) -> Standing {
    let current = voters.iter().chain(learners).copied().collect();
    Standing { own, voters: set(voters), learners: set(learners), current, incoming: None, unnamed: BTreeSet::new() }
}

fn wanted(voters: &[u64], learners: &[u64], leader: u64) -> Replicas {
    Replicas { voters: set(voters), learners: set(learners), leader: Some(leader) }
}

fn at(index: u64) -> LogId {
    use openraft::vote::RaftLeaderId;
    LogId::new(LeaderId::new(1, 1).to_committed(), index)
}

/// What a leader reports: node 1, since entry 5 in a group of three, of whom 2 has the log up to 4 and 3 up to 5.
fn report() -> RaftMetrics<TypeConfig> {
    let members: BTreeMap<u64, BasicNode> = (1..=3).map(|node| (node, BasicNode::new("127.0.0.1:1"))).collect();
    let members = Membership::new(vec![set(&[1, 2, 3])], members).unwrap();
    let mut report = RaftMetrics::<TypeConfig>::new_initial(1);
    report.membership_config = Arc::new(StoredMembership::new(Some(at(5)), members));
    (report.last_log_index, report.last_applied) = (Some(6), Some(at(5)));
    report.replication = Some(BTreeMap::from([(2, Some(at(4))), (3, Some(at(5)))]));
    let now = <TypeConfig as openraft::type_config::TypeConfigExt>::now();
    report.heartbeat = Some(BTreeMap::from([(2, Some(now.into())), (3, Some(now.into()))]));
    report
}

#[test]
fn who_lacks_the_entry_that_made_it_a_member_is_not_counted_on() {
    let silence = Duration::from_secs(60);
    assert_eq!(reported(&report(), &BTreeMap::new(), silence).unwrap().current, set(&[1, 3]));
    assert_eq!(reported(&report(), &BTreeMap::new(), Duration::ZERO).unwrap().current, set(&[1]), "nobody was heard");
    let keys = BTreeMap::from([(3, [7; 32])]);
    assert_eq!(reported(&report(), &keys, silence).unwrap().unnamed, set(&[3]), "it joined with a key");
}

#[test]
fn a_change_that_is_not_decided_is_taken_for_neither() {
    let mut report = report();
    assert_eq!(decided(&report), BTreeSet::from([(1, true), (2, true), (3, true)]));
    report.last_applied = Some(at(4));
    let unsure = (1..=3).flat_map(|node| [(node, true), (node, false)]).collect();
    assert_eq!(decided(&report), unsure);
}

#[test]
fn a_voter_is_a_learner_first_and_waits_until_it_has_the_log() {
    let grown = wanted(&[1, 2], &[], 1);
    assert_eq!(step(&standing(1, &[1], &[]), &grown), Some(Step::AddLearner(2)));
    let mut learning = standing(1, &[1], &[2]);
    assert_eq!(step(&learning, &grown), Some(Step::SetVoters(set(&[1, 2]))));
    learning.current.remove(&2);
    assert_eq!(step(&learning, &grown), None, "it lacks the log");
    assert_eq!(step(&standing(1, &[1, 2], &[]), &grown), None, "it is done");
}

#[test]
fn a_member_is_named_by_its_key_before_it_gets_a_vote() {
    let grown = wanted(&[1, 2], &[], 1);
    let mut learning = standing(1, &[1], &[2]);
    learning.unnamed.insert(2);
    assert_eq!(step(&learning, &grown), Some(Step::Name(2)));
    let mut voting = standing(1, &[1, 2], &[]);
    voting.unnamed.insert(2);
    assert_eq!(step(&voting, &grown), Some(Step::Name(2)), "also one that has a vote since before there were names");
    assert_eq!(step(&voting, &wanted(&[1], &[], 1)), Some(Step::SetVoters(set(&[1]))), "who goes needs no name");
}

#[test]
fn a_leader_that_should_go_hands_over_first_and_the_next_lets_it_go() {
    let without = wanted(&[2, 3], &[], 3);
    assert_eq!(step(&standing(1, &[1, 2, 3], &[]), &without), Some(Step::HandOver(3)));
    assert_eq!(step(&standing(3, &[1, 2, 3], &[]), &without), Some(Step::SetVoters(set(&[2, 3]))));
    let mut dead = standing(1, &[1, 2, 3], &[]);
    dead.current.remove(&3);
    assert_eq!(step(&dead, &without), Some(Step::HandOver(2)), "whoever answers");
    assert_eq!(step(&dead, &wanted(&[1, 2, 3], &[], 3)), None, "no hand-over to one that does not answer");
}

#[test]
fn a_change_that_was_begun_is_ended_whatever_is_wanted_by_now() {
    let mut joint = standing(2, &[1, 2, 3, 4], &[]);
    joint.incoming = Some(set(&[2, 3, 4]));
    let other = wanted(&[2, 3, 5], &[], 3);
    assert_eq!(step(&joint, &other), Some(Step::SetVoters(set(&[2, 3, 4]))), "5 is no learner yet");
    joint.own = 1;
    assert_eq!(
        step(&joint, &other),
        Some(Step::SetVoters(set(&[1, 2, 3, 4]))),
        "whoever leads stays until it does not"
    );
}

#[test]
fn no_change_leaves_a_majority_that_does_not_answer() {
    let fewer = wanted(&[2, 3], &[], 2);
    let mut dead = standing(2, &[1, 2, 3], &[]);
    dead.current.remove(&3);
    assert_eq!(step(&dead, &fewer), None, "two of three answer, and one of the two that are wanted");
    assert_eq!(step(&dead, &wanted(&[1, 2], &[], 2)), Some(Step::SetVoters(set(&[1, 2]))), "without the dead one");
}

proptest! {
    #[test]
    fn steps_end_where_they_should_whoever_leads(
        from in proptest::collection::btree_set(1u64..9, 1..5),
        voters in proptest::collection::btree_set(1u64..9, 1..5),
        others in proptest::collection::btree_set(1u64..9, 0..4),
        leaders in proptest::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let learners = others.difference(&voters).copied().collect();
        let leader = voters.first().copied();
        let wanted = Replicas { voters: voters.clone(), learners, leader };
        let first = *from.first().expect("not empty");
        let mut now = standing(first, &from.iter().copied().collect::<Vec<_>>(), &[]);
        for leader in leaders {
            // Sometimes another voter takes over on its own.
            let any: Vec<u64> = now.voters.iter().copied().collect();
            if leader.index(3) == 0 {
                now.own = *leader.get(&any);
            }
            let Some(step) = step(&now, &wanted) else { break };
            let before = now.voters.clone();
            match step {
                Step::Name(node) => prop_assert!(now.unnamed.remove(&node)),
                Step::AddLearner(node) => prop_assert!(now.learners.insert(node) && !before.contains(&node)),
                Step::SetVoters(voters) => {
                    prop_assert!(voters.contains(&now.own), "a leader does not vote itself out");
                    prop_assert!(voters.iter().all(|node| before.contains(node) || now.learners.contains(node)));
                    now.learners.retain(|node| !voters.contains(node));
                    now.voters = voters;
                }
                Step::RemoveLearner(node) => prop_assert!(now.learners.remove(&node)),
                Step::HandOver(node) => {
                    prop_assert!(now.voters.contains(&node));
                    now.own = node;
                }
            }
            now.current = now.voters.union(&now.learners).copied().collect();
        }
        // Once elections are over, what is left to do is done.
        for _ in 0..40 {
            match step(&now, &wanted) {
                None => break,
                Some(Step::Name(node)) => drop(now.unnamed.remove(&node)),
                Some(Step::AddLearner(node)) => drop(now.learners.insert(node)),
                Some(Step::SetVoters(voters)) => {
                    now.learners.retain(|node| !voters.contains(node));
                    now.voters = voters;
                }
                Some(Step::RemoveLearner(node)) => drop(now.learners.remove(&node)),
                Some(Step::HandOver(node)) => now.own = node,
            }
            now.current = now.voters.union(&now.learners).copied().collect();
        }
        prop_assert_eq!((&now.voters, &now.learners), (&wanted.voters, &wanted.learners));
        prop_assert_eq!(Some(now.own), wanted.leader);
    }
}
