//! Every endpoint of the served descriptions, with every role and with another user's ids; and every POST replayed.
//!
//! It walks `/openapi.json`, so that a new endpoint is walked the day it lands.

mod admin;
mod cases;
mod replay;

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::http::{Answer, Client, fresh_key};
use crate::mail::{ARRIVES_WITHIN, Maildir};
use crate::node::{Node, Plan};
use crate::person::{self, Person};

/// One operation of the description.
#[derive(Debug, Clone)]
struct Operation {
    method: Method,
    path: String,
    id: String,
    statuses: Vec<u16>,
    /// Needs a credential.
    secured: bool,
    /// Takes an `Idempotency-Key`.
    keyed: bool,
    /// Reaches what is another person's with a permission.
    reaching: bool,
    body: Option<Value>,
}

fn operations(description: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in description["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path item") {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            let Some(id) = operation["operationId"].as_str() else { continue };
            let statuses = operation["responses"].as_object().expect("responses").keys();
            let schema = operation.pointer("/requestBody/content/application~1json/schema");
            found.push(Operation {
                method,
                path: path.clone(),
                id: id.to_owned(),
                statuses: statuses.filter_map(|status| status.parse().ok()).collect(),
                secured: operation["security"]
                    .as_array()
                    .is_some_and(|s| !s.is_empty() && s.iter().all(|one| one != &json!({}))),
                keyed: operation["parameters"].to_string().contains("/IdempotencyKey"),
                reaching: operation["description"].to_string().contains("also for what is another person's"),
                body: schema.map(|schema| sample(description, schema, 0)),
            });
        }
    }
    assert!(found.len() > 10, "the description has {} operations", found.len());
    found
}

/// A body that fits a schema as far as a machine can tell.
fn sample(description: &Value, schema: &Value, depth: u32) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = description.pointer(reference.trim_start_matches('#')).expect("a schema that is there");
        return if depth > 6 { json!({}) } else { sample(description, target, depth + 1) };
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(first) = schema[choice].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null")) {
            return sample(description, first, depth + 1);
        }
    }
    if let Some(value) = schema["enum"].as_array().and_then(|all| all.first()) {
        return value.clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| **kind != "null").cloned().unwrap_or_default(),
        kind => kind.clone(),
    };
    match kind.as_str().unwrap_or("") {
        "object" => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let members = required.iter().filter_map(Value::as_str);
            members.map(|name| (name.to_owned(), sample(description, &schema["properties"][name], depth + 1))).collect()
        }
        "array" => json!([sample(description, &schema["items"], depth + 1)]),
        "integer" | "number" => json!(1),
        "boolean" => json!(false),
        _ if schema["format"] == "date-time" => json!("2030-01-01T00:00:00Z"),
        _ => json!("x"),
    }
}

/// `{id}` and the like, filled in.
fn fill(path: &str, ids: &BTreeMap<&str, String>) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (_, after) = after.split_once('}').expect("a closed parameter");
        filled.push_str(before);
        let collection = before.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        filled.push_str(ids.get(collection).map_or("none", String::as_str));
        rest = after;
    }
    filled + rest
}

async fn call(client: &Client, operation: &Operation, path: &str, key: &str) -> Answer {
    client.send(operation.method.clone(), path, Some(key), operation.body.as_ref()).await
}

/// Ids of things that `person` owns, by collection.
async fn possessions(person: &Person) -> BTreeMap<&'static str, String> {
    let mut ids = BTreeMap::from([("users", person.id.clone())]);
    for collection in ["sessions", "subscriptions", "invoices", "payment-methods", "api-keys", "devices"] {
        let answer = person.api.get(&format!("/v1/{collection}")).await;
        if let Some(id) = answer.json.pointer("/items/0/id").and_then(Value::as_str) {
            ids.insert(collection, id.to_owned());
        }
    }
    assert!(ids.len() >= 5, "the owner owns something: {ids:?}");
    ids
}

async fn customer(node: &Node, email: &str, role: &str, plan_name: &str) -> Person {
    let person = Person::sign_up(node, &Maildir::of(&node.data()), email, role).await;
    let card = person.add_card("pm_card_visa").await;
    let plan = person::plan(&person.api, plan_name).await;
    person.subscribe(plan["id"].as_str().expect("an id"), &card).await;
    person
}

/// Somebody whom the operator made an administrator, signed in.
pub async fn administrator(node: &Node) -> Person {
    let person = Person::sign_up(node, &Maildir::of(&node.data()), "administrator@example.com", "consumer").await;
    let body = json!({ "roles": ["administrator"] });
    let path = format!("/v1/users/{}", person.id);
    node.operator_api().send(Method::PATCH, &path, None, Some(&body)).await.expect(200);
    person.sign_in(node).await
}

