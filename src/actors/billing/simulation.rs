//! A year of many subscriptions on an in-memory runtime that delivers messages, calls and timers in random order, some
//! of them twice and without any deduplication, against a processor that declines, challenges and loses answers.
//!
//! Whatever the order: one invoice per period and in order, at most one charge kept per invoice, numbers without gaps,
//! one receipt per paid invoice, and books that hold.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::world::World;
use super::invoice::{self, Invoice, RefundStatus, State as InvoiceState};
use super::ledger::{self, Account, Transaction};
use super::numbering;
use super::subscription::{self, CancelAt, ChangeRequest, StartRequest, State, Subscription};
use super::verify::recomputes;
use super::wallet::{self, Wallet};
use super::{calendar, dunning, quote};
use crate::kernel::id::type_id;
use crate::kernel::{Currency, Effect, Entity, EntityId, Money, Slot, Timestamp, codec};

fn user(n: u8) -> String {
    type_id("usr", Timestamp::from_millis(1_700_000_000_000), Slot(u16::from(n)), [n; 8])
}

fn offer(name: &str, amount: i64, interval: calendar::Interval, trial_days: u16) -> quote::Offer {
    quote::Offer {
        plan_id: format!("pln_{name}"),
        plan_version: 1,
        plan_name: name.into(),
        entitlements: Vec::new(),
        trial_days,
        every: calendar::Recurrence { interval, count: 1 },
        unit_price: Money::new(amount, Currency::USD),
    }
}

fn offers() -> [quote::Offer; 4] {
    use calendar::Interval::{Month, Year};
    [
        offer("plus", 999, Month, 0),
        offer("pro", 1999, Month, 14),
        offer("yearly", 9990, Year, 0),
        offer("free", 0, Month, 0),
    ]
}

impl World {
    fn person(&mut self, n: u8) -> EntityId {
        let user_id = user(n);
        let wallet = wallet::id(&user_id);
        let token = if self.dice.one_in(4) { "pm_bad" } else { "pm_good" };
        let attach = wallet::Command::AttachMethod { token: token.into(), make_default: true };
        self.ask::<Wallet>(&wallet, &attach).expect("asked for");
        self.settle();
        let Ok(wallet::Reply::Opened { id }) = self.ask::<Wallet>(&wallet, &wallet::Command::OpenSubscription) else {
            panic!("opened")
        };
        let offer = offers()[self.dice.below(4)].clone();
        let terms = subscription::Terms {
            dunning: dunning::Schedule {
                exhausted: if self.dice.one_in(2) { dunning::Exhausted::Cancel } else { dunning::Exhausted::Pause },
                ..dunning::Schedule::default()
            },
            series: "INV".into(),
            tax_basis_points: 1900,
            trial_notice_days: 3,
        };
        let quantity = 1 + i64::try_from(self.dice.below(3)).expect("small");
        let request = StartRequest { user_id, offer, quantity, method_id: None, terms };
        let subscription = subscription::id(&id);
        let start = subscription::Command::Start(Box::new(request));
        self.ask::<Subscription>(&subscription, &start).expect("started");
        subscription
    }

    /// Something a person does. Refusals are part of life.
    fn act(&mut self, subscription: &EntityId, n: u8) {
        use subscription::Command as C;
        let change = ChangeRequest {
            offer: self.dice.one_in(2).then(|| offers()[self.dice.below(4)].clone()),
            quantity: Some(1 + i64::try_from(self.dice.below(4)).expect("small")),
            ..ChangeRequest::default()
        };
        match self.dice.below(14) {
            0 => drop(self.ask::<Subscription>(subscription, &C::Cancel { at: CancelAt::PeriodEnd })),
            1 => drop(self.ask::<Subscription>(subscription, &C::Pause)),
            2..=4 => drop(self.ask::<Subscription>(subscription, &C::Resume)),
            5 if self.dice.one_in(6) => drop(self.ask::<Subscription>(subscription, &C::Cancel { at: CancelAt::Now })),
            6..=9 => self.change_as_previewed(subscription, change),
            10 => {
                let attach = wallet::Command::AttachMethod { token: "pm_good".into(), make_default: true };
                drop(self.ask::<Wallet>(&wallet::id(&user(n)), &attach));
            }
            _ => {
                let view = self.subscription(subscription);
                if let Some(id) = view.last_invoice_id {
                    let pay = invoice::Command::Pay { method_id: None };
                    drop(self.ask::<Invoice>(&invoice::id(&id), &pay));
                }
            }
        }
    }

