//! Subscriptions that all come due at once, until every one is paid and everything that follows from it is done.
//!
//! Ours: trials that end at the same instant, each with a wallet; the clock is moved there and the node does the rest:
//! timer, subscription, invoice, number, wallet, charge, payment, receipt. The processor is one that answers at once
//! and counts. Then each reference must have been charged once, and each subscription must be active and in its first
//! paid period. Raw: the durable commands per second of 64 callers on the same node, before and after.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use construct::actors::billing::calendar::{Interval, Recurrence};
use construct::actors::billing::dunning::Schedule;
use construct::actors::billing::quote::Offer;
use construct::actors::billing::subscription::{self, StartRequest, Subscription, Terms};
use construct::actors::billing::wallet::{self, Wallet};
use construct::actors::catalogue;
use construct::actors::runtime::Router;
use construct::actors::runtime::clock::NodeClock;
use construct::actors::runtime::kinds::Kind;
use construct::kernel::id::type_id;
use construct::kernel::{Currency, Money, Origin, ProviderKind, Slot, Timestamp, codec};
use construct::providers::payment::{CardFacts, ChargeReceipt, ChargeStatus, PaymentReceipt, PaymentRequest};
use construct::providers::{Provider, ProviderError};

use super::support::callers::write;
use super::support::rig::{Note, Rig, settings};
use super::support::{Goal, Measured, Run, rate};

const GOAL: f64 = 0.2;
const CALLERS: usize = 64;
const PRICE: i64 = 1900;

/// Answers at once, and remembers what it took under which reference.
#[derive(Default)]
struct Processor {
    charged: Mutex<HashMap<String, u32>>,
}

#[async_trait]
impl Provider for Processor {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Payment
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let receipt = match codec::decode(request).expect("a request") {
            PaymentRequest::CreateCustomer { reference } => PaymentReceipt::Customer { id: reference },
            PaymentRequest::AttachMethod { token, .. } => PaymentReceipt::Method(CardFacts {
                token,
                brand: "visa".to_owned(),
                last4: "4242".to_owned(),
                expires_month: 1,
                expires_year: 2040,
            }),
            PaymentRequest::Charge(charge) => {
                *self.charged.lock().expect("no panic").entry(charge.reference.clone()).or_default() += 1;
                let (id, status) = (key.to_owned(), ChargeStatus::Succeeded);
                PaymentReceipt::Charge(ChargeReceipt { id, reference: charge.reference, amount: charge.amount, status })
            }
            other => panic!("nobody asks for {other:?} here"),
        };
        Ok(codec::encode(&receipt).expect("encodes"))
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Err(ProviderError::Unknown("nothing gets lost here".to_owned()))
    }
}

pub fn run(run: &Run) {
    let count = if run.quick { 5_000 } else { 100_000 };
    let name = format!("renewals/s, {count} due at once");
    if !run.wants(&name) {
        return;
    }
    let dir = tempfile::tempdir_in(&run.place).expect("a directory");
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let began: Timestamp = "2026-01-31T10:00:00Z".parse().expect("a time");
    let processor = Arc::new(Processor::default());
    let mut kinds = catalogue::kinds();
    kinds.push(Kind::of::<Note>());
    let (settings, providers) = (settings(), vec![Arc::clone(&processor) as Arc<dyn Provider>]);
    let start = Rig::start(dir.path(), &settings, &kinds, NodeClock::virtual_at(began), providers);
    let rig = tokio.block_on(start);
    rig.runtime.go();
    let subscriptions = tokio.block_on(subscribe(&rig, count, began));
    let before = write(&tokio, |_| rig.runtime.router.clone(), CALLERS, run.turn()).0;
    tokio.block_on(rig.settle());
    let renewing = Instant::now();
    tokio.block_on(async {
        rig.runtime.clock.set(began.plus_days(1));
        quiet(&rig).await;
    });
    let ours = rate(count as u64, renewing.elapsed());
    tokio.block_on(rig.settle());
    let after = write(&tokio, |_| rig.runtime.router.clone(), CALLERS, run.turn()).0;
    tokio.block_on(once_each(&rig.runtime.router, &subscriptions, &processor));
    let raw = f64::midpoint(before, after);
    Measured { ours, raw: Some(raw), ratio: Some(ours / raw) }.print(&name, Goal::Ratio(GOAL));
    tokio.block_on(rig.stop());
}

