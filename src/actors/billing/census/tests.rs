use super::*;
use crate::actors::billing::subscription::State;
use crate::actors::runtime::testing::Given;
use crate::kernel::Currency;

fn subscription(state: State, quantity: i64) -> Share {
    Share::Subscription { plan_id: "pln_1".into(), plan_name: "Plus".into(), state, quantity }
}

fn invoice(paid: Option<i64>, refunded: &[i64]) -> Share {
    let month = |amount| ("2026-02".to_owned(), amount);
    Share::Invoice {
        currency: Currency::USD,
        invoiced: Some(("2026-01".to_owned(), 999)),
        paid: paid.map(month),
        refunded: refunded.iter().copied().map(month).collect(),
    }
}

fn change(id: &str, old: Option<Share>, new: Share) -> Change {
    Change { id: id.to_owned(), old, new }
}

fn view(given: &mut Given<Census>) -> View {
    match given.when(Command::GetCensus).expect("a query").reply {
        Reply::Census(view) => *view,
        other => panic!("unexpected {other:?}"),
    }
}

fn count(view: &View, state: State) -> (i64, i64) {
    let tally = view.plans.get(&("pln_1".to_owned(), state));
    tally.map_or((0, 0), |tally| (tally.subscriptions, tally.quantity))
}

#[test]
fn a_change_takes_the_old_share_out_and_puts_the_new_one_in() {
    let mut given = Given::<Census>::new("3");
    let (active, canceled) = (subscription(State::Active, 2), subscription(State::Canceled, 2));
    let first = vec![change("sub_1", None, active.clone()), change("sub_2", None, active.clone())];
    let done = given.when(Command::Record { revision: 0, changes: first }).expect("recorded");
    assert_eq!((done.reply, done.changes.len()), (Reply::Done, 2), "a row for each");
    let second = vec![change("sub_1", Some(active), canceled), change("inv_1", None, invoice(None, &[]))];
    given.when(Command::Record { revision: 1, changes: second }).expect("recorded");
    let seen = view(&mut given);
    assert_eq!((count(&seen, State::Active), count(&seen, State::Canceled)), ((1, 2), (1, 2)));
    let paid = vec![change("inv_1", Some(invoice(None, &[])), invoice(Some(999), &[100, 50]))];
    given.when(Command::Record { revision: 2, changes: paid }).expect("recorded");
    let seen = view(&mut given);
    let (january, february) =
        (&seen.months[&("2026-01".to_owned(), Currency::USD)], &seen.months[&("2026-02".to_owned(), Currency::USD)]);
    assert_eq!((january.invoices, january.invoiced, january.paid), (1, 999, 0));
    assert_eq!((february.invoices, february.paid, february.refunded), (0, 999, 150));
}

#[test]
fn changes_read_from_older_rows_are_not_taken_in() {
    let mut given = Given::<Census>::new("3");
    let active = subscription(State::Active, 1);
    let command = Command::Record { revision: 0, changes: vec![change("sub_1", None, active)] };
    given.when(command.clone()).expect("recorded");
    let again = given.when(command).expect("answered");
    assert!(again.is_query() && again.reply == Reply::Stale);
    assert_eq!(count(&view(&mut given), State::Active), (1, 1));
}

#[test]
fn a_cleared_census_starts_anew_and_knows_that_it_is_not_complete() {
    let mut given = Given::<Census>::new("3");
    given
        .when(Command::Record { revision: 0, changes: vec![change("inv_1", None, invoice(Some(1), &[]))] })
        .expect("recorded");
    given.when(Command::Complete).expect("complete");
    assert!(given.when(Command::Complete).expect("complete").is_query() && view(&mut given).complete);
    assert!(given.when(Command::Clear).expect("cleared").purge);
    assert_eq!(view(&mut given), View { revision: 2, ..View::default() });
}
