//! Who was away for so long that the log it lacks is gone gets a snapshot, and may die at every step of taking it in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::Cluster;
use super::damage::{lead_everything, people, picture, write};
use crate::crash::INSTALL;
use crate::disk::damage::files;
use crate::load::{Dice, environment, seed};
use crate::node::Plan;
use crate::person::Person;

const WITHIN: Duration = Duration::from_secs(60);
/// Newer snapshots after which no log is left from before the first of them.
const SNAPSHOTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_it_takes_in_a_snapshot_has_all_of_it_afterwards() {
    let plan = |_| Plan::sandbox().set("storage.snapshot_interval_seconds", "1").set("storage.snapshots_kept", "1");
    let mut cluster = Cluster::of(3, plan, None).await;
    let people = people(&cluster).await;
    let first = usize::try_from(Dice(seed()).roll(INSTALL.len() as u64)).expect("small");
    let steps = usize::try_from(environment("CONSTRUCT_TEST_STEPS", 2)).expect("small");
    for (step, before) in INSTALL.iter().cycle().skip(first).take(steps) {
        cluster.nodes[2].kill().await;
        log_is_gone(&cluster, &people).await;
        let expected = picture(&cluster.at(0), &people).await;
        cluster.nodes[2].arm(step, *before);
        cluster.nodes[2].spawn();
        cluster.nodes[2].aborted().await;
        cluster.nodes[2].disarm();
        cluster.nodes[2].start().await;
        cluster.settled().await;
        lead_everything(&cluster.nodes[2]).await;
        assert_eq!(picture(&cluster.at(2), &people).await, expected, "{step}");
        cluster.settled().await;
    }
}

/// Writes until the first two nodes have no log of some shard left from before.
async fn log_is_gone(cluster: &Cluster, people: &[Person]) {
    let until = Instant::now() + WITHIN;
    let mut seen: [BTreeMap<String, BTreeSet<String>>; 2] = Default::default();
    let gone = |shard: &String, of: &BTreeMap<String, BTreeSet<String>>| {
        of.get(shard).is_some_and(|names| names.len() > SNAPSHOTS)
    };
    while !seen[0].keys().any(|shard| gone(shard, &seen[0]) && gone(shard, &seen[1])) {
        write(&cluster.nodes[0], people).await;
        for (node, seen) in cluster.nodes.iter().zip(&mut seen) {
            for (shard, name) in newest(&node.data()) {
                seen.entry(shard).or_default().insert(name);
            }
        }
        assert!(Instant::now() < until, "no newer snapshots: {seen:?}");
    }
}

/// Of each shard the name of the newest snapshot.
fn newest(data: &Path) -> BTreeMap<String, String> {
    let snapshots = files(&data.join("snapshots")).into_keys().filter(|name| name.ends_with(".snapshot"));
    let named =
        snapshots.filter_map(|name| name.split_once('/').map(|(shard, file)| (shard.to_owned(), file.to_owned())));
    // In order of their names, the last one of a shard stays.
    named.collect()
}
