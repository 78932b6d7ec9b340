mod older;
mod trial;

use super::*;
use crate::actors::billing::calendar::{Interval, Recurrence};
use crate::actors::billing::dunning::{Exhausted, Schedule};
use crate::actors::billing::invoice;
use crate::actors::billing::quote::Offer;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, Currency, Decision, Effect, ErrorCode, Money, Principal, Timestamp, codec};

fn offer(amount: i64, interval: Interval, trial_days: u16) -> Offer {
    Offer {
        plan_id: format!("pln_{amount}"),
        plan_version: 1,
        plan_name: "Pro".into(),
        entitlements: vec!["robots:5".into()],
        trial_days,
        every: Recurrence { interval, count: 1 },
        unit_price: Money::new(amount, Currency::USD),
    }
}

fn terms(exhausted: Exhausted) -> Terms {
    let dunning = Schedule { exhausted, ..Schedule::default() };
    Terms { dunning, series: "INV".into(), tax_basis_points: 0, trial_notice_days: 3 }
}

fn start(offer: Offer, quantity: i64, exhausted: Exhausted) -> Command {
    let request = StartRequest { user_id: "usr_1".into(), offer, quantity, method_id: None, terms: terms(exhausted) };
    Command::Start(Box::new(request))
}

fn view(subscription: &mut Given<Subscription>) -> View {
    match subscription.when(Command::GetSubscription).expect("there").reply {
        Reply::Subscription(view) => *view,
        other => panic!("expected a subscription, got {other:?}"),
    }
}

/// The invoice a decision asks for.
fn invoiced(decision: &Decision<Subscription>) -> Option<invoice::Draft> {
    decision.effects.iter().find_map(|effect| match effect {
        Effect::Tell { to, command, .. } if to.kind() == "invoice" => match codec::decode(command).expect("decodes") {
            invoice::Command::Create(draft) => Some(*draft),
            _ => None,
        },
        _ => None,
    })
}

fn timer(decision: &Decision<Subscription>, wanted: &str) -> Option<String> {
    decision.changes.iter().find_map(|change| match change {
        Change::Timer { name, due: Some(due) } if name == wanted => Some(due.to_string()[..10].to_owned()),
        _ => None,
    })
}

fn pay(subscription: &mut Given<Subscription>) -> Decision<Subscription> {
    let invoice_id = view(subscription).settling.expect("an invoice to settle").invoice_id;
    subscription.when(Command::InvoicePaid { invoice_id }).expect("never refused")
}

fn active(amount: i64) -> Given<Subscription> {
    let mut subscription = Given::<Subscription>::new("sub_1");
    subscription.when(start(offer(amount, Interval::Month, 0), 1, Exhausted::Cancel)).expect("started");
    pay(&mut subscription);
    assert_eq!(view(&mut subscription).state, State::Active);
    subscription
}

#[test]
fn a_deleted_method_is_forgotten_once_and_no_other_with_it() {
    let mut subscription = active(1999);
    let choose = |id: &str| Command::Change(ChangeRequest { method_id: Some(id.into()), ..ChangeRequest::default() });
    let named = subscription.when(choose("pm_1")).expect("chosen");
    let told = named.effects.iter().filter(|effect| matches!(effect, Effect::Tell { to, .. } if to.kind() == "wallet"));
    assert_eq!(told.count(), 1, "the wallet hears what is charged");
    let forget = |id: &str| Command::ForgetMethod { method_id: id.into() };
    assert!(subscription.when(forget("pm_2")).expect("another one").is_query());
    assert_eq!(view(&mut subscription).method_id.as_deref(), Some("pm_1"));
    assert!(!subscription.when(forget("pm_1")).expect("forgotten").is_query());
    assert_eq!(view(&mut subscription).method_id, None);
    assert!(subscription.when(forget("pm_1")).expect("a repeat").is_query());
    let golden = "0f0000000400000000000000706d5f31";
    let event = Event::MethodForgotten { method_id: "pm_1".into() };
    assert_eq!(hex::encode(codec::encode(&event).expect("encodes")), golden);
    let read = <Subscription as crate::kernel::Entity>::read_event(&hex::decode(golden).expect("hex"));
    assert_eq!(read.expect("it is read"), event);
    let golden = "0d0000000400000000000000706d5f31";
    assert_eq!(hex::encode(codec::encode(&forget("pm_1")).expect("encodes")), golden);
}

