//! Restoring: another cluster, of another size, that has everything acknowledged before the backup and does nothing twice.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Shelf, text};
use crate::cluster::Cluster;
use crate::http::Client;
use crate::mail::{Mailbox, Maildir};
use crate::node::{Node, Plan};
use crate::person::{self, PASSWORD, Person};

const DAY: i64 = 86_400;
const WITHIN: std::time::Duration = std::time::Duration::from_secs(90);

/// Charges that the processor made.
pub(super) fn charges(outside: &Path) -> usize {
    let journal = std::fs::read_to_string(outside.join("sandbox-payments/journal.jsonl")).expect("a journal");
    journal.lines().filter(|line| line.contains("\"charge\":{\"customer\"")).count()
}

pub(super) fn note(person: &Person, title: &str) -> Value {
    json!({
        "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"],
        "content": { "title": title, "body": "words" },
    })
}

/// Sends numbered notifications until it is told to stop; how many were acknowledged.
fn load(api: Client, person: Person, stop: Arc<AtomicBool>) -> (Arc<AtomicU32>, tokio::task::JoinHandle<()>) {
    let acknowledged = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&acknowledged);
    let task = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let number = counted.load(Ordering::Relaxed);
            api.post("/v1/notifications", &note(&person, &format!("number {number}"))).await.expect(202);
            counted.store(number + 1, Ordering::Relaxed);
        }
    });
    (acknowledged, task)
}

pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let (mut poll, deadline) = (tokio::time::interval(std::time::Duration::from_millis(100)), Instant::now() + WITHIN);
    while !holds().await {
        poll.tick().await;
        assert!(Instant::now() < deadline, "not within {WITHIN:?}: {what}");
    }
}

pub(super) async fn held(node: &Node) -> Vec<Value> {
    let held = node.operator().get("/admin/v1/held-effects").await;
    held.expect(200)["items"].as_array().expect("a list").clone()
}

