//! The system's clock is stepped by more than a day under a running node, forward and back (libfaketime).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock::SteppedClock;
use crate::http::{Client, fresh_key};
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::Person;

/// 25 hours: more than what a day's memory of requests holds.
const FORWARD: i64 = 90_000;
const BACK: i64 = -90_000;
/// A timer that is due fires within this, also on a busy machine.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(20);
/// Reads at once by one caller.
const READS: u32 = 100;

async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..600 {
        poll.tick().await;
        if let Some(found) = look().await {
            return found;
        }
    }
    panic!("{what} did not happen");
}

/// What the node takes for the present.
async fn now(node: &Node) -> jiff::Timestamp {
    node.operator().get("/admin/v1/clock").await.text_at("/now").parse().expect("an RFC 3339 time")
}

/// Sends a notification that is due so many seconds from now.
async fn notify(node: &Node, person: &Person, title: &str, seconds: i64) {
    let due = now(node).await + jiff::SignedDuration::from_secs(seconds);
    let body = json!({
        "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"],
        "content": { "title": title, "body": "…" }, "send_at": due.to_string(),
    });
    node.operator_api().post("/v1/notifications", &body).await.expect(202);
}

async fn arrived(person: &Person, title: &str) -> Value {
    let look = async || person.inbox().await.into_iter().find(|item| item["title"] == title);
    eventually(&format!("the notification {title:?}"), look).await
}

async fn terms(node: &Node) -> Vec<(Value, Value)> {
    let shards = node.operator().get("/admin/v1/shards").await;
    let shards = shards.expect(200)["items"].as_array().expect("shards").clone();
    shards.iter().map(|shard| (shard["id"].clone(), shard["term"].clone())).collect()
}

/// Uses up what an anonymous caller may read.
async fn exhaust(api: &Client) {
    for _ in 0..READS {
        api.get("/v1/plans").await.expect(200);
    }
    api.get("/v1/plans").await.expect(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_forward_and_a_day_back() {
    let clock = SteppedClock::new();
    let plan = Plan::sandbox().set("clock", "system");
    let plan = plan.set("limits.read.per_minute", "1").set("limits.read.burst", &READS.to_string());
    let mut node = clock.under(plan).start().await;
    let person = Person::sign_up(&node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
    let (key, name) = (fresh_key(), json!({ "name": "robot", "scopes": [] }));
    person.api.post_once("/v1/api-keys", &key, &name).await.expect(201);
    notify(&node, &person, "tomorrow", 12 * 3600).await;
    let before = (now(&node).await, terms(&node).await);
    exhaust(&node.api()).await;

    clock.step(FORWARD);
    // Nobody gets more than a minute's calls in a minute, whatever the date.
    node.api().get("/v1/plans").await.expect(429);
    person.api.get("/v1/me").await.expect(401);
    let person = person.refreshed(&node).await;
    arrived(&person, "tomorrow").await;
    // A request is remembered for a day; its timer fires soon after.
    let deadline = Instant::now() + FORGOTTEN_WITHIN;
    loop {
        let again = person.api.post_once("/v1/api-keys", &key, &name).await;
        again.expect(201);
        if again.header("idempotency-replayed").is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "a request is remembered for a day");
    }
    let (key, forward) = (fresh_key(), now(&node).await);
    assert!(forward.as_second() - before.0.as_second() >= FORWARD, "{} then {forward}", before.0);
    person.api.post_once("/v1/api-keys", &key, &name).await.expect(201);
    notify(&node, &person, "before the step back", 0).await;
    let earlier = arrived(&person, "before the step back").await;

    clock.step(BACK);
    node.api().get("/v1/plans").await.expect(429);
    person.api.get("/v1/me").await.expect(200);
    let again = person.api.post_once("/v1/api-keys", &key, &name).await;
    assert_eq!(again.header("idempotency-replayed"), "true", "{}", again.text);
    let person = person.refreshed(&node).await;
    notify(&node, &person, "soon", 1).await;
    let later = arrived(&person, "soon").await;
    let times = [&earlier["created_at"], &later["created_at"]].map(Value::to_string);
    assert!(times[0] < times[1], "time goes on: {times:?}");
    assert!(now(&node).await > forward);
    assert!(node.log().contains("the system's clock went back"), "{}", node.log());
    let metrics = node.operator().get("/metrics").await.text;
    assert!(metrics.lines().any(|line| line.starts_with("construct_clock_ahead_seconds 17")), "{metrics}");
    assert_eq!(terms(&node).await, before.1, "no shard stood for election again");

    // A restart believes the system's clock.
    node.crash().await;
    assert!(now(&node).await < before.0);
    let person = person.sign_in(&node).await;
    notify(&node, &person, "after the restart", 0).await;
    arrived(&person, "after the restart").await;
}
