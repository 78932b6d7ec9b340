//! Every list: a cursor of another one is refused, and those that promise an order keep it, whole and in pages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::http::Client;
use crate::mail::Maildir;
use crate::node::Plan;
use crate::person::{self, Person};
use crate::walk::{administrator, until};

/// Lists that take a cursor; one that is added raises it.
const LISTS: usize = 14;
const ENTRIES: &str = "/v1/audit/entries?limit=1";

/// The paths of a listener's lists.
async fn lists(listener: &Client) -> Vec<String> {
    let description = listener.get("/openapi.json").await.expect(200).clone();
    let paths = description["paths"].as_object().expect("paths");
    let is_paged = |item: &Value| {
        item["get"]["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "cursor"))
    };
    paths.iter().filter(|(_, item)| is_paged(item)).map(|(path, _)| path.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_list_is_refused_naming_the_field() {
    let node = Plan::sandbox().start().await;
    let administrator = administrator(&node).await;
    let admin = Client::new(format!("http://{}", node.admin)).with_token(administrator.api.token());
    let of = async |path: &str| administrator.api.get(path).await.text_at("/next_cursor");
    let (plans, roles) = (of("/v1/plans?limit=1").await, of("/v1/roles?limit=1").await);
    let mut seen = Vec::new();
    for listener in [&administrator.api, &admin] {
        for path in lists(listener).await {
            let foreign = if path == "/v1/plans" { &roles } else { &plans };
            let refused = listener.get(&format!("{path}?cursor={foreign}")).await;
            assert_eq!(refused.expect(422)["errors"][0]["pointer"], "/cursor", "{path}: {}", refused.text);
            seen.push(path);
        }
    }
    assert!(seen.len() >= LISTS && seen.iter().any(|path| path.starts_with("/admin/")), "{seen:?}");
    // Its own is taken, whatever the limit; not under another filter.
    administrator.api.get(&format!("/v1/plans?limit=2&cursor={plans}")).await.expect(200);
    let filtered =
        administrator.api.get(&format!("/v1/audit/entries?action=user.sign_in&cursor={}", of(ENTRIES).await)).await;
    assert_eq!(filtered.expect(422)["errors"][0]["pointer"], "/cursor", "{}", filtered.text);
}

/// The items of a list, the same at once and in pages.
async fn items(client: &Client, path: &str) -> Vec<Value> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let page = async |limit: usize, cursor: &str| {
        let answer = client.get(&format!("{path}{separator}limit={limit}&cursor={cursor}")).await;
        answer.expect(200).clone()
    };
    let whole = page(100, "").await;
    assert_eq!(whole["next_cursor"], Value::Null, "{path}: a page holds it");
    let whole = whole["items"].as_array().expect("a list").clone();
    let (mut pieces, mut cursor) = (Vec::new(), String::new());
    loop {
        let part = page(2, &cursor).await;
        pieces.extend(part["items"].as_array().expect("a list").iter().cloned());
        assert!(pieces.len() <= whole.len(), "{path}: pages repeat what they had");
        let Some(next) = part["next_cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(pieces, whole, "{path}");
    whole
}

/// The ids of a list, in its order.
async fn ids(client: &Client, path: &str) -> Vec<String> {
    items(client, path).await.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

/// A member of each item of a list, in its order.
async fn column<T>(client: &Client, path: &str, member: &str, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let read = |item: &Value| read(&item[member]).unwrap_or_else(|| panic!("{path}: no {member} in {item}"));
    items(client, path).await.iter().map(read).collect()
}

fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

fn reversed(ids: &[String]) -> Vec<String> {
    ids.iter().rev().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_in_the_order_they_promise() {
    let node = Plan::sandbox().start().await;
    let mailbox = Maildir::of(&node.data());
    let administrator = administrator(&node).await;
    let person = Person::sign_up(&node, &mailbox, "ada@example.com", "robot_builder").await;
    let (card, plan) = (person.add_card("pm_card_visa").await, person::plan(&person.api, "Builder").await);
    let plan = plan["id"].as_str().expect("an id");
    let (mut keys, mut subscriptions, mut people) = (Vec::new(), Vec::new(), vec![person.clone()]);
    for number in 0..5 {
        // The first two of everything are of about one moment.
        if number > 1 {
            person::advance_by(&node, 1).await;
        }
        let key = json!({ "name": format!("robot {number}"), "scopes": ["usage:write"] });
        keys.push(person.api.post("/v1/api-keys", &key).await.text_at("/id"));
        let subscription = person.subscribe(plan, &card).await;
        subscriptions.push(subscription["id"].as_str().expect("an id").to_owned());
        person.sign_in(&node).await;
        let email = format!("person{number}@example.com");
        people.push(Person::sign_up(&node, &mailbox, &email, "consumer").await);
    }
    let me = &person.api;
    // What is of one moment has some order, the same in every page.
    assert_eq!(ids(me, "/v1/api-keys").await[2..], keys[2..], "API keys, oldest first");
    assert_eq!(ids(me, "/v1/subscriptions").await[..3], reversed(&subscriptions[2..]), "subscriptions, newest first");
    sorted(me, "/v1/api-keys", "created_at", Order::OldestFirst, 5).await;
    sorted(me, "/v1/sessions", "created_at", Order::OldestFirst, 6).await;
    sorted(me, "/v1/invoices", "created_at", Order::NewestFirst, 5).await;
    sorted(&administrator.api, "/v1/users", "created_at", Order::OldestFirst, 7).await;
    let offsets = column(me, "/v1/inbox", "offset", Value::as_u64).await;
    assert!(offsets.len() > 2 && offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "inbox: {offsets:?}");

    let mut notes = Vec::new();
    for invoice in ids(me, "/v1/invoices").await.iter().take(3) {
        person::advance_by(&node, 1).await;
        let path = format!("/v1/invoices/{invoice}/refunds");
        let refund = node.operator_api().post(&path, &json!({ "amount": 100, "reason": "asked" })).await;
        refund.expect(201);
        notes.push(refund.text_at("/id"));
    }
    assert_eq!(ids(me, "/v1/credit-notes").await, reversed(&notes), "credit notes, newest first");

    let operator = node.operator_api();
    let alerts = async || operator.get("/v1/security/alerts").await.json["items"].as_array().map_or(0, Vec::len);
    for (somebody, before) in people[1..4].iter().zip(1..) {
        // They are listed as they are raised, which is after what they tell of.
        until("each changed role is an alert", async || alerts().await >= before).await;
        person::advance_by(&node, 1).await;
        let body = json!({ "roles": ["developer"] });
        let path = format!("/v1/users/{}", somebody.id);
        node.operator_api().send(Method::PATCH, &path, None, Some(&body)).await.expect(200);
    }
    until("the last one is", async || alerts().await >= 4).await;
    sorted(&operator, "/v1/security/alerts", "first_at", Order::NewestFirst, 4).await;
    let about = format!("/v1/audit/entries?about={}", person.id);
    sorted(&operator, &about, "at", Order::NewestFirst, 5).await;
    sorted(me, "/v1/me/audit-entries", "at", Order::NewestFirst, 5).await;

    for name in ["pump", "arm", "wheel"] {
        let route = json!({ "prefix": format!("/{name}/"), "upstreams": ["http://127.0.0.1:9"] });
        node.operator().send(Method::PUT, &format!("/admin/v1/routes/{name}"), None, Some(&route)).await.expect(200);
    }
    let name = |value: &Value| value.as_str().map(str::to_owned);
    assert_eq!(column(&node.operator(), "/admin/v1/routes", "name", name).await, ["arm", "pump", "wheel"]);
    let shards = node.operator().get("/admin/v1/shards").await;
    let shards: Vec<_> =
        shards.expect(200)["items"].as_array().expect("shards").iter().map(|one| one["id"].as_u64()).collect();
    assert!(shards.is_sorted() && shards.len() == 9, "{shards:?}");
}

#[derive(Debug, Clone, Copy)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// The list has at least so many items, and their times are in order.
async fn sorted(client: &Client, path: &str, member: &str, order: Order, at_least: usize) {
    let mut times = column(client, path, member, time).await;
    if let Order::NewestFirst = order {
        times.reverse();
    }
    assert!(times.len() >= at_least && times.is_sorted(), "{path}, {order:?}: {times:?}");
}