pub(super) async fn verified(node: &Node, arguments: &[&str]) {
    let (admin, token) = (format!("http://{}", node.admin), text(&node.data().join("admin-token")));
    let all = [arguments, &["--admin", &admin, "--token-file", &token]].concat();
    let out = node.command(&all).output().await.expect("the binary runs");
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn numbers(invoices: &[Value]) -> Vec<String> {
    let mut numbers: Vec<_> =
        invoices.iter().map(|invoice| invoice["number"].as_str().unwrap_or("-").to_owned()).collect();
    numbers.sort();
    numbers
}

pub(super) fn restored(outside: &Path) -> Node {
    Plan::sandbox()
        .set("node.sandbox_dir", outside.to_str().expect("a path"))
        .set("gateway.public_url", "http://127.0.0.1:1")
        .prepare()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_restored_and_neither_mails_nor_charges_again() {
    let mut old = Cluster::start(3).await;
    let (shelf, outside) = (Shelf::new(), old.outside().to_owned());
    let mailbox = Maildir::of(&outside);
    let ada = Person::sign_up(&old.nodes[0], &mailbox, "ada@example.com", "robot_builder").await;
    let eve = Person::sign_up(&old.nodes[1], &mailbox, "eve@example.com", "robot_builder").await;
    for person in [&ada, &eve] {
        let card = person.add_card("pm_card_visa").await;
        let plan = person::plan(&person.api, "Plus").await;
        let subscription = person.subscribe(plan["id"].as_str().expect("an id"), &card).await;
        assert_eq!(subscription["state"], "active");
        mailbox.wait_for(&person.email, "receipt", 1).await;
    }
    assert_eq!(charges(&outside), 2);

    // A backup while others write at every node.
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> =
        old.nodes.iter().map(|node| load(node.operator_api(), ada.clone(), Arc::clone(&stop))).collect();
    eventually("work under way", async || loads.iter().all(|(count, _)| count.load(Ordering::Relaxed) > 5)).await;
    let before: u32 = loads.iter().map(|(count, _)| count.load(Ordering::Relaxed)).sum();
    let taken = shelf.take(&old.nodes[0], &[]).await;
    let after: u32 = loads.iter().map(|(count, _)| count.load(Ordering::Relaxed)).sum();
    stop.store(true, Ordering::Relaxed);
    for (_, task) in loads {
        task.await.expect("every request was accepted");
    }
    println!("{before} acknowledged before the backup, {after} after it");

    // It goes on: renewals are charged and receipts mailed, somebody comes, somebody is erased.
    person::advance_by(&old.nodes[2], 32 * DAY).await;
    for person in [&ada, &eve] {
        mailbox.wait_for(&person.email, "receipt", 2).await;
    }
    assert_eq!(charges(&outside), 4);
    Person::sign_up(&old.nodes[1], &mailbox, "carol@example.com", "consumer").await;
    let latest = ada.sign_in(&old.nodes[0]).await;
    eve.sign_in(&old.nodes[0]).await.api.delete("/v1/me").await.expect(202);
    eventually("an erasure", async || {
        let answer = json!({ "email": eve.email, "password": PASSWORD });
        old.nodes[0].api().post("/v1/sessions", &answer).await.status == 401
    })
    .await;
    let newer = shelf.take(&old.nodes[2], &[]).await;
    let (_, lost_at) = person::now(&old.nodes[0]).await;
    let mails = mailbox.all().await.len();
    for node in &mut old.nodes {
        node.kill().await;
    }

    // Another number of shards is refused, and so is a directory that is in use.
    let mut node = restored(&outside);
    let id = taken["id"].as_str().expect("an id");
    let mut other = node.command(&["cluster", "restore"]);
    other.args(shelf.arguments()).args(["--data-dir", &text(&node.data())]).env("CONSTRUCT__CLUSTER__SHARDS", "4");
    let refused = other.output().await.expect("the binary runs");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("with 8 data shards, and cluster.shards is 4"));
    let out = shelf.restore(&node, &["--id", id, "--until", &lost_at]).await;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let again = shelf.restore(&node, &[]).await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("is in use"), "{again:?}");
    node.start().await;
    person::advance_by(&node, 1).await;

    // Everything acknowledged before is there, the renewal that was due since is found and not charged again, and no mail
    // of before goes out again.
    assert_eq!(charges(&outside), 4, "the renewal was charged already");
    for stale in [&ada, &latest] {
        stale.at(&node).api.get("/v1/me").await.expect(401);
        let refresh = json!({ "refresh_token": stale.refresh_token });
        node.api().post("/v1/sessions/refresh", &refresh).await.expect(401);
    }
    let ada = ada.sign_in(&node).await;
    let invoices = ada.invoices().await;
    assert_eq!(invoices.len(), 2, "{invoices:#?}");
    assert!(invoices.iter().all(|invoice| invoice["state"] == "paid"), "{invoices:#?}");
    let page = ada.api.get("/v1/inbox/unread-count").await;
    let notes = page.expect(200).to_string();
    let unread: u32 = notes.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number");
    assert!(unread >= before, "{unread} of {before} that were acknowledged");
    let sent: Vec<_> = mailbox.all().await.into_iter().skip(mails).collect();
    assert_eq!(mailbox.all().await.len(), mails, "{sent:#?}");
    let waiting = held(&node).await;
    assert!(waiting.iter().any(|effect| effect["user_id"] == Value::String(ada.id.clone())), "{waiting:#?}");
    let unknown = json!({ "email": "carol@example.com", "password": PASSWORD });
    node.api().post("/v1/sessions", &unknown).await.expect(401);

    // Who was erased since is erased again: nothing of theirs waits, and nobody can sign in.
    let gone = json!({ "email": eve.email, "password": PASSWORD });
    eventually("the erasure, anew", async || {
        let entries = node.operator_api().get("/v1/audit/entries?action=erasure.key&limit=100").await;
        entries.expect(200)["items"].to_string().contains(&eve.id)
    })
    .await;
    node.api().post("/v1/sessions", &gone).await.expect(401);
    let waiting = held(&node).await;
    assert!(waiting.iter().all(|effect| effect["user_id"] != Value::String(eve.id.clone())), "{waiting:#?}");
    assert_eq!(charges(&outside), 4, "nor was anything charged for who is erased");

    // The operator looks: one is released and arrives, the others are dropped.
    let receipts = mailbox.matching(&ada.email, "receipt").await.len();
    let of_ada: Vec<_> = waiting.iter().filter(|effect| effect["user_id"] == Value::String(ada.id.clone())).collect();
    let released = node.operator().post("/admin/v1/held-effects/release", &json!({ "ids": [of_ada[0]["id"]] })).await;
    assert_eq!(released.expect(200)["done"], 1);
    eventually("the released mail", async || mailbox.all().await.len() == mails + 1).await;
    let dropped = node.operator().post("/admin/v1/held-effects/drop", &json!({})).await;
    assert_eq!(dropped.expect(200)["done"], waiting.len() - 1);
    assert!(held(&node).await.is_empty());

    // It grows to three and goes on as any cluster: numbers without a gap, one charge and one mail for the next renewal.
    let mut others = Vec::new();
    for id in ["2", "3"] {
        let token = node.operator().post("/admin/v1/cluster/tokens", &json!({})).await;
        let mut other = Plan::sandbox()
            .set("node.id", id)
            .set("node.sandbox_dir", outside.to_str().expect("a path"))
            .set("gateway.public_url", "http://127.0.0.1:1")
            .set("cluster.join", &node.cluster.to_string())
            .set("cluster.token", &{
                token.expect(201);
                token.text_at("/token")
            })
            .prepare();
        other.start().await;
        others.push(other);
    }
    eventually("three replicas of every shard", async || {
        let shards = others[1].operator().get("/admin/v1/shards").await;
        let items = shards.json["items"].as_array().cloned().unwrap_or_default();
        let placed = |shard: &Value| {
            shard["replicas"].as_array().is_some_and(|replicas| replicas.len() == 3)
                && shard["placement"]["leader"] == shard["leader"]
        };
        items.len() == 9 && items.iter().all(placed)
    })
    .await;
    let mails = mailbox.all().await.len();
    person::advance_by(&others[0], 31 * DAY).await;
    assert_eq!(charges(&outside), 5, "one more renewal");
    eventually("its receipt", async || mailbox.matching(&ada.email, "receipt").await.len() > receipts).await;
    let ada = ada.sign_in(&others[1]).await;
    let invoices = ada.invoices().await;
    assert!(invoices.iter().all(|invoice| invoice["state"] == "paid"), "{invoices:#?}");
    println!("{mails} mails before the next renewal, numbers {:?}", numbers(&invoices));
    assert!(held(&others[0]).await.is_empty(), "nothing new is held");
    verified(&others[1], &["ledger", "verify"]).await;
    let export = text(&shelf.dir().join("audit.jsonl"));
    verified(&node, &["audit", "export", "--output", &export]).await;
    let out = node.command(&["audit", "verify", &export]).output().await.expect("the binary runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(newer["taken_at"].as_str() > taken["taken_at"].as_str());
}
