//! A year of many subscriptions on an in-memory runtime that delivers messages, calls and timers in random order, some
//! of them twice and without any deduplication, against a processor that declines, challenges and loses answers.
//!
//! Whatever the order: one invoice per period and in order, at most one charge kept per invoice, numbers without gaps,
//! one receipt per paid invoice, and books that hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::invoice::{self, Invoice, State as InvoiceState};
use super::ledger::{self, Account, Transaction};
use super::numbering::{self, Numbering};
use super::subscription::{self, CancelAt, ChangeRequest, StartRequest, State, Subscription};
use super::verify::recomputes;
use super::wallet::{self, Wallet};
use super::{calendar, dunning, quote};
use crate::actors::notifications::delivery;
use crate::kernel::id::type_id;
use crate::kernel::{
    Change, Context, Currency, Decision, Effect, Entity, EntityId, Error, Money, Origin, Outcome, Slot, Timestamp,
    codec,
};
use crate::providers::payment::{CardFacts, ChargeReceipt, ChargeStatus, PaymentReceipt, PaymentRequest, declined};

/// A small generator (SplitMix64), so that a seed replays.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).expect("below n")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a decision leaves behind, without its type.
struct Left {
    reply: Vec<u8>,
    effects: Vec<Effect>,
    changes: Vec<Change>,
}

trait Cell {
    fn command(&mut self, command: &[u8], context: &Context) -> Result<Left, Error>;
    fn timer(&mut self, name: &str, context: &Context) -> Option<Result<Left, Error>>;
    fn outcome(&mut self, tag: &str, outcome: Outcome, context: &Context) -> Option<Result<Left, Error>>;
}

struct Live<E: Entity>(E);

impl<E: Entity> Live<E> {
    fn run(&mut self, command: E::Command, context: &Context) -> Result<Left, Error> {
        let Decision { reply, events, effects, changes, .. } = self.0.decide(command, context)?;
        for event in &events {
            self.0.apply(event);
        }
        Ok(Left { reply: codec::encode(&reply).expect("encodes"), effects, changes })
    }
}

impl<E: Entity> Cell for Live<E> {
    fn command(&mut self, command: &[u8], context: &Context) -> Result<Left, Error> {
        self.run(codec::decode(command).expect("decodes"), context)
    }

    fn timer(&mut self, name: &str, context: &Context) -> Option<Result<Left, Error>> {
        E::on_timer(name).map(|command| self.run(command, context))
    }

    fn outcome(&mut self, tag: &str, outcome: Outcome, context: &Context) -> Option<Result<Left, Error>> {
        E::on_outcome(tag, outcome).map(|command| self.run(command, context))
    }
}

fn cell(kind: &str) -> Option<Box<dyn Cell>> {
    match kind {
        Wallet::KIND => Some(Box::new(Live(Wallet::default()))),
        Subscription::KIND => Some(Box::new(Live(Subscription::default()))),
        Invoice::KIND => Some(Box::new(Live(Invoice::default()))),
        Numbering::KIND => Some(Box::new(Live(Numbering::default()))),
        _ => None,
    }
}

/// The processor: one answer per key, and what really happened.
#[derive(Default)]
struct Processor {
    answers: HashMap<String, Outcome>,
    charges: BTreeMap<String, ChargeReceipt>,
    taken: BTreeMap<String, i64>,
    given_back: i64,
}

impl Processor {
    fn call(&mut self, key: &str, request: PaymentRequest, dice: &mut Dice) -> Outcome {
        if let PaymentRequest::FindCharge { reference, .. } = &request {
            return done(&PaymentReceipt::Found(self.charges.get(reference).cloned()));
        }
        if let Some(answer) = self.answers.get(key) {
            return answer.clone();
        }
        let answer = self.decide(key, request, dice);
        self.answers.insert(key.to_owned(), answer.clone());
        answer
    }

    fn decide(&mut self, key: &str, request: PaymentRequest, dice: &mut Dice) -> Outcome {
        match request {
            PaymentRequest::CreateCustomer { reference } => done(&PaymentReceipt::Customer { id: reference }),
            PaymentRequest::AttachMethod { token, .. } => done(&PaymentReceipt::Method(CardFacts {
                token,
                brand: "visa".into(),
                last4: "4242".into(),
                expires_month: 1,
                expires_year: 2040,
            })),
            PaymentRequest::DetachMethod { .. } => done(&PaymentReceipt::Detached),
            PaymentRequest::Refund(refund) => {
                self.given_back += refund.amount.amount;
                done(&PaymentReceipt::Refund { id: key.to_owned() })
            }
            PaymentRequest::FindCharge { .. } => Outcome::Unknown("asked elsewhere".into()),
            PaymentRequest::Charge(charge) => {
                let lucky = if charge.token == "pm_bad" { dice.one_in(4) } else { !dice.one_in(6) };
                let lost = dice.one_in(8);
                if !lucky {
                    return if lost { Outcome::Unknown("lost".into()) } else { Outcome::Refused(declined("no")) };
                }
                let status = ChargeStatus::Succeeded;
                let receipt =
                    ChargeReceipt { id: key.into(), reference: charge.reference, amount: charge.amount, status };
                self.taken.insert(key.to_owned(), charge.amount.amount);
                self.charges.insert(receipt.reference.clone(), receipt.clone());
                if lost { Outcome::Unknown("lost".into()) } else { done(&PaymentReceipt::Charge(receipt)) }
            }
        }
    }
}

fn done(receipt: &PaymentReceipt) -> Outcome {
    Outcome::Done(codec::encode(receipt).expect("encodes"))
}

