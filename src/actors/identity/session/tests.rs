use super::*;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::user;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, Decision, Effect, ErrorCode};

const USER: &str = "usr_01h455vb4pex5vsknk084sn02q";
const SESSION: &str = "ses_01h455vb4pex5vsknk084sn02q";

fn start(token: &str) -> Command {
    Command::Start(Start {
        user_id: USER.to_owned(),
        roles: vec!["consumer".to_owned()],
        methods: vec![Method::Password],
        client: Client::default(),
        refresh: TokenHash::of(token),
        idle_seconds: 45 * 86_400,
    })
}

fn refresh(presented: &str, next: &str) -> Command {
    Command::Refresh { presented: TokenHash::of(presented), next: TokenHash::of(next), client: Client::default() }
}

fn revoke(reason: Ended) -> Command {
    Command::Revoke { user_id: USER.to_owned(), reason }
}

fn started() -> Given<Session> {
    let mut given = Given::new(SESSION);
    given.when(start("one")).expect("started");
    given
}

fn ended(given: &mut Given<Session>) -> Option<Ended> {
    match given.when(Command::GetSession).expect("a query").reply {
        Reply::Session(Some(view)) => view.ended,
        other => panic!("unexpected {other:?}"),
    }
}

fn tells_user(decision: &Decision<Session>) -> bool {
    let expected = user::Command::SessionEnded { session_id: SESSION.to_owned() };
    decision.effects == [Effect::tell::<user::User>(user::id(USER), &expected, "")]
}

#[test]
fn a_session_starts_once() {
    let mut given = started();
    assert!(given.when(start("one")).expect("repeat").is_query());
    assert_eq!(given.when(start("two")).expect_err("another").code, ErrorCode::Conflict);
    let context = given.context.clone();
    assert_eq!(crate::kernel::Entity::subject(&given.state, &context.id).as_deref(), Some(USER));
}

#[test]
fn refresh_tokens_rotate_and_a_spent_one_revokes_the_family() {
    let mut given = started();
    let done = given.when(refresh("one", "two")).expect("rotated");
    assert!(matches!(done.reply, Reply::Refreshed(_)));
    given.when(refresh("two", "three")).expect("rotated");
    let reused = given.when(refresh("one", "four")).expect("answered");
    assert_eq!(reused.reply, Reply::Refused);
    assert!(tells_user(&reused));
    assert_eq!(
        (reused.audit[0].action.as_str(), reused.audit[0].outcome.as_str()),
        ("session.refresh_token_reused", "denied")
    );
    assert_eq!(ended(&mut given), Some(Ended::TokenReuse));
    let newest = given.when(refresh("three", "five")).expect("answered");
    assert!(newest.is_query() && newest.reply == Reply::Refused);
}

#[test]
fn a_revoked_session_stays_revoked_even_before_its_start() {
    let mut given = Given::<Session>::new(SESSION);
    given.when(revoke(Ended::SignedOutEverywhere)).expect("noted");
    assert_eq!(given.when(start("one")).expect_err("too late").code, ErrorCode::Unauthenticated);
    assert!(given.when(revoke(Ended::SignedOut)).expect("repeat").is_query());
    assert_eq!(ended(&mut given), Some(Ended::SignedOutEverywhere));
    let forgotten = given.when(Command::Forget).expect("forgotten");
    assert!(forgotten.purge);
    assert_eq!(given.when(Command::GetSession).expect("a query").reply, Reply::Session(None));
}

#[test]
fn somebody_elses_session_is_not_revoked() {
    let mut given = started();
    let command = Command::Revoke { user_id: "usr_other".to_owned(), reason: Ended::SignedOut };
    assert!(given.when(command).expect("ignored").is_query());
    assert_eq!(ended(&mut given), None);
}

#[test]
fn an_idle_session_expires_and_refreshing_prolongs_it_up_to_its_lifetime() {
    let mut given = started();
    given.at("2026-03-10T10:00:00Z");
    let done = given.when(refresh("one", "two")).expect("rotated");
    let due = "2026-04-24T10:00:00Z".parse().expect("a time");
    assert_eq!(done.changes, [Change::Timer { name: "expire".to_owned(), due: Some(due) }]);
    given.at("2026-04-24T10:00:00Z");
    assert_eq!(given.when(refresh("two", "three")).expect("answered").reply, Reply::Refused);
    assert_eq!(ended(&mut given), Some(Ended::Expired));
    assert!(tells_user(&given.when(Command::Expire).expect("expired")));
    assert!(given.when(Command::Expire).expect("stale").is_query());
}

#[test]
fn roles_and_step_up_change_a_running_session_only() {
    let mut given = started();
    let roles = vec!["developer".to_owned()];
    given.when(Command::SetRoles { roles: roles.clone() }).expect("set");
    assert!(given.when(Command::SetRoles { roles }).expect("repeat").is_query());
    given.at("2026-01-31T11:00:00Z");
    given.when(Command::Reauthenticate { methods: vec![Method::Totp] }).expect("stepped up");
    let Reply::Session(Some(view)) = given.when(Command::GetSession).expect("a query").reply else { panic!("gone") };
    assert_eq!(view.methods, [Method::Password, Method::Totp]);
    assert_eq!(view.authenticated_at, given.context.now);
    given.when(revoke(Ended::SignedOut)).expect("revoked");
    let error = given.when(Command::Reauthenticate { methods: vec![] }).expect_err("over");
    assert_eq!(error.code, ErrorCode::NotFound);
}
