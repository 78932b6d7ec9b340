//! Nodes that are started before there are tokens, as under Kubernetes: none forms a cluster by itself.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::node::{Plan, free_port, loopback};

const SEEN_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_its_token_and_forms_a_cluster_only_when_it_is_told_to() {
    let secrets = TempDir::new().expect("a temporary directory");
    let (one, two) = (secrets.path().join("1"), secrets.path().join("2"));
    let address = free_port(loopback()).to_string();
    let plan = |id: &str, file: &std::path::Path| {
        let plan = Plan::sandbox().set("node.id", id).set("cluster.join", &address);
        plan.set("cluster.token_file", file.to_str().expect("a path")).set("gateway.public_url", "http://127.0.0.1:1")
    };
    let (mut first, mut second) = (plan("1", &one).prepare(), plan("2", &two).prepare());
    first.cluster = address.parse().expect("an address");
    for node in [&mut first, &mut second] {
        node.spawn();
    }
    // Both wait: nothing is formed, and what Kubernetes shows of a key that is being written is no token.
    fs::write(&one, "\n").expect("a file");
    let deadline = Instant::now() + SEEN_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    while [&first, &second].iter().any(|node| !node.whole_log().contains("this node waits for a token")) {
        assert!(Instant::now() < deadline, "{}\n{}", first.log(), second.log());
        poll.tick().await;
    }
    assert!(!first.data().join("cluster.json").exists() && !second.data().join("cluster.json").exists());

    fs::write(&one, "form\n").expect("a file");
    first.wait_ready().await;
    assert!(!second.data().join("cluster.json").exists());
    let token = first.operator().post("/admin/v1/cluster/tokens", &json!({})).await;
    fs::write(&two, token.text_at("/token")).expect("a file");
    second.wait_ready().await;
    let members = second.operator().get("/admin/v1/cluster").await;
    assert_eq!(members.expect(200)["members"].as_array().map(Vec::len), Some(2), "{}", members.text);

    // Once in, a node looks at the file no more.
    fs::remove_file(&one).expect("a file");
    fs::write(&two, "spent").expect("a file");
    second.crash().await;
    first.crash().await;

    // Its disk is lost and the word that forms a cluster was left: it forms no second one beside the second node.
    let mut wiped = plan("1", &one).set("cluster.join", &format!("{address},{}", second.cluster)).prepare();
    fs::write(&one, "form\n").expect("a file");
    wiped.spawn();
    assert!(!wiped.ready_or_ended().await, "it refuses");
    assert!(wiped.log().contains("is a member of a cluster already"), "{}", wiped.log());
    assert!(!wiped.data().join("cluster.json").exists());

    // Told to stop while it waits, it stops.
    let mut third = plan("3", &secrets.path().join("3")).prepare();
    third.spawn();
    while !third.whole_log().contains("this node waits for a token") {
        assert!(Instant::now() < deadline + SEEN_WITHIN, "{}", third.log());
        poll.tick().await;
    }
    third.stop().await;
    assert!(!third.data().join("cluster.json").exists());
}
