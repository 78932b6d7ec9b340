//! Nodes come, go, lose their disk and die in the middle of it, under load: nothing acknowledged is lost, and where nobody
//! dies no request fails.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Cluster;
use super::registers::{Registers, pause};
use crate::load::{Dice, patient, seed};
use crate::node::{Node, Plan};

const CLIENTS: usize = 3;
/// The longest a member takes to be gone, with everything it held taken over.
const GONE_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_under_load() {
    let seed = seed();
    let mut cluster = Cluster::of(3, |_| patient(Plan::sandbox()), None).await;
    let registers = Registers::of(&cluster).await;
    let closed = watch::Sender::new(false);
    let working = closed.subscribe();
    let clients = futures::future::join_all((0..CLIENTS).map(|client| {
        let dice = Dice(seed ^ (client as u64 + 1) << 32);
        registers.work(client, dice, &working)
    }));
    let changes = async {
        // Five, of which the first two go: nobody notices.
        let began = registers.now();
        for _ in 0..2 {
            cluster.join().await;
            registers.ask(cluster.nodes.last().expect("the one that joined"));
        }
        cluster.settled().await;
        for _ in 0..2 {
            let mut going = cluster.nodes.remove(0);
            registers.spare(going.id());
            drain(&cluster.nodes[0], going.id()).await;
            remove(&cluster.nodes[0], going.id()).await;
            going.stop().await;
        }
        cluster.settled().await;
        assert_eq!(registers.counts.failed(), 0, "no request fails: {:?}", registers.counts);
        println!("{} requests while nodes came and went, none failed", registers.counts.answered());
        report("nodes came and went", registers.pauses(began, registers.now()));

        // A disk is gone. The node cannot come back as who it was, for it has forgotten whom it voted for.
        let mut wiped = cluster.nodes.remove(0);
        registers.spare(wiped.id());
        wiped.kill().await;
        std::fs::remove_dir_all(wiped.data()).expect("a data directory");
        wiped.set("cluster.join", &cluster.nodes[0].cluster.to_string());
        wiped.set("cluster.token", &cluster.token().await);
        wiped.spawn();
        assert!(!wiped.ready_or_ended().await, "a node without its disk is not who it was");
        assert!(wiped.log().contains("another member has this node id"), "{}", wiped.log());
        wiped.kill().await;
        remove(&cluster.nodes[0], wiped.id()).await;
        wiped.set("cluster.token", &cluster.token().await);
        wiped.start().await;
        registers.ask(&wiped);
        cluster.nodes.push(wiped);
        cluster.settled().await;

        // Who plans dies while the next one gets its shards.
        let began = registers.now();
        cluster.join().await;
        registers.ask(cluster.nodes.last().expect("the one that joined"));
        let planner = meta_leader(&cluster.nodes[0]).await;
        let planner = cluster.nodes.iter().position(|node| node.id() == planner).expect("one of ours");
        cluster.nodes[planner].kill().await;
        pause(Duration::from_secs(2)).await;
        cluster.nodes[planner].start().await;
        cluster.settled().await;
        report("who planned was killed", registers.pauses(began, registers.now()));
        closed.send_replace(true);
    };
    let ((), _) = tokio::join!(changes, clients);
    let operations = registers.explained(CLIENTS).await.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    println!("{operations} operations of registers: {:?}", registers.counts);
}

/// How long registers were left without an acknowledged operation: a figure and no verdict, on a debug build.
fn report(while_what: &str, mut pauses: Vec<Duration>) {
    pauses.sort_unstable();
    let at = |part: usize| pauses.get((pauses.len() * part).div_ceil(1000).saturating_sub(1)).copied();
    let longest = pauses.last();
    println!(
        "while {while_what}: {} pauses of registers, p50 {:?}, p99 {:?}, p99.9 {:?}, longest {longest:?}",
        pauses.len(),
        at(500),
        at(990),
        at(999),
    );
}

/// Lets others lead what a node led.
pub async fn drain(at: &Node, id: u64) {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let progress = at.operator().post_empty(&format!("/admin/v1/nodes/{id}/drain")).await;
        if progress.expect(200)["done"] == true {
            return;
        }
        assert!(Instant::now() < until, "node {id} is not drained: {}\n{}", progress.text, at.log());
    }
}

/// Gives a member up and waits until it is forgotten.
pub async fn remove(at: &Node, id: u64) {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let progress = at.operator().delete(&format!("/admin/v1/nodes/{id}")).await;
        if progress.status == 404 || progress.expect(200)["done"] == true {
            return;
        }
        assert!(Instant::now() < until, "node {id} is not gone: {}\n{}", progress.text, at.log());
    }
}

/// Who leads the meta shard, and so plans; 0: nobody.
pub async fn meta_leader(at: &Node) -> u64 {
    let shards = at.operator().get("/admin/v1/shards").await;
    let items = shards.expect(200)["items"].as_array().expect("shards").clone();
    let meta = items.iter().find(|shard| shard["id"] == 0).map(|shard| &shard["leader"]);
    meta.and_then(Value::as_u64).unwrap_or(0)
}
