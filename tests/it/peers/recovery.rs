//! What the unmodified Centrifuge client recovers after a crash of the node, and what a lost answer of the processor does.

use serde_json::json;

use super::centrifuge::Centrifuge;
use super::counting_proxy::CountingProxy;
use super::localstripe::Localstripe;
use super::maildev::Maildev;
use super::tour::plan;
use crate::mail::Mailbox;
use crate::node::Node;
use crate::person::{self, Person};
use crate::socket::Listener;

async fn notify(node: &Node, person: &Person, title: &str) {
    let body = json!({
        "to": { "user_id": person.id }, "category": "product",
        "content": { "title": title, "body": "…" }, "channels": ["in_app"],
    });
    node.operator_api().post("/v1/notifications", &body).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_in_order_what_it_missed_while_the_node_was_dead() {
    let maildev = Maildev::start().await;
    let proxy = CountingProxy::start(Localstripe::start().await.base).await;
    let mut node = plan(&maildev, &proxy).start().await;
    let person = Person::sign_up(&node, &maildev, "grace@example.com", "consumer").await;
    let mut client = Centrifuge::open(node.gateway, person.api.token()).await;
    notify(&node, &person, "first").await;
    client.hear("first").await;
    client.command(json!({ "do": "disconnect" })).await;
    client.event("disconnected").await;
    for title in ["second", "third"] {
        notify(&node, &person, title).await;
    }
    node.crash().await;
    client.command(json!({ "do": "connect" })).await;
    client.hear("second").await;
    client.hear("third").await;
    let offsets: Vec<_> =
        client.heard().await.iter().filter_map(|publication| publication["offset"].as_u64()).collect();
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "each once and in order: {offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_the_processor_charges_once() {
    let maildev = Maildev::start().await;
    let localstripe = Localstripe::start().await;
    let proxy = CountingProxy::start(localstripe.base.clone()).await;
    let node = plan(&maildev, &proxy).start().await;
    let person = Person::sign_up(&node, &maildev, "edsger@example.com", "robot_builder").await;
    let card = person.add_card("pm_card_visa").await;
    let builder = person::plan(&person.api, "Builder").await;
    proxy.lose_answers(1);
    person.subscribe(builder["id"].as_str().expect("an id"), &card).await;
    // Retries wait in the node's own time.
    person::advance_by(&node, 3600).await;
    maildev.wait_for(&person.email, "receipt", 1).await;
    assert_eq!(proxy.forwarded("POST /v1/payment_intents"), 1, "the second attempt was answered from the key");
    let invoices = person.refreshed(&node).await.invoices().await;
    assert_eq!((invoices.len(), &invoices[0]["state"]), (1, &json!("paid")));
}
