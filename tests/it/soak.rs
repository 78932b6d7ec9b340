//! A mixed load for a while, with passivation, timers, sockets that come and go, and kills: afterwards memory, open
//! files and the log are back where they began, and what was acknowledged is there.
//!
//! `CONSTRUCT_TEST_SOAK_SECONDS` says for how long, `CONSTRUCT_TEST_BINARY` with which binary. The series is printed.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::http::Client;
use crate::load::{self, Floor, Load, environment, seed};
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::{PASSWORD, Person};
use crate::socket::Socket;

/// Kills in a run, evenly spread.
const KILLS: u32 = 3;
const SAMPLES: u32 = 24;
/// Sockets open at a time.
const SOCKETS: usize = 12;
const SEGMENT_KB: u64 = 2048;
const CACHE_KB: u64 = 16 << 10;
/// Between two operations of a client; so that a release build takes a part of one core.
const PACE: Duration = Duration::from_millis(40);
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// From here on the state database is rewritten when it is four times what the newest snapshots hold, of which two are
/// kept, and twice what it was after the last time: what they hold and what sled takes ahead, a segment or two.
const COMPACT_FROM_KB: u64 = 32 << 10;
const STATE_TO_SNAPSHOTS: u64 = 2;
const AHEAD_KB: u64 = 32 << 10;

/// What a node holds at a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    resident_kb: u64,
    files: u64,
    log_kb: u64,
    state_kb: u64,
    snapshots_kb: u64,
    entities: u64,
}

