//! Every POST of the description with a good body: accepted, answered once under its key, also after a restart.
//!
//! A POST that nobody wrote a good body for (`cases.rs`) fails here, on the day it lands.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;

use super::cases::{Case, World, admin_case};
use super::*;

/// POSTs that take no key, since what they do can be done twice: their senders repeat by protocol.
const WITHOUT_KEY: [&str; 2] = ["receiveStripeWebhook", "unsubscribe"];

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
