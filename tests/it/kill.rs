//! Fifty `kill -9` at random moments of a mixed load, held against a model: nothing acknowledged is lost; nothing is
//! charged, mailed, delivered or numbered twice.
//!
//! The clients do what clients must: an operation without an answer is sent again under its idempotency key. The seed
//! is printed; `CONSTRUCT_TEST_SEED` runs it again, `CONSTRUCT_TEST_KILLS` changes how often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::http::{Client, fresh_key};
use crate::mail::{Mailbox, Maildir};
use crate::node::{Node, Plan};
use crate::person::{self, Person};

const PEOPLE: usize = 4;
/// A round that acknowledges nothing for so long is stuck.
const ROUND_WITHIN: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400;

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

/// What a client wants done, and keeps wanting until it is answered.
#[derive(Debug, Clone)]
struct Wish {
    kind: Kind,
    key: String,
}

#[derive(Debug, Clone)]
enum Kind {
    /// A notification with this title, into the inbox and by mail.
    Notify(String),
    /// A subscription to the paid plan.
    Subscribe,
    /// The display name becomes this number.
    Rename(u64),
}

/// One person's client and what it knows to be acknowledged.
pub struct Actor {
    pub person: Person,
    operator: Client,
    plan: String,
    card: String,
    dice: Dice,
    wish: Option<Wish>,
    next_number: u64,
    /// Titles that were accepted, with the id of their notification.
    notified: BTreeMap<String, String>,
    subscriptions: BTreeSet<String>,
    renamed: u64,
}

impl Actor {
    fn next_wish(&mut self, index: usize) -> Wish {
        self.next_number += 1;
        let kind = match self.dice.roll(10) {
            0..6 => Kind::Notify(format!("note {index}-{}", self.next_number)),
            6 => Kind::Subscribe,
            _ => Kind::Rename(self.next_number),
        };
        Wish { kind, key: fresh_key() }
    }

    /// Works until the node is gone.
    pub async fn work(&mut self, index: usize, acknowledged: &Progress) {
        let mut again = tokio::time::interval(Duration::from_millis(5));
        loop {
            let wish = match self.wish.take() {
                Some(wish) => wish,
                None => self.next_wish(index),
            };
            let (client, method, path, body) = match &wish.kind {
                Kind::Notify(title) => (&self.operator, Method::POST, "/v1/notifications", self.note(title)),
                Kind::Subscribe => (&self.person.api, Method::POST, "/v1/subscriptions", self.order()),
                Kind::Rename(number) => {
                    (&self.person.api, Method::PATCH, "/v1/me", json!({ "display_name": number.to_string() }))
                }
            };
            let answer = client.try_send(method, path, Some(&wish.key), Some(&body)).await;
            let Some(answer) = answer.filter(|_| !acknowledged.over()) else {
                self.wish = Some(wish);
                return;
            };
            if answer.status >= 500 || answer.status == 409 {
                // Not now, or still under way from before the crash: wanted as before.
                self.wish = Some(wish);
                again.tick().await;
                continue;
            }
            assert!((200..300).contains(&answer.status), "{wish:?}: {} {}", answer.status, answer.text);
            match wish.kind {
                Kind::Notify(title) => drop(self.notified.insert(title, answer.text_at("/id"))),
                Kind::Subscribe => drop(self.subscriptions.insert(answer.text_at("/id"))),
                Kind::Rename(number) => self.renamed = number,
            }
            acknowledged.one_more();
        }
    }

    fn note(&self, title: &str) -> Value {
        json!({
            "to": { "user_id": self.person.id }, "category": "transactional", "channels": ["in_app", "email"],
            "content": { "title": title, "body": format!("This is {title}.") },
        })
    }

    fn order(&self) -> Value {
        json!({ "plan_id": self.plan, "payment_method_id": self.card })
    }
}

/// Counts acknowledgements and wakes whoever waits for a number of them.
#[derive(Default)]
pub struct Progress {
    count: AtomicU64,
    changed: Notify,
    over: AtomicBool,
}