/// Returns once nothing is due or being delivered.
async fn quiet(rig: &Rig) {
    while !rig.runtime.is_quiet() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Wallets with a card, and trials that end a day later.
async fn subscribe(rig: &Rig, count: usize, now: Timestamp) -> Arc<Vec<String>> {
    const CALLERS: usize = 256;
    let id = |prefix, number: usize| {
        let slot = Slot(u16::try_from(number % 65_536).expect("below"));
        type_id(prefix, now, slot, (number as u64).to_be_bytes())
    };
    let subscriptions: Arc<Vec<String>> = Arc::new((0..count).map(|number| id("sub", number)).collect());
    let users: Arc<Vec<String>> = Arc::new((0..count).map(|number| id("usr", number)).collect());
    for step in [attach, start] {
        let calls = (0..CALLERS).map(|caller| {
            let (router, users, subscriptions) =
                (rig.runtime.router.clone(), Arc::clone(&users), Arc::clone(&subscriptions));
            tokio::spawn(async move {
                for number in (caller..users.len()).step_by(CALLERS) {
                    step(router.clone(), users[number].clone(), subscriptions[number].clone()).await;
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic");
        }
        quiet(rig).await;
    }
    subscriptions
}

fn attach(router: Router, user: String, _subscription: String) -> futures::future::BoxFuture<'static, ()> {
    Box::pin(async move {
        let command = wallet::Command::AttachMethod { token: "pm_card_visa".to_owned(), make_default: true };
        router.ask::<Wallet>(&wallet::id(&user), command, &Origin::system("bench")).await.expect("attached");
    })
}

fn start(router: Router, user: String, subscription: String) -> futures::future::BoxFuture<'static, ()> {
    Box::pin(async move {
        let offer = Offer {
            plan_id: "pro".to_owned(),
            plan_version: 1,
            plan_name: "Pro".to_owned(),
            entitlements: vec!["exports".to_owned()],
            trial_days: 1,
            every: Recurrence { interval: Interval::Month, count: 1 },
            unit_price: Money::new(PRICE, "EUR".parse::<Currency>().expect("a currency")),
        };
        let dunning = Schedule::default();
        let terms = Terms { dunning, series: "INV".to_owned(), tax_basis_points: 0, trial_notice_days: 0 };
        let request = StartRequest { user_id: user, offer, quantity: 1, method_id: None, terms };
        let command = subscription::Command::Start(Box::new(request));
        router
            .ask::<Subscription>(&subscription::id(&subscription), command, &Origin::system("bench"))
            .await
            .expect("started");
    })
}

/// Every subscription went on by one period, and its only charge was made once.
async fn once_each(router: &Router, subscriptions: &[String], processor: &Processor) {
    let charged = std::mem::take(&mut *processor.charged.lock().expect("no panic"));
    assert_eq!(charged.len(), subscriptions.len(), "a charge for each subscription");
    assert!(charged.values().all(|times| *times == 1), "no charge was made twice");
    for id in subscriptions.iter().step_by(subscriptions.len().div_ceil(1000)) {
        let get = subscription::Command::GetSubscription;
        let reply = router.ask::<Subscription>(&subscription::id(id), get, &Origin::system("bench")).await;
        let subscription::Reply::Subscription(view) = reply.expect("is there") else { panic!("a view") };
        assert_eq!(view.state, subscription::State::Active, "{id}");
        assert!(view.settling.is_none() && view.trial_end == Some(view.period.start), "{id}: {view:?}");
    }
}
