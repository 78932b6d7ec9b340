mod access;

use std::sync::Arc;

use http::Method;
use ring::hmac;
use serde_json::{Value, json};

use super::{admin_endpoints, endpoints, invoices};
use crate::actors::billing::terms::seed_plans;
use crate::actors::compliance::keyring::{self, Keyring};
use crate::actors::runtime::steady::wall_now;
use crate::gateway::pipeline::Gateway;
use crate::gateway::routes::compliance;
use crate::gateway::services::Services;
use crate::gateway::testing::{Answered, OPERATOR, account, gateway_of, send, services};
use crate::kernel::id::type_id;
use crate::kernel::{Origin, Secret, Slot, Timestamp};
use crate::settings::{ClockMode, Layers, Settings};

/// A platform whose clock stands still at 2026-01-31T10:00:00Z, and one person on it.
struct Stage {
    services: Arc<Services>,
    gateway: Arc<Gateway>,
    bearer: String,
    requests: u32,
}

fn person(n: u8) -> String {
    type_id("usr", Timestamp::from_millis(1_700_000_000_000), Slot(u16::from(n)), [n; 8])
}

fn bearer(n: u8) -> String {
    format!("authorization: Bearer {}:consumer", person(n))
}

impl Stage {
    async fn new() -> Self {
        let mut settings = Settings::load(&Layers::default()).expect("the embedded configuration");
        settings.clock = ClockMode::Virtual;
        settings.payments.stripe.webhook_secret = Secret::new("whsec_test".to_owned());
        let services = services(settings).await;
        seed_plans(&services.router, &services.settings).await.expect("seeded");
        let all = [endpoints(), admin_endpoints()].into_iter().flatten().collect();
        let gateway = gateway_of(Arc::clone(&services), all);
        Self { services, gateway, bearer: bearer(1), requests: 0 }
    }

    async fn get(&self, path: &str) -> Answered {
        send(&self.gateway, Method::GET, path, &[&self.bearer], "").await
    }

    async fn post(&mut self, path: &str, body: Value) -> Answered {
        self.requests += 1;
        let key = format!("idempotency-key: request-{}", self.requests);
        self.post_with(path, &[&key], body).await
    }

    async fn post_with(&self, path: &str, headers: &[&str], body: Value) -> Answered {
        let mut all = vec![self.bearer.as_str(), "content-type: application/json"];
        all.extend(headers);
        send(&self.gateway, Method::POST, path, &all, &body.to_string()).await
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let answered = self.get(path).await;
        assert_eq!(answered.status, 200, "{path}: {}", answered.json());
        answered.json()["items"].as_array().expect("items").clone()
    }

    async fn plan(&self, key: &str) -> String {
        let plans = send(&self.gateway, Method::GET, "/v1/plans", &[], "").await.json()["items"].clone();
        let plan = plans.as_array().expect("items").iter().find(|plan| plan["key"] == key).expect("a plan");
        plan["id"].as_str().expect("an id").to_owned()
    }

    async fn card(&mut self, token: &str) -> String {
        let added = self.post("/v1/payment-methods", json!({"token": token, "default": true})).await;
        assert_eq!(added.status, 201, "{}", added.json());
        added.json()["id"].as_str().expect("an id").to_owned()
    }

    async fn subscribe(&mut self, key: &str) -> Answered {
        let plan_id = self.plan(key).await;
        self.post("/v1/subscriptions", json!({"plan_id": plan_id})).await
    }

    async fn advance(&self, to: &str) {
        let to = to.parse().expect("a time");
        self.services.runtime.advance(to, &Origin::system("test")).await.expect("advanced");
    }

    async fn subscription(&self, id: &str) -> Value {
        self.get(&format!("/v1/subscriptions/{id}")).await.json()
    }

