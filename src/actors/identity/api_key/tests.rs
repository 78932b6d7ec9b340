use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, ErrorCode};

const KEY: &str = "key_01h455vb4pex5vsknk084sn02q";

fn create(expires_at: Option<&str>) -> Command {
    Command::Create(Grant {
        user_id: "usr_a".to_owned(),
        name: "robot".to_owned(),
        scopes: vec!["usage:write".to_owned()],
        secret: TokenHash::of("secret"),
        expires_at: expires_at.map(|at| at.parse().expect("a time")),
    })
}

fn revoke(user_id: &str) -> Command {
    Command::Revoke { user_id: user_id.to_owned() }
}

#[test]
fn a_key_is_made_once_and_revoked_by_its_person_only() {
    let mut given = Given::<ApiKey>::new(KEY);
    assert_eq!(given.when(revoke("usr_a")).expect_err("none yet").code, ErrorCode::NotFound);
    let made = given.when(create(None)).expect("made");
    let entry = format!("usr_a/{KEY}").into_bytes();
    assert!(matches!(&made.changes[..], [Change::Index { key, value: Some(_), .. }] if *key == entry));
    assert!(given.when(create(None)).expect("repeat").is_query());
    let other = create(Some("2027-01-01T00:00:00Z"));
    assert_eq!(given.when(other).expect_err("another").code, ErrorCode::Conflict);
    assert_eq!(given.when(revoke("usr_b")).expect_err("not theirs").code, ErrorCode::NotFound);
    let revoked = given.when(revoke("usr_a")).expect("revoked");
    let free = places::Command::Free { key_id: KEY.to_owned() };
    assert_eq!(revoked.effects, [Effect::tell::<ApiKeyPlaces>(places::id("usr_a"), &free, "")]);
    assert_eq!(given.when(Command::GetKey).expect("a query").reply, Reply::Key(None));
    assert_eq!(given.when(create(None)).expect_err("over").code, ErrorCode::Conflict);
    assert_eq!(given.when(revoke("usr_a")).expect_err("over").code, ErrorCode::NotFound);
}

#[test]
fn a_key_ends_with_its_time() {
    let mut given = Given::<ApiKey>::new(KEY);
    let past = create(Some("2026-01-31T10:00:00Z"));
    assert_eq!(given.when(past).expect_err("in the past").code, ErrorCode::Invalid);
    given.when(create(Some("2026-02-01T00:00:00Z"))).expect("made");
    assert!(given.when(Command::Expire).expect("too early").is_query());
    given.at("2026-02-01T00:00:00Z");
    assert_eq!(given.when(Command::GetKey).expect("a query").reply, Reply::Key(None));
    let expired = given.when(Command::Expire).expect("expired");
    assert_eq!(expired.audit[0].action, "api_key.expired");
    assert!(given.when(Command::Expire).expect("stale").is_query());
    assert_eq!(ApiKey::on_timer("expire"), Some(Command::Expire));
}
