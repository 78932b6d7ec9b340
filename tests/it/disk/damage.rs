//! A changed byte or a cut in every file of the data directory, one at a time: nothing wrong is ever served, nothing
//! acknowledged is lost, and a node that does not start says which file, what is lost and what to do.
//!
//! The directory is walked, and a file of a kind that is not known here fails the test. `CONSTRUCT_TEST_SEED` runs it
//! again; `CONSTRUCT_TEST_DAMAGES` says how many files of a kind are damaged, and how often each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::whole_node::busy_disk;
use crate::http::fresh_key;
use crate::load::{Dice, environment};
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::{self, Person};

/// What a damaged file of a kind may lead to, besides a node that serves what it served before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Made anew at every start, or empty: what counts is that it is there.
    Lock,
    /// Two files, of which one is enough.
    Formation,
    RootKey,
    Keyset,
    AdminToken,
    VapidKey,
    /// The node's key and certificates, which it makes again.
    Certificate,
    /// Where other nodes are reached.
    Peers,
    Segment,
    Database,
    Redo,
    Snapshot,
    Journal,
    Mark,
    SmsFile,
    /// Delivered: the reader's, who knows no checksum. The node never reads it.
    Mail,
}

impl Kind {
    /// Of a path below the data directory.
    pub fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        Some(match parts[..] {
            ["LOCK" | "started"] => Self::Lock,
            ["cluster.json" | "cluster.copy.json"] => Self::Formation,
            ["root.key"] => Self::RootKey,
            ["keyset"] => Self::Keyset,
            ["admin-token"] => Self::AdminToken,
            ["vapid.key"] => Self::VapidKey,
            ["cluster", "node.key" | "node.copy.key" | "node.crt" | "ca.crt"] => Self::Certificate,
            ["cluster", "peers.json"] => Self::Peers,
            ["wal", name] if name.ends_with(".wal") => Self::Segment,
            ["state", "db" | "conf"] | ["state", "blobs", _] => Self::Database,
            ["state", name] if name.starts_with("snap.") => Self::Database,
            ["state", "redo-0" | "redo-1"] => Self::Redo,
            ["snapshots", _, name] if name.ends_with(".snapshot") => Self::Snapshot,
            ["sandbox-payments", "journal.jsonl"] => Self::Journal,
            ["sandbox-payments", "journal.mark"] | ["outbox", "sms.mark"] => Self::Mark,
            ["outbox", "sms.jsonl"] => Self::SmsFile,
            ["outbox", "mail", "new" | "cur", _] => Self::Mail,
            _ => return None,
        })
    }

    /// Whether a node may refuse to start for it. Whatever is kept twice or made again must not stop it.
    fn may_refuse(self) -> bool {
        use Kind::{AdminToken, Journal, Keyset, Peers, RootKey, Segment, SmsFile, VapidKey};
        matches!(self, Peers | RootKey | Keyset | AdminToken | VapidKey | Segment | Journal | SmsFile)
    }
}

/// Every file below `root`, with its path from there.
pub fn files(root: &Path) -> BTreeMap<String, PathBuf> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else {
            found.insert(path.strip_prefix(root).expect("below").to_string_lossy().into_owned(), path);
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status();
    assert!(done.expect("cp(1)").success());
}

/// Somebody with one of everything, and what the node answers about it.
struct World {
    ada: Person,
    plan: String,
    token: String,
}

impl World {
    async fn new(node: &Node) -> Self {
        let ada = Person::sign_up(node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
        let card = ada.add_card("pm_card_visa").await;
        let plan = person::plan(&ada.api, "Plus").await["id"].as_str().expect("an id").to_owned();
        ada.subscribe(&plan, &card).await;
        let operator = node.operator_api();
        for number in 0..25 {
            let body = json!({
                "to": { "user_id": ada.id }, "category": "transactional", "channels": ["in_app", "email"],
                "content": { "title": format!("note {number}"), "body": "x".repeat(1 + number * 150) },
            });
            operator.post("/v1/notifications", &body).await.expect(202);
        }
        let phone = json!({ "kind": "sms", "number": "+14155550100", "name": "phone" });
        ada.api.post("/v1/devices", &phone).await.expect(201);
        person::advance_by(node, 40 * 86_400).await;
        let ada = ada.sign_in(node).await;
        let token = fs::read_to_string(node.data().join("admin-token")).expect("a token").trim().to_owned();
        Self { ada, plan, token }
    }

    /// Everything the node says, without what differs from call to call.
    async fn picture(&self, node: &Node) -> BTreeMap<String, Value> {
        let ada = node.api().with_token(self.ada.api.token());
        let admin = crate::http::Client::new(format!("http://{}", node.admin)).with_token(&self.token);
        let mut picture = BTreeMap::new();
        for path in [
            "/v1/me",
            "/v1/inbox?limit=100",
            "/v1/invoices?limit=100",
            "/v1/subscriptions",
            "/v1/payment-methods",
            "/v1/devices",
            "/v1/notification-preferences",
            "/v1/plans",
        ] {
            let answer = ada.get(path).await;
            assert!(answer.status == 200 || answer.status == 404, "{path}: {} {}", answer.status, answer.text);
            picture.insert(path.to_owned(), answer.json.clone());
        }
        let books = admin.get("/admin/v1/ledger/verify").await;
        assert_eq!(books.expect(200)["fault_count"], 0, "{}", books.text);
        picture.insert("plan".to_owned(), json!(self.plan));
        picture
    }
}

/// One way to harm a file.
#[derive(Debug)]
enum Harm {
    Flip(u64),
    Cut(u64),
}

impl Harm {
    fn roll(number: u64, size: u64, dice: &mut Dice) -> Self {
        if number.is_multiple_of(2) { Self::Flip(dice.roll(size)) } else { Self::Cut(dice.roll(size)) }
    }