    async fn books_hold(&self) -> Value {
        let operator = format!("authorization: Bearer {OPERATOR}");
        let answered = send(&self.gateway, Method::GET, "/admin/v1/ledger/verify", &[&operator], "").await;
        assert_eq!(answered.status, 200, "{}", answered.json());
        let report = answered.json();
        assert_eq!(report["faults"], json!([]), "{report}");
        report
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_subscription_is_previewed_started_renewed_and_dunned() {
    let mut stage = Stage::new().await;
    let visa = stage.card("pm_card_visa").await;
    let plan_id = stage.plan("plus").await;
    let preview = stage.post("/v1/subscriptions/preview", json!({"plan_id": plan_id})).await.json();
    let body = json!({"plan_id": plan_id, "payment_method_id": visa});
    let bare = stage.post_with("/v1/subscriptions", &[], body.clone()).await;
    assert!((400..500).contains(&bare.status), "money needs an idempotency key");
    let started = stage.post_with("/v1/subscriptions", &["idempotency-key: start"], body.clone()).await;
    assert_eq!((started.status, &started.json()["state"]), (201, &json!("active")), "{}", started.json());
    let again = stage.post_with("/v1/subscriptions", &["idempotency-key: start"], body).await;
    assert_eq!((again.status, again.json()["id"].clone()), (201, started.json()["id"].clone()));
    let id = text(&started.json()["id"]);

    let invoices = stage.items("/v1/invoices").await;
    assert_eq!(invoices.len(), 1);
    let first = &invoices[0];
    assert_eq!((&first["state"], &first["number"]), (&json!("paid"), &json!("INV-000001")));
    assert_eq!((&first["total"], &first["lines"]), (&preview["total"], &preview["lines"]));
    assert_eq!(stage.items("/v1/entitlements").await.len(), 2);

    stage.advance("2026-05-31T10:00:00Z").await;
    let invoices = stage.items("/v1/invoices").await;
    let starts: Vec<String> = invoices.iter().rev().map(|i| text(&i["period_start"])[..10].to_owned()).collect();
    assert_eq!(starts, ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]);
    assert!(invoices.iter().all(|invoice| invoice["state"] == "paid"));

    let bad = stage.card("pm_card_chargeDeclined").await;
    let delete = format!("/v1/payment-methods/{visa}");
    let deleted = send(&stage.gateway, Method::DELETE, &delete, &[&stage.bearer], "").await;
    assert_eq!(deleted.status, 204);
    stage.advance("2026-06-30T10:00:00Z").await;
    assert_eq!(stage.subscription(&id).await["state"], "past_due");
    let open = stage.items("/v1/invoices").await.remove(0);
    assert_eq!((&open["state"], open["attempts"][0]["decline_code"].clone()), (&json!("open"), json!("card_declined")));
    assert_eq!(text(&open["next_attempt_at"]), "2026-07-01T10:00:00.000Z");
    let pay = format!("/v1/invoices/{}/pay", text(&open["id"]));
    assert_eq!(stage.post(&pay, json!({"payment_method_id": bad})).await.status, 402);
    stage.advance("2026-07-08T10:00:00Z").await;
    assert_eq!(stage.subscription(&id).await["state"], "canceled");
    let report = stage.books_hold().await;
    assert_eq!(
        (&report["invoices"], &report["numbers"], &report["balances"]["cash USD"]),
        (&json!(6), &json!(6), &json!(4995))
    );
}

#[tokio::test]
async fn a_subscription_forgets_a_payment_method_that_is_deleted() {
    let mut stage = Stage::new().await;
    let first = stage.card("pm_card_visa").await;
    let plan_id = stage.plan("plus").await;
    let started = stage.post("/v1/subscriptions", json!({"plan_id": plan_id, "payment_method_id": first})).await;
    let id = text(&started.json()["id"]);
    let other = stage.subscribe("plus").await.json();
    assert_eq!((&started.json()["payment_method_id"], &other["payment_method_id"]), (&json!(first), &Value::Null));
    let second = stage.card("pm_card_mastercard").await;
    stage.advance("2026-02-01T10:00:00Z").await;
    assert_eq!(stage.subscription(&id).await["payment_method_id"], json!(first), "it is kept");
    let path = format!("/v1/payment-methods/{first}");
    assert_eq!(send(&stage.gateway, Method::DELETE, &path, &[&stage.bearer], "").await.status, 204);
    stage.advance("2026-02-01T10:00:01Z").await;
    assert_eq!(stage.subscription(&id).await["payment_method_id"], Value::Null);
    stage.advance("2026-02-28T10:00:00Z").await;
    let renewals = stage.items("/v1/invoices").await.into_iter().take(2);
    let charged: Vec<Value> = renewals.map(|invoice| invoice["attempts"][0]["payment_method_id"].clone()).collect();
    assert_eq!(charged, [json!(second), json!(second)]);
    let chosen = stage.post(&format!("/v1/subscriptions/{id}/change"), json!({"payment_method_id": second})).await;
    assert_eq!(chosen.json()["payment_method_id"], json!(second), "{}", chosen.json());
    stage.books_hold().await;
}

#[tokio::test]
async fn a_change_costs_what_its_preview_said() {
    let mut stage = Stage::new().await;
    stage.card("pm_card_visa").await;
    let id = text(&stage.subscribe("plus").await.json()["id"]);
    stage.advance("2026-02-14T10:00:00Z").await;
    let pro = stage.plan("pro").await;
    let change = json!({"plan_id": pro, "quantity": 2});
    let preview = stage.post(&format!("/v1/subscriptions/{id}/preview"), change.clone()).await.json();
    let changed = stage.post(&format!("/v1/subscriptions/{id}/change"), change).await;
    assert_eq!((changed.status, &changed.json()["plan_id"]), (200, &json!(pro)), "{}", changed.json());
    let invoice = stage.items("/v1/invoices").await.remove(0);
    assert_eq!((&invoice["total"], &invoice["lines"]), (&preview["total"], &preview["lines"]));
    assert_eq!(invoice["total"], json!(-500 + 1999));

    stage.card("pm_card_chargeDeclined").await;
    let more = json!({"quantity": 5});
    assert_eq!(stage.post(&format!("/v1/subscriptions/{id}/change"), more).await.status, 402);
    assert_eq!(stage.subscription(&id).await["quantity"], 2, "a declined change changes nothing");
    let fewer = json!({"quantity": 1});
    let changed = stage.post(&format!("/v1/subscriptions/{id}/change"), fewer).await.json();
    assert_eq!((&changed["quantity"], changed["credit"].as_i64()), (&json!(1), Some(999)));
    for card in stage.items("/v1/payment-methods").await {
        let path = format!("/v1/payment-methods/{}", text(&card["id"]));
        let deleted = send(&stage.gateway, Method::DELETE, &path, &[&stage.bearer], "").await;
        assert_eq!(deleted.status, 204);
    }
    let refused = stage.post(&format!("/v1/subscriptions/{id}/change"), json!({"quantity": 9})).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["detail"]), (402, &json!("no_payment_method")));
    assert_eq!(stage.subscription(&id).await["quantity"], 1);
    stage.books_hold().await;
}

