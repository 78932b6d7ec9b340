//! The main job on three nodes, over and over, while each node in turn is killed, stopped, cut off and drained: one charge,
//! one invoice and one receipt of each kind for each month, and a socket that misses nothing and hears nothing twice.
//!
//! Seeded; `CONSTRUCT_TEST_JOURNEYS` says how many people go the way, each under the next kind of trouble.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::between::Between;
use super::registers::pause;
use super::roaming::{self, Heard, offset};
use super::sales::wanted;
use crate::http::{Answer, Client};
use crate::load::{self, Dice, environment, patient, seed};
use crate::mail::{Mail, Mailbox, Maildir};
use crate::node::Plan;
use crate::person::PASSWORD;

const DAY: i64 = 86_400;
/// Whatever goes wrong meanwhile, and however often.
const COMES_WITHIN: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_millis(50);
/// Of who stays while others let months pass.
const SIGNED_IN_FOR: Duration = Duration::from_secs(2);
/// Between two notes, so that a socket has something to miss.
const BETWEEN_NOTES: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Killed,
    /// SIGSTOP, mostly past the lease.
    Stopped,
    CutOff,
    /// Drained, ended with SIGTERM and started again, as an operator would.
    Drained,
}

const ALL: [Trouble; 4] = [Trouble::Killed, Trouble::Stopped, Trouble::CutOff, Trouble::Drained];

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_is_done_once_whatever_happens_to_the_nodes() {
    let (seed, journeys) = (seed(), environment("CONSTRUCT_TEST_JOURNEYS", 2));
    let between = Between::new();
    let mut cluster = Cluster::of(3, |_| patient(Plan::sandbox()), Some(between.clone())).await;
    let world = World::of(&cluster);
    let mut dice = Dice(seed);
    let first = usize::try_from(dice.roll(12)).expect("small");
    let mut customers = Vec::new();
    for journey in 0..usize::try_from(journeys).expect("a number") {
        let trouble = ALL[(first + journey) % ALL.len()];
        let (began, over) = (Instant::now(), watch::Sender::new(false));
        let troubles = make_trouble(&mut cluster, &between, trouble, Dice(dice.roll(u64::MAX)), &over);
        let travel = async {
            let customer = travel(&world, journey, Dice(dice.roll(u64::MAX)), None).await;
            over.send_replace(true);
            customer
        };
        let (times, customer) = tokio::join!(troubles, travel);
        let (moves, heard) = (customer.heard.moves, customer.heard.publications.len());
        let took = began.elapsed();
        println!("journey {journey} in {took:.1?}: {trouble:?} {times} times, {heard} heard at {moves} sockets");
        customers.push(customer);
    }
    check(&cluster, &world, &customers).await;
}

/// Lets the nodes have their trouble in turn until `over`; answers how often.
async fn make_trouble(
    cluster: &mut Cluster,
    between: &Between,
    trouble: Trouble,
    mut dice: Dice,
    over: &watch::Sender<bool>,
) -> usize {
    let mut over = over.subscribe();
    let mut times = 0;
    let mut roll = |least: u64, most: u64| Duration::from_millis(least + dice.roll(most - least));
    while !*over.borrow_and_update() {
        let node = times % 3;
        let others = [(node + 1) % 3, (node + 2) % 3];
        match trouble {
            Trouble::Killed => {
                cluster.nodes[node].kill().await;
                pause(roll(0, 2000)).await;
                cluster.nodes[node].start().await;
            }
            Trouble::Stopped => {
                cluster.nodes[node].pause(true).await;
                pause(roll(500, 4000)).await;
                cluster.nodes[node].pause(false).await;
            }
            Trouble::CutOff => {
                let here = cluster.address(node);
                let there = others.map(|other| cluster.address(other));
                between.hold(there.into_iter().flat_map(|there| [(here, there), (there, here)]));
                pause(roll(1000, 5000)).await;
                between.heal();
            }
            Trouble::Drained => {
                let id = cluster.nodes[node].id();
                let operator = cluster.nodes[others[0]].operator();
                operator.post_empty(&format!("/admin/v1/nodes/{id}/drain")).await.expect(200);
                cluster.nodes[node].stop().await;
                cluster.nodes[node].start().await;
                // Nobody takes the next one before this one has its shards again.
                cluster.settled().await;
            }
        }
        times += 1;
        // It comes ever less often: what takes long on a slow machine has its time in the end.
        let calm = roll(300, 1500) * u32::try_from(1 + times / 4).expect("few");
        let _ = timeout(calm, over.wait_for(|over| *over)).await;
    }
    times
}

