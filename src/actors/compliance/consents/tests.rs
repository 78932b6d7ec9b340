use super::*;
use crate::actors::runtime::testing::Given as Harness;
use crate::kernel::{Change as Stored, Effect, Entity, ErrorCode};

const USER: &str = "usr_01h455vb4pex5vsknk084sn02q";

fn put(choices: &[(Purpose, bool)], expected: Option<u64>) -> Command {
    let choices = choices.iter().map(|(purpose, granted)| Choice { purpose: *purpose, granted: *granted });
    Command::Put { choices: choices.collect(), expected }
}

fn granted(reply: &Reply, purpose: Purpose) -> Option<bool> {
    let Reply::Consents { given, .. } = reply else { panic!("consents") };
    given.get(&purpose).map(|given| given.granted)
}

#[test]
fn nothing_is_granted_that_was_not_given() {
    let mut harness = Harness::<Consents>::new(USER);
    let reply = harness.when(Command::Get).expect("answered").reply;
    assert!(Purpose::ALL.iter().all(|purpose| granted(&reply, *purpose).is_none()));
    assert_eq!(harness.state.subject(&consents_id(USER)).as_deref(), Some(USER));
}

#[test]
fn every_change_is_journaled_audited_and_told_where_it_matters() {
    let mut harness = Harness::<Consents>::new(USER);
    let both = [(Purpose::PromotionalMessages, true), (Purpose::UsageAnalytics, true)];
    let decision = harness.when(put(&both, Some(0))).expect("set");
    assert_eq!((decision.events.len(), decision.audit.len()), (2, 2));
    assert_eq!(decision.audit[0].action, "consent.grant");
    let rows = decision.changes.iter().filter(|change| matches!(change, Stored::Row { .. })).count();
    assert_eq!(rows, 2);
    assert!(matches!(&decision.effects[..], [Effect::Tell { to, .. }] if to.kind() == "preferences"));

    let again = harness.when(put(&both, None)).expect("answered");
    assert!(again.is_query(), "nothing changed");
    let withdrawn = harness.when(put(&[(Purpose::PromotionalMessages, false)], Some(2))).expect("set");
    assert_eq!(withdrawn.audit[0].action, "consent.withdraw");
    assert_eq!(granted(&withdrawn.reply, Purpose::PromotionalMessages), Some(false));
    assert_eq!(granted(&withdrawn.reply, Purpose::UsageAnalytics), Some(true));
    let stale = harness.when(put(&[(Purpose::UsageAnalytics, false)], Some(2)));
    assert_eq!(stale.err().map(|error| error.code), Some(ErrorCode::PreconditionFailed));
}
