//! The node ends at every fail point in turn, under the load and the model of [`crate::load`].
//!
//! Each point is armed by the environment so that the process aborts at its n-th passage, n drawn from the printed seed.
//! A point that is never passed fails the test. `CONSTRUCT_TEST_SEED` runs a seed again, `CONSTRUCT_TEST_CRASHES` says
//! how often each point has its turn.

use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use tokio::time::timeout;

use crate::http::fresh_key;
use crate::load::{self, Dice, Floor, Load, environment, seed};
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::Person;

/// A point that is not passed under load for so long is dead, or the load has lost it.
const PASSED_WITHIN: Duration = Duration::from_secs(90);
/// Clients notice the end of a node sooner.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// How long a node that seems stuck is asked why.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(10);

/// A point, and of how many passages one is drawn: few for what happens seldom.
type Point = (&'static str, u64);

const COMMAND: [Point; 19] = [
    ("request.admitted", 40),
    ("request.done", 40),
    ("request.before_answer", 40),
    ("idempotency.started", 20),
    ("idempotency.recorded", 20),
    ("command.decided", 80),
    ("command.proposed", 80),
    ("command.before_reply", 80),
    ("message.before_send", 40),
    ("message.taken", 40),
    ("call.before_send", 20),
    ("call.answered", 20),
    ("outbox.settled", 40),
    ("raft.before_append", 80),
    ("raft.committed", 80),
    ("timer.due", 8),
    ("timer.fired", 8),
    ("clock.advance_committed", 4),
    ("clock.advanced", 4),
];

const STORAGE: [Point; 28] = [
    ("wal.before_write", 120),
    ("wal.written", 120),
    ("wal.synced", 120),
    ("wal.segment_made", 2),
    ("wal.segment_named", 2),
    ("wal.segment_sealed", 1),
    ("wal.segment_begun", 1),
    ("wal.purge_queued", 6),
    ("wal.copies_queued", 2),
    ("wal.before_free", 2),
    ("wal.freed", 2),
    ("apply.begun", 120),
    ("apply.half_a_batch", 120),
    ("apply.operations_done", 120),
    ("apply.done", 120),
    ("flush.taken", 4),
    ("flush.redo_half", 4),
    ("flush.redo_synced", 4),
    ("flush.half_written", 400),
    ("flush.written", 4),
    ("flush.durable", 4),
    ("snapshot.written", 6),
    ("snapshot.named", 6),
    ("snapshot.old_removed", 6),
    ("purge.before", 4),
    ("compact.complete", 1),
    ("compact.set_aside", 1),
    ("compact.named", 1),
];

const PEOPLE: [Point; 17] = [
    ("erasure.begun", 2),
    ("erasure.before_account", 2),
    ("erasure.before_key", 2),
    ("erasure.advanced", 3),
    ("erasure.key_gone", 2),
    ("rotation.version_added", 2),
    ("rotation.version_shared", 1),
    ("rotation.version_active", 1),
    ("rotation.signing_key_rotated", 1),
    ("rotation.audit_key_wrapped", 1),
    ("rotation.fences_raised", 1),
    ("rotation.key_wrapped", 5),
    ("rotation.keys_wrapped", 1),
    ("rotation.old_retired", 1),
    ("rotation.old_destroyed", 1),
    ("keyset.written", 2),
    ("keyset.named", 2),
];

/// Small segments and frequent flushes and snapshots, so that all of it happens while a test looks.
fn plan() -> Plan {
    load::plan()
        .set("storage.wal_segment_bytes", "1048576")
        .set("storage.flush_interval_ms", "150")
        .set("storage.snapshot_interval_seconds", "1")
        .set("storage.compact_min_bytes", "1048576")
}

/// Ends one node at each point in turn, then compares it with the model.
async fn campaign(points: &[Point]) {
    let seed = seed();
    let mut dice = Dice(seed);
    let mut node = plan().start().await;
    let mut load = Load::begin(&node, seed).await;
    node.kill().await;
    for _ in 0..environment("CONSTRUCT_TEST_CRASHES", 1) {
        for (point, passages) in points {
            crash_at(&mut node, &mut load, point, dice.roll(*passages)).await;
        }
    }
    node.disarm();
    node.start().await;
    load.finish(&node).await;
}

/// Starts the node with `point` armed to end it once it was passed `before` times, and works until it ended there.
async fn crash_at(node: &mut Node, load: &mut Load, point: &str, before: u64) {
    println!("{point}, passed {before} times before");
    node.arm(point, before);
    node.spawn();
    if node.ready_or_ended().await {
        let floor = Floor::new(true);
        let gone = async {
            node.ended().await;
            drop(timeout(NOTICED_WITHIN, pending::<()>()).await);
        };
        let late = timeout(PASSED_WITHIN, pending::<()>());
        tokio::select! {
            () = load.work(&floor) => {}
            // A client may go on waiting for a node that is gone; it asks the next one all the same.
            () = gone => println!("{point}: still waited for from a node that is gone: {:?}", floor.asked()),
            _ = late => panic!("{}", explained(node, &floor, point, before).await),
        }
    }
    node.aborted().await;
    let words = format!("fail point {point}: the process ends here");
    assert!(node.log().contains(&words), "the node ended elsewhere than at {point}\n{}", node.log());
}

/// Why a point may not have been passed.
async fn explained(node: &Node, floor: &Floor, point: &str, before: u64) -> String {
    let (times, operations, asked) = (before + 1, floor.count(), floor.asked().clone());
    let process = std::fs::read_to_string(format!("/proc/{}/status", node.process())).unwrap_or_default();
    let metrics = timeout(EXPLAINED_WITHIN, node.operator().try_get("/metrics")).await.ok().flatten();
    let metrics = metrics.map_or_else(|| "no metrics".to_owned(), |answer| answer.text);
    format!("{point} was not passed {times} times by {operations} operations; asked: {asked:#?}\n{process}\n{metrics}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_end_at_every_step_of_a_command() {
    campaign(&COMMAND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_end_at_every_step_of_its_storage() {
    campaign(&STORAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_end_at_every_step_of_erasure_and_key_rotation() {
    campaign(&PEOPLE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_rotation_repeated_after_a_crash_keeps_the_signing_key() {
    let mut node = Plan::sandbox().start().await;
    let (path, key) = ("/admin/v1/keys/rotate", fresh_key());
    node.kill().await;
    node.arm("rotation.signing_key_rotated", 0);
    node.start().await;
    let lost = node.operator().try_send(Method::POST, path, Some(&key), None).await;
    assert!(lost.is_none(), "{lost:?}");
    node.aborted().await;
    node.disarm();
    node.start().await;
    node.operator().send(Method::POST, path, Some(&key), None).await.expect(200);
    // What signs must open under the one version that is left.
    node.crash().await;
    Person::sign_up(&node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
}

/// The taking in of another node's snapshot, played by `cluster::snapshots`.
pub const INSTALL: [(&str, u64); 6] = [
    ("install.begun", 0),
    ("install.filled", 0),
    ("install.without_redo", 0),
    ("install.exchanged", 0),
    ("install.cleared", 0),
    ("install.ended", 0),
];

/// The giving back of a replica's space, played by `cluster::collected`; those of taking the state away are `install`'s.
pub const COLLECT: [(&str, u64); 4] =
    [("collect.marked", 0), ("collect.state_emptied", 0), ("collect.snapshots_removed", 0), ("collect.ended", 0)];

/// The names of all fail points in the sources.
fn points_of(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            points_of(&path, found);
        } else {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let parts = text.split("fail_point::reach(\"").skip(1);
            found.extend(parts.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
}

#[test]
fn every_fail_point_has_its_crash() {
    let mut placed = BTreeSet::new();
    points_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut placed);
    let groups = [
        &COMMAND[..],
        &STORAGE,
        &PEOPLE,
        &INSTALL,
        &COLLECT,
        &crate::sms_crash::POINTS,
        &crate::backup::crashing::POINTS,
        &crate::disk::damage::FIRST_START,
    ];
    let crashed: BTreeSet<String> = groups.concat().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert!(placed.len() > 50, "{placed:?}");
    assert_eq!(placed, crashed, "placed, and crashed at");
}
