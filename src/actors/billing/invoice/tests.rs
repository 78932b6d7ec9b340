mod back;

use super::protocol::{ChargeOutcome, RefundFault};
use super::*;
use crate::actors::billing::calendar::Period;
use crate::actors::billing::dunning::Schedule;
use crate::actors::billing::proration::{Line, LineKind};
use crate::actors::billing::quote::Quote;
use crate::actors::billing::wallet::{self, Payable, Wallet};
use crate::actors::runtime::testing::Given;
use crate::kernel::{
    Change, Currency, Decision, Effect, Entity, Error, ErrorCode, Money, Outcome, Principal, Timestamp,
};
use crate::providers::payment::{ChargeReceipt, ChargeStatus, declined};

fn quote(amount: i64) -> Quote {
    let start: Timestamp = "2026-01-31T10:00:00Z".parse().expect("a time");
    let period = Period { start, end: start.plus_days(28) };
    let line = Line { kind: LineKind::Period, description: "Pro".into(), quantity: 1, amount, period };
    Quote::of(Currency::USD, vec![line], period, 0, 0).expect("in range")
}

fn draft(amount: i64, mode: Mode) -> Command {
    Command::Create(Box::new(Draft {
        user_id: "usr_1".into(),
        subscription_id: "sub_1".into(),
        plan_name: "Pro".into(),
        reason: Reason::Renewal,
        quote: quote(amount),
        series: "INV".into(),
        mode,
        method_id: None,
        off_session: true,
    }))
}

fn view(invoice: &mut Given<Invoice>) -> View {
    match invoice.when(Command::GetInvoice).expect("there").reply {
        Reply::Invoice(view) => *view,
        other => panic!("expected an invoice, got {other:?}"),
    }
}

fn payable() -> Result<Option<Payable>, Error> {
    Ok(Some(Payable { method_id: "pm_1".into(), customer: "cus_1".into(), token: "pm_t".into() }))
}

/// An invoice whose first charge was sent.
fn charging(mode: Mode) -> Given<Invoice> {
    let mut invoice = Given::<Invoice>::new("inv_1");
    invoice.when(draft(1999, mode.clone())).expect("made");
    assert!(invoice.when(draft(1, mode)).expect("repeated").is_query());
    invoice.when(Command::Numbered(Ok(7))).expect("numbered");
    assert!(invoice.when(Command::Numbered(Ok(8))).expect("repeated").is_query());
    invoice.when(Command::MethodResolved { attempt: 1, result: payable() }).expect("resolved");
    invoice
}

fn receipt(attempt: u32, id: &str, status: ChargeStatus) -> ChargeReceipt {
    let amount = Money::new(1999, Currency::USD);
    ChargeReceipt { id: id.into(), reference: reference("inv_1", attempt), amount, status }
}

fn charged(invoice: &mut Given<Invoice>, attempt: u32, outcome: ChargeOutcome) -> Decision<Invoice> {
    invoice.when(Command::Charged { attempt, outcome }).expect("never refused")
}

fn succeed(invoice: &mut Given<Invoice>, attempt: u32, id: &str) -> Decision<Invoice> {
    charged(invoice, attempt, ChargeOutcome::Receipt(receipt(attempt, id, ChargeStatus::Succeeded)))
}

fn decline(invoice: &mut Given<Invoice>, attempt: u32) -> Decision<Invoice> {
    charged(invoice, attempt, ChargeOutcome::NotCharged { code: "card_declined".into() })
}

fn calls(decision: &Decision<Invoice>) -> usize {
    decision.effects.iter().filter(|effect| matches!(effect, Effect::Call { .. })).count()
}

fn tells(decision: &Decision<Invoice>, kind: &str) -> usize {
    decision.effects.iter().filter(|effect| matches!(effect, Effect::Tell { to, .. } if to.kind() == kind)).count()
}

#[test]
fn a_charge_that_succeeds_pays_once_and_sends_one_receipt() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    let paid = succeed(&mut invoice, 1, "pi_1");
    assert_eq!((tells(&paid, "subscription"), tells(&paid, "delivery")), (1, 1));
    let shown = view(&mut invoice);
    assert_eq!((shown.state, shown.number.as_deref(), shown.amount_due()), (State::Paid, Some("INV-000007"), 0));
    assert!(succeed(&mut invoice, 1, "pi_1").is_query(), "a second report changes nothing");
    assert!(decline(&mut invoice, 1).is_query(), "nor does one that comes too late");
    let pay = invoice.when(Command::Pay { method_id: None }).expect_err("paid");
    assert_eq!(pay.code, ErrorCode::Conflict);
}

