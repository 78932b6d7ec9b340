//! One request's trace, from the gateway to what the outbox did about it, as a collector gets it (OTLP over HTTP).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::mail::{ARRIVES_WITHIN, Mailbox, Maildir};
use crate::node::{Plan, loopback};
use crate::person::PASSWORD;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What came so far.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Value>>>);

impl Collector {
    async fn start() -> (Self, String) {
        let (collector, listener) = (Self::default(), TcpListener::bind((loopback(), 0)).await.expect("a port"));
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let kept = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(kept.clone().take(stream));
            }
        });
        (collector, url)
    }

    async fn take(self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut length, mut head, mut line) = (0, String::new(), String::new());
            while stream.read_line(&mut line).await.ok()? > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().ok()?;
                }
                head.push_str(&line);
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            assert!(head.starts_with("POST /v1/traces ") && head.to_lowercase().contains("application/json"), "{head}");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(
                body.pointer("/resourceSpans/0/resource/attributes/0/value/stringValue"),
                Some(&json!("construct"))
            );
            let spans = body.pointer("/resourceSpans/0/scopeSpans/0/spans").and_then(Value::as_array).expect("spans");
            self.0.lock().expect("not poisoned").extend(spans.iter().cloned());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
        }
    }

    fn of_trace(&self) -> Vec<Value> {
        let spans = self.0.lock().expect("not poisoned");
        spans.iter().filter(|span| span["traceId"] == TRACE).cloned().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_gateway_over_entity_and_commit_to_the_outbox() {
    let (collector, url) = Collector::start().await;
    let node = Plan::sandbox().set("telemetry.otlp_endpoint", &url).start().await;
    let traced = node.api().with_header("traceparent", &format!("00-{TRACE}-{PARENT}-01"));
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "role": "consumer" });
    traced.post("/v1/signup", &body).await.expect(202);
    Maildir::of(&node.data()).wait_for("ada@example.com", "", 1).await;

    let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
    let has = |spans: &[Value], name: &str, text: &str| {
        spans.iter().any(|span| span["name"] == name && span.to_string().contains(text))
    };
    let spans = loop {
        poll.tick().await;
        let spans = collector.of_trace();
        let wanted = [
            ("request", "signUp"),
            ("deliver", "user/"),
            ("commit", "user/"),
            ("outbox", "delivery/"),
            ("outbox", "email"),
        ];
        // A span leaves when it ends, so those within it come first.
        let known = |parent: &Value| *parent == PARENT || spans.iter().any(|span| span["spanId"] == *parent);
        let whole = spans.iter().all(|span| known(&span["parentSpanId"]));
        if whole && wanted.iter().all(|(name, text)| has(&spans, name, text)) {
            break spans;
        }
        assert!(tokio::time::Instant::now() < deadline, "the trace is not whole: {spans:#?}");
    };
    let by_id: BTreeMap<&str, &Value> =
        spans.iter().map(|span| (span["spanId"].as_str().expect("an id"), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "every span has an id of its own");
    let request = spans.iter().find(|span| span["name"] == "request").expect("the gateway's span");
    assert_eq!(
        (&request["parentSpanId"], &request["kind"]),
        (&json!(PARENT), &json!(2)),
        "it continues the caller's trace"
    );
    for span in &spans {
        let mut above = *by_id.get(span["spanId"].as_str().expect("an id")).expect("itself");
        while above["spanId"] != request["spanId"] {
            let parent = above["parentSpanId"].as_str().expect("a parent");
            above = by_id.get(parent).unwrap_or_else(|| panic!("{above} has a parent that is not in the trace"));
        }
        let at = |name: &str| span[name].as_str().and_then(|text| text.parse::<u64>().ok()).expect("nanoseconds");
        assert!(at("endTimeUnixNano") >= at("startTimeUnixNano"), "{span}");
    }
    let all = json!(spans).to_string();
    assert!(!all.contains("ada@example.com") && !all.contains(PASSWORD), "no personal data in spans: {all}");
}
