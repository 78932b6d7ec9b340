use super::*;
use crate::actors::notifications::delivery::{Category, Channel};
use crate::actors::runtime::testing::Given;
use crate::kernel::id::type_id;
use crate::kernel::{ErrorCode, Slot, Timestamp};

fn user() -> String {
    type_id("usr", Timestamp::from_millis(1_700_000_000_000), Slot(7), [3; 8])
}

fn policy(given: &mut Given<Preferences>, category: Category) -> Policy {
    match given.when(Command::GetPolicy { category }).expect("a policy").reply {
        Reply::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn rule(category: Category, channel: Channel, enabled: bool) -> Rule {
    Rule { category, channel, enabled }
}

#[test]
fn security_cannot_be_muted_and_promotion_needs_consent() {
    let mut given = Given::<Preferences>::new(&user());
    for bad in [rule(Category::Security, Channel::Email, false), rule(Category::Promotional, Channel::Email, true)] {
        let settings = Settings { rules: vec![bad], ..Settings::default() };
        let error = given.when(Command::Put { settings, expected: None }).expect_err("refused");
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(error.errors[0].pointer.starts_with("/categories/"));
    }
    assert!(policy(&mut given, Category::Promotional).channels.is_empty());
    let settings = Settings {
        rules: vec![rule(Category::Billing, Channel::Email, false)],
        promotional_consent: true,
        ..Settings::default()
    };
    given.when(Command::Put { settings, expected: Some(0) }).expect("put");
    assert!(!policy(&mut given, Category::Billing).channels.contains(&Channel::Email));
    assert!(policy(&mut given, Category::Promotional).channels.contains(&Channel::Email));
    assert!(policy(&mut given, Category::Security).channels.contains(&Channel::Email));
}

#[test]
fn a_stale_version_and_an_unknown_zone_are_refused_and_a_repeat_changes_nothing() {
    let mut given = Given::<Preferences>::new(&user());
    let zone = |name: &str| Settings { time_zone: Some(name.to_owned()), ..Settings::default() };
    let error = given.when(Command::Put { settings: zone("Mars/Base"), expected: None }).expect_err("refused");
    assert_eq!(error.errors[0].pointer, "/quiet_hours/time_zone");
    given.when(Command::Put { settings: zone("Europe/Berlin"), expected: Some(0) }).expect("put");
    let error = given.when(Command::Put { settings: zone("UTC"), expected: Some(0) }).expect_err("stale");
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    let again = given.when(Command::Put { settings: zone("Europe/Berlin"), expected: Some(1) }).expect("repeat");
    assert!(again.is_query());
}

#[test]
fn an_unsubscribe_link_is_worth_one_category() {
    let mut given = Given::<Preferences>::new(&user());
    let settings = Settings { promotional_consent: true, ..Settings::default() };
    given.when(Command::Put { settings, expected: None }).expect("put");
    let token = policy(&mut given, Category::Promotional).unsubscribe_token;
    let (who, category, proof) = parse_token(&token).expect("a token");
    assert_eq!((who, category), (user(), Category::Promotional));
    let forged = Command::Unsubscribe { category: Category::Billing, proof: proof.clone() };
    assert_eq!(given.when(forged).expect_err("forged").code, ErrorCode::NotFound);
    given.when(Command::Unsubscribe { category, proof: proof.clone() }).expect("unsubscribed");
    assert!(!policy(&mut given, Category::Promotional).consent);
    assert!(given.when(Command::Unsubscribe { category, proof }).expect("again").is_query());
    assert!(policy(&mut given, Category::Security).unsubscribe_token.is_empty());
}

#[test]
fn consent_from_elsewhere_is_recorded_once() {
    let mut given = Given::<Preferences>::new(&user());
    given.when(Command::RecordConsent { granted: true }).expect("granted");
    assert!(given.when(Command::RecordConsent { granted: true }).expect("repeat").is_query());
    assert!(policy(&mut given, Category::Promotional).consent);
    given.when(Command::RecordConsent { granted: false }).expect("withdrawn");
    assert!(policy(&mut given, Category::Promotional).channels.is_empty());
}
