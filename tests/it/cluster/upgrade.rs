//! A cluster of the previous version becomes one of this version, node by node, while people are served at all of them:
//! nothing acknowledged is lost or done twice, and in between old and new nodes answer for each other. The level of the cluster
//! rises once all are new (ADR 118), and not before; then an older node is let in no more. Versions that share
//! no version of the wire are not mixed: the new node says so and waits, and all are upgraded together.
//!
//! `CONSTRUCT_TEST_PREVIOUS` names the binary of the previous version (`scripts/test` builds it). Without it this is a
//! rolling restart of one version. Seeded.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use super::Cluster;
use super::grow::drain;
use super::journey::{self, Stay, World, email_of, travel};
use crate::http::fresh_key;
use crate::load::{Dice, patient, seed};
use crate::node::{Node, Plan, under_test};

/// Who signs up before the first node is upgraded, and listens until the last one is.
const RESIDENT: usize = 0;
const SPOKEN_TO_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_upgraded_one_by_one_while_people_are_served() {
    let mut dice = Dice(seed());
    let previous = std::env::var_os("CONSTRUCT_TEST_PREVIOUS").map_or_else(under_test, PathBuf::from);
    println!("from {} to {}", previous.display(), under_test().display());
    let old = previous.clone();
    let mut cluster = Cluster::of(3, move |_| patient(Plan::sandbox()).binary(old.clone()), None).await;
    let before = level(&cluster.nodes[0]).await;
    let (world, stay) = (World::of(&cluster), Stay::default());
    let mut roll = || Dice(dice.roll(u64::MAX));
    let staying = travel(&world, RESIDENT, roll(), Some(&stay));
    let upgrading = async {
        let (mut customers, mut upgraded) = (Vec::new(), 0);
        let _ = stay.begun.subscribe().wait_for(|begun| *begun).await;
        while upgraded < cluster.nodes.len() {
            let began = Instant::now();
            let customer = travel(&world, customers.len() + 1, roll(), None);
            let (customer, now) = tokio::join!(customer, upgrade(&mut cluster, upgraded));
            customers.push(customer);
            upgraded = now;
            if upgraded < cluster.nodes.len() {
                assert_eq!(level(&cluster.nodes[0]).await, before, "an old node could not read what follows");
            }
            every_node_serves_everybody(&world, customers.len()).await;
            println!("{upgraded} of {} nodes upgraded, {:.1?}", cluster.nodes.len(), began.elapsed());
        }
        stay.over.send_replace(true);
        customers
    };
    let (resident, mut customers) = tokio::join!(staying, upgrading);
    customers.insert(0, resident);
    journey::check(&cluster, &world, &customers).await;
    for node in &cluster.nodes {
        audit_holds(node).await;
    }
    let newest = all_at_the_newest_level(&cluster).await;
    println!("the level was {before}, and is {newest}");
    if before < newest {
        an_older_node_is_refused(&mut cluster, previous).await;
    }
}

/// The feature level of the cluster, as a node knows it.
async fn level(node: &Node) -> u64 {
    node.operator().get("/admin/v1/cluster").await.expect(200)["level"].as_u64().unwrap_or(0)
}

/// Waits until every node knows the level to be what all of them speak; that level.
async fn all_at_the_newest_level(cluster: &Cluster) -> u64 {
    let until = Instant::now() + SPOKEN_TO_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    let answer = cluster.nodes[0].operator().get("/admin/v1/cluster").await;
    let newest = answer.expect(200)["members"][0]["level"].as_u64().expect("a level");
    for node in &cluster.nodes {
        while level(node).await != newest {
            assert!(Instant::now() < until, "the level does not rise\n{}", node.log());
            poll.tick().await;
        }
    }
    newest
}

/// A node that goes back says why it is refused; as a new one it goes on where it was.
async fn an_older_node_is_refused(cluster: &mut Cluster, previous: PathBuf) {
    let node = &mut cluster.nodes[0];
    node.kill().await;
    node.forget_log();
    node.downgrade(previous);
    node.spawn();
    assert!(!is_spoken_to(node).await, "an old node takes part at a level that it cannot read");
    node.kill().await;
    node.upgrade();
    node.start().await;
    cluster.settled().await;
}

/// Upgrades the next node as the operator's handbook says, or all that are left where it has to be so; how many are then.
async fn upgrade(cluster: &mut Cluster, index: usize) -> usize {
    let id = cluster.nodes[index].id();
    drain(&cluster.nodes[(index + 1) % 3], id).await;
    let (upgraded, others) = cluster.nodes.split_at_mut(index + 1);
    let node = upgraded.last_mut().expect("the next one");
    node.stop().await;
    node.forget_log();
    node.upgrade();
    node.spawn();
    let together = !is_spoken_to(node).await;
    if together {
        println!("old and new nodes share no version of the wire");
        for other in others.iter_mut() {
            // Without a majority an orderly end waits for what cannot be answered.
            other.kill().await;
            other.upgrade();
            other.spawn();
        }
        for node in &mut cluster.nodes {
            node.wait_ready().await;
        }
    }
    cluster.settled().await;
    if together { cluster.nodes.len() } else { index + 1 }
}

/// Waits until a node is ready; false once it says that the others are of a version that it does not speak with.
async fn is_spoken_to(node: &mut Node) -> bool {
    let (until, gateway) = (Instant::now() + SPOKEN_TO_WITHIN, node.api());
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    while gateway.try_get("/readyz").await.is_none_or(|answer| answer.status != 200) {
        if node.whole_log().contains("no common version of the wire") {
            return false;
        }
        assert!(node.runs() && Instant::now() < until, "it neither serves nor says why\n{}", node.log());
        poll.tick().await;
    }
    true
}

/// Whoever signed up is served at each node alone, whichever version leads their shards, and what they write at one is read
/// at the next.
async fn every_node_serves_everybody(world: &World, customers: usize) {
    for number in 0..=customers {
        let token = world.sign_in(number, &email_of(number)).await;
        let at = world.with_token(&token);
        for (node, here) in at.iter().enumerate() {
            let name = format!("Ada of node {}", node + 1);
            let (key, body) = (fresh_key(), json!({ "display_name": name }));
            here.send(Method::PATCH, "/v1/me", Some(&key), Some(&body)).await.expect(200);
            let next = &at[(node + 1) % at.len()];
            assert_eq!(next.get("/v1/me").await.expect(200)["display_name"], name);
            for path in ["/v1/inbox", "/v1/subscriptions", "/v1/payment-methods", "/v1/invoices"] {
                let list = here.get(path).await;
                let items = list.expect(200)["items"].as_array().expect("a list");
                assert!(!items.is_empty(), "{path} at node {}: {}", node + 1, list.text);
                // Something is on its way to an inbox all the time.
                if path == "/v1/inbox" {
                    continue;
                }
                assert_eq!(next.get(path).await.expect(200), &list.json, "{path} at node {} and the next", node + 1);
            }
        }
    }
}

/// What `construct audit export` writes at this node verifies.
async fn audit_holds(node: &Node) {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let file = directory.path().join("audit.jsonl").display().to_string();
    let (admin, token) = (format!("http://{}", node.admin), node.data().join("admin-token").display().to_string());
    let exported = ["audit", "export", "--output", &file, "--admin", &admin, "--token-file", &token];
    for arguments in [exported.as_slice(), &["audit", "verify", &file]] {
        let output = node.command(arguments).output().await.expect("the binary runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