#[test]
fn a_payment_of_another_amount_is_one_and_is_told_of() {
    for (amount, differs) in [(1999, false), (999, true), (4999, true)] {
        let mut invoice = charging(Mode::Dunning(Schedule::default()));
        let found = ChargeReceipt {
            amount: Money::new(amount, Currency::USD),
            // Of an attempt that is not known here.
            ..receipt(4, "pi_4", ChargeStatus::Succeeded)
        };
        let paid = charged(&mut invoice, 1, ChargeOutcome::Receipt(found.clone()));
        let told = paid.audit.iter().filter(|entry| entry.action == "invoice.amount_differs").count();
        assert_eq!((view(&mut invoice).state, told), (State::Paid, usize::from(differs)), "{amount}");
        let report = Command::Report { receipt: ChargeReceipt { amount: Money::new(1999, Currency::USD), ..found } };
        assert!(invoice.when(report).expect("never refused").is_query(), "it is what paid, and stays");
    }
}

#[test]
fn an_invoice_over_nothing_is_paid_without_a_charge() {
    let mut invoice = Given::<Invoice>::new("inv_1");
    invoice.when(draft(0, Mode::KeepOpen)).expect("made");
    let numbered = invoice.when(Command::Numbered(Ok(1))).expect("numbered");
    assert_eq!((calls(&numbered), tells(&numbered, "subscription"), tells(&numbered, "delivery")), (0, 1, 0));
    assert_eq!(view(&mut invoice).state, State::Paid);
}

#[test]
fn an_unknown_outcome_is_looked_up_and_never_charged_again() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    charged(&mut invoice, 1, ChargeOutcome::Unknown);
    let blind = invoice.when(Command::Pay { method_id: None }).expect_err("not while unknown");
    assert_eq!(blind.code, ErrorCode::Conflict);
    invoice.at("2026-02-02T10:00:00Z");
    assert!(invoice.when(Command::Retry).expect("ignored").is_query());
    assert_eq!(calls(&invoice.when(Command::Reconcile).expect("looked up")), 1);
    let given_up = Error::new(ErrorCode::Unavailable, "Given up after 12 attempts.");
    let given_up = Invoice::on_outcome("charge:1", Outcome::Refused(given_up)).expect("a command");
    assert!(matches!(given_up, Command::Charged { outcome: ChargeOutcome::Unknown, .. }));
    let still = Invoice::on_outcome("find:1", Outcome::Unknown("no answer".into())).expect("a command");
    invoice.when(still).expect("never refused");
    assert_eq!(view(&mut invoice).state, State::Open);
    succeed(&mut invoice, 1, "pi_1");
    assert_eq!(view(&mut invoice).state, State::Paid);
    assert!(invoice.when(Command::Reconcile).expect("ignored").is_query());
}

#[test]
fn dunning_tries_as_scheduled_and_then_gives_up() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    for (attempt, day) in [(1, "02-01"), (2, "02-03"), (3, "02-05"), (4, "02-07")] {
        let failed = decline(&mut invoice, attempt);
        assert_eq!((tells(&failed, "subscription"), tells(&failed, "delivery")), (1, 1));
        assert!(decline(&mut invoice, attempt).is_query(), "a failure counts once");
        let next = view(&mut invoice).next_attempt_at.expect("another try").to_string();
        assert_eq!(&next[..10], format!("2026-{day}"));
        assert!(invoice.when(Command::Retry).expect("too early").is_query());
        invoice.at(&next);
        assert_eq!(tells(&invoice.when(Command::Retry).expect("tried"), "wallet"), 1);
        assert!(invoice.when(Command::Retry).expect("one at a time").is_query());
        invoice.when(Command::MethodResolved { attempt: attempt + 1, result: payable() }).expect("resolved");
    }
    decline(&mut invoice, 5);
    assert_eq!(view(&mut invoice).state, State::Uncollectible);
    invoice.when(Command::Pay { method_id: None }).expect("may still be paid");
    assert!(!view(&mut invoice).is_settled(), "whoever pays waits for the attempt");
    invoice.when(Command::MethodResolved { attempt: 6, result: payable() }).expect("resolved");
    assert!(!view(&mut invoice).is_settled());
    succeed(&mut invoice, 6, "pi_6");
    assert!(view(&mut invoice).is_settled());
    assert_eq!(view(&mut invoice).state, State::Paid);
}

#[test]
fn a_challenge_by_hand_that_nobody_answers_does_not_end_the_schedule() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    decline(&mut invoice, 1);
    let planned = view(&mut invoice).next_attempt_at.expect("another try");
    invoice.when(Command::Pay { method_id: None }).expect("tried");
    invoice.when(Command::MethodResolved { attempt: 2, result: payable() }).expect("resolved");
    let asked = ChargeStatus::RequiresAction { client_secret: "secret".into() };
    let challenged = charged(&mut invoice, 2, ChargeOutcome::Receipt(receipt(2, "pi_2", asked)));
    let set = |change: &Change| matches!(change, Change::Timer { name, due: Some(due) } if name == "retry" && *due == planned);
    assert!(challenged.changes.iter().any(set));
    invoice.at(&planned.to_string());
    assert_eq!(tells(&invoice.when(Command::Retry).expect("tried"), "wallet"), 1);
}

