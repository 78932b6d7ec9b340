//! A backup that is restored while Stripe knows more: what it charged since is found, and nothing is charged twice.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::counting_proxy::CountingProxy;
use super::localstripe::Localstripe;
use super::maildev::Maildev;
use super::tour::{WEBHOOK_SECRET, plan};
use crate::backup::Shelf;
use crate::mail::Mailbox;
use crate::node::Node;
use crate::person::{self, Person};

const DAY: i64 = 86_400;

async fn plan_id(person: &Person, name: &str) -> String {
    id(&person::plan(&person.api, name).await)
}

/// Somebody with a card and a plan that is charged at once.
async fn subscriber(node: &Node, maildev: &Maildev, email: &str) -> Person {
    let person = Person::sign_up(node, maildev, email, "robot_builder").await;
    let card = person.add_card("pm_card_visa").await;
    person.subscribe(&plan_id(&person, "Plus").await, &card).await;
    maildev.wait_for(email, "receipt", 1).await;
    person
}

fn id(object: &Value) -> String {
    object["id"].as_str().expect("an id").to_owned()
}

/// The invoice that a payment intent is for.
fn invoice_of(intent: &Value) -> &str {
    let reference = intent["metadata"]["reference"].as_str().expect("a reference");
    reference.split_once('/').expect("invoice and attempt").0
}

/// The amounts that Stripe took, by the invoice they were for.
async fn taken(localstripe: &Localstripe) -> BTreeMap<String, Vec<i64>> {
    let mut taken = BTreeMap::<String, Vec<i64>>::new();
    for intent in localstripe.payment_intents().await {
        assert_eq!(intent["status"], "succeeded", "{intent}");
        taken.entry(invoice_of(&intent).to_owned()).or_default().push(intent["amount"].as_i64().expect("an amount"));
    }
    taken
}

/// Each invoice is paid, by one charge of its total.
async fn is_settled(person: &Person, localstripe: &Localstripe, invoices: usize) {
    let (found, taken) = (person.invoices().await, taken(localstripe).await);
    assert_eq!(found.len(), invoices, "{found:#?}");
    for invoice in found {
        let charges = &taken[&id(&invoice)];
        assert_eq!(invoice["state"], "paid", "{invoice:#} {charges:?}");
        assert_eq!(json!(charges), json!([invoice["total"]]), "{invoice:#}");
    }
}

async fn report(node: &Node, kind: &str, object: &Value) {
    let event = json!({ "id": format!("evt_{}", id(object)), "type": kind, "data": { "object": object } });
    let signed = node.api().signed_as_stripe(WEBHOOK_SECRET, &event);
    signed.post("/v1/webhooks/stripe", &event).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stripe_charged_since_the_backup_is_found_and_not_charged_again() {
    let maildev = Maildev::start().await;
    let localstripe = Localstripe::start().await;
    let proxy = CountingProxy::start(localstripe.base.clone()).await;
    let shelf = Shelf::new();
    let mut old = plan(&maildev, &proxy).start().await;
    let ada = subscriber(&old, &maildev, "ada@example.com").await;
    // Stripe hears nothing of who tries a plan without a card.
    let grace = Person::sign_up(&old, &maildev, "grace@example.com", "robot_builder").await;
    let trial = json!({ "plan_id": plan_id(&grace, "Pro").await });
    assert_eq!(grace.api.post("/v1/subscriptions", &trial).await.expect(201)["state"], "trialing");
    shelf.take(&old, &[]).await;

    // It goes on: a renewal, a trial that ends and is paid with a card named since, and somebody who comes.
    grace.add_card("pm_card_visa").await;
    let carol = subscriber(&old, &maildev, "carol@example.com").await;
    person::advance_by(&old, 32 * DAY).await;
    maildev.wait_for(&grace.email, "receipt", 1).await;
    for person in [&ada, &carol] {
        maildev.wait_for(&person.email, "receipt", 2).await;
    }
    let before = taken(&localstripe).await;
    assert_eq!(before.len(), 5, "{before:?}");
    let carols: Vec<String> = carol.refreshed(&old).await.invoices().await.iter().map(id).collect();
    let (_, lost_at) = person::now(&old).await;
    old.kill().await;
    // Stripe keeps keys for a day.
    proxy.forget_keys();

    let mut node = plan(&maildev, &proxy).prepare();
    let out = shelf.restore(&node, &["--until", &lost_at]).await;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    node.start().await;
    // Reports of what is not known here: somebody's bills, and a customer.
    let intents = localstripe.payment_intents().await;
    for intent in intents.iter().filter(|intent| carols.contains(&invoice_of(intent).to_owned())) {
        report(&node, "payment_intent.succeeded", intent).await;
    }
    report(&node, "customer.updated", &json!({ "id": "cus_unknown" })).await;
    person::advance_by(&node, 1).await;
    let ada = ada.sign_in(&node).await;
    is_settled(&ada, &localstripe, 2).await;
    assert_eq!(taken(&localstripe).await, before, "the renewal was charged already");

    // Whoever named a card since names it again, and is another customer to Stripe. The trial was paid for by the first.
    let grace = grace.sign_in(&node).await;
    let card = grace.add_card("pm_card_visa").await;
    let open = grace.invoices().await;
    assert_eq!((open.len(), &open[0]["state"]), (1, &json!("open")), "{open:#?}");
    let pay = format!("/v1/invoices/{}/pay", id(&open[0]));
    grace.api.post(&pay, &json!({ "payment_method_id": card })).await.expect(200);
    assert_eq!(taken(&localstripe).await, before, "the end of the trial was charged already");
    is_settled(&grace, &localstripe, 1).await;

    // Reports come late and more than once, and change nothing.
    for intent in intents.iter().chain(&intents) {
        report(&node, "payment_intent.succeeded", intent).await;
    }
    is_settled(&ada, &localstripe, 2).await;
    is_settled(&grace, &localstripe, 1).await;

    // From there on as ever: the next month is charged, once.
    person::advance_by(&node, 31 * DAY).await;
    is_settled(&ada.refreshed(&node).await, &localstripe, 3).await;
    is_settled(&grace.refreshed(&node).await, &localstripe, 2).await;
    assert_eq!(taken(&localstripe).await.len(), before.len() + 2);
    assert_eq!((proxy.unkeyed(), proxy.clashes()), (0, 0));
}