    fn change_as_previewed(&mut self, subscription: &EntityId, change: ChangeRequest) {
        let preview = subscription::Command::PreviewChange(change.clone());
        let Ok(subscription::Reply::Preview(preview)) = self.ask::<Subscription>(subscription, &preview) else {
            return;
        };
        let before = self.messages.len();
        let reply = self.ask::<Subscription>(subscription, &subscription::Command::Change(change));
        let invoiced = self.messages[before..].iter().find_map(|message| match &message.effect {
            Effect::Tell { to, command, .. } if to.kind() == Invoice::KIND => Some(command.clone()),
            _ => None,
        });
        let Ok(subscription::Reply::Subscription(view)) = reply else { panic!("what was previewed can be done") };
        match invoiced.map(|command| codec::decode(&command).expect("decodes")) {
            Some(invoice::Command::Create(draft)) => assert_eq!(draft.quote, preview.quote, "preview equals invoice"),
            _ => assert!(preview.quote.total == 0 || view.balance == preview.quote.balance_before),
        }
    }

    fn subscription(&mut self, id: &EntityId) -> subscription::View {
        match self.ask::<Subscription>(id, &subscription::Command::GetSubscription) {
            Ok(subscription::Reply::Subscription(view)) => *view,
            other => panic!("expected a subscription, got {other:?}"),
        }
    }

    fn invoices(&mut self) -> Vec<invoice::View> {
        let ids: Vec<EntityId> = self.cells.keys().filter(|id| id.kind() == Invoice::KIND).cloned().collect();
        let read = |id: &EntityId, world: &mut World| match world.ask::<Invoice>(id, &invoice::Command::GetInvoice) {
            Ok(invoice::Reply::Invoice(view)) => *view,
            other => panic!("expected an invoice, got {other:?}"),
        };
        ids.iter().map(|id| read(id, self)).collect()
    }
}

/// What must hold at rest.
fn check(world: &mut World, subscriptions: &[EntityId]) {
    let invoices = world.invoices();
    check_numbers(world, &invoices);
    check_money(world, &invoices);
    for id in subscriptions {
        check_periods(world, id, &invoices);
    }
    let paid = invoices.iter().filter(|i| i.state == InvoiceState::Paid && i.draft.quote.total > 0).count();
    assert_eq!(world.receipts.len(), paid, "one receipt per paid invoice");
}

fn check_numbers(world: &World, invoices: &[invoice::View]) {
    let given = world.indexes.iter().filter(|((index, _), _)| index == numbering::INDEX);
    let given = given.filter(|((_, key), _)| key.starts_with(b"INV/"));
    let keys: Vec<Vec<u8>> = given.map(|((_, key), _)| key.clone()).collect();
    let expected: Vec<Vec<u8>> =
        (1..=invoices.len() as u64).map(|number| numbering::index_key("INV", number).into_bytes()).collect();
    assert_eq!(keys, expected, "numbers have no gaps, one per invoice");
    let borne: BTreeSet<_> = invoices.iter().filter_map(|invoice| invoice.number.clone()).collect();
    assert_eq!(borne.len(), invoices.len(), "every invoice bears a number of its own");
}

fn check_money(world: &World, invoices: &[invoice::View]) {
    let mut balances: BTreeMap<Account, i64> = BTreeMap::new();
    for ((index, _), value) in &world.indexes {
        if index == ledger::INDEX {
            let transaction = Transaction::decode(value).expect("decodes");
            assert!(transaction.balances(), "{transaction:?}");
            for (account, amount) in transaction.entries {
                *balances.entry(account).or_default() += amount;
            }
        }
    }
    let of = |state: InvoiceState| -> i64 {
        invoices.iter().filter(|i| i.state == state).map(|i| i.draft.quote.total).sum()
    };
    let balance = |account| balances.get(&account).copied().unwrap_or(0);
    assert_eq!(balance(Account::Receivable), of(InvoiceState::Open));
    assert_eq!(balance(Account::BadDebt), of(InvoiceState::Uncollectible));
    let refunds = invoices.iter().flat_map(|invoice| &invoice.refunds);
    let refunded: i64 = refunds.filter(|r| r.status == RefundStatus::Succeeded).map(|refund| refund.amount).sum();
    let returns = invoices.iter().flat_map(|invoice| &invoice.returns);
    let owed: i64 = returns.filter(|back| back.status != RefundStatus::Succeeded).map(|back| back.amount).sum();
    assert_eq!(balance(Account::Returns), -owed);
    assert_eq!(balance(Account::Cash), of(InvoiceState::Paid) - refunded + owed);
    let taken: i64 = world.processor.taken.values().sum();
    let unknown = invoices.iter().any(|i| {
        let open = |status| matches!(status, RefundStatus::Unknown | RefundStatus::Pending);
        i.attempts.iter().any(|a| a.status.is_under_way())
            || i.refunds.iter().any(|refund| open(refund.status))
            || i.returns.iter().any(|back| open(back.status))
    });
    if !unknown {
        assert_eq!(taken - world.processor.given_back, balance(Account::Cash), "one charge is kept per paid invoice");
    }
    assert!(invoices.iter().all(|invoice| recomputes(&invoice.draft.quote)));
}