impl Progress {
    fn one_more(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Answers from now on are not believed: the node has no power any more.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub async fn reaches(&self, target: u64) {
        while self.count.load(Ordering::Relaxed) < target {
            self.changed.notified().await;
        }
    }
}

pub fn environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

pub async fn actors(node: &Node, seed: u64) -> Vec<Actor> {
    let mut actors = Vec::new();
    for index in 0..PEOPLE {
        let email = format!("person{index}@example.com");
        let person = Person::sign_up(node, &Maildir::of(&node.data()), &email, "consumer").await;
        let card = person.add_card("pm_card_visa").await;
        let plan = person::plan(&person.api, "Plus").await;
        actors.push(Actor {
            operator: node.operator_api(),
            plan: plan["id"].as_str().expect("an id").to_owned(),
            card,
            person,
            dice: Dice(seed ^ (index as u64 + 1) << 32),
            wish: None,
            next_number: 0,
            notified: BTreeMap::new(),
            subscriptions: BTreeSet::new(),
            renamed: 0,
        });
    }
    actors
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_and_repeat_nothing() {
    let fresh = u64::from_str_radix(&fresh_key()[..12], 16).expect("hexadecimal");
    let seed = environment("CONSTRUCT_TEST_SEED", fresh);
    let kills = environment("CONSTRUCT_TEST_KILLS", 50);
    println!("CONSTRUCT_TEST_SEED={seed} CONSTRUCT_TEST_KILLS={kills}");
    let mut dice = Dice(seed);
    // Days pass within a round; everybody signs in between two rounds.
    let mut node = Plan::sandbox().set("identity.access_token_seconds", "2592000").start().await;
    let mut actors = actors(&node, seed).await;
    for round in 0..kills {
        for actor in &mut actors {
            actor.person = actor.person.sign_in(&node).await;
        }
        if dice.roll(4) == 0 {
            // Killed while it recovers from the last time.
            node.kill().await;
            node.spawn();
            node.kill().await;
            node.start().await;
        }
        let progress = Arc::new(Progress::default());
        let target = 1 + dice.roll(60);
        let days = (dice.roll(3) == 0).then(|| 1 + i64::try_from(dice.roll(9)).expect("small"));
        let working = futures::future::join_all(actors.iter_mut().enumerate().map(|(i, a)| a.work(i, &progress)));
        let clock = node.operator();
        let (now, _) = person::now(&node).await;
        let killer = node.killer();
        let killing = async {
            let advance = async {
                if let Some(days) = days {
                    let then = jiff::Timestamp::from_second(now + days * DAY).expect("a time");
                    let body = json!({ "advance_to": then.to_string() });
                    clock.try_send(Method::POST, "/admin/v1/clock", Some(&fresh_key()), Some(&body)).await;
                }
                std::future::pending::<()>().await;
            };
            let reached = timeout(ROUND_WITHIN, async {
                tokio::select! {
                    () = progress.reaches(target) => {}
                    () = advance => {}
                }
            });
            let stuck = reached.await.is_err();
            killer.await;
            stuck
        };
        let (_, stuck) = tokio::join!(working, killing);
        assert!(!stuck, "round {round} is stuck\n{}", node.log());
        node.kill().await;
        node.start().await;
    }
    finish(&node, &mut actors).await;
    check(&node, &actors).await;
}

/// Lets every client have its last wish, and the node its last effects.
pub async fn finish(node: &Node, actors: &mut [Actor]) {
    for actor in actors.iter_mut() {
        actor.person = actor.person.sign_in(node).await;
        let Some(wish) = actor.wish.take() else { continue };
        match wish.kind {
            Kind::Notify(title) => {
                let body = actor.note(&title);
                let answer = actor.operator.post_once("/v1/notifications", &wish.key, &body).await;
                answer.expect(202);
                actor.notified.insert(title, answer.text_at("/id"));
            }
            Kind::Subscribe => {
                let body = actor.order();
                let answer = actor.person.api.post_once("/v1/subscriptions", &wish.key, &body).await;
                answer.expect(201);
                actor.subscriptions.insert(answer.text_at("/id"));
            }
            Kind::Rename(_) => {}
        }
    }
    person::advance_by(node, 2 * 3600).await;
    for actor in actors {
        actor.person = actor.person.sign_in(node).await;
    }
}

/// Every page of a list.
async fn all(client: &Client, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("{path}?limit=100{cursor}")).await;
        items.extend(page.expect(200)["items"].as_array().expect("a list").iter().cloned());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

pub async fn check(node: &Node, actors: &[Actor]) {
    let mails = Maildir::of(&node.data()).all().await;
    let mut numbers = Vec::new();
    let mut paid = BTreeSet::new();
    for actor in actors {
        let email = &actor.person.email;
        let inbox = all(&actor.person.api, "/v1/inbox").await;
        let offsets: BTreeSet<_> = inbox.iter().map(|item| item["offset"].as_u64()).collect();
        assert_eq!(offsets.len(), inbox.len(), "each offset of {email} is used once");
        let titles = counts(inbox.iter().filter_map(|item| item["title"].as_str()));
        let mine = mails.iter().filter(|mail| mail.to.contains(email.as_str()));
        let subjects = counts(mine.map(|mail| mail.subject.as_str()));
        for (title, id) in &actor.notified {
            let (shown, mailed) = (titles.get(title.as_str()), subjects.get(title.as_str()));
            if (shown, mailed) != (Some(&1), Some(&1)) {
                let journal = actor.operator.get(&format!("/v1/notifications/{id}")).await;
                panic!("{title} for {email}: {shown:?} times in the inbox, {mailed:?} by mail: {}", journal.text);
            }
        }
        let unknown = titles.keys().filter(|title| title.starts_with("note ") && !actor.notified.contains_key(**title));
        assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&&str>::new(), "nobody asked for these");

        let listed: BTreeSet<String> = all(&actor.person.api, "/v1/subscriptions").await.iter().map(id).collect();
        assert_eq!(listed, actor.subscriptions, "the subscriptions of {email}");
        let invoices = all(&actor.person.api, "/v1/invoices").await;
        let mut periods = BTreeSet::new();
        for invoice in &invoices {
            if invoice["state"] == "void" {
                // The clock was moved past the time a first payment may take before it was tried: nothing was charged.
                assert_eq!(invoice["attempts"], json!([]), "{invoice}");
                numbers.extend(invoice["number"].as_str().map(str::to_owned));
                continue;
            }
            assert_eq!(invoice["state"], "paid", "{invoice}");
            let period = (invoice["subscription_id"].to_string(), invoice["period_start"].to_string());
            assert!(periods.insert(period), "a period is invoiced once: {invoice}");
            numbers.push(invoice["number"].as_str().expect("a number").to_owned());
            paid.insert(id(invoice));
        }
        assert!(invoices.len() >= listed.len(), "each subscription of {email} has its first invoice");
        let me = actor.person.api.get("/v1/me").await;
        let shown: u64 = me.expect(200)["display_name"].as_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        assert!(shown >= actor.renamed, "{email} was renamed to {} and is {shown}", actor.renamed);
    }
    let books = node.operator().get("/admin/v1/ledger/verify").await;
    assert_eq!(books.expect(200)["fault_count"], 0, "{}", books.text);
    gapless(&mut numbers);
    charged_once(node, &paid);
}

fn id(object: &Value) -> String {
    object["id"].as_str().expect("an id").to_owned()
}

fn counts<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts
}