impl Sample {
    async fn of(node: &Node) -> Self {
        let process = format!("/proc/{}", node.process());
        let status = std::fs::read_to_string(format!("{process}/status")).expect("a running process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
        assert!(!status.contains("THP_enabled:\t1"), "pages of 2 MiB (docs/adr/0117-small-pages.md)");
        let actors = node.operator().get("/admin/v1/actors").await;
        Self {
            resident_kb: resident.trim().trim_end_matches(" kB").parse().expect("kilobytes"),
            files: std::fs::read_dir(format!("{process}/fd")).expect("open files").count() as u64,
            log_kb: disk_kb(&node.data().join("wal")),
            state_kb: disk_kb(&node.data().join("state")),
            snapshots_kb: disk_kb(&node.data().join("snapshots")),
            entities: actors.expect(200)["live"].as_u64().expect("a number"),
        }
    }

    fn print(&self, at: Duration, acknowledged: u64, what: &str) {
        let Self { resident_kb, files, log_kb, state_kb, snapshots_kb, entities } = self;
        let seconds = at.as_secs();
        println!(
            "soak {seconds:>5} s | {acknowledged:>7} acknowledged | resident {resident_kb:>7} KB | files {files:>3} | log \
             {log_kb:>6} KB | state {state_kb:>7} KB | snapshots {snapshots_kb:>6} KB | entities {entities:>4} | {what}"
        );
    }

    /// Whether this is no more than `begin` was, apart from what an allocator and a moment make of it.
    fn is_back_at(&self, begin: &Self) -> bool {
        self.resident_kb <= begin.resident_kb * 3 / 2 + (32 << 10)
            && self.files <= begin.files + 4
            && self.log_kb <= begin.log_kb.max(6 * SEGMENT_KB)
            && self.state_kb
                <= begin.state_kb.max(COMPACT_FROM_KB).max(self.snapshots_kb * STATE_TO_SNAPSHOTS) + 2 * AHEAD_KB
            && self.entities <= begin.entities.max(16)
    }
}

fn disk_kb(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    // A file may go while it is looked at.
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_kb(&entry.path()),
        Ok(metadata) => metadata.blocks() / 2,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Opens sockets one after the other, calls over them, and leaves the oldest without a word.
struct Listener {
    email: String,
    api: Client,
    token: String,
    sockets: VecDeque<Socket>,
}

impl Listener {
    async fn join(node: &Node) -> Self {
        let person = Person::sign_up(node, &Maildir::of(&node.data()), "listener@example.com", "consumer").await;
        let (api, token) = (node.api(), person.api.token().to_owned());
        Self { email: person.email, api, token, sockets: VecDeque::new() }
    }

    async fn work(&mut self, node: &Node, floor: &Floor) {
        while floor.is_open() {
            let request = json!({ "token": self.token, "name": "soak" });
            match Socket::try_open_with(node.gateway, request).await {
                Some(Ok(mut socket)) => {
                    socket.call("rpc", json!({ "method": "countUnread", "data": {} })).await;
                    self.sockets.push_back(socket);
                }
                // The days that pass end the token.
                Some(Err(_)) => self.sign_in().await,
                None => {}
            }
            if self.sockets.len() > SOCKETS {
                self.sockets.pop_front();
            }
            floor.rest().await;
        }
        self.sockets.clear();
    }

    async fn sign_in(&mut self) {
        let body = json!({ "email": self.email, "password": PASSWORD });
        let answer = self.api.try_send(reqwest::Method::POST, "/v1/sessions", None, Some(&body)).await;
        if let Some(token) = answer.as_ref().and_then(|answer| answer.json["access_token"].as_str()) {
            token.clone_into(&mut self.token);
        }
    }
}

/// Load until `until`, with a sample now and then; ends quietly.
async fn stretch(
    node: &Node,
    load: &mut Load,
    listener: &mut Listener,
    begun: Instant,
    until: Instant,
    every: Duration,
) {
    let floor = Floor::paced(PACE, 60);
    let watching = async {
        let mut tick = tokio::time::interval(every);
        tick.tick().await;
        while timeout(until.saturating_duration_since(Instant::now()), tick.tick()).await.is_ok() {
            Sample::of(node).await.print(begun.elapsed(), floor.count(), "");
        }
        floor.close();
    };
    tokio::join!(load.work(&floor), listener.work(node, &floor), watching);
    assert!(Instant::now() >= until, "the node is gone\n{}", node.log());
}

/// The first sample that `fits` once nobody works any more, or the last one looked at.
async fn quiet(node: &Node, fits: impl Fn(&Sample) -> bool) -> Sample {
    let deadline = Instant::now() + QUIET_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(500));
    loop {
        poll.tick().await;
        let sample = Sample::of(node).await;
        if fits(&sample) || Instant::now() > deadline {
            return sample;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_as_it_was_after_a_mixed_load() {
    let length = Duration::from_secs(environment("CONSTRUCT_TEST_SOAK_SECONDS", 40));
    let seed = seed();
    let plan = load::plan()
        .set("actors.idle_after_ms", "3000")
        .set("storage.wal_segment_bytes", &(SEGMENT_KB << 10).to_string())
        .set("storage.snapshot_interval_seconds", "5")
        // So small that the first stretch fills it: what grows after that is no cache.
        .set("storage.cache_bytes", &(CACHE_KB << 10).to_string())
        .set("storage.compact_min_bytes", &(COMPACT_FROM_KB << 10).to_string());
    let mut node = plan.start().await;
    let mut load = Load::begin(&node, seed).await;
    let mut listener = Listener::join(&node).await;
    let (begun, every) = (Instant::now(), length / SAMPLES);
    // A first stretch fills what is filled once: caches, pools, the clients' subscriptions.
    stretch(&node, &mut load, &mut listener, begun, begun + length / 8, every).await;
    let begin = quiet(&node, |sample| sample.entities <= 16).await;
    begin.print(begun.elapsed(), 0, "at rest, the beginning");
    for number in 0..=KILLS {
        let until = begun + length / 8 + (length * 7 / 8) * (number + 1) / (KILLS + 1);
        stretch(&node, &mut load, &mut listener, begun, until, every).await;
        if number < KILLS {
            node.crash().await;
            Sample::of(&node).await.print(begun.elapsed(), 0, "killed and started again");
        }
    }
    let end = quiet(&node, |sample| sample.is_back_at(&begin)).await;
    end.print(begun.elapsed(), 0, "at rest, the end");
    assert!(end.is_back_at(&begin), "{begin:?} became {end:?}");
    load.finish(&node).await;
    compacted(&mut node, &end).await;
}

/// What a stopped node gives back when it is told to, though the running one had no need yet.
async fn compacted(node: &mut Node, end: &Sample) {
    node.stop().await;
    let done = node.command(&["compact", "--data-dir", &node.data().display().to_string()]).output().await;
    let done = done.expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let state_kb = disk_kb(&node.data().join("state"));
    println!("soak: state {} KB, compacted {state_kb} KB, snapshots {} KB", end.state_kb, end.snapshots_kb);
    node.start().await;
}
