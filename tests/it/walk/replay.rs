//! Every POST of the description with a good body: accepted, answered once under its key, also after a restart.
//!
//! A POST that nobody wrote a good body for (`cases.rs`) fails here, on the day it lands.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use super::cases::{Case, World, admin_case};
use super::*;

/// POSTs that take no key, since what they do can be done twice: their senders repeat by protocol.
const WITHOUT_KEY: [&str; 2] = ["receiveStripeWebhook", "unsubscribe"];
/// What was paid becomes known to its subscription sooner.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn every_post_is_accepted_and_a_repeat_under_its_key_is_answered_once_also_after_a_restart() {
    let mut world = World::start().await;
    let description = world.node.api().get("/openapi.json").await.expect(200).clone();
    let (mut faults, mut sent) = (Vec::new(), BTreeMap::new());
    for operation in operations(&description).into_iter().filter(|operation| operation.method == Method::POST) {
        match world.case(&operation.id).await {
            Some(case) => {
                let (key, first) = twice(&operation, &case, &mut faults).await;
                sent.insert(operation.id, (case, key, first));
            }
            None => faults.push(format!("POST {} ({}): write a good body for it", operation.path, operation.id)),
        }
    }
    world.node.crash().await;
    again(&sent, &mut faults).await;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_post_of_the_admin_listener_is_accepted_and_repeated_once_too() {
    let mut node = Plan::sandbox().start().await;
    let description = node.operator().get("/openapi.json").await.expect(200).clone();
    let (mut faults, mut sent) = (Vec::new(), BTreeMap::new());
    for operation in operations(&description).into_iter().filter(|operation| operation.method == Method::POST) {
        match admin_case(&node, &operation.id).await {
            Some(case) => {
                let (key, first) = twice(&operation, &case, &mut faults).await;
                sent.insert(operation.id, (case, key, first));
            }
            None => faults.push(format!("POST {} ({}): write a good body for it", operation.path, operation.id)),
        }
    }
    let (at, _) = person::now(&node).await;
    node.crash().await;
    again(&sent, &mut faults).await;
    assert_eq!(person::now(&node).await.0, at, "a repeat advances no clock");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Calls once, again under the same key, and with another body under it.
async fn twice(operation: &Operation, case: &Case, faults: &mut Vec<String>) -> (String, Answer) {
    let key = fresh_key();
    let (first, second) = (case.send(&key).await, case.send(&key).await);
    let keyed = !WITHOUT_KEY.contains(&operation.id.as_str());
    if first.status != case.status {
        faults.push(format!("{}: {} expected, got {first:?}", operation.id, case.status));
    }
    if operation.keyed != keyed {
        faults.push(format!("{}: described as taking a key: {}", operation.id, operation.keyed));
    }
    if !same(&first, &second) || (second.header("idempotency-replayed") == "true") != keyed {
        faults.push(format!("{}: first {first:?}, then {second:?}", operation.id));
    }
    if keyed && case.body.is_some() {
        let other = Case {
            body: Some(json!({ "another": "body" })),
            client: case.client.clone(),
            path: case.path.clone(),
            status: 422,
        };
        let mismatch = other.send(&key).await;
        if mismatch.status != 422 {
            faults.push(format!("{}: another body under the key answered {}", operation.id, mismatch.status));
        }
    }
    (key, first)
}

/// The answers of before, once more.
async fn again(sent: &BTreeMap<String, (Case, String, Answer)>, faults: &mut Vec<String>) {
    for (operation, (case, key, first)) in sent {
        let after = case.send(key).await;
        let replayed = after.header("idempotency-replayed") == "true" || WITHOUT_KEY.contains(&operation.as_str());
        if !same(first, &after) || !replayed {
            faults.push(format!("{operation} after a restart: first {first:?}, then {after:?}"));
        }
    }
}

/// The parts of an answer that a repeat must repeat.
fn same(first: &Answer, second: &Answer) -> bool {
    (first.status, &first.text) == (second.status, &second.text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_says_when_to_ask_again_is_not_the_last_answer_to_its_key() {
    let node = Plan::sandbox().start().await;
    let person = Person::sign_up(&node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
    let (card, challenged) =
        (person.add_card("pm_card_visa").await, person.add_card("pm_card_authenticationRequired").await);
    let (plus, pro) = (person::plan(&person.api, "Plus").await, person::plan(&person.api, "Pro").await);
    let subscription = person.subscribe(plus["id"].as_str().expect("an id"), &card).await;
    let path = format!("/v1/subscriptions/{}/change", subscription["id"].as_str().expect("an id"));
    // A change whose payment waits for an answer of its payer, and another one meanwhile.
    let costly = json!({ "plan_id": pro["id"], "payment_method_id": challenged });
    let waiting = person.api.post(&path, &costly).await;
    assert!(!waiting.json["pending_change"].is_null(), "{}", waiting.text);
    let (key, more) = (fresh_key(), json!({ "quantity": 2, "payment_method_id": card }));
    for _ in 0..2 {
        let refused = person.api.post_once(&path, &key, &more).await;
        refused.expect(409);
        assert!(!refused.header("retry-after").is_empty() && refused.header("idempotency-replayed").is_empty());
    }
    let invoice = waiting.text_at("/latest_invoice_id");
    let body = json!({ "payment_method_id": card });
    person.api.post(&format!("/v1/invoices/{invoice}/pay"), &body).await.expect(200);
    let (asked, deadline) = (|| person.api.post_once(&path, &key, &more), Instant::now() + SETTLED_WITHIN);
    let (mut taken, mut pace) = (asked().await, tokio::time::interval(Duration::from_millis(100)));
    while taken.status == 409 && Instant::now() < deadline {
        pace.tick().await;
        taken = asked().await;
    }
    assert_eq!((taken.expect(200)["quantity"].as_i64(), &taken.json["plan_id"]), (Some(2), &pro["id"]));
    assert_eq!(asked().await.header("idempotency-replayed"), "true");
}
