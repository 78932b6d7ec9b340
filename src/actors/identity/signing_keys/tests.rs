use super::*;
use crate::actors::runtime::testing::Given;

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

#[test]
fn a_rotated_key_verifies_for_a_day_and_is_forgotten() {
    let mut given = Given::<SigningKeys>::new("jwt");
    given.when(Command::EnsureKey(key("a"))).expect("taken");
    assert_eq!(kids(given.when(Command::Rotate(key("b"))).expect("rotated").reply), ["b", "a"]);
    assert!(given.when(Command::Rotate(key("b"))).expect("repeat").is_query());
    given.at("2026-02-01T09:59:59Z");
    assert!(given.when(Command::Forget).expect("too early").is_query());
    given.at("2026-02-01T10:00:00Z");
    given.when(Command::Forget).expect("forgotten");
    assert_eq!(kids(given.when(Command::GetKeys).expect("a query").reply), ["b"]);
    assert_eq!(SigningKeys::on_timer(FORGET_TIMER), Some(Command::Forget));
}
