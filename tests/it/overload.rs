//! More than the node can do: what it refuses, that health and payments are served meanwhile, that nothing it
//! acknowledged is lost, that memory stays flat, and that everything is served again afterwards.
//!
//! The generator is this process and the node another. The tests judge statuses, counts and bounds, never time; how much
//! of its peak a node still does is measured by the bench `edge`. `CONSTRUCT_OVERLOAD_SECONDS` makes each phase longer.

mod generator;
mod sockets;
mod stuck;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use self::generator::{Call, Load};
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::{self, PASSWORD, Person};

/// Where a client stops waiting: an answer after that is no use to it.
const PATIENCE: Duration = Duration::from_secs(2);
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);
const MAY_GROW_MIB: u64 = 128;

fn span() -> Duration {
    let text = std::env::var("CONSTRUCT_OVERLOAD_SECONDS").unwrap_or_else(|_| "1".to_owned());
    Duration::from_secs(text.parse().unwrap_or_else(|_| panic!("CONSTRUCT_OVERLOAD_SECONDS is not a number: {text}")))
}

/// What must be served whatever else goes on.
struct Vital {
    health: u64,
    payments: u64,
    slowest: Duration,
}

/// Health checks and payments (a subscription that is charged at once), one after the other, until told to stop; each
/// must succeed.
async fn vital(node: &Node, person: &Person, bought: Value, mut stopped: watch::Receiver<bool>) -> Vital {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let mut vital = Vital { health: 0, payments: 0, slowest: Duration::ZERO };
    let (api, admin) = (node.api(), node.operator());
    while !*stopped.borrow_and_update() {
        pace.tick().await;
        let started = Instant::now();
        api.get("/livez").await.expect(200);
        admin.get("/readyz").await.expect(200);
        vital.health += 2;
        let paid = person.api.post("/v1/subscriptions", &bought).await;
        assert!(matches!(paid.status, 201 | 202), "a payment was answered {}: {}", paid.status, paid.text);
        vital.payments += 1;
        vital.slowest = vital.slowest.max(started.elapsed());
    }
    vital
}

/// What the payer buys again and again.
async fn bought(person: &Person) -> Value {
    let plan = person::plan(&person.api, "Builder").await["id"].clone();
    json!({ "plan_id": plan, "payment_method_id": person.add_card("pm_card_visa").await })
}

/// Finds the peak, offers three times as much, and looks at the node before, meanwhile and after. Answers how many
/// requests were acknowledged in all.
async fn overload(node: &Node, person: &Person, what: &str, call: Call) -> u64 {
    let (load, bought) = (Load::open(node.gateway, call, 256).await, bought(person).await);
    let span = span();
    let mut peak = load.closed(16, span).await;
    let before = node.resident();
    let (stop, stopped) = watch::channel(false);
    let offered = (peak.good * 3 / span.as_secs().max(1)).max(30);
    let (mut over, vital) = tokio::join!(
        async {
            let over = load.at_rate(offered, span * 2, PATIENCE).await;
            stop.send(true).expect("vital calls go on");
            over
        },
        vital(node, person, bought, stopped)
    );
    let grown = node.resident().saturating_sub(before) >> 20;
    // Once the load is gone, the same calls are all taken again.
    let (started, mut after) = (Instant::now(), 0);
    loop {
        let again = load.closed(1, Duration::from_millis(200)).await;
        after += again.good;
        if again.refused == 0 && again.good > 0 {
            break;
        }
        assert!(started.elapsed() < RECOVERED_WITHIN, "{what}: the node does not come back after the load: {again:?}");
    }
    println!(
        "{what}: {peak:?} in {span:?}, {over:?} of {offered} a second in {:?}; health {} and payments {} served, slowest \
         round {:?}; +{grown} MiB; served again after {:?}",
        span * 2,
        vital.health,
        vital.payments,
        vital.slowest,
        started.elapsed(),
    );
    for (which, figures) in [("at the peak", &mut peak), ("beyond it", &mut over)] {
        assert_eq!(
            figures.wrong, 0,
            "{what}: {which} every answer is a success or a refusal that says when to come back"
        );
        figures.good += figures.tardy;
        assert!(figures.good > 0, "{what}: {which} something is served");
    }
    assert!(vital.health >= 2 && vital.payments >= 1, "{what}: health and payments were served");
    assert!(grown <= MAY_GROW_MIB, "{what}: memory grew by {grown} MiB");
    peak.good + over.good + after
}

