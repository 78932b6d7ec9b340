//! A data directory that ran on a virtual clock does not go on with the system's, and a node that stops waits for no advance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::node::{Plan, free_port, loopback};
use crate::person::PASSWORD;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ran_on_a_virtual_clock_refuses_the_systems_and_says_what_to_do() {
    let mut node = Plan::sandbox().start().await;
    node.stop().await;
    node.set("clock", "system");
    node.spawn();
    assert!(!node.ready_or_ended().await, "it does not serve");
    let log = node.log();
    assert!(log.contains("runs on a virtual clock, which stands at") && log.contains("Remedy: set clock"), "{log}");
    node.kill().await;
    node.set("clock", "virtual");
    node.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_who_waits_for_the_clock() {
    let relay = free_port(loopback());
    let listener = TcpListener::bind(relay).await.expect("binds");
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            called.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    let plan = Plan::sandbox().set("mail.transport", "smtp").set("mail.smtp_url", &format!("smtp://{relay}"));
    let mut node = plan.set("mail.timeout_ms", "50000").start().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "role": "consumer", "display_name": "Ada" });
    node.api().post("/v1/signup", &body).await.expect(202);
    // From here to the deadline of the mail nothing is at rest.
    let until = Instant::now() + Duration::from_secs(30);
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    while calls.load(Ordering::SeqCst) == 0 {
        poll.tick().await;
        assert!(Instant::now() < until, "no mail is sent");
    }
    let operator = node.operator();
    let advance = tokio::spawn(async move {
        let body = json!({ "advance_to": "2099-01-01T00:00:00Z" });
        operator.try_send(reqwest::Method::POST, "/admin/v1/clock", None, Some(&body)).await
    });
    while !node.log().contains("the virtual clock advances") {
        poll.tick().await;
        assert!(Instant::now() < until, "nothing waits for the clock");
    }
    node.stop().await;
    let answer = advance.await.expect("a task").expect("it is answered and not cut off");
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("advance again at another node"), "{}", answer.text);
    silent.abort();
}
