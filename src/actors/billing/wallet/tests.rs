use super::*;
use crate::actors::billing::subscription;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Effect, Entity, ErrorCode, Outcome, codec, snapshot};
use crate::providers::payment::{CardFacts, PaymentReceipt, declined};

fn card(token: &str) -> CardFacts {
    CardFacts { token: token.into(), brand: "visa".into(), last4: "4242".into(), expires_month: 12, expires_year: 2034 }
}

fn done(receipt: &PaymentReceipt) -> Outcome {
    Outcome::Done(codec::encode(receipt).expect("encodes"))
}

fn attach(wallet: &mut Given<Wallet>, token: &str, make_default: bool) -> String {
    let command = Command::AttachMethod { token: token.into(), make_default };
    match wallet.when(command).expect("asked for").reply {
        Reply::Method { method, .. } => method.id,
        other => panic!("expected a method, got {other:?}"),
    }
}

fn settle(wallet: &mut Given<Wallet>, tag: &str, outcome: Outcome) -> Vec<Effect> {
    let command = Wallet::on_outcome(tag, outcome).expect("a command");
    wallet.when(command).expect("never refused").effects
}

fn with_card(token: &str) -> (Given<Wallet>, String) {
    let mut wallet = Given::<Wallet>::new("usr_1");
    let id = attach(&mut wallet, token, false);
    settle(&mut wallet, "customer", done(&PaymentReceipt::Customer { id: "cus_1".into() }));
    settle(&mut wallet, &format!("attach:{id}"), done(&PaymentReceipt::Method(card(token))));
    (wallet, id)
}

fn payable(wallet: &mut Given<Wallet>, method_id: Option<&str>) -> Option<String> {
    let command = Command::Resolve { method_id: method_id.map(str::to_owned) };
    match wallet.when(command).expect("a query").reply {
        Reply::Payable(payable) => payable.map(|payable| payable.token),
        other => panic!("expected what to charge, got {other:?}"),
    }
}

#[test]
fn the_first_method_makes_the_customer_and_becomes_the_default() {
    let mut wallet = Given::<Wallet>::new("usr_1");
    let first = attach(&mut wallet, "pm_1", false);
    let second = attach(&mut wallet, "pm_2", false);
    assert_eq!(payable(&mut wallet, None), None);
    let effects = settle(&mut wallet, "customer", done(&PaymentReceipt::Customer { id: "cus_1".into() }));
    assert_eq!(effects.len(), 2, "both waiting methods are attached");
    let again = settle(&mut wallet, "customer", done(&PaymentReceipt::Customer { id: "cus_2".into() }));
    assert!(again.is_empty(), "the customer is made once");
    settle(&mut wallet, &format!("attach:{first}"), done(&PaymentReceipt::Method(card("pm_1"))));
    settle(&mut wallet, &format!("attach:{second}"), Outcome::Refused(declined("card_declined")));
    assert_eq!(payable(&mut wallet, None).as_deref(), Some("pm_1"));
    assert_eq!(payable(&mut wallet, Some(&second)).as_deref(), Some("pm_1"), "a failed method is not charged");
}

#[test]
fn a_detached_default_is_followed_by_the_newest_method() {
    let (mut wallet, first) = with_card("pm_1");
    let second = attach(&mut wallet, "pm_2", true);
    settle(&mut wallet, &format!("attach:{second}"), done(&PaymentReceipt::Method(card("pm_2"))));
    assert_eq!(payable(&mut wallet, None).as_deref(), Some("pm_2"));
    assert_eq!(payable(&mut wallet, Some(&first)).as_deref(), Some("pm_1"));
    wallet.when(Command::DetachMethod { id: second.clone() }).expect("detached");
    assert_eq!(payable(&mut wallet, Some(&second)).as_deref(), Some("pm_1"));
    let again = wallet.when(Command::DetachMethod { id: second }).expect_err("gone");
    assert_eq!(again.code, ErrorCode::NotFound);
    wallet.when(Command::DetachMethod { id: first }).expect("detached");
    assert_eq!(payable(&mut wallet, None), None);
}