/// Waits until something comes to hold.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
    while !holds().await {
        poll.tick().await;
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {ARRIVES_WITHIN:?}");
    }
}

/// What every answer must be, whoever asks.
fn check(answer: &Answer, operation: &Operation, who: &str, faults: &mut Vec<String>) {
    let what = format!("{} {} as {who}: {} {}", operation.method, operation.path, answer.status, answer.text);
    if answer.status >= 500 && answer.status != 503 {
        faults.push(format!("{what} (a defect)"));
    }
    if answer.status >= 400 {
        if !answer.header("content-type").starts_with("application/problem+json") {
            faults.push(format!("{what} (not problem+json)"));
        }
        if answer.json["status"] != answer.status || answer.header("x-request-id").is_empty() {
            faults.push(format!("{what} (no status or request id)"));
        }
    }
    if !operation.statuses.contains(&answer.status) {
        faults.push(format!("{what} (not described: {:?})", operation.statuses));
    }
}

/// Calls that would end the caller's own session or account before the walk is over.
fn ends_the_caller(operation: &Operation) -> bool {
    let own = ["/v1/me", "/v1/sessions", "/v1/sessions/current"];
    operation.method == Method::DELETE && own.contains(&operation.path.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_what_is_not_theirs() {
    let node = Plan::sandbox().start().await;
    let description = node.api().get("/openapi.json").await.expect(200).clone();
    let owner = customer(&node, "owner@example.com", "consumer", "Plus").await;
    let ids = possessions(&owner).await;
    let mut faults = Vec::new();
    let strangers = [
        ("nobody", node.api()),
        ("a forger", node.api().with_token("eyJhbGciOiJFZERTQSJ9.e30.AAAA")),
        ("consumer", customer(&node, "consumer@example.com", "consumer", "Plus").await.api),
        ("robot_builder", customer(&node, "builder@example.com", "robot_builder", "Builder").await.api),
        ("developer", customer(&node, "developer@example.com", "developer", "Plus").await.api),
    ];
    for operation in operations(&description).iter().filter(|operation| !ends_the_caller(operation)) {
        let path = fill(&operation.path, &ids);
        for (who, client) in &strangers {
            let answer = call(client, operation, &path, &fresh_key()).await;
            check(&answer, operation, who, &mut faults);
            let anonymous = matches!(*who, "nobody" | "a forger");
            if anonymous && operation.secured && answer.status != 401 {
                faults.push(format!("{} {path} as {who}: {} (expected 401)", operation.method, answer.status));
            }
            let others = ids.values().any(|id| path.contains(id.as_str()));
            if others && answer.status < 400 {
                faults
                    .push(format!("{} {path} as {who}: {} on another user's object", operation.method, answer.status));
            }
            if others && answer.text.contains("owner@example.com") {
                faults.push(format!("{} {path} as {who} tells the owner's address", operation.method));
            }
        }
    }
    // And the owner still has everything.
    assert_eq!(possessions(&owner).await, ids);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_reach_every_endpoint_without_a_defect_and_what_permissions_open() {
    let node = Plan::sandbox().start().await;
    let description = node.api().get("/openapi.json").await.expect(200).clone();
    let owner = customer(&node, "owner@example.com", "consumer", "Plus").await;
    let ids = possessions(&owner).await;
    let administrator = administrator(&node).await;
    let mut faults = Vec::new();
    let operations = operations(&description);
    let mut reached = 0;
    for operation in operations.iter().filter(|operation| operation.method == Method::GET && operation.reaching) {
        let own = fill(&operation.path, &ids);
        let path = if own == operation.path { format!("{own}?user_id={}", owner.id) } else { own };
        for (who, client) in [("administrator", &administrator.api), ("operator", &node.operator_api())] {
            let answer = client.get(&path).await;
            check(&answer, operation, who, &mut faults);
            if answer.status != 200 && !path.contains("none") {
                faults.push(format!("GET {path} as {who}: {} {}", answer.status, answer.text));
            }
        }
        reached += 1;
    }
    assert!(reached >= 6, "only {reached} endpoints reach what is another person's");
    for operation in &operations {
        let path = fill(&operation.path, &ids);
        let answer = call(&node.operator_api(), operation, &path, &fresh_key()).await;
        check(&answer, operation, "operator", &mut faults);
    }
    for operation in operations.iter().filter(|operation| !ends_the_caller(operation)) {
        let answer = call(&administrator.api, operation, &fill(&operation.path, &BTreeMap::new()), &fresh_key()).await;
        check(&answer, operation, "administrator", &mut faults);
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
