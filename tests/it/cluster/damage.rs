//! Bytes of one replica's files are changed while its node is down: it finds them, sets the damaged part aside and rebuilds it, or
//! refuses to start and is replaced; and it leads every shard then with everything that was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;
use super::grow::remove;
use crate::disk::damage::{Kind, files};
use crate::disk::whole_node::busy_disk;
use crate::http::{Client, fresh_key};
use crate::load::{Dice, environment, patient, seed};
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::{self, Person};

const WITHIN: Duration = Duration::from_secs(60);
/// One byte in so many of a file is changed.
const SPACING: u64 = 512;

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_with_changed_bytes_is_rebuilt_or_replaced_and_serves_nothing_wrong() {
    let mut dice = Dice(seed());
    let mut cluster = Cluster::of(3, |_| patient(busy_disk()), None).await;
    let people = people(&cluster).await;
    let mut said = Vec::new();
    for kind in [Kind::Database, Kind::Redo, Kind::Snapshot, Kind::Segment] {
        for _ in 0..environment("CONSTRUCT_TEST_DAMAGES", 1) {
            let at = usize::try_from(dice.roll(3)).expect("small");
            write(&cluster.nodes[at], &people).await;
            cluster.nodes[at].kill().await;
            let other = &cluster.nodes[(at + 1) % 3];
            write(other, &people).await;
            let expected = picture(&other.api(), &people).await;
            let harmed = harm(&cluster.nodes[at], kind, &mut dice);
            let served = serves(&mut cluster, at).await;
            println!("{kind:?} of node {}: {harmed:?}, served {served}", cluster.nodes[at].id());
            judge(&cluster.nodes[at], kind, served).await;
            if !served {
                replace(&mut cluster, at).await;
            }
            cluster.settled().await;
            lead_everything(&cluster.nodes[at]).await;
            assert_eq!(picture(&cluster.at(at), &people).await, expected, "{kind:?}: {harmed:?}");
            verified(&cluster.nodes[at]).await;
            said.push((kind, served));
        }
    }
    println!("served after it was mended, or was replaced: {said:?}");
}

/// Somebody on each shard, with one of everything.
pub(super) async fn people(cluster: &Cluster) -> Vec<Person> {
    let mailbox = Maildir::of(cluster.outside());
    let mut people = Vec::new();
    for number in 0..4 {
        let person =
            Person::sign_up(&cluster.nodes[0], &mailbox, &format!("person{number}@example.com"), "consumer").await;
        let card = person.add_card("pm_card_visa").await;
        let plan = person::plan(&person.api, "Plus").await;
        person.subscribe(plan["id"].as_str().expect("an id"), &card).await;
        people.push(person);
    }
    people
}

/// Some notifications for everybody, each acknowledged, as soon as somebody leads again.
pub(super) async fn write(node: &Node, people: &[Person]) {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    let operator = node.operator_api();
    for person in people {
        for number in 0..5 {
            let body = json!({
                "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"],
                "content": { "title": format!("note {number}"), "body": "x".repeat(100 + number * 700) },
            });
            let key = fresh_key();
            while operator.post_once("/v1/notifications", &key, &body).await.status != 202 {
                assert!(Instant::now() < until, "nothing is accepted\n{}", node.log());
                poll.tick().await;
            }
        }
    }
}

/// What a node says of everybody, once everything accepted is delivered.
pub(super) async fn picture(api: &Client, people: &[Person]) -> BTreeMap<String, Value> {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    let mut seen = BTreeMap::new();
    loop {
        poll.tick().await;
        let mut now = BTreeMap::new();
        for person in people {
            let api = api.with_token(person.api.token());
            for path in ["/v1/me", "/v1/inbox?limit=100", "/v1/invoices?limit=100", "/v1/subscriptions", "/v1/devices"]
            {
                let answer = api.get(path).await;
                assert!(matches!(answer.status, 200 | 503), "{path}: {} {}", answer.status, answer.text);
                now.insert(format!("{} {path}", person.email), answer.json);
            }
        }
        if now == seen {
            return now;
        }
        assert!(Instant::now() < until, "it does not come to rest");
        seen = now;
    }
}