/// The ways into the cluster.
pub struct World {
    gateways: Vec<Client>,
    operators: Vec<Client>,
    admins: Vec<Client>,
    sockets: Vec<SocketAddr>,
    mailbox: Maildir,
}

impl World {
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            gateways: cluster.nodes.iter().map(|node| node.api()).collect(),
            operators: cluster.nodes.iter().map(|node| node.operator_api()).collect(),
            admins: cluster.nodes.iter().map(|node| node.operator()).collect(),
            sockets: cluster.nodes.iter().map(|node| node.gateway).collect(),
            mailbox: Maildir::of(cluster.outside()),
        }
    }

    pub fn with_token(&self, token: &str) -> Vec<Client> {
        self.gateways.iter().map(|gateway| gateway.with_token(token)).collect()
    }

    async fn mails(&self, to: &str, subject: &str) -> Vec<Mail> {
        let until = Instant::now() + COMES_WITHIN;
        loop {
            let mails = self.mailbox.matching(to, subject).await;
            if !mails.is_empty() {
                return mails;
            }
            assert!(Instant::now() < until, "no mail about {subject:?} came to {to}");
            pause(AGAIN).await;
        }
    }

    pub async fn sign_in(&self, turn: usize, email: &str) -> String {
        let body = json!({ "email": email, "password": PASSWORD });
        let answer = wanted(&self.gateways, turn, "/v1/sessions", &body).await;
        answer.expect(201);
        answer.text_at("/access_token")
    }
}

/// Who has gone the way, and what they heard.
pub struct Customer {
    email: String,
    subscription: String,
    heard: Heard,
    notes: usize,
}

/// Of one who has gone the way and goes on listening: whether they do, and whether it is enough.
#[derive(Default)]
pub struct Stay {
    pub begun: watch::Sender<bool>,
    pub over: watch::Sender<bool>,
}

impl Stay {
    /// Signs in again and again: others may let months pass.
    async fn until_over(&self, world: &World, email: &str, token: &watch::Sender<String>) {
        self.begun.send_replace(true);
        let mut over = self.over.subscribe();
        while timeout(SIGNED_IN_FOR, over.wait_for(|over| *over)).await.is_err() {
            token.send_replace(world.sign_in(0, email).await);
        }
        token.send_replace(world.sign_in(0, email).await);
    }
}

pub fn email_of(number: usize) -> String {
    format!("traveller{number}@example.com")
}

/// The main job: sign up, verify, sign in, listen, subscribe, hear of the receipt, and again a month later.
pub async fn travel(world: &World, number: usize, mut dice: Dice, stay: Option<&Stay>) -> Customer {
    let mut turn = || usize::try_from(dice.roll(3)).expect("small");
    let email = email_of(number);
    let body = json!({ "email": email, "password": PASSWORD, "role": "consumer", "display_name": "Ada" });
    wanted(&world.gateways, turn(), "/v1/signup", &body).await.expect(202);
    let verification = world.mails(&email, "").await.remove(0).token();
    let verified = wanted(&world.gateways, turn(), "/v1/signup/verify", &json!({ "token": verification })).await;
    verified.expect(201);
    let id = verified.text_at("/user/id");
    let token = watch::Sender::new(world.sign_in(turn(), &email).await);
    let (until, heard, over) =
        (watch::Sender::new(None), watch::Sender::new(Heard::default()), watch::Sender::new(false));
    let listening = roaming::listen(&world.sockets, turn(), &token, &until, &heard);
    let noting = notes(world, &id, &over);
    let (buying_from, renewing_from) = ([turn(), turn(), turn(), turn()], [turn(), turn(), turn()]);
    let buying = async {
        let _ = heard.subscribe().wait_for(|heard| heard.moves > 0).await;
        let subscription = subscribe(world, &token.borrow().clone(), buying_from).await;
        hear_of(&heard, &email, 1).await;
        world.mails(&email, "receipt").await;
        let (end, id) = (text(&subscription, "current_period_end"), text(&subscription, "id"));
        renew(world, &email, &id, &end, &token, renewing_from).await;
        hear_of(&heard, &email, 2).await;
        if let Some(stay) = stay {
            stay.until_over(world, &email, &token).await;
        }
        over.send_replace(true);
        id
    };
    let finishing = async {
        let (subscription, notes) = tokio::join!(buying, noting);
        let inbox = wanted_list(&world.with_token(&token.borrow()), turn(), "/v1/inbox").await;
        until.send_replace(inbox.iter().map(offset).max());
        (subscription, notes)
    };
    let ((subscription, notes), ()) = tokio::join!(finishing, listening);
    let heard = heard.borrow().clone();
    Customer { email, subscription, heard, notes }
}