#[test]
fn whoever_answers_a_challenge_has_an_hour_and_no_other_card_is_charged() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    decline(&mut invoice, 1);
    let planned = view(&mut invoice).next_attempt_at.expect("another try");
    invoice.at(&planned.to_string());
    invoice.when(Command::Pay { method_id: Some("pm_2".into()) }).expect("tried");
    let fell_back = invoice.when(Command::MethodResolved { attempt: 2, result: payable() }).expect("resolved");
    assert_eq!(calls(&fell_back), 0, "pm_1 was not named");
    assert_eq!(view(&mut invoice).decline_code(), Some(NO_PAYMENT_METHOD));
    invoice.when(Command::Pay { method_id: Some("pm_1".into()) }).expect("tried");
    let named = invoice.when(Command::MethodResolved { attempt: 3, result: payable() }).expect("resolved");
    assert_eq!(calls(&named), 1);
    let asked = ChargeStatus::RequiresAction { client_secret: "secret".into() };
    let challenged = charged(&mut invoice, 3, ChargeOutcome::Receipt(receipt(3, "pi_3", asked)));
    let hour = planned.plus_seconds(3600);
    let set = |change: &Change| matches!(change, Change::Timer { name, due } if name == "retry" && *due == Some(hour));
    assert!(challenged.changes.iter().any(set));
}

#[test]
fn any_number_of_payments_by_hand_leaves_room_for_the_schedule() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    decline(&mut invoice, 1);
    let mut attempt = 1;
    while invoice.when(Command::Pay { method_id: None }).is_ok() {
        attempt += 1;
        invoice.when(Command::MethodResolved { attempt, result: payable() }).expect("resolved");
        decline(&mut invoice, attempt);
    }
    while let Some(next) = view(&mut invoice).next_attempt_at {
        invoice.at(&next.to_string());
        assert_eq!(tells(&invoice.when(Command::Retry).expect("tried"), "wallet"), 1);
        attempt += 1;
        invoice.when(Command::MethodResolved { attempt, result: payable() }).expect("resolved");
        decline(&mut invoice, attempt);
    }
    assert_eq!(view(&mut invoice).state, State::Uncollectible);
}

#[test]
fn what_is_paid_after_the_subscription_ended_goes_back() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    charged(&mut invoice, 1, ChargeOutcome::Unknown);
    invoice.when(Command::Void).expect("the subscription ended");
    assert_eq!(view(&mut invoice).state, State::Open, "until it is known what became of the charge");
    let found = succeed(&mut invoice, 1, "pi_1");
    assert_eq!((calls(&found), tells(&found, "delivery")), (1, 0), "a refund and no receipt");
    assert_eq!(view(&mut invoice).state, State::Void);
    let attempt = view(&mut invoice).attempts[0].status.clone();
    assert!(!attempt.is_under_way(), "{attempt:?}");
    assert!(succeed(&mut invoice, 1, "pi_1").is_query(), "once");
}

#[test]
fn a_payment_by_hand_does_not_use_up_the_schedule() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    decline(&mut invoice, 1);
    let planned = view(&mut invoice).next_attempt_at;
    invoice.when(Command::Pay { method_id: Some("pm_2".into()) }).expect("tried");
    invoice.when(Command::MethodResolved { attempt: 2, result: Ok(None) }).expect("nothing to charge");
    let shown = view(&mut invoice);
    assert_eq!((shown.next_attempt_at, shown.decline_code()), (planned, Some(NO_PAYMENT_METHOD)));
}

#[test]
fn the_schedule_charges_the_method_that_was_chosen_in_between() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    decline(&mut invoice, 1);
    invoice.when(Command::ChooseMethod { method_id: "pm_2".into() }).expect("chosen");
    assert!(invoice.when(Command::ChooseMethod { method_id: "pm_2".into() }).expect("repeated").is_query());
    let next = view(&mut invoice).next_attempt_at.expect("another try");
    let tried = invoice.at(&next.to_string()).when(Command::Retry).expect("tried");
    let ask = wallet::Command::Resolve { method_id: Some("pm_2".into()) };
    assert!(tried.effects.contains(&Effect::tell::<Wallet>(wallet::id("usr_1"), &ask, "method:2")));
}

