//! Any node tells of the actors of all, and names the one that does not answer.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Cluster;
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::Person;

#[tokio::test(flavor = "multi_thread")]
async fn any_node_lists_the_actors_of_all_and_names_who_does_not_answer() {
    let mut cluster = Cluster::start(3).await;
    let mailbox = Maildir::of(cluster.outside());
    // More people than a node leads shards, so that each node has somebody.
    for number in 0..12 {
        let email = format!("person{number}@example.com");
        Person::sign_up(&cluster.nodes[number % 3], &mailbox, &email, "consumer").await;
    }
    for node in &cluster.nodes {
        let actors = node.operator().get("/admin/v1/actors").await;
        let actors = actors.expect(200);
        assert_eq!(actors["unanswered"], Value::Array(Vec::new()), "{actors:#}");
        assert_eq!(named(&actors["kinds"]), BTreeSet::from([1, 2, 3]), "{actors:#}");
        let people = actors["kinds"].as_array().expect("kinds").iter().filter(|kind| kind["kind"] == "user");
        let people: u64 = people.filter_map(|kind| kind["live"].as_u64()).sum();
        assert_eq!(people, 12, "{actors:#}");
    }
    // Whoever leads its shard, any node puts an entity back into service.
    for node in &cluster.nodes {
        for number in 0..8 {
            let body = json!({ "entity": format!("user/nobody{number}") });
            let unparked = node.operator().post("/admin/v1/actors/unpark", &body).await;
            assert_eq!(unparked.expect(200)["was_parked"], false, "{}", node.admin);
        }
    }
    let table = shown(&cluster.nodes[1], false).await;
    assert!(table.contains("KIND") && table.contains("user") && !table.contains("missing"), "{table}");

    let mut gone = cluster.nodes.pop().expect("the third");
    gone.kill().await;
    let actors: Value = serde_json::from_str(&shown(&cluster.nodes[0], true).await).expect("JSON");
    assert_eq!(named(&actors["unanswered"]), BTreeSet::from([3]), "{actors:#}");
    assert!(named(&actors["kinds"]).is_subset(&BTreeSet::from([1, 2])), "{actors:#}");
    let table = shown(&cluster.nodes[1], false).await;
    assert!(table.contains("Node 3 is missing here. No answer: node 3"), "{table}");
}

fn named(items: &Value) -> BTreeSet<u64> {
    items.as_array().expect("a list").iter().filter_map(|item| item["node"].as_u64()).collect()
}

/// What `construct cluster actors` prints.
async fn shown(node: &Node, json: bool) -> String {
    let (admin, token_file) = (format!("http://{}", node.admin), node.data().join("admin-token").display().to_string());
    let mut arguments = vec!["cluster", "actors", "--admin", &admin, "--token-file", &token_file];
    arguments.extend(json.then_some("--json"));
    let done = node.command(&arguments).output().await.expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
