//! Clients of a few registers: the display names of people, with their version as the number of writes.
//!
//! Each operation goes to a random node of those that clients know. One in two writes is wanted until it is answered, at
//! one node after the other under its idempotency key, and counts from its first try to the first answer; the others are
//! tried once, and one without an answer may take effect at any later moment, or never.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::history::{self, Action, Operation, Outcome, Register};
use crate::http::{Answer, Client, fresh_key};
use crate::load::Dice;
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::Person;

const REGISTERS: usize = 5;
/// A client gives up a write that it wants after this; then nobody knows.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest any register takes to be written through any node once nothing is wrong any more.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(30);

/// What there was of each kind.
#[derive(Debug, Default)]
pub struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    refused: AtomicU64,
    /// Reads without an answer.
    unanswered: AtomicU64,
    /// Writes of which nobody knows how they ended.
    open: AtomicU64,
    retried: AtomicU64,
}

impl Counts {
    /// Requests that failed, whether or not another try was answered.
    pub fn failed(&self) -> u64 {
        [&self.unanswered, &self.open, &self.retried].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub fn answered(&self) -> u64 {
        [&self.reads, &self.writes, &self.refused].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

struct Owner {
    token: String,
    start: Register,
    history: Mutex<Vec<Operation>>,
}

pub struct Registers {
    people: Vec<Owner>,
    /// The gateways that are asked, by the id of their node.
    nodes: RwLock<Vec<(u64, Client)>>,
    began: Instant,
    next_value: AtomicU64,
    pub counts: Counts,
}

/// What was heard of one try.
enum Heard {
    Outcome(Outcome),
    /// It may have been done, or be done later.
    Unknown,
}

impl Registers {
    pub async fn of(cluster: &Cluster) -> Self {
        let mailbox = Maildir::of(cluster.outside());
        let mut people = Vec::new();
        for number in 0..REGISTERS {
            let email = format!("register{number}@example.com");
            let person = Person::sign_up(&cluster.nodes[0], &mailbox, &email, "consumer").await;
            let start = shown(&person.api.get("/v1/me").await);
            people.push(Owner { token: person.api.token().to_owned(), start, history: Mutex::default() });
        }
        let nodes = cluster.nodes.iter().map(|node| (node.id(), node.api())).collect();
        let (began, next_value) = (Instant::now(), AtomicU64::new(1));
        Self { people, nodes: RwLock::new(nodes), began, next_value, counts: Counts::default() }
    }

    /// This node is asked too from now on.
    pub fn ask(&self, node: &Node) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).push((node.id(), node.api()));
    }

    /// This node is asked nothing more.
    pub fn spare(&self, id: u64) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).retain(|(node, _)| *node != id);
    }

    /// Whoever's turn it is among the nodes that are asked, for the owner of a register.
    fn at(&self, turn: usize, register: usize) -> (u64, Client) {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let (id, api) = &nodes[turn % nodes.len()];
        (*id, api.with_token(&self.people[register].token))
    }

    fn size(&self) -> usize {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Nanoseconds since the history began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("less than centuries")
    }

    /// Of all registers between two moments: the times from one acknowledgement to the next that somebody waited for, less
    /// those in which nobody did.
    pub fn pauses(&self, from: u64, to: u64) -> Vec<Duration> {
        let mut pauses = Vec::new();
        for person in &self.people {
            let history = person.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let answered = history.iter().filter_map(|did| Some((did.called, did.returned.as_ref()?.0)));
            let mut answered: Vec<_> = answered.filter(|(called, at)| *called >= from && *at <= to).collect();
            answered.sort_unstable_by_key(|(_, at)| *at);
            let mut last = from;
            for (called, at) in answered {
                pauses.push(Duration::from_nanos(at - called.max(last).min(at)));
                last = at;
            }
        }
        pauses
    }

    fn record(&self, register: usize, operation: Operation) {
        self.people[register].history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// Reads and writes until `closed`.
    pub async fn work(&self, client: usize, mut dice: Dice, closed: &watch::Receiver<bool>) {
        let mut versions = BTreeMap::new();
        while !*closed.borrow() {
            let register = usize::try_from(dice.roll(self.people.len() as u64)).expect("small");
            let node = usize::try_from(dice.roll(self.size() as u64)).expect("small");
            let seen = if dice.roll(2) == 0 {
                self.read(client, register, node).await
            } else {
                let at = versions.get(&register).copied().filter(|_| dice.roll(3) == 0);
                let patience = if dice.roll(2) == 0 { PATIENCE } else { Duration::ZERO };
                self.write(client, register, node, at, patience).await
            };
            match seen {
                Some(Outcome::Shown(shown)) => drop(versions.insert(register, shown.version)),
                Some(Outcome::Refused) => drop(versions.remove(&register)),
                None => pause(AGAIN).await,
            }
        }
    }

    async fn read(&self, client: usize, register: usize, node: usize) -> Option<Outcome> {
        let (id, api) = self.at(node, register);
        let called = self.now();
        let Heard::Outcome(outcome) = heard(api.try_get("/v1/me").await) else {
            self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        let returned = Some((self.now(), outcome));
        self.record(register, Operation { who: (client, id), action: Action::Read, called, returned });
        Some(outcome)
    }

    /// Writes, at one node after the other for as long as `patience` lasts.
    async fn write(
        &self,
        client: usize,
        register: usize,
        node: usize,
        at: Option<u64>,
        patience: Duration,
    ) -> Option<Outcome> {
        let value = self.next_value.fetch_add(1, Ordering::Relaxed);
        let (key, body) = (fresh_key(), json!({ "display_name": format!("v{value}") }));
        let (called, until) = (self.now(), Instant::now() + patience);
        let mut turn = node;
        let (id, outcome) = loop {
            let (id, api) = self.at(turn, register);
            let conditional = at.map(|at| api.with_header("if-match", &format!("\"{at}\"")));
            let api = conditional.as_ref().unwrap_or(&api);
            match heard(api.try_send(Method::PATCH, "/v1/me", Some(&key), Some(&body)).await) {
                Heard::Outcome(outcome) => break (id, Some(outcome)),
                Heard::Unknown if Instant::now() >= until => break (id, None),
                Heard::Unknown => pause(AGAIN).await,
            }
            self.counts.retried.fetch_add(1, Ordering::Relaxed);
            turn += 1;
        };
        let count = match outcome {
            Some(Outcome::Shown(_)) => &self.counts.writes,
            Some(Outcome::Refused) => &self.counts.refused,
            None => &self.counts.open,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let returned = outcome.map(|outcome| (self.now(), outcome));
        self.record(register, Operation { who: (client, id), action: Action::Write { value, at }, called, returned });
        outcome
    }

    /// Waits until every register can be written through every node, now that nothing is wrong any more.
    pub async fn served(&self, client: usize) -> Result<(), String> {
        let until = Instant::now() + SERVED_WITHIN;
        for register in 0..self.people.len() {
            for node in 0..self.size() {
                while self.write(client, register, node, None, Duration::ZERO).await.is_none() {
                    if Instant::now() > until {
                        let (id, _) = self.at(node, register);
                        return Err(format!("register {register} cannot be written through node {id}"));
                    }
                    pause(AGAIN).await;
                }
            }
        }
        Ok(())
    }

    /// Reads each register at each node once more and has every history explained; answers how many operations.
    pub async fn explained(&self, client: usize) -> Result<usize, String> {
        let mut operations = 0;
        for (register, person) in self.people.iter().enumerate() {
            for node in 0..self.size() {
                let until = Instant::now() + SERVED_WITHIN;
                while self.read(client, register, node).await.is_none() {
                    if Instant::now() > until {
                        return Err("a node does not answer at the end".to_owned());
                    }
                    pause(AGAIN).await;
                }
            }
            let history = person.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
            operations += history.len();
            history::check(person.start, &history).map_err(|why| format!("register {register}: {why}"))?;
        }
        Ok(operations)
    }
}

fn heard(answer: Option<Answer>) -> Heard {
    let Some(answer) = answer else { return Heard::Unknown };
    match answer.status {
        200 => Heard::Outcome(Outcome::Shown(shown(&answer))),
        412 => Heard::Outcome(Outcome::Refused),
        // Another try of the same request is under way.
        409 | 500.. => Heard::Unknown,
        _ => panic!("{} answered {}: {}", answer.what, answer.status, answer.text),
    }
}

fn shown(answer: &Answer) -> Register {
    let name = answer.expect(200)["display_name"].as_str().expect("a name");
    let value = name.strip_prefix('v').map_or(0, |number| number.parse().expect("a number"));
    let version = answer.header("etag").trim_matches('"').parse().expect("a version as the ETag");
    Register { value, version }
}

/// Lets time pass where the passing of time is what is tested, or between two tries.
pub async fn pause(time: Duration) {
    let _ = timeout(time, std::future::pending::<()>()).await;
}