    fn inflict(&self, path: &Path) {
        match self {
            Self::Flip(at) => {
                let mut bytes = fs::read(path).expect("readable");
                bytes[usize::try_from(*at).expect("small")] ^= 0x41;
                fs::write(path, bytes).expect("writable");
            }
            Self::Cut(at) => fs::File::options().write(true).open(path).expect("a file").set_len(*at).expect("cut"),
        }
    }
}

/// Starts the node over harmed data and judges it: whether it served what it should, or refused as it should.
async fn judge(node: &mut Node, world: &World, before: &BTreeMap<String, Value>, kind: Kind, what: &str) -> bool {
    node.forget_log();
    // A database found damaged while the log is replayed stops the node; the next start rebuilds it.
    for _ in 0..2 {
        node.spawn();
        if node.comes_up().await {
            let after = world.picture(node).await;
            for (path, answer) in before {
                assert_eq!(&after[path], answer, "{what}: {path} is another");
            }
            node.stop().await;
            return true;
        }
        if !node.log().contains("the next start") {
            break;
        }
    }
    let log = node.log();
    assert!(kind.may_refuse(), "{what}: it must start\n{log}");
    let (_, refusal) = log.rsplit_once("construct: ").unwrap_or_else(|| panic!("{what}: no reason\n{log}"));
    let name = what.split(' ').next().expect("a file").rsplit('/').next().expect("a name");
    assert!(refusal.contains(name), "{what}: the file is not named: {refusal}");
    assert!(["emedy", "restore", "run:"].iter().any(|word| refusal.contains(word)), "{what}: no remedy: {refusal}");
    false
}

/// Waits until the node has written a snapshot of a shard.
async fn kept_a_snapshot(node: &Node) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    while !files(&node.data()).keys().any(|name| Kind::of(name) == Some(Kind::Snapshot)) {
        poll.tick().await;
        assert!(Instant::now() < deadline, "no snapshot is made\n{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_mended_or_named_and_never_believed() {
    let fresh = u64::from_str_radix(&fresh_key()[..12], 16).expect("hexadecimal");
    let seed = environment("CONSTRUCT_TEST_SEED", fresh);
    let damages = environment("CONSTRUCT_TEST_DAMAGES", 2);
    println!("CONSTRUCT_TEST_SEED={seed} CONSTRUCT_TEST_DAMAGES={damages}");
    let mut dice = Dice(seed);
    let plan = busy_disk().set("identity.access_token_seconds", "2592000").set("storage.cache_bytes", "1048576");
    let mut node = plan.start().await;
    let world = World::new(&node).await;
    let before = world.picture(&node).await;
    kept_a_snapshot(&node).await;
    node.stop().await;
    // A second start, so that there are sealed segments and one that a kill left open.
    node.start().await;
    assert_eq!(world.picture(&node).await, before);
    node.kill().await;
    let whole = node.data().with_file_name("whole");
    copy(&node.data(), &whole);
    let mut kinds = BTreeMap::<Kind, Vec<String>>::new();
    for name in files(&whole).into_keys() {
        let kind = Kind::of(&name).unwrap_or_else(|| panic!("{name}: say here what becomes of it when it is damaged"));
        kinds.entry(kind).or_default().push(name);
    }
    println!("{kinds:#?}");
    assert_eq!(kinds.len(), 16, "one of every kind");
    let mut served = BTreeMap::<Kind, (u32, u32)>::new();
    for (kind, names) in &kinds {
        for number in 0..damages.max(1) * 2 {
            let name = &names[usize::try_from(dice.roll(names.len() as u64)).expect("small")];
            copy(&whole, &node.data());
            let path = node.data().join(name);
            let size = fs::metadata(&path).expect("a file").len();
            if size == 0 {
                continue;
            }
            let harm = Harm::roll(number, size, &mut dice);
            harm.inflict(&path);
            if *kind == Kind::Snapshot {
                // A snapshot is looked at when it is needed.
                fs::remove_dir_all(node.data().join("state")).expect("removed");
            }
            let what = format!("{name} {harm:?} of {size}");
            let counts = served.entry(*kind).or_default();
            if judge(&mut node, &world, &before, *kind, &what).await { counts.0 += 1 } else { counts.1 += 1 }
        }
    }
    println!("served what it had, refused: {served:#?}");
}

/// What a first start passes, and how often before.
#[cfg(feature = "failpoints")]
pub const FIRST_START: [(&str, u64); 6] = [
    ("keyset.written", 0),
    ("keyset.named", 0),
    ("wal.segment_made", 0),
    ("wal.segment_named", 0),
    ("formation.started", 0),
    ("token.written", 0),
];

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_cut_short_leaves_a_directory_that_starts() {
    for (point, before) in FIRST_START {
        let mut node = busy_disk().prepare();
        node.arm(point, before);
        node.spawn();
        node.aborted().await;
        node.disarm();
        node.start().await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_and_a_lost_log_are_refused_and_not_replaced() {
    let mut node = busy_disk().set("identity.access_token_seconds", "2592000").start().await;
    let world = World::new(&node).await;
    let before = world.picture(&node).await;
    node.stop().await;
    let whole = node.data().with_file_name("whole");
    copy(&node.data(), &whole);
    for lost in ["keyset", "root.key", "wal", "last segment", "log and state", "both formations"] {
        copy(&whole, &node.data());
        let data = node.data();
        let gone: Vec<PathBuf> = match lost {
            "last segment" => vec![files(&data.join("wal")).into_values().max().expect("a segment")],
            "log and state" => ["wal", "state", "snapshots"].map(|name| data.join(name)).to_vec(),
            "both formations" => vec![data.join("cluster.json"), data.join("cluster.copy.json")],
            name => vec![data.join(name)],
        };
        for path in &gone {
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        }
        node.forget_log();
        node.spawn();
        assert!(!node.comes_up().await, "{lost} is lost and it starts");
        let log = node.log();
        assert!(log.contains("emedy") || log.contains("restore"), "{lost}: {log}");
        // Only a log that lacks a part begins a new segment before it is held against the state, which goes on refusing it.
        assert!(!gone[0].exists() || gone[0].starts_with(data.join("wal")), "{lost} was made anew");
    }
    copy(&whole, &node.data());
    node.start().await;
    assert_eq!(world.picture(&node).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_found_while_it_serves_stops_the_node_and_the_next_start_mends_it() {
    let fresh = u64::from_str_radix(&fresh_key()[..12], 16).expect("hexadecimal");
    let mut dice = Dice(environment("CONSTRUCT_TEST_SEED", fresh));
    println!("CONSTRUCT_TEST_SEED={}", dice.0);
    let plan = busy_disk().set("identity.access_token_seconds", "2592000").set("storage.cache_bytes", "1048576");
    // The damage is to be found in this file, not in one that took its place.
    let plan = plan.set("storage.compact_min_bytes", &(1u64 << 40).to_string());
    let mut node = plan.set("actors.idle_after_ms", "1000").start().await;
    let world = World::new(&node).await;
    let before = world.picture(&node).await;
    node.stop().await;
    // Making a snapshot would take everything to memory.
    node.set_variable("CONSTRUCT__STORAGE__SNAPSHOT_INTERVAL_SECONDS", "3600");
    node.start().await;
    // The file changes under the running node: every page that is read from now on is another.
    let database = node.data().join("state/db");
    let whole = fs::read(&database).expect("readable");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("written");
    let mut bytes = whole.clone();
    for at in (0..used.saturating_sub(64)).step_by(64) {
        bytes[at + usize::try_from(dice.roll(64)).expect("small")] ^= 0x41;
    }
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(&database).expect("a file");
    file.write_all_at(&bytes[..used], 0).expect("written");
    let ada = node.api().with_token(world.ada.api.token());
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(20));
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut lies = Vec::new();
    while node.runs() {
        assert!(tokio::time::Instant::now() < deadline, "it goes on\n{}", node.log());
        poll.tick().await;
        for (path, right) in before.iter().filter(|(path, _)| path.starts_with("/v1")) {
            let Some(answer) = ada.try_get(path).await else { break };
            if answer.status < 300 && answer.json != *right {
                lies.push(format!("{path}: {}", answer.text));
            }
        }
        // Something to apply, so that the shard reads what it holds.
        let _ = ada.try_send(reqwest::Method::PATCH, "/v1/me", Some(&fresh_key()), Some(&json!({}))).await;
    }
    assert!(lies.is_empty(), "{lies:#?}");
    assert!(!node.ends_well().await, "it ends with a failure");
    assert!(node.log().contains("the state database is damaged"), "{}", node.log());
    node.start().await;
    assert_eq!(world.picture(&node).await, before);
    assert!(files(&node.data()).keys().any(|name| name.starts_with("state.damaged-")), "the damaged one is kept");
}
