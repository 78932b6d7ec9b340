//! The whole node over HTTP: power cuts under a mixed load, and which system calls make its state durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::volume::{Cutter, Volume};
use crate::load::{self, Dice, Floor, Load, environment};
use crate::mail::Maildir;
use crate::node::Plan;
use crate::person::{self, Person};

const CUTS: u64 = 8;
const AIMS: [&str; 7] = ["now", "now", "flush", "snapshot", "kept", "segment", "purge"];
/// A round that acknowledges nothing for so long is stuck.
const ROUND_WITHIN: Duration = Duration::from_secs(60);
const CALLS_WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// Everything small, so that flushes, snapshots and segments come and go all the time.
pub fn busy_disk() -> Plan {
    Plan::sandbox()
        .set("cluster.shards", "2")
        .set("storage.wal_segment_bytes", "1048576")
        .set("storage.flush_interval_ms", "50")
        .set("storage.snapshot_interval_seconds", "1")
        .set("storage.compact_min_bytes", "1048576")
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_the_whole_node_lose_nothing_and_repeat_nothing() {
    let (seed, cuts) = (load::seed(), environment("CONSTRUCT_TEST_CUTS", CUTS));
    println!("CONSTRUCT_TEST_CUTS={cuts}");
    let (mut dice, volume) = (Dice(seed), Volume::new(1024));
    let data = volume.path().join("data");
    let plan = load::patient(busy_disk()).data(data.clone());
    let mut node = plan.start().await;
    let mut load = Load::of_customers(&node, seed).await;
    let mut aims = BTreeMap::<String, u64>::new();
    for round in 0..cuts {
        let aim = AIMS[usize::try_from(dice.roll(AIMS.len() as u64)).expect("small")];
        let mut cutter = Cutter::new(&volume, &data, aim, 1 + dice.roll(3), dice.roll(4000));
        let floor = Arc::new(Floor::new(false));
        let target = 1 + dice.roll(60);
        let killer = node.killer();
        let cutting = async {
            let stuck = timeout(ROUND_WITHIN, floor.reaches(target)).await.is_err();
            cutter.go();
            if aim == "now" {
                cutter.go();
            }
            let cut = tokio::task::spawn_blocking({
                let floor = Arc::clone(&floor);
                move || {
                    cutter.about();
                    floor.distrust();
                    cutter.cut()
                }
            });
            let (_, why) = cut.await.expect("the power is off");
            killer.await;
            (stuck, why)
        };
        let (_, (stuck, why)) = tokio::join!(load.work(&floor), cutting);
        assert!(!stuck, "round {round} is stuck\n{}", node.log());
        *aims.entry(why).or_default() += 1;
        node.kill().await;
        volume.remount();
        node.start().await;
    }
    println!("{aims:?}");
    load.finish(&node).await;
    let healed = node.whole_log();
    assert!(!healed.contains("rebuilt"), "the state store never lost what it had confirmed:\n{healed}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_synced_and_never_by_sync_file_range() {
    let trace = tempfile::NamedTempFile::new().expect("a file");
    let path = trace.path().to_str().expect("UTF-8");
    let strace = ["strace", "-D", "-f", "-qq", "-y", "-e", "trace=sync_file_range,fdatasync,exit_group", "-o", path];
    let mut node = busy_disk().under(&strace).start().await;
    let ada = Person::sign_up(&node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
    let card = ada.add_card("pm_card_visa").await;
    let plan = person::plan(&ada.api, "Plus").await;
    ada.subscribe(plan["id"].as_str().expect("an id"), &card).await;
    node.stop().await;
    let calls = timeout(CALLS_WRITTEN_WITHIN, async {
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        loop {
            poll.tick().await;
            let calls = std::fs::read_to_string(path).expect("a readable trace");
            if calls.contains("exit_group") {
                return calls;
            }
        }
    });
    let calls = calls.await.expect("strace writes to the end");
    let synced = |name: &str| calls.lines().filter(|line| line.contains("fdatasync(") && line.contains(name)).count();
    assert!(synced("/state/db>") > 0 && synced(".wal>") > 0 || synced("next.tmp>") > 0, "{calls}");
    let bypassed: Vec<_> = calls.lines().filter(|line| line.contains("sync_file_range")).collect();
    // The check at start calls it on a pipe through the C library's name, which must be ours: an fdatasync.
    assert!(bypassed.is_empty(), "{bypassed:#?}");
    assert!(synced("pipe:") > 0, "{calls}");
}
