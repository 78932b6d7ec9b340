//! A replica that was placed elsewhere gives its space back, may die at every step of that, and comes back whole when it is
//! placed here again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::Cluster;
use super::damage::{lead_everything, people, picture, write};
use super::grow::remove;
use crate::crash::COLLECT;
use crate::disk::damage::files;
use crate::load::{Dice, environment, seed};
use crate::node::{Node, Plan};

/// Four debug builds move shards, on a machine that has other things to do.
const WITHIN: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_it_gives_space_back_gives_it_back_and_may_have_the_shards_again() {
    let plan = |_| Plan::sandbox().set("storage.snapshot_interval_seconds", "1").set("storage.snapshots_kept", "1");
    let mut cluster = Cluster::of(3, plan, None).await;
    let people = people(&cluster).await;
    let first = usize::try_from(Dice(seed()).roll(COLLECT.len() as u64)).expect("small");
    let steps = usize::try_from(environment("CONSTRUCT_TEST_STEPS", 1)).expect("small");
    for (step, before) in COLLECT.iter().cycle().skip(first).take(steps) {
        write(&cluster.nodes[1], &people).await;
        cluster.nodes[0].stop().await;
        cluster.nodes[0].arm(step, *before);
        cluster.nodes[0].start().await;
        cluster.settled().await;
        let expected = picture(&cluster.at(1), &people).await;

        // A fourth takes two shards from each of the three.
        cluster.join().await;
        let ended = tokio::time::timeout(WITHIN, cluster.nodes[0].ended()).await;
        assert!(ended.is_ok(), "{step} was not reached\n{}", cluster.nodes[0].log());
        cluster.nodes[0].aborted().await;
        cluster.nodes[0].disarm();
        cluster.nodes[0].start().await;
        cluster.settled().await;
        for node in &cluster.nodes[..3] {
            given_back(node).await;
        }
        assert_eq!(picture(&cluster.at(0), &people).await, expected, "{step}");

        let mut going = cluster.nodes.pop().expect("the fourth");
        remove(&cluster.nodes[1], going.id()).await;
        going.stop().await;
        cluster.settled().await;
        lead_everything(&cluster.nodes[0]).await;
        assert_eq!(picture(&cluster.at(0), &people).await, expected, "{step}");
        cluster.settled().await;
    }
}

/// A node that gave a shard back knows who led it then, and must not go on asking that one.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_replica_any_more_finds_the_next_leader_too() {
    let mut cluster = Cluster::of(4, |_| Plan::sandbox(), None).await;
    given_back(&cluster.nodes[0]).await;
    let shards = away(&cluster.nodes[0]).await;
    let led = led(&cluster.nodes[0]).await;
    let dead = led.get(&shards[0]).copied().flatten().expect("a leader");
    let at = cluster.nodes.iter().position(|node| node.id() == dead).expect("one of ours");
    cluster.nodes[at].kill().await;
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(200)));
    loop {
        poll.tick().await;
        let led = self::led(&cluster.nodes[0]).await;
        if led.values().all(|leader| leader.is_some_and(|leader| leader != dead)) {
            return;
        }
        assert!(
            Instant::now() < until,
            "node {dead} is dead, {shards:?} are elsewhere: {led:?}\n{}",
            cluster.nodes[0].log()
        );
    }
}

/// Who leads each shard, as this node finds out.
async fn led(node: &Node) -> BTreeMap<u64, Option<u64>> {
    let shards = node.operator().get("/admin/v1/shards").await;
    let items = shards.expect(200)["items"].as_array().expect("shards").clone();
    items.iter().filter_map(|shard| Some((shard["id"].as_u64()?, shard["leader"].as_u64()))).collect()
}

/// Waits until the node has nothing of shards that it has no replica of.
async fn given_back(node: &Node) {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    loop {
        poll.tick().await;
        let metrics = node.operator().get("/metrics").await.text;
        let left_over = metrics.lines().find_map(|line| line.strip_prefix("construct_replicas_left_over "));
        let away = away(node).await;
        let snapshots = files(&node.data().join("snapshots"));
        let of_others: Vec<_> =
            snapshots.keys().filter(|name| away.iter().any(|shard| name.starts_with(&format!("{shard}/")))).collect();
        if left_over == Some("0") && away.len() == 2 && of_others.is_empty() {
            return;
        }
        let id = node.id();
        assert!(
            Instant::now() < until,
            "node {id} has no replica of {away:?}: {left_over:?} {of_others:?}\n{}",
            node.log()
        );
    }
}

/// Shards of which the node has no replica.
async fn away(node: &Node) -> Vec<u64> {
    let shards = node.operator().get("/admin/v1/shards").await;
    let items = shards.expect(200)["items"].as_array().expect("shards").clone();
    let holds = |shard: &&Value| {
        let replicas = shard["replicas"].as_array().expect("replicas");
        replicas.iter().any(|replica| replica["node"] == node.id())
    };
    items.iter().filter(|shard| !holds(shard)).filter_map(|shard| shard["id"].as_u64()).collect()
}