/// Sends numbered notes until `over`; answers how many.
async fn notes(world: &World, to: &str, over: &watch::Sender<bool>) -> usize {
    let (mut over, mut sent) = (over.subscribe(), 0);
    while !*over.borrow_and_update() {
        sent += 1;
        let note = json!({
            "to": { "user_id": to }, "category": "transactional", "channels": ["in_app"],
            "content": { "title": format!("note {sent}"), "body": "on the way" },
        });
        wanted(&world.operators, sent, "/v1/notifications", &note).await.expect(202);
        let _ = timeout(BETWEEN_NOTES, over.wait_for(|over| *over)).await;
    }
    sent
}

/// Plan, payment method and subscription, which is paid at once.
async fn subscribe(world: &World, token: &str, turns: [usize; 4]) -> Value {
    let at = world.with_token(token);
    let card = json!({ "token": "pm_card_visa", "default": true });
    let card = wanted(&at, turns[0], "/v1/payment-methods", &card).await;
    card.expect(201);
    let plans = wanted_list(&at, turns[1], "/v1/plans").await;
    let plan = plans.iter().find(|plan| plan["name"] == "Plus").unwrap_or_else(|| panic!("no plan Plus in {plans:#?}"));
    let order = json!({ "plan_id": plan["id"], "payment_method_id": card.text_at("/id") });
    let subscription = wanted(&at, turns[2], "/v1/subscriptions", &order).await;
    subscription.expect(201);
    let path = format!("/v1/subscriptions/{}", subscription.text_at("/id"));
    let until = Instant::now() + COMES_WITHIN;
    loop {
        let shown = answered(&at, turns[3], &path).await;
        if shown.expect(200)["state"] == "active" {
            return shown.json;
        }
        assert!(Instant::now() < until, "the subscription is not active: {}", shown.text);
        pause(AGAIN).await;
    }
}

/// Takes the clock to an instant. No key: a repeat takes it nowhere else, and whoever began it may be gone.
async fn advance(at: &[Client], mut turn: usize, then: &str) {
    let (until, body) = (Instant::now() + COMES_WITHIN, json!({ "advance_to": then }));
    loop {
        let at = &at[turn % at.len()];
        let advanced = at.try_send(reqwest::Method::POST, "/admin/v1/clock", None, Some(&body)).await;
        if advanced.as_ref().is_some_and(|advanced| advanced.status == 200) {
            return;
        }
        let shown = at.try_get("/admin/v1/clock").await.filter(|shown| shown.status == 200);
        let now = shown.map(|shown| text(&shown.json, "now").parse::<jiff::Timestamp>().expect("a time"));
        if now.is_some_and(|now| now >= then.parse().expect("a time")) {
            return;
        }
        let last = advanced.map(|answer| answer.text);
        assert!(Instant::now() < until, "the clock does not advance to {then}, it is {now:?}: {last:?}");
        pause(AGAIN).await;
        turn += 1;
    }
}

/// Advances a day past the end of the period and waits for the renewal; signs in again, since a month has passed.
async fn renew(world: &World, email: &str, id: &str, end: &str, token: &watch::Sender<String>, turns: [usize; 3]) {
    let end: jiff::Timestamp = end.parse().expect("a time");
    let then = jiff::Timestamp::from_second(end.as_second() + DAY).expect("a time").to_string();
    advance(&world.admins, turns[0], &then).await;
    let until = Instant::now() + COMES_WITHIN;
    let mut at;
    loop {
        token.send_replace(world.sign_in(turns[1], email).await);
        at = world.with_token(&token.borrow());
        // Who comes back to the others may not know yet that months have passed: what it issues has expired elsewhere.
        let everywhere = (0..at.len()).map(|turn| answered(&at, turn, "/v1/me"));
        if futures::future::join_all(everywhere).await.iter().all(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < until, "nobody is signed in at the new time");
    }
    loop {
        let shown = answered(&at, turns[2], &format!("/v1/subscriptions/{id}")).await;
        if text(shown.expect(200), "current_period_start").parse::<jiff::Timestamp>().expect("a time") >= end {
            return;
        }
        assert!(Instant::now() < until, "the subscription is not renewed: {}", shown.text);
        pause(AGAIN).await;
    }
}