#[test]
fn a_start_is_incomplete_until_paid_and_renews_on_the_last_day_of_the_month() {
    let mut subscription = Given::<Subscription>::new("sub_1");
    let command = start(offer(1999, Interval::Month, 0), 2, Exhausted::Cancel);
    let started = subscription.when(command.clone()).expect("started");
    let draft = invoiced(&started).expect("an invoice");
    assert_eq!((draft.quote.total, draft.mode, draft.off_session), (3998, invoice::Mode::KeepOpen, false));
    assert_eq!((view(&mut subscription).state, timer(&started, "renew")), (State::Incomplete, None));
    assert!(subscription.when(command).expect("repeated").is_query(), "a second start changes nothing");
    assert_eq!(timer(&pay(&mut subscription), "renew").as_deref(), Some("2026-02-28"));
    subscription.at("2026-02-28T10:00:00Z");
    let renewed = subscription.when(Command::Renew).expect("renewed");
    assert!(matches!(invoiced(&renewed).expect("an invoice").mode, invoice::Mode::Dunning(_)));
    assert_eq!(timer(&renewed, "renew").as_deref(), Some("2026-03-31"));
    assert!(subscription.when(Command::Renew).expect("repeated").is_query(), "a period begins once");
    let stale = Command::InvoicePaid { invoice_id: "inv_other".into() };
    assert!(subscription.when(stale).expect("ignored").is_query());
    subscription.at("2026-05-01T10:00:00Z");
    assert!(subscription.when(Command::Renew).expect("waits").is_query(), "the unsettled period comes first");
    assert_eq!(timer(&pay(&mut subscription), "renew").as_deref(), Some("2026-03-31"));
}

#[test]
fn another_persons_subscription_does_not_exist() {
    let mut subscription = active(1999);
    subscription.context.origin.principal =
        Principal::User { id: "usr_2".into(), session: None, roles: vec!["consumer".into()] };
    for command in [Command::GetSubscription, Command::Cancel { at: CancelAt::Now }, Command::Pause, Command::Resume] {
        assert_eq!(subscription.when(command).expect_err("hidden").code, ErrorCode::NotFound);
    }
    let change = ChangeRequest { quantity: Some(2), ..ChangeRequest::default() };
    assert_eq!(subscription.when(Command::Change(change)).expect_err("hidden").code, ErrorCode::NotFound);
}

#[test]
fn quantities_at_the_edge_are_refused() {
    for quantity in [0, -1, i64::MIN, i64::MAX, 1_000_001] {
        let mut subscription = Given::<Subscription>::new("sub_1");
        let refused = subscription.when(start(offer(1999, Interval::Month, 0), quantity, Exhausted::Cancel));
        assert_eq!(refused.expect_err("refused").code, ErrorCode::Invalid, "{quantity}");
        let change = ChangeRequest { quantity: Some(quantity), ..ChangeRequest::default() };
        assert_eq!(active(1999).when(Command::Change(change)).expect_err("refused").code, ErrorCode::Invalid);
    }
}

