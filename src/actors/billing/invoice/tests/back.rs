//! Money that goes back: refunds and returns whose end is not known, and payments nobody is entitled to keep.

use super::*;
use crate::actors::billing::ledger::{self, Account, Transaction};
use crate::kernel::{codec, snapshot};
use crate::providers::payment::{PaymentReceipt, PaymentRequest, RefundProgress, RefundReceipt, not_refunded};

fn request(effect: &Effect) -> Option<(PaymentRequest, String)> {
    match effect {
        Effect::Call { request, tag, .. } => Some((codec::decode(request).expect("decodes"), tag.clone())),
        Effect::Tell { .. } => None,
    }
}

/// The one provider call of a decision and its tag.
fn call(decision: &Decision<Invoice>) -> (PaymentRequest, String) {
    let calls: Vec<_> = decision.effects.iter().filter_map(request).collect();
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.into_iter().next().expect("one")
}

fn answered(invoice: &mut Given<Invoice>, tag: &str, outcome: Outcome) -> Decision<Invoice> {
    let command = Invoice::on_outcome(tag, outcome).expect("somebody waits for it");
    invoice.when(command).expect("never refused")
}

fn done(receipt: &PaymentReceipt) -> Outcome {
    Outcome::Done(codec::encode(receipt).expect("encodes"))
}

fn found(progress: Option<RefundProgress>) -> Outcome {
    done(&PaymentReceipt::FoundRefund(progress.map(|progress| RefundReceipt { id: "re_1".into(), progress })))
}

fn given_up() -> Outcome {
    Outcome::Refused(Error::new(ErrorCode::Unavailable, "Given up after 12 attempts."))
}

fn due(decision: &Decision<Invoice>, wanted: &str) -> Option<Timestamp> {
    decision.changes.iter().rev().find_map(|change| match change {
        Change::Timer { name, due } if name == wanted => Some(*due),
        _ => None,
    })?
}

/// What a decision books on an account.
fn booked(decision: &Decision<Invoice>, account: Account) -> i64 {
    let entries = decision.changes.iter().filter_map(|change| match change {
        Change::Index { index, value: Some(value), .. } if index == ledger::INDEX => {
            Some(Transaction::decode(value).expect("decodes").change_of(account))
        }
        _ => None,
    });
    entries.sum()
}

fn refunding() -> (Given<Invoice>, String) {
    let mut invoice = charging(Mode::KeepOpen);
    succeed(&mut invoice, 1, "pi_1");
    let asked = invoice.when(Command::Refund { amount: None, reason: "asked".into() }).expect("asked for");
    let Reply::Refund(refund) = asked.reply else { panic!("a refund") };
    (invoice, refund.id)
}

fn status(invoice: &mut Given<Invoice>) -> RefundStatus {
    view(invoice).refunds[0].status
}

#[test]
fn a_refund_whose_end_is_not_known_is_looked_up_until_it_is() {
    for (first, open) in [
        (given_up(), RefundStatus::Unknown),
        (Outcome::Unknown("lost".into()), RefundStatus::Unknown),
        (done(&PaymentReceipt::RefundPending { id: "re_1".into() }), RefundStatus::Processing),
    ] {
        for (then, end) in [
            (None, RefundStatus::Failed),
            (Some(RefundProgress::Failed { code: "expired_or_canceled_card".into() }), RefundStatus::Failed),
            (Some(RefundProgress::Succeeded), RefundStatus::Succeeded),
        ] {
            let (mut invoice, id) = refunding();
            let settled = answered(&mut invoice, &format!("refund:{id}"), first.clone());
            assert_eq!(status(&mut invoice), open);
            assert!(invoice.when(Command::Refund { amount: None, reason: "again".into() }).is_err(), "not twice");
            let look = due(&settled, "refunds").expect("it is looked up");
            let looked = invoice.at(&look.to_string()).when(Command::FindRefunds).expect("looked up");
            let again = due(&looked, "refunds").expect("and again");
            assert!(again > look);
            let (find, tag) = call(&looked);
            let reference = format!("inv_1/{id}");
            assert_eq!(find, PaymentRequest::FindRefund { charge: "pi_1".into(), reference });
            assert!(answered(&mut invoice, &tag, Outcome::Unknown("not now".into())).is_query());
            assert_eq!(status(&mut invoice), open, "still");
            let known = answered(&mut invoice, &tag, found(then));
            assert_eq!(status(&mut invoice), end);
            assert_eq!(tells(&known, "numbering"), usize::from(end == RefundStatus::Succeeded));
            assert!(invoice.when(Command::FindRefunds).expect("ignored").is_query(), "it is known");
            let more = invoice.when(Command::Refund { amount: None, reason: "again".into() });
            assert_eq!(more.is_ok(), end == RefundStatus::Failed, "what was not given back may be");
        }
    }
}