async fn started(plan: Plan) -> (Node, Person) {
    let node = plan.start().await;
    let person = Person::sign_up(&node, &Maildir::of(&node.data()), "payer@example.org", "developer").await;
    (node, person)
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_at_three_times_the_capacity() {
    let (node, person) = started(Plan::sandbox()).await;
    // Not the payer: too many sessions of one person end the oldest.
    let other = Person::sign_up(&node, &Maildir::of(&node.data()), "other@example.org", "consumer").await;
    let body = json!({ "email": other.email, "password": PASSWORD }).to_string();
    let call: Call = Arc::new(move |_| generator::request("POST", "/v1/sessions", None, &body));
    overload(&node, &person, "sign-ins", call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_at_three_times_the_capacity() {
    let (node, person) = started(Plan::sandbox().set("gateway.max_in_flight", "100")).await;
    let mut tokens = Vec::new();
    for number in 0..8 {
        let email = format!("busy{number}@example.org");
        let busy = Person::sign_up(&node, &Maildir::of(&node.data()), &email, "consumer").await;
        tokens.push(busy.api.token().to_owned());
    }
    let call: Call = Arc::new(move |number| {
        let token = &tokens[number % tokens.len()];
        let body = json!({ "display_name": format!("Busy {number}") }).to_string();
        generator::request("PATCH", "/v1/me", Some(token), &body)
    });
    overload(&node, &person, "commands", call).await;
}

/// A call that sends this person something for the inbox.
fn notification(node: &Node, to: &Person) -> Call {
    let (token, to) = (node.operator_api().token().to_owned(), to.id.clone());
    Arc::new(move |number| {
        let content = json!({ "title": "News", "body": format!("Number {number}") });
        let body =
            json!({ "to": { "user_id": to }, "category": "product", "channels": ["in_app"], "content": content });
        generator::request("POST", "/v1/notifications", Some(&token), &body.to_string())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_at_three_times_the_capacity_all_arrive_that_were_acknowledged() {
    let (mut node, payer) = started(Plan::sandbox().set("gateway.max_in_flight", "100")).await;
    let reader = Person::sign_up(&node, &Maildir::of(&node.data()), "reader@example.org", "consumer").await;
    let offset = async || reader.api.get("/v1/inbox?limit=1").await.expect(200)["offset"].as_u64().expect("an offset");
    let before = offset().await;
    let call = notification(&node, &reader);
    let acknowledged = overload(&node, &payer, "notifications", call).await;
    node.crash().await;
    let deadline = Instant::now() + RECOVERED_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    loop {
        poll.tick().await;
        let arrived = offset().await - before;
        if arrived >= acknowledged {
            break;
        }
        assert!(Instant::now() < deadline, "{arrived} of {acknowledged} acknowledged notifications arrived");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_is_refused_and_payments_are_not_when_both_come_at_once() {
    // So few places that a burst of each class fills them.
    let (node, person) = started(Plan::sandbox().set("gateway.max_in_flight", "10")).await;
    let (bulk, bought) = (notification(&node, &person), bought(&person).await);
    let token = person.api.token().to_owned();
    let interactive: Call = Arc::new(move |number| {
        let body = json!({ "display_name": format!("Busy {number}") }).to_string();
        generator::request("PATCH", "/v1/me", Some(&token), &body)
    });
    let (bulk, interactive) =
        (Load::open(node.gateway, bulk, 32).await, Load::open(node.gateway, interactive, 32).await);
    let (stop, stopped) = watch::channel(false);
    let ((bulk, interactive), vital) = tokio::join!(
        async {
            let both = tokio::join!(bulk.closed(32, span() * 2), interactive.closed(32, span() * 2));
            stop.send(true).expect("vital calls go on");
            both
        },
        vital(&node, &person, bought, stopped)
    );
    println!("bulk {bulk:?}, interactive {interactive:?}, payments {}", vital.payments);
    assert!(bulk.refused > 0, "the burst fills the places");
    assert!(interactive.good > 0 && vital.payments >= 1, "what is more urgent is served");
    assert_eq!((bulk.wrong, interactive.wrong), (0, 0));
}
