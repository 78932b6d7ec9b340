//! A mixed load of clients that do what clients must, and a model of what they know to be acknowledged.
//!
//! Customers notify, subscribe, change plans and are refunded ([`customer`]); guests sign up, secure their account, lose
//! their password and have themselves erased ([`guest`]); a steward rotates keys and moves the clock ([`steward`]). An
//! operation without an answer is sent again under its idempotency key until it has one, however often the node ends
//! in between. [`check`] holds what the node then shows against what was acknowledged: nothing is lost, nothing is
//! charged, mailed, texted, delivered, refunded or numbered twice.

pub mod check;
mod customer;
mod guest;
mod steward;
mod wish;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::time::timeout;

use crate::http::fresh_key;
use crate::node::{Node, Plan};

use customer::Customer;
use guest::Guests;
use steward::Steward;

const CUSTOMERS: usize = 4;
const GUESTS: usize = 2;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere for a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A number from the environment.
pub fn environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The sandbox, for a load under which years pass.
pub fn plan() -> Plan {
    patient(Plan::sandbox())
}

/// What is issued is good for a month.
pub fn patient(plan: Plan) -> Plan {
    let lives = ["access_token", "verification_token", "reset_token", "mfa_challenge", "step_up"];
    lives.iter().fold(plan, |plan, name| plan.set(&format!("identity.{name}_seconds"), "2592000"))
}

/// The seed of this run, printed so that it can be run again.
pub fn seed() -> u64 {
    let fresh = u64::from_str_radix(&fresh_key()[..12], 16).expect("hexadecimal");
    let seed = environment("CONSTRUCT_TEST_SEED", fresh);
    println!("CONSTRUCT_TEST_SEED={seed}");
    seed
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    acknowledged: u64,
    closed: bool,
    /// Answers are not believed any more.
    distrusted: bool,
}

/// What all clients share while they work.
pub struct Floor {
    count: watch::Sender<Count>,
    /// Held by whoever works; alone by a steward who wants quiet.
    turns: RwLock<()>,
    /// Whether the clock is only moved while nobody else works.
    quiet_clock: bool,
    /// How long a client rests after each operation.
    pace: Duration,
    /// About how many operations are acknowledged between two turns of the steward.
    steward_every: u64,
    /// What was asked and is not answered yet.
    asked: Mutex<BTreeMap<u64, String>>,
}

/// A request under way, for as long as it lives.
pub struct Asking<'a> {
    floor: &'a Floor,
    number: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.floor.asked().remove(&self.number);
    }
}

impl Floor {
    pub fn new(quiet_clock: bool) -> Self {
        let (count, turns) = (watch::Sender::new(Count::default()), RwLock::new(()));
        let asked = Mutex::new(BTreeMap::new());
        Self { count, turns, quiet_clock, pace: Duration::ZERO, steward_every: 6, asked }
    }

    /// What is asked and not answered yet, by the number of its question.
    pub fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a question until what is returned is dropped.
    fn asking(&self, what: String) -> Asking<'_> {
        let mut asked = self.asked();
        let number = asked.last_key_value().map_or(0, |(last, _)| last + 1);
        asked.insert(number, what);
        Asking { floor: self, number }
    }

    /// A moderate load: clients rest in between, and days pass seldom.
    pub fn paced(pace: Duration, steward_every: u64) -> Self {
        Self { pace, steward_every, ..Self::new(true) }
    }

    /// Waits for a turn beside others.
    async fn turn(&self, who: &str) -> RwLockReadGuard<'_, ()> {
        let _waiting = self.asking(format!("a turn for {who}"));
        self.turns.read().await
    }

    fn acknowledged(&self) {
        self.count.send_modify(|count| count.acknowledged += 1);
    }

    /// Nobody begins anything more: the node is gone, or it is enough.
    pub fn close(&self) {
        self.count.send_modify(|count| count.closed = true);
    }

    /// As [`Floor::close`], and answers from now on are not believed: the node has no power any more.
    pub fn distrust(&self) {
        self.count.send_modify(|count| (count.closed, count.distrusted) = (true, true));
    }

    fn believes(&self) -> bool {
        !self.count.borrow().distrusted
    }

    pub fn is_open(&self) -> bool {
        !self.count.borrow().closed
    }

    /// A rest between two operations; shorter when the floor closes.
    pub async fn rest(&self) {
        if !self.pace.is_zero() {
            let _ = timeout(self.pace, self.reaches(u64::MAX)).await;
        }
    }

    /// Returns once so many operations are acknowledged, or the floor is closed.
    pub async fn reaches(&self, target: u64) {
        let mut count = self.count.subscribe();
        let _ = count.wait_for(|count| count.closed || count.acknowledged >= target).await;
    }

    pub fn count(&self) -> u64 {
        self.count.borrow().acknowledged
    }
}

/// All clients and what they know.
pub struct Load {
    customers: Vec<Customer>,
    guests: Vec<Guests>,
    steward: Steward,
}

impl Load {
    pub async fn begin(node: &Node, seed: u64) -> Self {
        let guests = (0..GUESTS).map(|index| Guests::new(node, index)).collect();
        Self { guests, ..Self::of_customers(node, seed).await }
    }

    /// Without guests, who read their mails and texts where the node writes them: for a disk that goes away under load.
    pub async fn of_customers(node: &Node, seed: u64) -> Self {
        let mut customers = Vec::new();
        for index in 0..CUSTOMERS {
            customers.push(Customer::join(node, index, Dice(seed ^ (index as u64 + 1) << 32)).await);
        }
        Self { customers, guests: Vec::new(), steward: Steward::new(node, Dice(seed ^ 0xff << 40)) }
    }

    /// Works until the node is gone or the floor closed.
    pub async fn work(&mut self, floor: &Floor) {
        let Self { customers, guests, steward } = self;
        let customers = futures::future::join_all(customers.iter_mut().map(|customer| customer.work(floor)));
        let guests = futures::future::join_all(guests.iter_mut().map(|guests| guests.work(floor)));
        tokio::join!(customers, guests, steward.work(floor));
    }

    /// Everybody signs in: days may have passed.
    pub async fn sign_in(&mut self, node: &Node) {
        for customer in &mut self.customers {
            customer.person = customer.person.sign_in(node).await;
        }
    }

    /// Lets every client have its last wish and the node its last effects, then compares.
    pub async fn finish(&mut self, node: &Node) {
        self.sign_in(node).await;
        let floor = Floor::new(true);
        for customer in &mut self.customers {
            customer.have_last_wish(&floor).await;
        }
        for guests in &mut self.guests {
            guests.finish(node, &floor).await;
        }
        self.steward.finish(node).await;
        self.sign_in(node).await;
        check::all(self, node).await;
    }
}