#[test]
fn a_trial_costs_nothing_until_it_ends() {
    let mut subscription = Given::<Subscription>::new("sub_1");
    let started = subscription.when(start(offer(1999, Interval::Month, 14), 1, Exhausted::Cancel)).expect("started");
    assert!(invoiced(&started).is_none());
    assert_eq!(timer(&started, "renew").as_deref(), Some("2026-02-14"));
    assert_eq!(timer(&started, "trial_ending").as_deref(), Some("2026-02-11"));
    subscription.at("2026-02-11T10:00:00Z");
    assert_eq!(subscription.when(Command::AnnounceTrialEnd).expect("told").effects.len(), 1);
    subscription.at("2026-02-14T10:00:00Z");
    let renewed = subscription.when(Command::Renew).expect("renewed");
    assert_eq!(invoiced(&renewed).expect("an invoice").quote.total, 1999);
    assert_eq!(
        (view(&mut subscription).state, timer(&renewed, "renew").as_deref()),
        (State::Active, Some("2026-03-14"))
    );
}

#[test]
fn an_upgrade_takes_effect_when_paid_and_is_dropped_when_declined() {
    let mut subscription = active(1000);
    subscription.at("2026-02-14T10:00:00Z");
    let upgrade = || ChangeRequest { offer: Some(offer(3000, Interval::Month, 0)), ..ChangeRequest::default() };
    let preview = subscription.when(Command::PreviewChange(upgrade())).expect("previewed");
    let Reply::Preview(preview) = preview.reply else { panic!("a preview") };
    let changed = subscription.when(Command::Change(upgrade())).expect("asked for");
    assert_eq!(invoiced(&changed).expect("an invoice").quote, preview.quote);
    assert_eq!(preview.quote.total, 1000, "half of the period is left");
    assert_eq!(view(&mut subscription).offer.plan_id, "pln_1000");
    let invoice_id = view(&mut subscription).settling.expect("being settled").invoice_id;
    let again = subscription.when(Command::Change(upgrade())).expect_err("one at a time");
    assert_eq!(again.code, ErrorCode::Conflict);
    subscription.when(Command::InvoiceVoided { invoice_id }).expect("dropped");
    let after = view(&mut subscription);
    assert_eq!((after.offer.plan_id.as_str(), after.pending, after.state), ("pln_1000", None, State::Active));
    subscription.when(Command::Change(upgrade())).expect("asked for");
    pay(&mut subscription);
    let after = view(&mut subscription);
    assert_eq!((after.offer.plan_id.as_str(), after.state), ("pln_3000", State::Active));
    assert_eq!(after.period.end.to_string(), "2026-02-28T10:00:00.000Z");
}

#[test]
fn a_downgrade_leaves_credit_that_the_renewal_uses() {
    let mut subscription = active(3000);
    subscription.at("2026-02-14T10:00:00Z");
    let downgrade = ChangeRequest { offer: Some(offer(1000, Interval::Month, 0)), ..ChangeRequest::default() };
    let changed = subscription.when(Command::Change(downgrade)).expect("changed");
    assert!(invoiced(&changed).is_none());
    assert_eq!(view(&mut subscription).balance, 1000);
    let Reply::Preview(preview) =
        subscription.when(Command::PreviewChange(ChangeRequest::default())).expect("next").reply
    else {
        panic!("a preview")
    };
    subscription.at("2026-02-28T10:00:00Z");
    let renewed = subscription.when(Command::Renew).expect("renewed");
    let quote = invoiced(&renewed).expect("an invoice").quote;
    assert_eq!(quote, preview.quote);
    assert_eq!((quote.total, view(&mut subscription).balance), (0, 0));
}

#[test]
fn another_interval_starts_a_new_period_now() {
    let mut subscription = active(1000);
    subscription.at("2026-02-14T10:00:00Z");
    let yearly = ChangeRequest { offer: Some(offer(10_000, Interval::Year, 0)), ..ChangeRequest::default() };
    let changed = subscription.when(Command::Change(yearly)).expect("asked for");
    assert_eq!(invoiced(&changed).expect("an invoice").quote.total, 9500);
    assert_eq!(timer(&pay(&mut subscription), "renew").as_deref(), Some("2027-02-14"));
    let late = ChangeRequest { quantity: Some(2), prorate_at: Some(Timestamp::ZERO), ..ChangeRequest::default() };
    assert_eq!(subscription.when(Command::Change(late)).expect_err("too old").code, ErrorCode::Invalid);
}

