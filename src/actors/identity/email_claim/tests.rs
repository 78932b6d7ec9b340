use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, ErrorCode};

fn owner(user_id: &str, confirmed: bool) -> Reply {
    Reply::Owner(Some(Owner { user_id: user_id.to_owned(), confirmed }))
}

fn claim(user_id: &str) -> Command {
    Command::Claim { user_id: user_id.to_owned() }
}

fn confirm(user_id: &str) -> Command {
    Command::Confirm { user_id: user_id.to_owned() }
}

fn release(user_id: &str) -> Command {
    Command::Release { user_id: user_id.to_owned() }
}

#[test]
fn two_sign_ups_end_in_one_user() {
    let mut given = Given::<EmailClaim>::new("aa");
    let first = given.when(claim("usr_a")).expect("claimed");
    assert_eq!(first.reply, owner("usr_a", false));
    let longest_link = given.context.now.plus_seconds(VERIFICATION_TOKEN_SECONDS_MAX);
    let [Change::Timer { name, due: Some(due) }] = &first.changes[..] else { panic!("a timer") };
    assert!(name == PENDING_TIMER && *due > longest_link, "no link outlives its claim");
    let second = given.when(claim("usr_b")).expect("answered");
    assert_eq!((second.reply, second.events.len()), (owner("usr_a", false), 1));
    assert_eq!(given.when(claim("usr_a")).expect("repeat").reply, owner("usr_a", false));
}

#[test]
fn a_confirmed_claim_stays_and_a_lapse_does_not_touch_it() {
    let mut given = Given::<EmailClaim>::new("aa");
    given.when(claim("usr_a")).expect("claimed");
    assert_eq!(given.when(confirm("usr_b")).expect_err("not theirs").code, ErrorCode::Conflict);
    given.when(confirm("usr_a")).expect("confirmed");
    assert!(given.when(confirm("usr_a")).expect("repeat").is_query());
    assert!(given.when(Command::Lapse).expect("stale").is_query());
    assert!(given.when(release("usr_b")).expect("not theirs").is_query());
    let taken = given.when(claim("usr_b")).expect("answered");
    assert_eq!((taken.reply, taken.changes.len()), (owner("usr_a", true), 0));
}

#[test]
fn a_pending_claim_lapses_and_a_released_one_is_free() {
    let mut given = Given::<EmailClaim>::new("aa");
    given.when(claim("usr_a")).expect("claimed");
    assert!(given.when(Command::Lapse).expect("lapsed").purge);
    assert_eq!(given.when(Command::GetOwner).expect("free").reply, Reply::Owner(None));
    assert_eq!(given.when(claim("usr_b")).expect("claimed").reply, owner("usr_b", false));
    given.when(release("usr_b")).expect("released");
    assert_eq!(given.when(claim("usr_c")).expect("claimed").reply, owner("usr_c", false));
    assert_eq!(EmailClaim::on_timer(PENDING_TIMER), Some(Command::Lapse));
    assert_eq!(EmailClaim::on_timer("other"), None);
}
