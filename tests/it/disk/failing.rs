//! Disks that are full, fail or have become read-only, and too few file descriptors: each ends in a clear way, and what
//! was acknowledged is there afterwards.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::volume::{Volume, shim};
use super::whole_node::busy_disk;
use crate::http::{Answer, Client, fresh_key};
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::Person;

const MIB: u64 = 1 << 20;
const TURNS_WITHIN: Duration = Duration::from_secs(120);

/// Somebody who is sent notifications, and the titles that were accepted.
struct Sent {
    ada: Person,
    operator: Client,
    titles: Vec<String>,
}

impl Sent {
    async fn new(node: &Node) -> Self {
        let ada = Person::sign_up(node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
        Self { ada, operator: node.operator_api(), titles: Vec::new() }
    }

    fn body(&self, title: &str) -> Value {
        json!({
            "to": { "user_id": self.ada.id }, "category": "transactional", "channels": ["in_app"],
            "content": { "title": title, "body": "x".repeat(3000) },
        })
    }

    /// Sends until `enough` or the node is gone. What fails otherwise than with 503 fails the test.
    async fn until(&mut self, node: &mut Node, enough: usize) {
        let deadline = Instant::now() + TURNS_WITHIN;
        let wanted = self.titles.len() + enough;
        while self.titles.len() < wanted && node.runs() {
            assert!(Instant::now() < deadline, "stuck after {} notifications\n{}", self.titles.len(), node.log());
            let title = format!("note {}", self.titles.len());
            let (key, body) = (fresh_key(), self.body(&title));
            let sent =
                self.operator.try_send(reqwest::Method::POST, "/v1/notifications", Some(&key), Some(&body)).await;
            let Some(answer) = sent else { continue };
            match answer.status {
                202 => self.titles.push(title),
                503 | 504 => {}
                _ => panic!("{} {}", answer.status, answer.text),
            }
        }
    }

    /// Sends until one is not accepted: readiness looks at the disk itself, the shards once a second.
    async fn until_refused(&mut self) -> (String, Value, Answer) {
        let deadline = Instant::now() + TURNS_WITHIN;
        loop {
            assert!(Instant::now() < deadline, "everything is accepted");
            let title = format!("note {}", self.titles.len());
            let (key, body) = (fresh_key(), self.body(&title));
            let answer = self.operator.post_once("/v1/notifications", &key, &body).await;
            if answer.status != 202 {
                return (key, body, answer);
            }
            self.titles.push(title);
        }
    }

    /// Every accepted notification is in the inbox.
    async fn all_there(&self, node: &Node) {
        let ada = self.ada.sign_in(node).await;
        let deadline = Instant::now() + TURNS_WITHIN;
        let mut poll = tokio::time::interval(Duration::from_millis(50));
        loop {
            poll.tick().await;
            let (mut held, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = ada.api.get(&format!("/v1/inbox?limit=100{cursor}")).await;
                let items = page.expect(200)["items"].as_array().expect("a list");
                held.extend(items.iter().filter_map(|item| item["title"].as_str().map(str::to_owned)));
                let Some(next) = page.json["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            let lost: Vec<_> = self.titles.iter().filter(|title| !held.contains(title)).collect();
            if lost.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "lost: {lost:?}");
        }
    }
}

async fn readiness(node: &Node, status: u16) -> String {
    let (client, mut poll) = (node.api(), tokio::time::interval(Duration::from_millis(50)));
    let turned = timeout(TURNS_WITHIN, async {
        loop {
            poll.tick().await;
            if let Some(answer) = client.try_get("/readyz").await.filter(|answer| answer.status == status) {
                return answer.text;
            }
        }
    });
    turned.await.unwrap_or_else(|_| panic!("/readyz never answers {status}\n{}", node.log()))
}

fn on(volume: &Volume) -> crate::node::Plan {
    busy_disk().data(volume.path().join("data"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_too_little_space_takes_nothing_more_and_goes_on_when_there_is_room() {
    let volume = Volume::new(512);
    let mut node = on(&volume).set("storage.min_free_bytes", &(128 * MIB).to_string()).start().await;
    let mut sent = Sent::new(&node).await;
    sent.until(&mut node, 20).await;
    volume.fill(64 * MIB);
    let why = readiness(&node, 503).await;
    assert!(why.contains("MiB free of 128 MiB"), "{why}");
    let (key, body, refused) = sent.until_refused().await;
    assert_eq!((refused.status, refused.json["type"].as_str()), (503, Some("urn:construct:problem:overloaded")));
    sent.ada.api.get("/v1/me").await.expect(200);
    volume.make_room();
    readiness(&node, 200).await;
    let deadline = Instant::now() + TURNS_WITHIN;
    loop {
        let accepted = sent.operator.post_once("/v1/notifications", &key, &body).await;
        if accepted.status == 202 {
            break;
        }
        // The disk may have been full in the middle of it: then the key is held until the request's own deadline.
        let held = accepted.json["type"] == "urn:construct:problem:idempotency_in_progress";
        assert!(accepted.status == 503 || held, "{}", accepted.text);
        assert!(Instant::now() < deadline, "nothing is accepted again\n{}", node.log());
    }
    sent.titles.push(body["content"]["title"].as_str().expect("a title").to_owned());
    sent.all_there(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_to_the_last_byte_stops_the_node_and_costs_nothing() {
    let volume = Volume::new(512);
    let mut node = on(&volume).set("storage.min_free_bytes", "0").start().await;
    let mut sent = Sent::new(&node).await;
    sent.until(&mut node, 20).await;
    volume.fill(2 * MIB);
    sent.until(&mut node, 100_000).await;
    assert!(!node.ends_well().await, "it ends with a failure");
    assert!(node.log().contains("No space left on device"), "{}", node.log());
    volume.make_room();
    volume.fill(0);
    node.spawn();
    assert!(!node.comes_up().await, "it starts without space\n{}", node.log());
    assert!(node.log().contains("No space left on device"), "{}", node.log());
    volume.make_room();
    node.start().await;
    sent.all_there(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_stops_the_node_and_costs_nothing() {
    let volume = Volume::new(512);
    let mut node = on(&volume).start().await;
    let mut sent = Sent::new(&node).await;
    sent.until(&mut node, 20).await;
    volume.become_read_only();
    sent.until(&mut node, 100_000).await;
    assert!(!node.ends_well().await, "it ends with a failure");
    node.spawn();
    assert!(!node.comes_up().await, "it starts on a read-only disk");
    assert!(node.log().contains("Read-only file system"), "{}", node.log());
    volume.remount();
    node.start().await;
    sent.all_there(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_the_end_of_the_node_and_never_tried_again() {
    let library = tempfile::tempdir().expect("a directory");
    let library = shim(library.path()).display().to_string();
    for file in [".wal", "/state/db", "/state/redo-"] {
        let plan = busy_disk().variable("LD_PRELOAD", &library).variable("SHIM_FAIL", &format!("{file}:150"));
        let mut node = plan.start().await;
        let mut sent = Sent::new(&node).await;
        sent.until(&mut node, 100_000).await;
        assert!(!node.ends_well().await, "{file}: it ends with a failure");
        let log = node.log();
        let (_, reason) = log.rsplit_once("construct: ").expect("a reason");
        assert!(reason.contains("the disk failed") && reason.contains("Input/output error"), "{file}: {log}");
        node.set_variable("SHIM_FAIL", "nothing:1");
        node.start().await;
        sent.all_there(&node).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_written_harms_nothing() {
    let library = tempfile::tempdir().expect("a directory");
    let library = shim(library.path()).display().to_string();
    let plan = busy_disk().variable("LD_PRELOAD", &library).variable("SHIM_FAIL", "/partial:3");
    let mut node = plan.start().await;
    let mut sent = Sent::new(&node).await;
    let deadline = Instant::now() + TURNS_WITHIN;
    while !node.log().contains("a snapshot failed") {
        assert!(Instant::now() < deadline, "no snapshot failed\n{}", node.log());
        sent.until(&mut node, 20).await;
    }
    let failed_at = sent.titles.len();
    let newest = || std::fs::read_dir(node.data().join("snapshots/1")).expect("a directory").count();
    assert!(newest() <= 3, "half a snapshot is left");
    sent.until(&mut node, 50).await;
    assert!(sent.titles.len() > failed_at, "it went on");
    node.stop().await;
    node.start().await;
    sent.all_there(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_never_take_the_file_descriptors_that_the_storage_needs() {
    let mut node = busy_disk().under(&["prlimit", "--nofile=128:128"]).prepare();
    node.spawn();
    assert!(!node.comes_up().await, "it starts with 128 descriptors");
    assert!(node.log().contains("128 open files are allowed") && node.log().contains("ulimit -n"), "{}", node.log());

    let mut node = busy_disk().under(&["prlimit", "--nofile=416:416"]).start().await;
    let mut sent = Sent::new(&node).await;
    sent.until(&mut node, 5).await;
    let mut flood = Vec::new();
    for _ in 0..500 {
        flood.push(TcpStream::connect(node.gateway).await.expect("a connection"));
    }
    // Through the connection it has, and over many new segments of the log.
    sent.until(&mut node, 150).await;
    assert!(node.runs(), "{}", node.log());
    let turned_away = timeout(TURNS_WITHIN, async {
        let mut answer = Vec::new();
        flood.last_mut().expect("a connection").read_to_end(&mut answer).await.map(|_| answer)
    });
    let answer = String::from_utf8_lossy(&turned_away.await.expect("in time").unwrap_or_default()).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "{answer}");
    drop(flood);
    readiness(&node, 200).await;
    sent.all_there(&node).await;
    node.stop().await;
}
