//! The key-encryption key is rotated on three nodes: everybody's data is read on each of them after it, whoever was down
//! meanwhile, and wherever the node that rotates is killed.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;
use crate::http::{Answer, fresh_key};
use crate::mail::{Mailbox as _, Maildir};
use crate::node::Node;
use crate::person::Person;

const ROTATE: &str = "/admin/v1/keys/rotate";
const WITHIN: Duration = Duration::from_secs(60);
/// Where whoever rotates is killed, and after how many passages.
const POINTS: [(&str, u64); 5] = [
    ("rotation.version_added", 0),
    ("rotation.version_shared", 0),
    ("rotation.version_active", 0),
    ("rotation.key_wrapped", 1),
    ("rotation.old_retired", 0),
];

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_on_three_nodes_whoever_is_down_or_dies() {
    let mut cluster = Cluster::start(3).await;
    let mut people = Vec::new();
    join(&cluster, 0, &mut people).await;
    join(&cluster, 1, &mut people).await;
    let rotated = asked(&cluster.nodes[1], "rotate-keys").await;
    assert_eq!(rotated["waiting"], json!([]), "{rotated}");
    assert!(rotated["rewrapped"].as_u64() >= Some(2), "{rotated}");
    let members: Vec<Value> =
        [1, 2, 3].map(|node| json!({ "node": node, "versions": [2], "unanswered": null })).to_vec();
    let expected = json!({ "active": 2, "retired_below": 2, "unfinished": false, "members": members });
    assert_eq!(asked(&cluster.nodes[2], "keys").await, expected);
    for node in &cluster.nodes {
        assert_eq!(versions(node), [2].into(), "node {}", node.id());
    }
    // Nobody remembers a key.
    for node in &mut cluster.nodes {
        node.kill().await;
        node.spawn();
    }
    for node in &mut cluster.nodes {
        node.wait_ready().await;
    }
    all_read(&cluster, &people).await;

    // One is away, and somebody's data is sealed under what it has never seen.
    cluster.nodes[2].kill().await;
    let rotated = until_rotated(&cluster.nodes[0]).await;
    assert_eq!(rotated["waiting"], json!([3]), "{rotated}");
    join(&cluster, 1, &mut people).await;
    let keys = asked(&cluster.nodes[1], "keys").await;
    assert_eq!((&keys["active"], &keys["members"][0]["versions"]), (&json!(3), &json!([3])), "{keys}");
    assert!(keys["members"][2]["unanswered"].as_str().is_some_and(|why| why.contains("node 3")), "{keys}");
    assert_eq!((versions(&cluster.nodes[0]), versions(&cluster.nodes[2])), ([3].into(), [2].into()));
    cluster.nodes[2].start().await;
    cluster.settled().await;
    agreed(&cluster, &[3].into()).await;
    all_read(&cluster, &people).await;

    for (turn, (point, before)) in POINTS.into_iter().enumerate() {
        let dies = turn % 3;
        cluster.nodes[dies].kill().await;
        cluster.nodes[dies].arm(point, before);
        cluster.nodes[dies].start().await;
        let asked = cluster.nodes[dies].operator().try_send(Method::POST, ROTATE, Some(&fresh_key()), None).await;
        assert!(asked.is_none(), "{point}: {asked:?}");
        cluster.nodes[dies].aborted().await;
        cluster.nodes[dies].disarm();
        let keys = until_known(&cluster.nodes[(dies + 1) % 3]).await;
        assert_eq!(keys["unfinished"], point != "rotation.old_retired", "{point}: {keys}");
        // Without it people go on, and another node finishes.
        join(&cluster, (dies + 1) % 3, &mut people).await;
        let rotated = until_rotated(&cluster.nodes[(dies + 2) % 3]).await;
        let version = u32::try_from(rotated["version"].as_u64().expect("a version")).expect("small");
        assert_eq!(rotated["waiting"], json!([dies + 1]), "{point}: {rotated}");
        cluster.nodes[dies].start().await;
        cluster.settled().await;
        agreed(&cluster, &[version].into()).await;
        all_read(&cluster, &people).await;
        println!("killed at {point}: finished with version {version}");
    }
}

/// What `construct cluster` with this command answers.
async fn asked(node: &Node, command: &str) -> Value {
    let (admin, token_file) = (format!("http://{}", node.admin), node.data().join("admin-token").display().to_string());
    let arguments = ["cluster", command, "--json", "--admin", &admin, "--token-file", &token_file];
    let done = node.command(&arguments).output().await.expect("the binary runs");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// How the keys stand, once the shard that the dead led is led again.
async fn until_known(node: &Node) -> Value {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    loop {
        poll.tick().await;
        let keys = node.operator().get("/admin/v1/keys").await;
        if keys.status == 200 {
            return keys.json;
        }
        assert!(keys.status == 503 && Instant::now() < until, "{}\n{}", keys.text, node.log());
    }
}

async fn rotate(node: &Node) -> Answer {
    node.operator().send(Method::POST, ROTATE, Some(&fresh_key()), None).await
}

/// Rotates, once the shards that the dead led are led again.
async fn until_rotated(node: &Node) -> Value {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    loop {
        poll.tick().await;
        let answer = rotate(node).await;
        if answer.status == 200 {
            return answer.json;
        }
        assert!(answer.status == 503 && Instant::now() < until, "{}\n{}", answer.text, node.log());
    }
}

/// Somebody new, whose key is made now.
async fn join(cluster: &Cluster, at: usize, people: &mut Vec<Person>) {
    let email = format!("person{}@example.com", people.len());
    let mailbox = Maildir::of(cluster.outside());
    let body =
        json!({ "email": email, "password": crate::person::PASSWORD, "role": "consumer", "display_name": "Ada" });
    let api = cluster.at(at);
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(100)));
    let key = fresh_key();
    while api.post_once("/v1/signup", &key, &body).await.status != 202 {
        assert!(Instant::now() < until, "nobody can sign up\n{}", cluster.nodes[at].log());
        poll.tick().await;
    }
    let mail = mailbox.wait_for(&email, "", 1).await.remove(0);
    let verified = api.post("/v1/signup/verify", &json!({ "token": mail.token() })).await;
    people.push(Person::verified(&email, &api, &verified));
}

/// Every person is who they were, asked at each node.
async fn all_read(cluster: &Cluster, people: &[Person]) {
    for node in &cluster.nodes {
        for person in people {
            let there = person.sign_in(node).await;
            let me = there.api.get("/v1/me").await;
            assert_eq!(me.expect(200)["email"], person.email.as_str(), "node {}: {}", node.id(), me.text);
        }
    }
}

/// Waits until each node has these versions and no other.
async fn agreed(cluster: &Cluster, wanted: &BTreeSet<u32>) {
    let (until, mut poll) = (Instant::now() + WITHIN, tokio::time::interval(Duration::from_millis(50)));
    for node in &cluster.nodes {
        while versions(node) != *wanted {
            let held = versions(node);
            assert!(Instant::now() < until, "node {} has {held:?} of {wanted:?}\n{}", node.id(), node.log());
            poll.tick().await;
        }
    }
}

/// The versions in a node's keyset.
fn versions(node: &Node) -> BTreeSet<u32> {
    let keyset = std::fs::read(node.data().join("keyset")).expect("a keyset");
    let keyset: Value = serde_json::from_slice(&keyset).expect("JSON");
    let versions = keyset["keks"].as_object().expect("versions").keys();
    versions.map(|version| version.parse().expect("a number")).collect()
}