/// Invoice numbers of a series follow each other without a gap and without a repeat.
fn gapless(numbers: &mut [String]) {
    numbers.sort();
    let value = |number: &String| -> u64 {
        let digits = number.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
        digits.parse().unwrap_or_else(|_| panic!("{number} ends in a number"))
    };
    let values: Vec<u64> = numbers.iter().map(value).collect();
    for pair in values.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "invoice numbers have no gap and no repeat: {numbers:?}");
    }
}

/// The sandbox processor's own journal: one successful charge for each paid invoice, and none besides.
fn charged_once(node: &Node, paid: &BTreeSet<String>) {
    let mut charged = BTreeMap::<String, u32>::new();
    for journal in journals(&node.data()) {
        let text = std::fs::read_to_string(&journal).expect("the processor's journal");
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let Some(receipt) = line.pointer("/what/charge/receipt") else { continue };
            if receipt["status"].to_string().contains("Succeeded") {
                let reference = receipt["reference"].as_str().expect("a reference");
                let invoice = reference.split('/').next().expect("an invoice id").to_owned();
                *charged.entry(invoice).or_default() += 1;
            }
        }
    }
    let twice: Vec<_> = charged.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "charged more than once: {twice:?}");
    let charged: BTreeSet<String> = charged.into_keys().collect();
    assert_eq!(&charged, paid, "what was charged is what is paid");
}

fn journals(data: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut open = vec![data.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.file_name().is_some_and(|name| name == "journal.jsonl") {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "the sandbox keeps a journal");
    found
}