/// Waits until so many receipts were heard on the socket.
async fn hear_of(heard: &watch::Sender<Heard>, email: &str, receipts: usize) {
    let mut following = heard.subscribe();
    let enough = following.wait_for(|heard| heard.receipts().len() >= receipts);
    let came = timeout(COMES_WITHIN, enough).await.is_ok();
    assert!(came, "{receipts} receipts on the socket of {email}: {:#?}", heard.borrow());
}

/// Asks at one node after the other until there is an answer.
async fn answered(at: &[Client], mut turn: usize, path: &str) -> Answer {
    let until = Instant::now() + COMES_WITHIN;
    loop {
        let answer = at[turn % at.len()].try_get(path).await;
        if let Some(answer) = answer.filter(|answer| answer.status < 500) {
            return answer;
        }
        assert!(Instant::now() < until, "{path} is not answered");
        pause(AGAIN).await;
        turn += 1;
    }
}

/// Every page of a list.
async fn wanted_list(at: &[Client], turn: usize, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = answered(at, turn, &format!("{path}?limit=100{cursor}")).await;
        items.extend(page.expect(200)["items"].as_array().expect("a list").iter().cloned());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

/// One charge, one invoice and one receipt of each kind for each month; what the socket heard is what is in the inbox.
pub async fn check(cluster: &Cluster, world: &World, customers: &[Customer]) {
    let (mut numbers, mut due) = (Vec::new(), BTreeMap::new());
    for customer in customers {
        let email = &customer.email;
        let at = world.with_token(&world.sign_in(0, email).await);
        let path = format!("/v1/subscriptions/{}", customer.subscription);
        let subscription = answered(&at, 1, &path).await.expect(200).clone();
        let mut invoices = wanted_list(&at, 2, "/v1/invoices").await;
        invoices.sort_by_key(|invoice| text(invoice, "period_start"));
        for pair in invoices.windows(2) {
            assert_eq!(pair[0]["period_end"], pair[1]["period_start"], "{email} is billed for each month once");
        }
        let last = invoices.last().unwrap_or_else(|| panic!("{email} has no invoice"));
        assert_eq!(last["period_end"], subscription["current_period_end"], "{email}");
        assert!(invoices.len() >= 2, "{invoices:#?}");
        for invoice in &invoices {
            assert_eq!(invoice["state"], "paid", "{invoice}");
            numbers.push(text(invoice, "number"));
            due.insert(text(invoice, "id"), 1);
        }
        let mut inbox = wanted_list(&at, 0, "/v1/inbox").await;
        inbox.sort_by_key(offset);
        let receipts = inbox.iter().filter(|item| item["title"].to_string().to_lowercase().contains("receipt")).count();
        let mails = world.mails(email, "receipt").await.len();
        assert_eq!((receipts, mails), (invoices.len(), invoices.len()), "receipts of {email}: {inbox:#?}");
        // One that a dead node was about to deliver may be overtaken by the next.
        let titles = inbox.iter().filter_map(|item| item["title"].as_str()?.strip_prefix("note ")?.parse().ok());
        let mut notes: Vec<usize> = titles.collect();
        notes.sort_unstable();
        assert_eq!(notes, (1..=customer.notes).collect::<Vec<_>>(), "notes to {email}");
        heard_everything(customer, &inbox);
    }
    load::check::gapless(&mut numbers);
    assert_eq!(load::check::charged(cluster.outside()), due, "each invoice was charged once");
    let books = answered(&world.admins, 0, "/admin/v1/ledger/verify").await;
    assert_eq!(books.expect(200)["fault_count"], 0, "{}", books.text);
}

/// The socket heard what is in the inbox from where it began to where it ended, in that order.
fn heard_everything(customer: &Customer, inbox: &[Value]) {
    let Heard { from, publications, .. } = &customer.heard;
    let heard: Vec<(u64, &Value)> = publications.iter().map(|heard| (offset(heard), &heard["data"]["id"])).collect();
    let last = customer.heard.last();
    let there = inbox.iter().filter(|item| (from + 1..=last).contains(&offset(item)));
    let there: Vec<(u64, &Value)> = there.map(|item| (offset(item), &item["id"])).collect();
    assert_eq!(heard, there, "{} heard each thing once and in order", customer.email);
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned()
}
