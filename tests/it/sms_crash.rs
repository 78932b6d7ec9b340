//! A crash around a call that its provider would carry out twice: the text is sent at most once, and what nobody knows
//! is called unknown.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use crate::http::fresh_key;
use crate::mail::Maildir;
use crate::node::{Node, Plan, loopback};
use crate::person::{self, Person};

/// Where the node ends, and whether the text was sent by then.
pub const POINTS: [(&str, u64); 3] = [("call.marked", 0), ("call.before_send", 0), ("call.answered", 1)];

/// As much of Twilio's Messages API as the node calls; keeps every body it was sent.
struct Texts {
    base: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Texts {
    async fn start() -> Self {
        let listener = TcpListener::bind((loopback(), 0)).await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let service = service_fn(move |request| take(request, Arc::clone(&kept)));
                    let server = hyper::server::conn::http1::Builder::new();
                    // A node that ends in between is what the test is about.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { base, bodies }
    }

    fn containing(&self, words: &str) -> usize {
        self.bodies.lock().expect("the bodies").iter().filter(|body| body.contains(words)).count()
    }

    fn last(&self) -> Option<String> {
        self.bodies.lock().expect("the bodies").last().cloned()
    }
}

async fn take(request: Request<Incoming>, kept: Arc<Mutex<Vec<String>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let text = form.into_iter().find(|(name, _)| name == "Body").map(|(_, text)| text).unwrap_or_default();
    kept.lock().expect("the bodies").push(text);
    let mut response = Response::new(Full::from(json!({ "sid": "SM1", "status": "queued" }).to_string()));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// Waits until `look` has an answer.
async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(20));
    for _ in 0..1500 {
        poll.tick().await;
        if let Some(found) = look().await {
            return found;
        }
    }
    panic!("{what} did not happen");
}

/// A person whose phone is verified.
async fn reachable(node: &Node, texts: &Texts) -> Person {
    let person = Person::sign_up(node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
    let device = person.api.post("/v1/devices", &json!({ "kind": "sms", "number": "+14155550100" })).await;
    device.expect(201);
    let text = eventually("a text with a code", async || texts.last()).await;
    let code: String = text.chars().filter(char::is_ascii_digit).take(6).collect();
    let path = format!("/v1/devices/{}/verify", device.text_at("/id"));
    person.api.post(&path, &json!({ "code": code })).await.expect(200);
    person
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_not_sent_again_when_the_node_ends_around_sending_it() {
    let texts = Texts::start().await;
    let plan = Plan::sandbox()
        .set("sms.transport", "twilio")
        .set("sms.from", "+14155550199")
        .set("sms.twilio.api_base", &texts.base)
        .set("sms.twilio.account_sid", "AC1")
        .set("sms.twilio.auth_token", "secret");
    let mut node = plan.start().await;
    let person = reachable(&node, &texts).await;
    for (point, sent) in POINTS {
        node.kill().await;
        node.arm(point, 0);
        node.start().await;
        let words = format!("about {point}");
        let body = json!({
            "to": { "user_id": person.id }, "category": "transactional", "channels": ["sms"],
            "content": { "title": "text", "body": words },
        });
        // The answer may be lost in the crash.
        let key = fresh_key();
        node.operator_api().try_send(Method::POST, "/v1/notifications", Some(&key), Some(&body)).await;
        node.aborted().await;
        node.disarm();
        node.start().await;
        let note = node.operator_api().post_once("/v1/notifications", &key, &body).await;
        note.expect(202);
        let path = format!("/v1/notifications/{}", note.text_at("/id"));
        let settled = eventually("an outcome of the text", async || {
            let shown = node.operator_api().get(&path).await;
            let text = shown.expect(200).to_string();
            text.contains("unknown").then_some(text)
        });
        let settled = settled.await;
        person::advance_by(&node, 3600).await;
        assert_eq!(texts.containing(&words), usize::try_from(sent).expect("small"), "{point}: {settled}");
    }
}
