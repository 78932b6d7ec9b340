//! What is done at one node is so at every other, whoever leads.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;
use crate::http::fresh_key;
use crate::mail::{Mailbox, Maildir};
use crate::person::{self, PASSWORD, Person};
use crate::socket::{Listener as _, Socket};

const DELIVERED_WITHIN: Duration = Duration::from_secs(30);

/// The contract's bound for what one node changes to be so on all.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_node_serves_everything() {
    let cluster = Cluster::start(3).await;
    let leaders = cluster.nodes[0].operator().get("/admin/v1/cluster").await;
    let leaders = leaders.expect(200)["members"].as_array().expect("members").clone();
    assert!(leaders.iter().all(|member| member["leaders"] == 3 && member["state"] == "up"), "{leaders:#?}");

    let mailbox = Maildir::of(cluster.outside());
    let person = Person::sign_up(&cluster.nodes[1], &mailbox, "ada@example.com", "consumer").await;
    let [zero, one, two] = [0, 1, 2].map(|index| cluster.at(index).with_token(person.api.token()));

    // A repeat at another node answers the first response.
    let key = fresh_key();
    let card = one.post_once("/v1/payment-methods", &key, &json!({ "token": "pm_card_visa", "default": true })).await;
    card.expect(201);
    let again = two.post_once("/v1/payment-methods", &key, &json!({ "token": "pm_card_visa", "default": true })).await;
    again.expect(201);
    assert_eq!((again.text_at("/id"), again.header("idempotency-replayed")), (card.text_at("/id"), "true"));
    let plan = person::plan(&two, "Plus").await;
    let order = json!({ "plan_id": plan["id"], "payment_method_id": card.text_at("/id") });
    let subscription = zero.post("/v1/subscriptions", &order).await;
    assert_eq!(subscription.expect(201)["state"], "active");
    mailbox.wait_for("ada@example.com", "receipt", 1).await;
    let (mut poll, deadline) = (tokio::time::interval(Duration::from_millis(20)), Instant::now() + DELIVERED_WITHIN);
    while zero.get("/v1/inbox").await.expect(200)["items"].as_array().is_none_or(Vec::is_empty) {
        poll.tick().await;
        assert!(Instant::now() < deadline, "nothing is in the inbox");
    }
    for client in [&zero, &one, &two] {
        let invoices = client.get("/v1/invoices").await;
        assert_eq!(invoices.expect(200)["items"].as_array().map(Vec::len), Some(1), "{}", invoices.text);
        let inbox = client.get("/v1/inbox").await;
        assert!(!inbox.expect(200)["items"].as_array().expect("a list").is_empty(), "{}", inbox.text);
    }

    // What is sent at one node reaches sockets at the others.
    let mut sockets = Vec::new();
    for node in &cluster.nodes {
        sockets.push(Socket::open(node.gateway, person.api.token()).await);
    }
    let note = json!({
        "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"],
        "content": { "title": "hello", "body": "from the third" },
    });
    let operator = cluster.nodes[0].operator();
    cluster.at(2).with_token(operator.token()).post("/v1/notifications", &note).await.expect(202);
    for socket in &mut sockets {
        let publication = socket.hear("hello").await;
        assert_eq!(publication["data"]["title"], "hello");
    }
    // A socket that comes back at another node gets what it missed.
    let mut roaming = sockets.remove(0);
    let missed = json!({ "title": "missed", "body": "meanwhile" });
    let note = json!({
        "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"], "content": missed,
    });
    cluster.at(1).with_token(operator.token()).post("/v1/notifications", &note).await.expect(202);
    sockets[0].hear("missed").await;
    roaming.move_to(cluster.nodes[2].gateway);
    roaming.renew(person.api.token()).await;
    assert_eq!(roaming.hear("missed").await["data"]["title"], "missed");

    // The clock is one, wherever it is advanced.
    let then = jiff::Timestamp::from_second(person::now(&cluster.nodes[0]).await.0 + 40 * 86_400).expect("a time");
    person::advance_to(&cluster.nodes[2], &then.to_string()).await;
    for node in &cluster.nodes {
        assert_eq!(person::now(node).await.0, then.as_second());
    }
    let person = person.sign_in(&cluster.nodes[2]).await;
    let [zero, one, two] = [0, 1, 2].map(|index| cluster.at(index).with_token(person.api.token()));
    let invoices = one.get("/v1/invoices").await;
    assert_eq!(invoices.expect(200)["items"].as_array().map(Vec::len), Some(2), "the renewal: {}", invoices.text);

    // The audit logs of all shards are readable at every node, and the same.
    let mut heads = Vec::new();
    for index in 0..3 {
        let checkpoints = cluster.at(index).with_token(operator.token()).get("/v1/audit/checkpoint").await;
        let items = checkpoints.expect(200)["items"].as_array().expect("a list").clone();
        heads.push(items.iter().map(|item| (item["shard"].clone(), item["root"].clone())).collect::<Vec<_>>());
    }
    assert_eq!(heads[0].len(), 9);
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:#?}");

    // A session that is revoked at one node is over everywhere within a second.
    for client in [&zero, &one, &two] {
        client.get("/v1/me").await.expect(200);
    }
    zero.delete("/v1/sessions/current").await.expect(204);
    let revoked = Instant::now();
    for client in [&one, &two] {
        while client.get("/v1/me").await.status == 200 {
            assert!(revoked.elapsed() < EVERYWHERE_WITHIN, "a revoked token is still believed");
        }
    }
    let answer = cluster.at(1).post("/v1/sessions", &json!({ "email": person.email, "password": PASSWORD })).await;
    answer.expect(201);

    // A member that was drained and stays after all leads again what it led.
    let drain = format!("/admin/v1/nodes/{}/drain", cluster.nodes[1].id());
    assert_eq!(cluster.nodes[0].operator().post_empty(&drain).await.expect(200)["done"], true);
    assert_eq!(standing(&cluster, 1).await, json!(["draining", 0]));
    assert_eq!(cluster.nodes[2].operator().delete(&drain).await.expect(200)["done"], true);
    assert_eq!(standing(&cluster, 1).await, json!(["up", 3]));
}

/// How a member is, and how many shards it leads.
async fn standing(cluster: &Cluster, index: usize) -> Value {
    let members = cluster.nodes[0].operator().get("/admin/v1/cluster").await.expect(200)["members"].clone();
    json!([members[index]["state"], members[index]["leaders"]])
}