#[test]
fn a_challenge_waits_for_the_report_and_a_foreign_report_changes_nothing() {
    let mut invoice = charging(Mode::KeepOpen);
    let challenge = ChargeStatus::RequiresAction { client_secret: "s".into() };
    charged(&mut invoice, 1, ChargeOutcome::Receipt(receipt(1, "pi_1", challenge)));
    assert!(view(&mut invoice).is_settled());
    let mut foreign = receipt(1, "pi_1", ChargeStatus::Succeeded);
    foreign.amount = Money::new(1, Currency::USD);
    assert!(invoice.when(Command::Report { receipt: foreign }).expect("refused").events.is_empty());
    let mut other = receipt(1, "pi_1", ChargeStatus::Succeeded);
    other.reference = reference("inv_2", 1);
    assert!(invoice.when(Command::Report { receipt: other }).expect("refused").events.is_empty());
    invoice.when(Command::Report { receipt: receipt(1, "pi_1", ChargeStatus::Succeeded) }).expect("taken");
    assert_eq!(view(&mut invoice).state, State::Paid);
}

#[test]
fn a_payment_that_comes_too_late_is_given_back_once() {
    let mut invoice = charging(Mode::KeepOpen);
    let challenge = ChargeStatus::RequiresAction { client_secret: "s".into() };
    charged(&mut invoice, 1, ChargeOutcome::Receipt(receipt(1, "pi_1", challenge)));
    invoice.when(Command::Pay { method_id: None }).expect("tried again");
    invoice.when(Command::MethodResolved { attempt: 2, result: payable() }).expect("resolved");
    succeed(&mut invoice, 2, "pi_2");
    let late = succeed(&mut invoice, 1, "pi_1");
    assert_eq!(calls(&late), 1, "the second payment goes back");
    assert!(succeed(&mut invoice, 1, "pi_1").is_query());
}

#[test]
fn voiding_waits_for_a_charge_under_way() {
    let mut invoice = charging(Mode::Dunning(Schedule::default()));
    invoice.when(Command::Void).expect("asked for");
    assert_eq!(view(&mut invoice).state, State::Open);
    decline(&mut invoice, 1);
    assert_eq!(view(&mut invoice).state, State::Void);
    let mut invoice = charging(Mode::VoidOnDecline);
    let voided = decline(&mut invoice, 1);
    assert_eq!((view(&mut invoice).state, tells(&voided, "subscription")), (State::Void, 1));
    let mut invoice = Given::<Invoice>::new("inv_1");
    invoice.when(draft(1999, Mode::KeepOpen)).expect("made");
    assert_eq!(view(&mut invoice).decline_code(), None);
    invoice.when(Command::Void).expect("voided");
    assert_eq!(view(&mut invoice).decline_code(), Some("canceled"), "whoever waits for it hears that it is over");
    invoice.when(Command::Numbered(Ok(3))).expect("keeps its number");
    let shown = view(&mut invoice);
    assert_eq!((shown.state, shown.number.as_deref()), (State::Void, Some("INV-000003")));
}

#[test]
fn refunds_end_at_what_was_paid_and_become_credit_notes() {
    let mut invoice = charging(Mode::KeepOpen);
    let refund = |amount| Command::Refund { amount, reason: "asked".into() };
    assert_eq!(invoice.when(refund(None)).expect_err("not paid").code, ErrorCode::Conflict);
    succeed(&mut invoice, 1, "pi_1");
    for amount in [0, -1, 2000, i64::MAX] {
        assert_eq!(invoice.when(refund(Some(amount))).expect_err("refused").code, ErrorCode::Invalid);
    }
    let Reply::Refund(first) = invoice.when(refund(Some(1500))).expect("asked for").reply else { panic!("a refund") };
    assert!(invoice.when(refund(Some(500))).is_err(), "what may have been given back counts");
    let settled = Command::RefundSettled { id: first.id.clone(), result: Ok("re_1".into()) };
    assert_eq!(tells(&invoice.when(settled.clone()).expect("settled"), "numbering"), 1);
    assert!(invoice.when(settled).expect("repeated").is_query());
    invoice.when(Command::RefundNumbered { id: first.id, result: Ok(1) }).expect("numbered");
    assert_eq!(view(&mut invoice).refunds[0].number.as_deref(), Some("INVCN-000001"));
    let Reply::Refund(second) = invoice.when(refund(None)).expect("the rest").reply else { panic!("a refund") };
    assert_eq!(second.amount, 499);
    let fault = RefundFault::Refused(declined("no"));
    invoice.when(Command::RefundSettled { id: second.id, result: Err(fault) }).expect("failed");
    assert!(invoice.when(refund(Some(499))).is_ok(), "what was not given back may be");
}

#[test]
fn another_persons_invoice_does_not_exist() {
    let mut invoice = charging(Mode::KeepOpen);
    invoice.context.origin.principal = Principal::User { id: "usr_2".into(), session: None, roles: Vec::new() };
    for command in [Command::GetInvoice, Command::Pay { method_id: None }] {
        assert_eq!(invoice.when(command).expect_err("hidden").code, ErrorCode::NotFound);
    }
}