#[test]
fn a_return_is_asked_for_until_the_money_is_back_and_the_books_say_so() {
    let mut invoice = charging(Mode::KeepOpen);
    succeed(&mut invoice, 1, "pi_1");
    let late = succeed(&mut invoice, 1, "pi_2");
    let (first, tag) = call(&late);
    assert!(matches!(&first, PaymentRequest::Refund(refund) if refund.charge == "pi_2"), "{first:?}");
    assert_eq!((booked(&late, Account::Cash), booked(&late, Account::Returns)), (1999, -1999));
    // Most of a day of outage: it certainly was not done, or nobody knows.
    for outcome in [given_up(), Outcome::Unknown("lost".into()), Outcome::Refused(not_refunded("no"))] {
        let ended = answered(&mut invoice, &tag, outcome);
        assert_eq!(booked(&ended, Account::Cash), 0, "it is still here");
        assert_ne!(view(&mut invoice).returns[0].status, RefundStatus::Succeeded);
        let look = due(&ended, "returns").expect("it is looked up");
        let looked = invoice.at(&look.to_string()).when(Command::FindReturns).expect("looked up");
        let (find, find_tag) = call(&looked);
        assert!(matches!(find, PaymentRequest::FindRefund { .. }), "{find:?}");
        assert!(answered(&mut invoice, &find_tag, Outcome::Unknown("not now".into())).is_query());
        let (again, _) = call(&answered(&mut invoice, &find_tag, found(None)));
        assert_eq!(again, first, "asked for again");
        assert!(answered(&mut invoice, &find_tag, found(None)).is_query(), "once at a time");
        assert!(invoice.when(Command::FindReturns).expect("left alone").effects.is_empty());
    }
    let back = answered(&mut invoice, &tag, done(&PaymentReceipt::Refund { id: "re_1".into() }));
    assert_eq!((booked(&back, Account::Cash), booked(&back, Account::Returns)), (-1999, 1999));
    let shown = view(&mut invoice).returns.remove(0);
    assert_eq!((shown.status, shown.tries), (RefundStatus::Succeeded, 4));
    assert!(answered(&mut invoice, &tag, given_up()).is_query(), "it is over");
    assert!(invoice.when(Command::FindReturns).expect("ignored").is_query());
}

fn change() -> Given<Invoice> {
    let mut invoice = Given::<Invoice>::new("inv_1");
    let Command::Create(made) = draft(1999, Mode::VoidOnDecline) else { panic!("a draft") };
    let made = Draft { reason: Reason::Change, ..*made };
    invoice.when(Command::Create(Box::new(made))).expect("made");
    invoice.when(Command::Numbered(Ok(7))).expect("numbered");
    invoice.when(Command::MethodResolved { attempt: 1, result: payable() }).expect("resolved");
    invoice
}

#[test]
fn an_upgrade_that_its_holder_gave_up_keeps_no_money() {
    let mut invoice = change();
    charged(&mut invoice, 1, ChargeOutcome::Unknown);
    invoice.when(Command::Void).expect("it took too long");
    let late = succeed(&mut invoice, 1, "pi_1");
    assert_eq!((calls(&late), view(&mut invoice).state), (0, State::Paid), "the change is made all the same");

    let mut invoice = change();
    charged(&mut invoice, 1, ChargeOutcome::Unknown);
    invoice.when(Command::Void).expect("it took too long");
    invoice.when(Command::Withdraw).expect("the subscription ended");
    assert!(invoice.when(Command::Withdraw).expect("repeated").is_query());
    let late = succeed(&mut invoice, 1, "pi_1");
    assert!(matches!(call(&late).0, PaymentRequest::Refund(_)));
    assert_eq!((view(&mut invoice).state, tells(&late, "delivery")), (State::Void, 0));

    let mut invoice = change();
    succeed(&mut invoice, 1, "pi_1");
    let ended = invoice.when(Command::Withdraw).expect("before it heard of the payment");
    assert!(matches!(call(&ended).0, PaymentRequest::Refund(refund) if refund.amount.amount == 1999));
    assert!(invoice.when(Command::Withdraw).expect("repeated").is_query());
    let mut renewal = charging(Mode::KeepOpen);
    succeed(&mut renewal, 1, "pi_1");
    assert!(renewal.when(Command::Withdraw).expect("ignored").is_query(), "a period that began is paid for");
}

fn challenge(invoice: &mut Given<Invoice>) -> Decision<Invoice> {
    let asked = ChargeStatus::RequiresAction { client_secret: "secret".into() };
    charged(invoice, 1, ChargeOutcome::Receipt(receipt(1, "pi_1", asked)))
}

