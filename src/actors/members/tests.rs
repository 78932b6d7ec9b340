use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Error, ErrorCode, ShardId};

const CLUSTER: [u8; 16] = [9; 16];

fn member(id: u64) -> Member {
    Member { id, address: format!("127.0.0.{id}:8082"), zone: String::new(), version: "0.1.0".into() }
}

fn formed() -> Given<Members> {
    let mut given = Given::<Members>::new("members");
    given.when(Command::Form { cluster: CLUSTER, shards: 2, member: member(1) }).expect("forms");
    given
}

fn token(given: &mut Given<Members>, byte: u8) -> [u8; 32] {
    let (hash, expires) = ([byte; 32], given.context.now.plus_minutes(10));
    given.when(Command::AddToken { hash, expires }).expect("is added");
    hash
}

fn join(given: &mut Given<Members>, token: [u8; 32], key: u8, id: u64) -> Result<View, Error> {
    given.when(Command::Join { token, key: [key; 32], member: member(id) }).map(|decision| decision.reply)
}

fn view(given: &mut Given<Members>) -> View {
    given.when(Command::Get).expect("a query").reply
}

fn on(voters: &[u64], leader: u64) -> Replicas {
    Replicas { voters: voters.iter().copied().collect(), leader: Some(leader), ..Replicas::default() }
}

#[test]
fn a_token_lets_one_node_in_once_and_answers_it_again() {
    let mut given = formed();
    let again = Command::Form { cluster: [1; 16], shards: 7, member: member(5) };
    assert!(given.when(again).expect("a repeat").is_query(), "formed once");
    let hash = token(&mut given, 7);
    assert_eq!(join(&mut given, [8; 32], 1, 2).expect_err("unknown").code, ErrorCode::Forbidden);
    assert_eq!(join(&mut given, hash, 1, 1).expect_err("taken").code, ErrorCode::Conflict);
    let joined = join(&mut given, hash, 1, 2).expect("joins");
    assert_eq!((joined.cluster, joined.shards, joined.members.len()), (CLUSTER, 2, 2));
    assert_eq!(join(&mut given, hash, 1, 2).expect("the same again"), joined);
    let stolen = join(&mut given, hash, 2, 2).expect_err("another key");
    assert!(stolen.code == ErrorCode::Gone && stolen.detail.contains("was used"), "{stolen}");
    assert!(join(&mut given, hash, 1, 3).is_err(), "another node");
    let late = token(&mut given, 9);
    given.context.now = given.context.now.plus_minutes(10);
    let expired = join(&mut given, late, 1, 3).expect_err("late");
    assert!(expired.detail.contains("expired"), "{expired}");
    let bad = Member { address: "nowhere".into(), ..member(4) };
    let hash = token(&mut given, 10);
    let refused = given.when(Command::Join { token: hash, key: [1; 32], member: bad }).expect_err("no address");
    assert_eq!(refused.errors[0].pointer, "/address");
}

#[test]
fn the_key_of_a_member_is_known_for_as_long_as_it_is_one() {
    let mut given = formed();
    let first = token(&mut given, 7);
    join(&mut given, first, 1, 2).expect("joins");
    let keys = |given: &Given<Members>| given.state.keys();
    assert_eq!(keys(&given), [(2, [1; 32])].into());
    // Long after the token has expired.
    given.context.now = given.context.now.plus_minutes(60);
    let second = token(&mut given, 8);
    assert_eq!(keys(&given), [(2, [1; 32])].into());
    given.when(Command::Remove { node: 2 }).expect("leaves");
    given.when(Command::Forget { node: 2 }).expect("is gone");
    assert!(keys(&given).is_empty());
    join(&mut given, second, 3, 2).expect("another node with the same id");
    assert_eq!(keys(&given), [(2, [3; 32])].into());
    assert!(join(&mut given, first, 1, 2).is_err(), "the first one again");
}

