//! A provider or an upstream that takes requests and never answers, and one that answers after the deadline: only their
//! own work suffers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::started;
use crate::mail::{Mailbox, Maildir};
use crate::node::{Plan, free_port, loopback};
use crate::person::{PASSWORD, Person};

/// Takes every connection and reads what comes; answers after `delay`, or never.
async fn processor(delay: Option<Duration>) -> (SocketAddr, Arc<AtomicUsize>) {
    let address = free_port(loopback());
    let listener = TcpListener::bind(address).await.expect("binds");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    count.fetch_add(1, Ordering::SeqCst);
                    let Some(delay) = delay else { continue };
                    let mut late = tokio::time::interval_at(Instant::now() + delay, delay);
                    late.tick().await;
                    let body = r#"{"id":"cus_1"}"#;
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, asked)
}

/// Waits until it was asked so often.
async fn until(asked: &AtomicUsize, times: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    while asked.load(Ordering::SeqCst) < times {
        poll.tick().await;
        assert!(Instant::now() < deadline, "asked {} times, not {times}", asked.load(Ordering::SeqCst));
    }
}

async fn only_its_own_work_suffers(delay: Option<Duration>) {
    let (address, asked) = processor(delay).await;
    let plan = Plan::sandbox()
        .set("payments.processor", "stripe")
        .set("payments.timeout_ms", "1000")
        .set("payments.stripe.api_base", &format!("http://{address}"))
        .set("payments.stripe.secret_key", "sk_test_stuck")
        .set("payments.stripe.webhook_secret", "whsec_stuck")
        .set("gateway.max_in_flight", "40")
        .set("gateway.request_timeout_ms", "3000");
    let (node, person) = started(plan).await;
    // Far more payments than may hold places at once, all of them waiting for the processor.
    let mut payments = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let api = person.api.clone();
        payments.spawn(async move { api.post("/v1/payment-methods", &json!({ "token": "pm_card_visa" })).await });
    }
    until(&asked, 1).await;
    // Meanwhile others sign up, get mail, change and read.
    let mailbox = Maildir::of(&node.data());
    for number in 0..5 {
        let email = format!("other{number}@example.org");
        let other = Person::sign_up(&node, &mailbox, &email, "consumer").await;
        other.api.get("/v1/me").await.expect(200);
        other.api.get("/v1/inbox").await.expect(200);
        other.api.get("/v1/plans").await.expect(200);
        node.api().post("/v1/password/forgot", &json!({ "email": email })).await.expect(202);
        mailbox.wait_for(&email, "password", 1).await;
    }
    node.api().get("/readyz").await.expect(200);
    let mut statuses = std::collections::BTreeMap::new();
    while let Some(answer) = payments.join_next().await {
        let answer = answer.expect("an answer");
        *statuses.entry(answer.status).or_insert(0) += 1;
        assert!(matches!(answer.status, 201 | 202 | 503 | 504), "{}: {}", answer.status, answer.text);
    }
    println!("payments at a processor that answers after {delay:?}: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_never_answers_holds_up_payments_alone() {
    only_its_own_work_suffers(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_answers_after_the_deadline_holds_up_payments_alone() {
    only_its_own_work_suffers(Some(Duration::from_secs(2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_answers_holds_up_what_is_meant_for_it_alone() {
    let (address, asked) = processor(None).await;
    let (node, person) = started(Plan::sandbox().set("gateway.max_in_flight", "20")).await;
    let route =
        json!({ "prefix": "/stuck/", "upstreams": [format!("http://{address}")], "timeout_ms": 20_000, "retries": 0 });
    node.operator().send(reqwest::Method::PUT, "/admin/v1/routes/stuck", None, Some(&route)).await.expect(200);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let api = person.api.clone();
        waiting.spawn(async move {
            // The route takes a moment to come into effect.
            loop {
                let answer = api.get("/stuck/thing").await;
                if answer.status != 404 {
                    return answer;
                }
            }
        });
    }
    // Half of the places is what an upstream may hold; the others hear so at once.
    let mut refused = 0;
    while refused < 30 {
        let answer = waiting.join_next().await.expect("more are refused").expect("an answer");
        assert_eq!((answer.status, answer.header("retry-after").is_empty()), (503, false), "{}", answer.text);
        refused += 1;
    }
    until(&asked, 10).await;
    for number in 0..20 {
        person.api.get("/v1/me").await.expect(200);
        let body = json!({ "display_name": format!("Served {number}") });
        person.api.send(reqwest::Method::PATCH, "/v1/me", None, Some(&body)).await.expect(200);
        person.add_card("pm_card_visa").await;
        node.api().get("/livez").await.expect(200);
    }
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.expect("an answer").status, 504);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 10, "only those that have a place reach the upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn news_for_a_relay_that_never_answers_are_refused_in_the_end_and_nothing_else_is() {
    let (relay, asked) = processor(None).await;
    let directory = tempfile::tempdir().expect("a directory");
    let plan = || Plan::sandbox().data(directory.path().join("data")).set("cluster.shards", "1");
    let (mut node, person) = started(plan()).await;
    node.kill().await;
    let stuck = plan().set("mail.transport", "smtp").set("mail.smtp_url", &format!("smtp://{relay}"));
    let node = stuck.set("actors.outbox_max", "10").start().await;
    let send = |category: &str| {
        let content = json!({ "title": "News", "body": "Read this." });
        let to = json!({ "user_id": person.id });
        let body = json!({ "to": to, "category": category, "channels": ["in_app", "email"], "content": content });
        let api = node.operator_api();
        async move { api.post("/v1/notifications", &body).await }
    };
    let mut accepted = 0;
    let refused = loop {
        let answer = send("product").await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 200, "the relay has answered none of them");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, "10"), "{}", refused.text);
    assert!(refused.text.contains("outbox"), "{}", refused.text);
    send("security").await.expect(202);
    send("transactional").await.expect(202);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "a relay that says nothing is told nothing");
    // What was accepted arrives where nothing is stuck.
    let session = node.api().post("/v1/sessions", &json!({ "email": person.email, "password": PASSWORD })).await;
    let api = node.api().with_token(&session.text_at("/access_token"));
    let (deadline, mut poll) =
        (Instant::now() + Duration::from_secs(60), tokio::time::interval(Duration::from_millis(100)));
    loop {
        poll.tick().await;
        let inbox = api.get("/v1/inbox?limit=100").await.expect(200)["items"].as_array().map_or(0, Vec::len);
        if inbox == accepted + 2 {
            return;
        }
        assert!(Instant::now() < deadline, "{inbox} of {} are in the inbox", accepted + 2);
    }
}