#[test]
fn a_challenged_charge_is_looked_up_before_it_is_voided_and_for_a_month() {
    let asked = || ChargeStatus::RequiresAction { client_secret: "secret".into() };
    let looked_up = |status| done(&PaymentReceipt::Found(Some(receipt(1, "pi_1", status))));
    for (status, refunds) in [(asked(), 0), (ChargeStatus::Succeeded, 1)] {
        let mut invoice = charging(Mode::KeepOpen);
        let challenged = challenge(&mut invoice);
        let hour = invoice.context.now.plus_seconds(3600);
        assert_eq!(due(&challenged, "reconcile"), Some(hour), "nobody may report it");
        let (find, tag) = call(&invoice.when(Command::Withdraw).expect("the subscription ended"));
        assert!(matches!(find, PaymentRequest::FindCharge { reference, .. } if reference == "inv_1/1"));
        assert_eq!(view(&mut invoice).state, State::Open, "not before it is known");
        let known = answered(&mut invoice, &tag, looked_up(status));
        assert_eq!((view(&mut invoice).state, calls(&known)), (State::Void, refunds));
    }
    let mut invoice = charging(Mode::KeepOpen);
    challenge(&mut invoice);
    let (_, tag) = call(&invoice.when(Command::Withdraw).expect("the subscription ended"));
    let mut next = due(&answered(&mut invoice, &tag, looked_up(asked())), "reconcile");
    let mut looks = 0;
    while let Some(at) = next {
        let looked = invoice.at(&at.to_string()).when(Command::Reconcile).expect("looked up");
        next = due(&looked, "reconcile");
        looks += 1;
    }
    assert!((30..60).contains(&looks), "{looks} looks");
    let paid = succeed(&mut invoice, 1, "pi_1");
    assert!(matches!(call(&paid).0, PaymentRequest::Refund(_)), "answered in the end");
}

#[test]
fn what_is_learnt_of_a_challenge_once_all_is_over_changes_nothing_but_the_attempt() {
    let asked = ChargeStatus::RequiresAction { client_secret: "secret".into() };
    let declined = ChargeStatus::Declined { code: "abandoned".into() };
    for mode in [Mode::KeepOpen, Mode::VoidOnDecline, Mode::Dunning(Schedule::default())] {
        let mut voided = charging(mode.clone());
        challenge(&mut voided);
        voided.when(Command::Withdraw).expect("the subscription ended");
        let found = |status: &ChargeStatus| ChargeOutcome::Receipt(receipt(1, "pi_1", status.clone()));
        charged(&mut voided, 1, found(&asked));
        let mut paid = charging(mode);
        challenge(&mut paid);
        paid.when(Command::Pay { method_id: None }).expect("tried again");
        paid.when(Command::MethodResolved { attempt: 2, result: payable() }).expect("resolved");
        succeed(&mut paid, 2, "pi_2");
        for (invoice, state) in [(&mut voided, State::Void), (&mut paid, State::Paid)] {
            assert_eq!(view(invoice).state, state);
            assert!(charged(invoice, 1, found(&asked)).is_query(), "{state:?}: as before");
            let over = charged(invoice, 1, found(&declined));
            assert_eq!((over.effects.len(), over.events.len()), (0, 1), "{state:?}");
            assert_eq!(booked(&over, Account::Receivable), 0, "{state:?}: booked once");
            assert_eq!(view(invoice).state, state);
        }
    }
}

/// A paid invoice with a duplicate, as it was written before states had versions.
const OLD: &str = "0105000000000000007573725f3105000000000000007375625f31030000000000000050726f010000000300000000000000\
    555344010000000000000000000000030000000000000050726f0100000000000000cf0700000000000000c17e139c010000\
    00d1b0a39c010000cf070000000000000000000000000000cf070000000000000000000000000000000000000000000000c1\
    7e139c01000000d1b0a39c0100000300000000000000494e5601000000000102000000010a00000000000000494e562d3030\
    3030303700c17e139c0100000100c17e139c0100000100c17e139c01000001000000000000000100000000c17e139c010000\
    00010400000000000000706d5f310105000000000000006375735f3100050000000000000000000001040000000000000070\
    695f310100000000000000040000000000000070695f3200000000000000000600000000000000";

#[test]
fn an_invoice_of_the_first_version_is_read() {
    let mut old = Given::<Invoice>::new("inv_1");
    old.state = snapshot::decode(&hex::decode(OLD).expect("hex")).expect("it is read");
    let shown = view(&mut old);
    assert_eq!((shown.state, shown.number.as_deref(), shown.returns.len()), (State::Paid, Some("INV-000007"), 0));
    assert!(succeed(&mut old, 1, "pi_2").is_query(), "what went back then does not go again");
    assert_eq!(calls(&succeed(&mut old, 1, "pi_3")), 1);
    let nothing: Invoice = snapshot::decode(&[0]).expect("one that was not made yet");
    assert!(nothing.body.is_none());
}