/// Who is told to forget which method.
fn told_to_forget(effects: &[Effect]) -> Vec<(String, String)> {
    let forget = |effect: &Effect| match effect {
        Effect::Tell { to, command, .. } => match codec::decode(command).expect("decodes") {
            subscription::Command::ForgetMethod { method_id } => Some((to.key().to_owned(), method_id)),
            _ => None,
        },
        Effect::Call { .. } => None,
    };
    effects.iter().filter_map(forget).collect()
}

#[test]
fn subscriptions_are_told_to_forget_a_deleted_method_also_when_they_name_it_late() {
    let (mut wallet, first) = with_card("pm_1");
    let mut open = || match wallet.when(Command::OpenSubscription).expect("opened").reply {
        Reply::Opened { id } => id,
        other => panic!("expected an id, got {other:?}"),
    };
    let (one, two) = (open(), open());
    let named = |subscription_id: &str| Command::MethodNamed {
        subscription_id: subscription_id.to_owned(),
        method_id: first.clone(),
    };
    assert!(wallet.when(named(&one)).expect("kept").is_query());
    let detached = wallet.when(Command::DetachMethod { id: first.clone() }).expect("detached");
    assert_eq!(told_to_forget(&detached.effects), [(one.clone(), first.clone()), (two, first.clone())]);
    let late = wallet.when(named(&one)).expect("gone");
    assert_eq!(told_to_forget(&late.effects), [(one, first.clone())]);
    let named = Command::MethodNamed { subscription_id: "sub_1".into(), method_id: "pm_1".into() };
    let golden = "0e00000005000000000000007375625f310400000000000000706d5f31";
    assert_eq!(hex::encode(codec::encode(&named).expect("encodes")), golden);
}

#[test]
fn card_numbers_and_too_many_methods_are_refused() {
    let mut wallet = Given::<Wallet>::new("usr_1");
    let number = Command::AttachMethod { token: "4242424242424242".into(), make_default: false };
    assert_eq!(wallet.when(number).expect_err("refused").code, ErrorCode::Invalid);
    for number in 0..MOST_METHODS {
        attach(&mut wallet, &format!("pm_{number}"), false);
    }
    let more = Command::AttachMethod { token: "pm_more".into(), make_default: false };
    assert_eq!(wallet.when(more.clone()).expect_err("full").code, ErrorCode::Conflict);
    settle(&mut wallet, "customer", Outcome::Refused(declined("no")));
    assert!(wallet.when(more).is_ok(), "failed ones make room");
}

#[test]
fn closing_ends_subscriptions_and_detaches_methods() {
    let (mut wallet, _) = with_card("pm_1");
    let Reply::Opened { id } = wallet.when(Command::OpenSubscription).expect("opened").reply else { panic!("opened") };
    let Reply::Opened { id: ended } = wallet.when(Command::OpenSubscription).expect("opened").reply else {
        panic!("opened")
    };
    wallet.when(Command::SubscriptionEnded { id: ended.clone() }).expect("ended");
    assert!(wallet.when(Command::SubscriptionEnded { id: ended }).expect("ended").is_query());
    let effects = wallet.when(Command::Close).expect("closed").effects;
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Tell { to, .. } => Some(to.key().to_owned()),
        Effect::Call { .. } => None,
    });
    assert_eq!((told.collect::<Vec<_>>(), effects.len()), (vec![id], 2));
    assert!(wallet.when(Command::Close).expect("closed").is_query());
    assert_eq!(wallet.when(Command::OpenSubscription).expect_err("closed").code, ErrorCode::Gone);
    let late = settle(&mut wallet, "attach:pm_late", done(&PaymentReceipt::Method(card("pm_late"))));
    assert_eq!(late.len(), 1, "a method attached too late is detached again");
}