/// Changes bytes all over one file of a kind; of a snapshot also those of the database, or nobody looks at it.
fn harm(node: &Node, kind: Kind, dice: &mut Dice) -> Vec<String> {
    let of = |kind| {
        let found: Vec<(String, PathBuf)> =
            files(&node.data()).into_iter().filter(|(name, _)| Kind::of(name) == Some(kind)).collect();
        let large = found.iter().filter(|(_, path)| fs::metadata(path).is_ok_and(|file| file.len() > SPACING));
        large.cloned().collect::<Vec<_>>()
    };
    let mut harmed = Vec::new();
    let kinds = if kind == Kind::Snapshot { vec![kind, Kind::Database] } else { vec![kind] };
    for kind in kinds {
        let found = of(kind);
        // The newest snapshot of a shard is the last one, and of all databases the file itself is the largest.
        let (name, path) = match kind {
            Kind::Database => found.iter().max_by_key(|(_, path)| fs::metadata(path).map_or(0, |file| file.len())),
            Kind::Snapshot => found.last(),
            _ => found.get(usize::try_from(dice.roll(found.len() as u64)).expect("small")),
        }
        .unwrap_or_else(|| panic!("there is a {kind:?}"));
        let mut bytes = fs::read(path).expect("readable");
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("written");
        for at in (0..used as u64).step_by(usize::try_from(SPACING).expect("small")) {
            let at = usize::try_from(at + dice.roll(SPACING)).expect("small").min(used);
            bytes[at] ^= 1 << dice.roll(8);
        }
        fs::write(path, bytes).expect("writable");
        harmed.push(name.clone());
    }
    harmed
}

/// Starts the node, again where it says that the next start mends it; whether it serves.
async fn serves(cluster: &mut Cluster, at: usize) -> bool {
    let node = &mut cluster.nodes[at];
    node.forget_log();
    for _ in 0..2 {
        node.spawn();
        if node.comes_up().await {
            return true;
        }
        if !node.log().contains("the next start") {
            break;
        }
    }
    false
}

/// It said what it found, and kept it; who refused named the file and the remedy.
async fn judge(node: &Node, kind: Kind, served: bool) {
    let log = node.whole_log();
    if !served {
        let (_, refusal) = log.rsplit_once("construct: ").unwrap_or_else(|| panic!("{kind:?}: no reason\n{log}"));
        assert!(matches!(kind, Kind::Segment | Kind::Snapshot), "{kind:?} is mended: {refusal}");
        assert!(refusal.contains("wal") && refusal.contains("join again"), "{kind:?}: {refusal}");
        return;
    }
    let metrics = node.operator().get("/metrics").await;
    let told = |name: &str| {
        let count = metrics.text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        count.is_some_and(|count| count > 0)
    };
    match kind {
        // A database that is damaged all over opens as an empty one.
        Kind::Database | Kind::Snapshot => {
            let aside = log.contains("the state database is damaged; it was set aside");
            assert!(aside || log.contains("the state store lost a flush it had confirmed"), "{log}");
            assert!(!aside || node.data().join("state.damaged-1").exists(), "{kind:?}: it is not kept");
            let told = told("construct_damage_set_aside ") || told("construct_state_rebuilt_shards ");
            assert!(told, "{}", metrics.text);
        }
        Kind::Segment => panic!("a changed log is refused, or it is served as if it were whole\n{log}"),
        _ => {}
    }
    if kind == Kind::Snapshot {
        assert!(log.contains("a local snapshot is damaged"), "{log}");
    }
}

/// What the refusal says: the member is removed, and joins again with an empty directory.
async fn replace(cluster: &mut Cluster, at: usize) {
    let other = (at + 1) % 3;
    remove(&cluster.nodes[other], cluster.nodes[at].id()).await;
    fs::remove_dir_all(cluster.nodes[at].data()).expect("a data directory");
    let token = cluster.nodes[other].operator().post("/admin/v1/cluster/tokens", &json!({})).await;
    token.expect(201);
    let address = cluster.nodes[other].cluster.to_string();
    let node = &mut cluster.nodes[at];
    node.set("cluster.join", &address);
    node.set("cluster.token", &token.text_at("/token"));
    node.start().await;
}

/// Lets the node lead every shard.
pub(super) async fn lead_everything(node: &Node) {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    let shards = node.operator().get("/admin/v1/shards").await;
    for shard in shards.expect(200)["items"].as_array().expect("shards") {
        let path = format!("/admin/v1/shards/{}/transfer", shard["id"]);
        while node.operator().post(&path, &json!({ "to": node.id() })).await.json["done"] != true {
            assert!(Instant::now() < until, "{path}\n{}", node.log());
            poll.tick().await;
        }
    }
}

async fn verified(node: &Node) {
    let books = node.operator().get("/admin/v1/ledger/verify").await;
    assert_eq!(books.expect(200)["fault_count"], 0, "{}", books.text);
}