#[test]
fn no_change_is_prorated_from_before_the_last_one() {
    let mut subscription = active(1000);
    subscription.at("2026-02-14T10:00:00Z");
    let before = subscription.context.now;
    subscription.at("2026-02-14T10:10:00Z");
    let more = ChangeRequest { quantity: Some(1000), ..ChangeRequest::default() };
    let paid = invoiced(&subscription.when(Command::Change(more)).expect("asked for")).expect("an invoice").quote.total;
    pay(&mut subscription);
    let fewer = ChangeRequest { quantity: Some(1), prorate_at: Some(before), ..ChangeRequest::default() };
    subscription.when(Command::Change(fewer)).expect("changed");
    assert_eq!(view(&mut subscription).balance, paid, "what was paid comes back, and no more");
}

#[test]
fn a_pause_moves_the_notice_and_the_scheduled_end_and_keeps_the_day_of_the_month() {
    let mut subscription = active(1000);
    subscription.at("2026-02-10T10:00:00Z");
    subscription.when(Command::Cancel { at: CancelAt::PeriodEnd }).expect("scheduled");
    subscription.when(Command::Pause).expect("paused");
    subscription.at("2026-02-10T10:00:01Z").when(Command::Resume).expect("resumed");
    let shown = view(&mut subscription);
    assert_eq!(shown.cancel_at, Some(shown.period.end));
    subscription.when(Command::Resume).expect("goes on");
    subscription.at("2026-02-28T10:00:01Z").when(Command::Renew).expect("renewed");
    assert_eq!(view(&mut subscription).period.end.to_string(), "2026-03-31T10:00:01.000Z");

    let mut trial = Given::<Subscription>::new("sub_1");
    trial.when(start(offer(1000, Interval::Month, 14), 1, Exhausted::Cancel)).expect("started");
    let began = trial.context.now;
    trial.when(Command::Pause).expect("paused");
    trial.context.now = began.plus_days(5);
    let resumed = trial.when(Command::Resume).expect("resumed");
    let notice = timer(&resumed, "trial_ending");
    assert_eq!(notice, Some(began.plus_days(5 + 14 - 3).to_string()[..10].to_owned()));
}

fn past_due(exhausted: Exhausted) -> (Given<Subscription>, String) {
    let mut subscription = Given::<Subscription>::new("sub_1");
    subscription.when(start(offer(1999, Interval::Month, 0), 1, exhausted)).expect("started");
    pay(&mut subscription);
    subscription.at("2026-02-28T10:00:00Z").when(Command::Renew).expect("renewed");
    let invoice_id = view(&mut subscription).settling.expect("being settled").invoice_id;
    let failed = Command::InvoiceFailed { invoice_id: invoice_id.clone(), exhausted: false };
    subscription.when(failed.clone()).expect("past due");
    assert!(subscription.when(failed).expect("still").is_query());
    assert_eq!(view(&mut subscription).state, State::PastDue);
    (subscription, invoice_id)
}

#[test]
fn a_failed_renewal_is_past_due_and_recovers_when_paid() {
    let (mut subscription, invoice_id) = past_due(Exhausted::Cancel);
    subscription.when(Command::InvoicePaid { invoice_id }).expect("paid");
    assert_eq!(view(&mut subscription).state, State::Active);
}

