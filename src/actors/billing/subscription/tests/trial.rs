//! Changes while on trial.

use super::*;
use crate::actors::billing::wallet;

fn trying(days: u16) -> Given<Subscription> {
    let mut subscription = Given::<Subscription>::new("sub_1");
    subscription.when(start(offer(1999, Interval::Month, days), 1, Exhausted::Cancel)).expect("started");
    subscription
}

fn change(subscription: &mut Given<Subscription>, request: ChangeRequest) -> Decision<Subscription> {
    let preview = subscription.when(Command::PreviewChange(request.clone())).expect("previewed");
    let Reply::Preview(preview) = preview.reply else { panic!("a preview") };
    let changed = subscription.when(Command::Change(request)).expect("changed");
    let total = invoiced(&changed).map_or(0, |draft| draft.quote.total);
    assert_eq!(total, preview.quote.total, "as previewed");
    changed
}

fn to(amount: i64, trial_days: u16) -> ChangeRequest {
    ChangeRequest { offer: Some(offer(amount, Interval::Month, trial_days)), ..ChangeRequest::default() }
}

fn ends(subscription: &mut Given<Subscription>) -> String {
    let shown = view(subscription);
    assert_eq!((shown.state, shown.trial_end), (State::Trialing, Some(shown.period.end)));
    shown.period.end.to_string()[..10].to_owned()
}

#[test]
fn a_trial_lasts_no_longer_than_that_of_the_plan_it_is_on() {
    let mut subscription = trying(14);
    subscription.at("2026-02-04T10:00:00Z");
    let longer = change(&mut subscription, to(2999, 30));
    assert_eq!((invoiced(&longer).is_none(), ends(&mut subscription).as_str()), (true, "2026-02-14"));
    let take = wallet::Command::TakeTrial { plan_id: "pln_2999".into(), subscription_id: "sub_1".into() };
    assert!(
        longer.effects.contains(&Effect::tell::<wallet::Wallet>(wallet::id("usr_1"), &take, "")),
        "it is remembered"
    );
    let shorter = change(&mut subscription, to(3999, 7));
    assert_eq!((invoiced(&shorter).is_none(), ends(&mut subscription).as_str()), (true, "2026-02-07"));
    assert_eq!(timer(&shorter, "renew").as_deref(), Some("2026-02-07"));
    assert_eq!(timer(&shorter, "trial_ending").as_deref(), Some("2026-02-04"), "at once, as it is three days away");
    let more = ChangeRequest { quantity: Some(1000), ..ChangeRequest::default() };
    change(&mut subscription, more);
    assert_eq!(ends(&mut subscription), "2026-02-07");
    let back = change(&mut subscription, to(1999, 14));
    assert_eq!((invoiced(&back).is_none(), ends(&mut subscription).as_str()), (true, "2026-02-07"), "never longer");
    subscription.at("2026-02-07T10:00:00Z");
    let renewed = subscription.when(Command::Renew).expect("renewed");
    assert_eq!(invoiced(&renewed).expect("an invoice").quote.total, 1_999_000);
    assert_eq!(timer(&renewed, "renew").as_deref(), Some("2026-03-07"));
}

#[test]
fn a_plan_without_a_trial_is_paid_before_it_is_had() {
    for trial_days in [0, 3] {
        let mut subscription = trying(14);
        subscription.at("2026-02-05T10:00:00Z");
        let asked = change(&mut subscription, to(2999, trial_days));
        let draft = invoiced(&asked).expect("an invoice");
        assert_eq!(
            (draft.quote.total, draft.mode, draft.reason),
            (2999, invoice::Mode::VoidOnDecline, invoice::Reason::Change)
        );
        let meanwhile = view(&mut subscription);
        assert_eq!((meanwhile.state, meanwhile.offer.plan_id.as_str()), (State::Trialing, "pln_1999"));
        let invoice_id = meanwhile.settling.expect("being settled").invoice_id;
        let dropped = subscription.when(Command::InvoiceVoided { invoice_id }).expect("declined");
        assert_eq!(
            (ends(&mut subscription).as_str(), timer(&dropped, "renew").as_deref()),
            ("2026-02-14", Some("2026-02-14"))
        );
        change(&mut subscription, to(2999, trial_days));
        let paid = pay(&mut subscription);
        let shown = view(&mut subscription);
        assert_eq!((shown.state, shown.offer.plan_id.as_str()), (State::Active, "pln_2999"));
        assert_eq!(shown.trial_end, Some(shown.period.start));
        assert_eq!(timer(&paid, "renew").as_deref(), Some("2026-03-05"));
        assert!(paid.changes.contains(&Change::Timer { name: "trial_ending".into(), due: None }));
    }
}

#[test]
fn a_free_plan_without_a_trial_is_had_at_once() {
    let mut subscription = trying(14);
    subscription.at("2026-02-05T10:00:00Z");
    let changed = change(&mut subscription, to(0, 0));
    assert_eq!((invoiced(&changed).is_none(), view(&mut subscription).state), (true, State::Active));
    assert_eq!(timer(&changed, "renew").as_deref(), Some("2026-03-05"));
}
