//! The billing report, a projection that follows the feed, against what the objects themselves say; over `kill -9`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::http::Client;
use crate::mail::{ARRIVES_WITHIN, Maildir};
use crate::node::{Node, Plan};
use crate::person::{self, Person};

const ROUNDS: usize = 3;
const PEOPLE: usize = 3;

/// Signs up, subscribes, and then does one thing more, another for each number.
async fn customer(node: &Node, number: usize) -> Person {
    let email = format!("customer-{number}@example.com");
    let person = Person::sign_up(node, &Maildir::of(&node.data()), &email, "robot_builder").await;
    let card = person.add_card("pm_card_visa").await;
    let plan = person::plan(&person.api, if number.is_multiple_of(2) { "Plus" } else { "Builder" }).await;
    let subscription = person.subscribe(plan["id"].as_str().expect("an id"), &card).await;
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().expect("an id"));
    let (status, answer) = match number % 3 {
        0 => (200, person.api.post(&format!("{path}/cancel"), &json!({ "at": "now" })).await),
        1 => (200, person.api.post(&format!("{path}/change"), &json!({ "quantity": 3 })).await),
        _ => {
            let invoice = person.invoices().await[0]["id"].as_str().expect("an id").to_owned();
            let path = format!("/v1/invoices/{invoice}/refunds");
            (201, node.operator_api().post(&path, &json!({ "amount": 100 })).await)
        }
    };
    answer.expect(status);
    person
}

async fn items(api: &Client, path: &str) -> Vec<Value> {
    api.get(path).await.expect(200)["items"].as_array().expect("a list").clone()
}

/// The report as it must be, from every object.
async fn expected(node: &Node, people: &[Person]) -> Value {
    let api = node.operator_api();
    let mut plans = BTreeMap::<(String, String), (i64, i64)>::new();
    let mut months = BTreeMap::<String, [i64; 4]>::new();
    let month = |text: &Value| text.as_str().and_then(|at| at.get(..7)).map(str::to_owned);
    for person in people {
        for subscription in items(&api, &format!("/v1/subscriptions?limit=100&user_id={}", person.id)).await {
            let text = |name: &str| subscription[name].as_str().expect("text").to_owned();
            let count = plans.entry((text("plan_id"), text("state"))).or_default();
            *count = (count.0 + 1, count.1 + subscription["quantity"].as_i64().expect("a number"));
        }
        for invoice in items(&api, &format!("/v1/invoices?limit=100&user_id={}", person.id)).await {
            let total = invoice["total"].as_i64().expect("a number");
            if let Some(issued) = month(&invoice["issued_at"]) {
                let [invoices, invoiced, ..] = months.entry(issued).or_default();
                (*invoices, *invoiced) = (*invoices + 1, *invoiced + total);
            }
            if let Some(paid) = month(&invoice["paid_at"]) {
                months.entry(paid).or_default()[2] += total;
            }
        }
        for note in items(&api, &format!("/v1/credit-notes?limit=100&user_id={}", person.id)).await {
            let at = month(&note["created_at"]).expect("a time");
            months.entry(at).or_default()[3] += note["amount"]["amount"].as_i64().expect("a number");
        }
    }
    let plans: Vec<Value> =
        plans.into_iter().map(|((plan, state), counts)| json!([plan, state, counts.0, counts.1])).collect();
    let months: Vec<Value> = months.into_iter().map(|(month, counts)| json!([month, counts])).collect();
    json!({ "plans": plans, "months": months })
}

/// The report once everything is counted, in the same shape.
async fn reported(node: &Node) -> Value {
    let api = node.operator_api();
    let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
    let report = loop {
        poll.tick().await;
        let answer = api.get("/v1/billing/report").await;
        if answer.expect(200)["behind"] == 0 {
            break answer.json;
        }
        assert!(tokio::time::Instant::now() < deadline, "still behind: {}", answer.text);
    };
    let list = |name: &str| report[name].as_array().expect("a list").clone();
    let plan = |one: &Value| json!([one["plan_id"], one["state"], one["subscriptions"], one["quantity"]]);
    let mut plans: Vec<Value> = list("subscriptions").iter().map(plan).collect();
    plans.sort_by_key(ToString::to_string);
    let amounts = |one: &Value| json!([one["invoices"], one["invoiced"], one["paid"], one["refunded"]]);
    let months: Vec<Value> = list("months").iter().map(|one| json!([one["month"], amounts(one)])).collect();
    json!({ "plans": plans, "months": months })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_billing_report_agrees_with_every_object_over_kills_and_when_taken_anew() {
    let mut node = Plan::sandbox().start().await;
    let mut people = Vec::new();
    for round in 0..ROUNDS {
        let numbers = round * PEOPLE..(round + 1) * PEOPLE;
        people.extend(futures::future::join_all(numbers.map(|number| customer(&node, number))).await);
        // Right after the last answer: the consumer is in the middle of it.
        node.crash().await;
    }
    assert_eq!(reported(&node).await, expected(&node, &people).await, "after {ROUNDS} kills");
    person::advance_by(&node, 40 * 86_400).await;
    node.crash().await;
    let renewed = expected(&node, &people).await;
    assert_eq!(renewed["months"].as_array().map(Vec::len), Some(2), "{renewed}");
    assert_eq!(reported(&node).await, renewed, "after a renewal and a kill");
    node.operator().post_empty("/admin/v1/billing/report/rebuild").await.expect(200);
    assert_eq!(reported(&node).await, renewed, "taken anew");
    node.crash().await;
    assert_eq!(reported(&node).await, renewed, "and after one more kill");
}