fn check_periods(world: &mut World, id: &EntityId, invoices: &[invoice::View]) {
    let of = |reason| {
        let ours = invoices.iter().filter(move |i| i.draft.subscription_id == id.key() && i.draft.reason == reason);
        ours.map(|invoice| invoice.draft.quote.period).collect::<Vec<_>>()
    };
    let mut periods = of(invoice::Reason::Renewal);
    periods.extend(of(invoice::Reason::Start));
    periods.sort_by_key(|period| period.start);
    for pair in periods.windows(2) {
        assert!(pair[0].start < pair[1].start, "{id}: one invoice per period");
    }
    let view = world.subscription(id);
    if matches!(view.state, State::Active | State::Trialing) && view.settling.is_none() && view.cancel_at.is_none() {
        assert!(view.period.end > world.now, "{id}: every period up to now was begun");
    }
}

/// Lives a year, checks it, and answers how many invoices were paid, given up and voided.
fn live_a_year(seed: u64) -> [usize; 3] {
    let mut world = World::new(seed);
    let end = world.now.plus_days(400);
    let people: Vec<(u8, EntityId)> = (0..6).map(|n| (n, world.person(n))).collect();
    while world.now < end {
        world.advance(end);
        if world.dice.one_in(4) {
            let (n, subscription) = people[world.dice.below(people.len())].clone();
            world.act(&subscription, n);
        }
    }
    world.settle();
    let subscriptions: Vec<_> = people.into_iter().map(|(_, id)| id).collect();
    check(&mut world, &subscriptions);
    let invoices = world.invoices();
    let states = [InvoiceState::Paid, InvoiceState::Uncollectible, InvoiceState::Void];
    states.map(|state| invoices.iter().filter(|invoice| invoice.state == state).count())
}

#[test]
fn the_simulated_years_meet_every_end_of_an_invoice() {
    let mut seen = [0; 3];
    for seed in 0..12 {
        let year = live_a_year(seed);
        seen = std::array::from_fn(|end| seen[end] + year[end]);
    }
    assert!(seen[0] >= 100 && seen[1] >= 2 && seen[2] >= 2, "paid, given up, voided: {seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_year_bills_every_period_once(seed in any::<u64>()) {
        live_a_year(seed);
    }
}

#[test]
fn a_clock_moved_ahead_by_a_year_bills_every_month_in_order() {
    let mut world = World::new(7);
    let request = StartRequest {
        user_id: user(1),
        offer: offer("plus", 999, calendar::Interval::Month, 0),
        quantity: 1,
        method_id: None,
        terms: subscription::Terms {
            dunning: dunning::Schedule::default(),
            series: "INV".into(),
            tax_basis_points: 0,
            trial_notice_days: 3,
        },
    };
    let attach = wallet::Command::AttachMethod { token: "pm_good".into(), make_default: true };
    world.ask::<Wallet>(&wallet::id(&user(1)), &attach).expect("asked for");
    let id = subscription::id(&type_id("sub", world.now, Slot(1), [1; 8]));
    world.ask::<Subscription>(&id, &subscription::Command::Start(Box::new(request))).expect("started");
    for _ in 0..20 {
        world.settle();
        if world.subscription(&id).state == State::Active {
            break;
        }
        let pay = invoice::Command::Pay { method_id: None };
        let open = world.subscription(&id).last_invoice_id.expect("an invoice");
        drop(world.ask::<Invoice>(&invoice::id(&open), &pay));
    }
    world.now = world.now.plus_days(365);
    for _ in 0..40 {
        world.settle();
        world.now = world.now.plus_days(1);
    }
    let mut invoices = world.invoices();
    invoices.sort_by_key(|invoice| invoice.draft.quote.period.start);
    let starts: Vec<String> =
        invoices.iter().map(|i| i.draft.quote.period.start.to_string()[..10].to_owned()).collect();
    assert_eq!(starts[..4], ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]);
    let numbers: Vec<_> = invoices.iter().map(|invoice| invoice.number.clone()).collect();
    let mut sorted = numbers.clone();
    sorted.sort();
    assert_eq!(numbers, sorted, "billed in the order of the periods");
    check(&mut world, &[id]);
}