#[test]
fn a_token_that_is_known_is_the_method_it_was_and_is_detached_once() {
    let mut wallet = Given::<Wallet>::new("usr_1");
    let first = attach(&mut wallet, "pm_card_visa", false);
    assert_eq!(attach(&mut wallet, "pm_card_visa", true), first, "also while it is being added");
    settle(&mut wallet, "customer", done(&PaymentReceipt::Customer { id: "cus_1".into() }));
    settle(&mut wallet, &format!("attach:{first}"), done(&PaymentReceipt::Method(card("pm_lasting"))));
    let other = attach(&mut wallet, "pm_2", true);
    settle(&mut wallet, &format!("attach:{other}"), done(&PaymentReceipt::Method(card("pm_2"))));
    for token in ["pm_card_visa", "pm_lasting"] {
        assert_eq!(attach(&mut wallet, token, false), first, "{token}");
        assert_eq!(payable(&mut wallet, None).as_deref(), Some("pm_2"));
    }
    assert_eq!(attach(&mut wallet, "pm_card_visa", true), first);
    assert_eq!(payable(&mut wallet, None).as_deref(), Some("pm_lasting"), "it was to be the default");
    let alias = attach(&mut wallet, "tok_visa", false);
    settle(&mut wallet, &format!("attach:{alias}"), done(&PaymentReceipt::Method(card("pm_lasting"))));
    assert_eq!(payable(&mut wallet, Some(&alias)).as_deref(), Some("pm_lasting"), "not kept twice");
    let gone = wallet.when(Command::DetachMethod { id: alias }).expect_err("was not added");
    assert_eq!(gone.code, ErrorCode::NotFound);
    assert_eq!(wallet.when(Command::DetachMethod { id: first.clone() }).expect("detached").effects.len(), 1);
    assert_ne!(attach(&mut wallet, "pm_card_visa", false), first, "what was removed may come back");
}

fn may_try(wallet: &mut Given<Wallet>, plan_id: &str, subscription_id: &str) -> bool {
    let take = Command::TakeTrial { plan_id: plan_id.into(), subscription_id: subscription_id.into() };
    match wallet.when(take).expect("answered").reply {
        Reply::Trial(may) => may,
        other => panic!("expected an answer, got {other:?}"),
    }
}

#[test]
fn a_plan_is_tried_once_by_one_subscription() {
    let mut wallet = Given::<Wallet>::new("usr_1");
    assert!(may_try(&mut wallet, "pln_1", "sub_1") && may_try(&mut wallet, "pln_1", "sub_1"), "a repeat");
    wallet.when(Command::SubscriptionEnded { id: "sub_1".into() }).expect("ended");
    assert!(!may_try(&mut wallet, "pln_1", "sub_2"), "not again");
    assert!(may_try(&mut wallet, "pln_2", "sub_2"), "another plan");
    let Reply::Trials(trials) = wallet.when(Command::ListTrials).expect("listed").reply else { panic!("trials") };
    assert_eq!(trials.len(), 2);
}

/// A wallet with a card and a subscription, as it was written before states had versions.
const OLD: &str = "0105000000000000006375735f310101000000000000001d00000000000000706d5f30316b67397178673830653774727836\
    6830346a6532666234720400000000000000706d5f3100c17e139c01000000010000000400000000000000706d5f31040000\
    0000000000766973610400000000000000343234320cf207011d00000000000000706d5f30316b6739717867383065377472\
    78366830346a65326662347201000000000000001e000000000000007375625f30316b67397178673830667767626770306a\
    346774327662347200";

#[test]
fn a_wallet_of_the_first_version_is_read() {
    let mut old = Given::<Wallet>::new("usr_1");
    old.state = snapshot::decode(&hex::decode(OLD).expect("hex")).expect("it is read");
    assert_eq!(payable(&mut old, None).as_deref(), Some("pm_1"));
    let Reply::Subscriptions(ids) = old.when(Command::ListSubscriptions).expect("listed").reply else { panic!("ids") };
    assert_eq!(ids.len(), 1);
    assert!(may_try(&mut old, "pln_1", "sub_1"));
}