#[tokio::test]
async fn a_declined_start_stays_incomplete_until_paid() {
    let mut stage = Stage::new().await;
    stage.card("pm_card_chargeDeclinedInsufficientFunds").await;
    let declined = stage.subscribe("plus").await;
    assert_eq!(declined.status, 402, "{}", declined.json());
    assert_eq!(declined.json()["type"], "urn:construct:problem:payment_declined");
    let subscription = stage.items("/v1/subscriptions").await.remove(0);
    assert_eq!(subscription["state"], "incomplete");
    let visa = stage.card("pm_card_visa").await;
    let pay = format!("/v1/invoices/{}/pay", text(&subscription["latest_invoice_id"]));
    let paid = stage.post(&pay, json!({"payment_method_id": visa})).await;
    assert_eq!((paid.status, &paid.json()["state"]), (200, &json!("paid")), "{}", paid.json());
    stage.advance("2026-01-31T10:00:01Z").await;
    assert_eq!(stage.subscription(&text(&subscription["id"])).await["state"], "active");
    stage.books_hold().await;
}

#[tokio::test]
async fn a_challenge_is_answered_through_the_webhook() {
    let mut stage = Stage::new().await;
    stage.card("pm_card_authenticationRequired").await;
    let started = stage.subscribe("plus").await;
    assert_eq!((started.status, &started.json()["state"]), (201, &json!("incomplete")), "{}", started.json());
    let invoice = stage.items("/v1/invoices").await.remove(0);
    assert_eq!(invoice["next_action"]["type"], "three_d_secure");
    let event = json!({"id": "evt_1", "type": "payment_intent.succeeded", "data": {"object": {
        "id": "pi_1", "amount": invoice["total"], "currency": "usd", "status": "succeeded",
        "metadata": {"reference": format!("{}/1", text(&invoice["id"]))}}}})
    .to_string();
    let at = wall_now().as_seconds();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec_test");
    let tag = hex::encode(hmac::sign(&key, format!("{at}.{event}").as_bytes()));
    let signed = format!("stripe-signature: t={at},v1={tag}");
    let forged = format!("stripe-signature: t={at},v1={}", "0".repeat(64));
    let hook = |signature: String| {
        let (gateway, event) = (Arc::clone(&stage.gateway), event.clone());
        async move { send(&gateway, Method::POST, "/v1/webhooks/stripe", &[&signature], &event).await.status }
    };
    assert_eq!(hook(forged).await, 400);
    assert_eq!(stage.items("/v1/invoices").await[0]["state"], "open");
    assert_eq!((hook(signed.clone()).await, hook(signed).await), (200, 200));
    stage.advance("2026-01-31T10:00:01Z").await;
    assert_eq!(stage.items("/v1/subscriptions").await[0]["state"], "active");
    stage.books_hold().await;
}