#[test]
fn draining_ends_at_the_next_start_and_leaving_only_without_shards() {
    let mut given = formed();
    assert_eq!(given.when(Command::Drain { node: 1 }).expect_err("alone").code, ErrorCode::Conflict);
    assert_eq!(given.when(Command::Remove { node: 4 }).expect_err("unknown").code, ErrorCode::NotFound);
    let hash = token(&mut given, 7);
    join(&mut given, hash, 1, 2).expect("joins");
    given.when(Command::Drain { node: 2 }).expect("drains");
    assert_eq!(given.when(Command::Drain { node: 1 }).expect_err("nobody left").code, ErrorCode::Conflict);
    given.when(Command::Undrain { node: 2 }).expect("stays");
    assert_eq!(view(&mut given).members[&2], Known { member: member(2), state: MemberState::Up });
    assert!(given.when(Command::Undrain { node: 2 }).expect("a repeat").is_query());
    assert_eq!(given.when(Command::Undrain { node: 4 }).expect_err("unknown").code, ErrorCode::NotFound);
    given.when(Command::Drain { node: 2 }).expect("drains again");
    let moved = Member { address: "127.0.0.9:9".into(), ..member(2) };
    given.when(Command::Announce(moved.clone())).expect("is back");
    assert_eq!(view(&mut given).members[&2], Known { member: moved.clone(), state: MemberState::Up });
    assert!(given.when(Command::Announce(moved)).expect("a repeat").is_query());
    given.when(Command::Place { shard: ShardId(1), replicas: on(&[1, 2], 2) }).expect("is placed");
    assert_eq!(given.when(Command::Forget { node: 2 }).expect_err("stays").code, ErrorCode::Conflict);
    given.when(Command::Remove { node: 2 }).expect("leaves");
    assert_eq!(given.when(Command::Undrain { node: 2 }).expect_err("too late").code, ErrorCode::Conflict);
    assert_eq!(given.when(Command::Forget { node: 2 }).expect_err("holds a shard").code, ErrorCode::Conflict);
    given.when(Command::Place { shard: ShardId(1), replicas: on(&[1], 1) }).expect("is placed");
    given.when(Command::Forget { node: 2 }).expect("is gone");
    assert_eq!(view(&mut given).members.len(), 1);
}

#[test]
fn a_shard_is_placed_on_members_with_a_vote_for_its_leader() {
    let mut given = formed();
    let mut place = |shard, replicas| given.when(Command::Place { shard: ShardId(shard), replicas });
    assert!(place(1, on(&[], 1)).is_err(), "nobody");
    assert!(place(1, on(&[1, 2], 1)).is_err(), "a stranger");
    assert!(place(3, on(&[1], 1)).is_err(), "no such shard");
    assert!(place(1, Replicas { learners: [1].into(), ..on(&[1], 1) }).is_err(), "twice");
    assert!(place(1, Replicas { leader: Some(2), ..on(&[1], 1) }).is_err(), "a leader without a vote");
    assert!(!place(1, on(&[1], 1)).expect("is placed").is_query());
    assert!(place(1, on(&[1], 1)).expect("a repeat").is_query());
}

#[test]
fn a_new_cluster_begins_with_one_member_and_none_of_the_old_tokens() {
    let mut given = Given::<Members>::new("members");
    let remake = |id| Command::Remake { cluster: [8; 16], member: member(id) };
    assert!(given.when(remake(1)).is_err(), "of nothing");
    let mut given = formed();
    let first = token(&mut given, 1);
    join(&mut given, first, 1, 2).expect("joins");
    let unused = token(&mut given, 2);
    let replicas = Replicas { voters: [1, 2].into(), leader: Some(2), ..Replicas::default() };
    given.when(Command::Place { shard: ShardId(1), replicas }).expect("is placed");
    let made = given.when(remake(5)).expect("is made");
    assert_eq!(made.audit[0].action, "cluster.remade");
    let view = made.reply;
    assert_eq!((view.cluster, view.shards), ([8; 16], 2));
    assert_eq!((view.members.keys().copied().collect::<Vec<_>>(), view.placement.len()), (vec![5], 0));
    assert!(given.when(remake(5)).expect("a repeat").is_query());
    assert!(join(&mut given, unused, 1, 3).is_err(), "a token of the old cluster");
}
