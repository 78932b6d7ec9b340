use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::Change;

fn key(kid: &str) -> SigningKey {
    SigningKey {
        kid: kid.to_owned(),
        public_key: [1; 32],
        wrapped_seed: WrappedKey { version: 1, bytes: vec![2; 60] },
        created_at: Timestamp::ZERO,
        verifies_until: None,
    }
}

fn kids(reply: Reply) -> Vec<String> {
    let Reply::Keys(keys) = reply;
    keys.into_iter().map(|key| key.kid).collect()
}

#[test]
fn only_the_first_key_of_a_cluster_is_taken() {
    let mut given = Given::<SigningKeys>::new("jwt");
    assert_eq!(kids(given.when(Command::EnsureKey(key("a"))).expect("taken").reply), ["a"]);
    let second = given.when(Command::EnsureKey(key("b"))).expect("answered");
    assert!(second.is_query());
    assert_eq!(kids(second.reply), ["a"]);
}

fn rotate(kid: &str, life_seconds: i64) -> Command {
    Command::RotateKeeping { key: key(kid), life_seconds }
}

#[test]
fn a_rotated_key_verifies_for_a_day_and_is_forgotten() {
    let mut given = Given::<SigningKeys>::new("jwt");
    given.when(Command::EnsureKey(key("a"))).expect("taken");
    assert_eq!(kids(given.when(rotate("b", 900)).expect("rotated").reply), ["b", "a"]);
    assert!(given.when(rotate("b", 900)).expect("repeat").is_query());
    given.at("2026-02-01T09:59:59Z");
    assert!(given.when(Command::Forget).expect("too early").is_query());
    given.at("2026-02-01T10:00:00Z");
    given.when(Command::Forget).expect("forgotten");
    assert_eq!(kids(given.when(Command::GetKeys).expect("a query").reply), ["b"]);
    assert_eq!(SigningKeys::on_timer(FORGET_TIMER), Some(Command::Forget));
}

#[test]
fn a_rotated_key_outlives_every_token_that_it_signed() {
    let timer = |decision: &Decision<SigningKeys>| match &decision.changes[..] {
        [Change::Timer { due: Some(due), .. }] => due.to_string(),
        other => panic!("one timer, not {other:?}"),
    };
    let mut given = Given::<SigningKeys>::new("jwt");
    given.when(Command::EnsureKey(key("a"))).expect("taken");
    // Tokens of 30 days, of which the last are signed while other nodes have not heard yet.
    let rotated = given.when(rotate("b", 30 * 86_400)).expect("rotated");
    assert_eq!(timer(&rotated), "2026-03-02T10:05:00.000Z");
    // The setting is lowered and the key rotated again: the later key is over earlier.
    given.at("2026-02-01T10:00:00Z");
    assert_eq!(timer(&given.when(rotate("c", 900)).expect("rotated")), "2026-02-02T10:00:00.000Z");
    given.at("2026-02-02T10:00:00Z");
    let forgotten = given.when(Command::Forget).expect("forgotten");
    assert_eq!(timer(&forgotten), "2026-03-02T10:05:00.000Z", "and the earlier one is not left behind");
    assert_eq!(kids(forgotten.reply), ["c", "a"]);
    given.at("2026-03-02T10:05:00Z");
    assert_eq!(kids(given.when(Command::Forget).expect("forgotten").reply), ["c"]);
}
