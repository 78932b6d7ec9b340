//! Who was away, or was behind, comes back among members that it does not know; who was removed does not come back.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Cluster;
use super::damage::{people, write};
use super::grow::{meta_leader, remove};
use crate::node::Node;

const WITHIN: Duration = Duration::from_secs(60);
const TIMES: usize = 3;
const TRIES: usize = 6;
/// Longer than a change waits in memory before it is taken to the state store.
const BEHIND_MS: u64 = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_comes_back_and_who_was_removed_does_not() {
    let mut cluster = Cluster::start(3).await;
    // Away while another one joins and leads the meta shard: only that one could say that it is a member.
    let mut away = cluster.nodes.remove(2);
    away.kill().await;
    cluster.join().await;
    let mut tries = 0;
    loop {
        lead_meta(&cluster, 4).await;
        away.start().await;
        if meta_leader(&cluster.nodes[0]).await == 4 {
            break;
        }
        // A slow start: the shard was led back to where it should be meanwhile, and this showed nothing.
        tries += 1;
        assert!(tries < TRIES, "the one that joined never led for as long as a start takes");
        away.kill().await;
    }
    cluster.nodes.push(away);
    cluster.settled().await;

    // Its id goes to another node; then somebody starts it again.
    let mut removed = cluster.nodes.pop().expect("the one that was away");
    assert_eq!(removed.id(), 3);
    removed.kill().await;
    remove(&cluster.nodes[0], 3).await;
    cluster.started = 2;
    cluster.join().await;
    cluster.settled().await;
    removed.forget_log();
    removed.spawn();
    let until = Instant::now() + WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    while !removed.whole_log().contains("this node id has joined with another key") {
        assert!(Instant::now() < until && removed.runs(), "it is not told why\n{}", removed.log());
        poll.tick().await;
    }
    let answer = removed.api().try_get("/readyz").await;
    assert!(answer.is_none_or(|answer| answer.status != 200), "it serves");
    for node in cluster.nodes.iter().filter(|node| node.id() != 3) {
        while refusals(node).await == 0 {
            assert!(Instant::now() < until, "node {} has not refused it\n{}", node.id(), node.log());
            poll.tick().await;
        }
    }
    removed.kill().await;
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_while_its_disk_is_behind_the_others_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let people = people(&cluster).await;
    for _ in 0..TIMES {
        // The others commit, and it applies, what its own log gets only later.
        cluster.nodes[2].delay("wal.before_write", 100, BEHIND_MS);
        cluster.nodes[2].crash().await;
        let flushed = flushes(&cluster.nodes[2]).await;
        let until = Instant::now() + WITHIN;
        while flushes(&cluster.nodes[2]).await < flushed + 2 {
            write(&cluster.nodes[0], &people).await;
            assert!(Instant::now() < until, "its state is not flushed\n{}", cluster.nodes[2].log());
        }
        cluster.nodes[2].disarm();
        cluster.nodes[2].crash().await;
    }
    cluster.settled().await;
}

/// How often a node took its state to disk.
async fn flushes(node: &Node) -> u64 {
    count(node, "construct_state_flush_seconds_count").await
}

/// Streams that a node refused because they came with another key.
async fn refusals(node: &Node) -> u64 {
    count(node, "construct_link_refused_total{reason=\"key\"}").await
}

/// The value of a metric that a node has one of.
async fn count(node: &Node, name: &str) -> u64 {
    let metrics = node.operator().get("/metrics").await;
    metrics.expect(200);
    let line = metrics.text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Waits until a voter leads the meta shard.
async fn lead_meta(cluster: &Cluster, id: u64) {
    let until = Instant::now() + WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(100));
    while meta_leader(&cluster.nodes[0]).await != id {
        let asked = cluster.nodes[0].operator().post("/admin/v1/shards/0/transfer", &json!({ "to": id })).await;
        assert!(Instant::now() < until, "node {id} does not lead the meta shard: {}", asked.text);
        poll.tick().await;
    }
}