#[test]
fn exhausted_dunning_cancels_or_pauses() {
    let (mut subscription, invoice_id) = past_due(Exhausted::Cancel);
    subscription.when(Command::InvoiceFailed { invoice_id, exhausted: true }).expect("given up");
    assert_eq!(view(&mut subscription).state, State::Canceled);
    let (mut subscription, invoice_id) = past_due(Exhausted::Pause);
    subscription.when(Command::InvoiceFailed { invoice_id, exhausted: true }).expect("given up");
    assert_eq!(view(&mut subscription).state, State::Paused);
    subscription.at("2026-04-10T10:00:00Z");
    let resumed = subscription.when(Command::Resume).expect("resumed");
    assert_eq!(invoiced(&resumed).expect("an invoice").quote.period.start.to_string(), "2026-04-10T10:00:00.000Z");
    pay(&mut subscription);
    assert_eq!(view(&mut subscription).state, State::Active);
}

#[test]
fn a_pause_keeps_what_was_left_of_the_period() {
    let mut subscription = active(1999);
    subscription.at("2026-02-10T10:00:00Z").when(Command::Pause).expect("paused");
    assert!(subscription.when(Command::Pause).expect("repeated").is_query());
    subscription.at("2026-02-28T10:00:00Z");
    assert!(subscription.when(Command::Renew).expect("ignored").is_query());
    subscription.at("2026-03-10T10:00:00Z");
    let resumed = subscription.when(Command::Resume).expect("resumed");
    assert_eq!(timer(&resumed, "renew").as_deref(), Some("2026-03-28"));
    let after = view(&mut subscription);
    assert_eq!((after.state, after.period.millis()), (State::Active, 28 * 86_400_000));
}

#[test]
fn cancelling_ends_now_or_at_the_end_of_the_period() {
    let mut subscription = active(1999);
    subscription.when(Command::Cancel { at: CancelAt::PeriodEnd }).expect("scheduled");
    assert!(subscription.when(Command::Cancel { at: CancelAt::PeriodEnd }).expect("repeated").is_query());
    assert_eq!(view(&mut subscription).next_invoice_at, None);
    subscription.when(Command::Resume).expect("taken back");
    assert_eq!(view(&mut subscription).cancel_at, None);
    subscription.when(Command::Cancel { at: CancelAt::PeriodEnd }).expect("scheduled");
    subscription.at("2026-02-28T10:00:00Z");
    let ended = subscription.when(Command::Renew).expect("ended");
    assert!(invoiced(&ended).is_none());
    assert_eq!(view(&mut subscription).state, State::Canceled);
    assert!(subscription.when(Command::Cancel { at: CancelAt::Now }).expect("repeated").is_query());
    assert_eq!(subscription.when(Command::Resume).expect_err("over").code, ErrorCode::Conflict);

    let (mut subscription, invoice_id) = past_due(Exhausted::Cancel);
    let ended = subscription.when(Command::Cancel { at: CancelAt::Now }).expect("ended");
    let withdraw = Effect::tell::<invoice::Invoice>(invoice::id(&invoice_id), &invoice::Command::Withdraw, "");
    assert!(ended.effects.contains(&withdraw), "the unpaid invoice is withdrawn");
}

#[test]
fn a_first_payment_that_nobody_completes_expires() {
    let mut subscription = Given::<Subscription>::new("sub_1");
    let started = subscription.when(start(offer(1999, Interval::Month, 0), 1, Exhausted::Cancel)).expect("started");
    assert_eq!(timer(&started, "expire").as_deref(), Some("2026-02-01"));
    subscription.at("2026-02-01T09:00:00Z");
    subscription.when(Command::Expire).expect("expired");
    assert_eq!(view(&mut subscription).state, State::Canceled);
}

#[test]
fn a_method_chosen_while_past_due_is_what_dunning_charges() {
    let (mut subscription, invoice_id) = past_due(Exhausted::Cancel);
    let choose = ChangeRequest { method_id: Some("pm_2".into()), ..ChangeRequest::default() };
    let chosen = subscription.when(Command::Change(choose)).expect("chosen");
    let told = chosen
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Tell { to, .. } if *to == invoice::id(&invoice_id)));
    assert!(told, "the invoice hears of it");
}