#[tokio::test]
async fn another_persons_objects_do_not_exist_and_refunds_need_a_permission() {
    let mut stage = Stage::new().await;
    let method = stage.card("pm_card_visa").await;
    let id = text(&stage.subscribe("plus").await.json()["id"]);
    let invoice = text(&stage.items("/v1/invoices").await[0]["id"]);
    let owner = std::mem::replace(&mut stage.bearer, bearer(2));
    for path in
        [format!("/v1/subscriptions/{id}"), format!("/v1/invoices/{invoice}"), format!("/v1/payment-methods/{method}")]
    {
        assert_eq!(stage.get(&path).await.status, 404, "{path}");
    }
    for act in ["preview", "change", "cancel", "pause", "resume"] {
        let path = format!("/v1/subscriptions/{id}/{act}");
        assert_eq!(stage.post(&path, json!({})).await.status, 404, "{path}");
    }
    assert_eq!(stage.post(&format!("/v1/invoices/{invoice}/pay"), json!({})).await.status, 404);
    assert_eq!(stage.items("/v1/subscriptions").await, Vec::<Value>::new());
    let refunds = format!("/v1/invoices/{invoice}/refunds");
    assert_eq!(stage.post(&refunds, json!({"amount": 100})).await.status, 403);
    stage.bearer = bearer(2).replace("consumer", "administrator,invoices.refund");
    let refunded = stage.post(&refunds, json!({"amount": 100, "reason": "asked"})).await;
    assert_eq!((refunded.status, &refunded.json()["status"]), (201, &json!("succeeded")), "{}", refunded.json());
    assert_eq!(stage.post(&refunds, json!({"amount": 900})).await.status, 422);
    stage.bearer = owner;
    stage.advance("2026-01-31T10:00:01Z").await;
    assert_eq!(stage.items("/v1/credit-notes").await[0]["number"], "INVCN-000001");
    let mine = gateway_of(Arc::clone(&stage.services), compliance::endpoints());
    account(&stage.services, &person(1)).await;
    let export = send(&mine, Method::GET, "/v1/me/export", &[&stage.bearer], "").await.json();
    let refund = &export["billing"]["refunds"][0];
    assert_eq!((&refund["number"], &refund["reason"]), (&json!("INVCN-000001"), &json!("asked")), "{export}");
    let router = &stage.services.router;
    let view = invoices::read(router, &invoice, &Origin::system("test")).await.expect("is there");
    let stored = &view.refunds[0].reason;
    assert!(stored.starts_with("sealed:") && !stored.contains("asked"), "{stored}");
    let keyring = keyring::keyring_id(&person(1));
    router.ask::<Keyring>(&keyring, keyring::Command::Erase, &Origin::system("test")).await.expect("erased");
    assert_eq!(stage.items("/v1/credit-notes").await[0]["reason"], "", "the key is gone");
    stage.books_hold().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_member_at_fault() {
    let mut stage = Stage::new().await;
    let plan_id = stage.plan("plus").await;
    for (body, pointer) in [
        (json!({"plan_id": plan_id, "quantity": 0}), "/quantity"),
        (json!({"plan_id": plan_id, "quantity": -1}), "/quantity"),
        (json!({"plan_id": plan_id, "quantity": 1.5}), "/quantity"),
        (json!({"plan_id": plan_id, "quantity": "2"}), "/quantity"),
        (json!({"plan_id": plan_id, "quantity": 9_223_372_036_854_775_807_i64}), "/quantity"),
        (json!({"plan_id": plan_id, "quantity": 9_223_372_036_854_775_808_u64}), "/quantity"),
        (json!({"plan_id": "pln_x"}), "/plan_id"),
        (json!({"plan_id": plan_id, "coupon": "FREE"}), "/coupon"),
        (json!({"plan_id": plan_id, "payment_method_id": "pm_x"}), "/payment_method_id"),
        (json!({"plan_id": plan_id, "interval": "week"}), "/interval"),
        (json!({"plan_id": plan_id, "more": 1}), "/more"),
    ] {
        let refused = stage.post("/v1/subscriptions", body.clone()).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}");
    }
    let number = stage.post("/v1/payment-methods", json!({"token": "4242424242424242"})).await;
    assert_eq!(number.status, 422, "{}", number.json());
    assert_eq!(stage.items("/v1/subscriptions").await.len(), 0);
    let unpaid = stage.subscribe("plus").await;
    assert_eq!((unpaid.status, &unpaid.json()["state"]), (201, &json!("incomplete")), "{}", unpaid.json());
    let trial = stage.subscribe("pro").await;
    assert_eq!((trial.status, &trial.json()["state"]), (201, &json!("trialing")), "{}", trial.json());
}

#[tokio::test]
async fn a_plan_is_tried_once() {
    let mut stage = Stage::new().await;
    stage.card("pm_card_visa").await;
    let plan_id = stage.plan("pro").await;
    let first = stage.subscribe("pro").await.json();
    assert_eq!(first["state"], "trialing");
    let preview = stage.post("/v1/subscriptions/preview", json!({ "plan_id": plan_id })).await.json();
    assert_eq!(preview["total"], 1999, "another one costs: {preview}");
    let ended = stage
        .post(&format!("/v1/subscriptions/{}/cancel", first["id"].as_str().expect("an id")), json!({ "at": "now" }))
        .await;
    assert_eq!(ended.status, 200, "{}", ended.json());
    let again = stage.post("/v1/subscriptions", json!({ "plan_id": plan_id, "trial": true })).await;
    assert_eq!((again.status, &again.json()["errors"][0]["pointer"]), (422, &json!("/trial")), "{}", again.json());
    let paid = stage.subscribe("pro").await;
    assert_eq!((paid.status, &paid.json()["state"]), (201, &json!("active")), "{}", paid.json());
}