#[derive(Clone)]
struct Message {
    source: EntityId,
    key: String,
    effect: Effect,
}

struct World {
    dice: Dice,
    now: Timestamp,
    cells: BTreeMap<EntityId, Box<dyn Cell>>,
    messages: Vec<Message>,
    timers: BTreeMap<(EntityId, String), Timestamp>,
    indexes: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    processor: Processor,
    receipts: BTreeSet<String>,
    steps: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: "2026-01-31T10:00:00Z".parse().expect("a time"),
            cells: BTreeMap::new(),
            messages: Vec::new(),
            timers: BTreeMap::new(),
            indexes: BTreeMap::new(),
            processor: Processor::default(),
            receipts: BTreeSet::new(),
            steps: 0,
        }
    }

    fn context(&mut self, id: &EntityId) -> Context {
        self.steps += 1;
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.dice.next().to_le_bytes());
        Context { id: id.clone(), sequence: self.steps, now: self.now, origin: Origin::system("simulation"), entropy }
    }

    fn ask<E: Entity>(&mut self, id: &EntityId, command: &E::Command) -> Result<E::Reply, Error> {
        let reply = self.command(id, &codec::encode(command).expect("encodes"))?;
        Ok(codec::decode(&reply).expect("decodes"))
    }

    fn command(&mut self, id: &EntityId, command: &[u8]) -> Result<Vec<u8>, Error> {
        let context = self.context(id);
        let made = self.cells.remove(id).or_else(|| cell(id.kind()));
        let mut live = made.expect("a kind of billing");
        let left = live.command(command, &context);
        self.cells.insert(id.clone(), live);
        Ok(self.keep(&context, left?))
    }

    fn keep(&mut self, context: &Context, left: Left) -> Vec<u8> {
        for (position, effect) in left.effects.into_iter().enumerate() {
            let key = format!("{}:{}:{position}", context.id, context.sequence);
            self.messages.push(Message { source: context.id.clone(), key, effect });
        }
        for change in left.changes {
            match change {
                Change::Timer { name, due: Some(due) } => drop(self.timers.insert((context.id.clone(), name), due)),
                Change::Timer { name, due: None } => drop(self.timers.remove(&(context.id.clone(), name))),
                Change::Index { index, key, value: Some(value) } => drop(self.indexes.insert((index, key), value)),
                Change::Index { index, key, value: None } => drop(self.indexes.remove(&(index, key))),
                Change::Row { .. } => {}
            }
        }
        left.reply
    }

    fn deliver_one(&mut self) {
        let index = self.dice.below(self.messages.len());
        let message = self.messages[index].clone();
        if !self.dice.one_in(5) {
            self.messages.swap_remove(index);
        }
        let (tag, outcome) = match message.effect {
            Effect::Tell { to, command, .. } if to.kind() == "delivery" => {
                let delivery::Command::Send(request) = codec::decode(&command).expect("decodes") else { return };
                if request.template == "receipt" {
                    self.receipts.insert(message.key);
                }
                return;
            }
            Effect::Tell { to, command, tag } => match self.command(&to, &command) {
                Ok(reply) => (tag, Outcome::Done(reply)),
                Err(error) => (tag, Outcome::Refused(error)),
            },
            Effect::Call { request, tag, .. } => {
                let request = codec::decode(&request).expect("decodes");
                let outcome = self.processor.call(&message.key, request, &mut self.dice);
                (tag, outcome)
            }
        };
        if tag.is_empty() {
            return;
        }
        let context = self.context(&message.source);
        let mut live = self.cells.remove(&message.source).expect("it sent this");
        let left = live.outcome(&tag, outcome, &context);
        self.cells.insert(message.source, live);
        if let Some(left) = left {
            self.keep(&context, left.expect("outcomes are never refused"));
        }
    }

    fn fire_one(&mut self) -> bool {
        let due: Vec<_> = self.timers.iter().filter(|(_, due)| **due <= self.now).map(|(key, _)| key.clone()).collect();
        if due.is_empty() {
            return false;
        }
        let (id, name) = due[self.dice.below(due.len())].clone();
        self.timers.remove(&(id.clone(), name.clone()));
        for _ in 0..=usize::from(self.dice.one_in(6)) {
            let context = self.context(&id);
            let mut live = self.cells.remove(&id).expect("it set this");
            let left = live.timer(&name, &context).expect("a known timer");
            self.cells.insert(id.clone(), live);
            self.keep(&context, left.expect("timers are never refused"));
        }
        true
    }

    /// Until nothing is left to do now.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let messages = !self.messages.is_empty();
            let first = messages && !self.dice.one_in(4);
            if first || (!self.fire_one() && messages) {
                self.deliver_one();
            } else if !messages && !self.timers.values().any(|due| *due <= self.now) {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// To the next timer, or far beyond it.
    fn advance(&mut self, end: Timestamp) {
        let next = self.timers.values().min().copied().unwrap_or(end).max(self.now);
        let leap = if self.dice.one_in(12) { i64::try_from(self.dice.below(70)).expect("small") } else { 0 };
        self.now = next.plus_days(leap).min(end).max(self.now);
        // Some of what is due now interleaves with what people do; the rest follows.
        if self.dice.one_in(3) {
            self.fire_one();
        } else {
            self.settle();
        }
    }
}

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
    assert_eq!(balance(Account::Cash), of(InvoiceState::Paid));
    let taken: i64 = world.processor.taken.values().sum();
    let unknown = invoices.iter().any(|i| i.attempts.iter().any(|a| a.status.is_under_way()));
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
