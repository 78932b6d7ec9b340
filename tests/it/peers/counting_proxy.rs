//! Stands before localstripe and does what that lacks of Stripe: answers again by `Idempotency-Key`, refuses another
//! request under the same key, lists the payment intents of one customer, and searches them by metadata. Counts what
//! reaches the other side, and can lose answers on purpose. Source: <https://docs.stripe.com/api/idempotent_requests>,
//! <https://docs.stripe.com/search>.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::node::loopback;

/// An answer kept for its key.
#[derive(Clone)]
struct Kept {
    /// What was asked.
    asked: Bytes,
    status: StatusCode,
    body: Bytes,
}

#[derive(Default)]
struct Ledger {
    kept: HashMap<String, Kept>,
    /// Per path: requests that reached the other side.
    forwarded: HashMap<String, u32>,
    /// POSTs without a key.
    unkeyed: u32,
    repeats: u32,
    /// Other requests under a known key.
    clashes: u32,
    /// Answers still to be lost after the other side did the work.
    to_lose: u32,
}

pub struct CountingProxy {
    pub address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
}

impl CountingProxy {
    pub async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind((loopback(), 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let state = Arc::clone(&ledger);
        let http = crate::http::plain();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, http, upstream) = (Arc::clone(&state), http.clone(), upstream.clone());
                tokio::spawn(async move {
                    let service =
                        service_fn(move |request| answer(request, Arc::clone(&state), http.clone(), upstream.clone()));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is the client's business.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, ledger }
    }

    /// Requests of a path (`POST /v1/payment_intents`) that reached the other side.
    pub fn forwarded(&self, what: &str) -> u32 {
        self.ledger.lock().expect("the ledger").forwarded.get(what).copied().unwrap_or(0)
    }

    /// POSTs that came without a key.
    pub fn unkeyed(&self) -> u32 {
        self.ledger.lock().expect("the ledger").unkeyed
    }

    pub fn repeats(&self) -> u32 {
        self.ledger.lock().expect("the ledger").repeats
    }

    /// Requests under the key of another one.
    pub fn clashes(&self) -> u32 {
        self.ledger.lock().expect("the ledger").clashes
    }

    /// Forgets all keys, as Stripe may once they are 24 hours old.
    pub fn forget_keys(&self) {
        self.ledger.lock().expect("the ledger").kept.clear();
    }

    /// Loses the answers of the next payment intents, after the work is done.
    pub fn lose_answers(&self, count: u32) {
        self.ledger.lock().expect("the ledger").to_lose = count;
    }
}

async fn answer(
    request: Request<Incoming>,
    ledger: Arc<Mutex<Ledger>>,
    http: reqwest::Client,
    upstream: String,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Ok(respond(StatusCode::BAD_REQUEST, Bytes::new()));
    };
    let path = head.uri.path().to_owned();
    let what = format!("{} {path}", head.method);
    let key = head.headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    if head.method == http::Method::POST {
        let mut ledger = ledger.lock().expect("the ledger");
        match &key {
            None => ledger.unkeyed += 1,
            Some(key) => {
                if let Some(kept) = ledger.kept.get(key).cloned() {
                    if kept.asked != body {
                        ledger.clashes += 1;
                        let error = Bytes::from_static(br#"{"error":{"type":"idempotency_error"}}"#);
                        return Ok(respond(StatusCode::BAD_REQUEST, error));
                    }
                    ledger.repeats += 1;
                    return Ok(respond(kept.status, kept.body));
                }
            }
        }
        *ledger.forwarded.entry(what.clone()).or_default() += 1;
    }
    let (target, wanted) = target(&head.uri);
    let mut outgoing = http.request(head.method.clone(), format!("{upstream}{target}")).body(body.clone());
    for name in ["authorization", "content-type"] {
        if let Some(value) = head.headers.get(name) {
            outgoing = outgoing.header(name, value);
        }
    }
    let Ok(response) = outgoing.send().await else {
        return Ok(respond(StatusCode::BAD_GATEWAY, Bytes::new()));
    };
    let status = response.status();
    let answered = response.bytes().await.unwrap_or_default();
    let answered = wanted.map_or_else(|| answered.clone(), |wanted| wanted.of(&answered));
    let mut ledger = ledger.lock().expect("the ledger");
    if let Some(key) = key {
        ledger.kept.insert(key, Kept { asked: body, status, body: answered.clone() });
    }
    if what == "POST /v1/payment_intents" && ledger.to_lose > 0 {
        ledger.to_lose -= 1;
        // What a client sees when the load balancer gives up: the work is done and nobody says so.
        return Ok(respond(StatusCode::GATEWAY_TIMEOUT, Bytes::new()));
    }
    Ok(respond(status, answered))
}

/// Which payment intents of a list are asked for: those where what stands at the pointer is this.
struct Wanted {
    pointer: &'static str,
    value: String,
}

impl Wanted {
    fn of(&self, list: &[u8]) -> Bytes {
        let Ok(mut list) = serde_json::from_slice::<serde_json::Value>(list) else { return Bytes::new() };
        if let Some(intents) = list["data"].as_array_mut() {
            intents.retain(|intent| intent.pointer(self.pointer).is_some_and(|value| *value == self.value));
        }
        Bytes::from(list.to_string())
    }
}

/// Path and query as localstripe understands them, and what it would have to leave out: it lists all payment intents.
fn target(uri: &hyper::Uri) -> (String, Option<Wanted>) {
    let parts = || uri.query().unwrap_or_default().split('&');
    match uri.path() {
        "/v1/payment_intents" => {
            let customer = parts().find_map(|part| part.strip_prefix("customer="));
            let wanted = customer.map(|customer| Wanted { pointer: "/customer", value: customer.to_owned() });
            let kept: Vec<&str> = parts().filter(|part| !part.starts_with("customer=")).collect();
            (format!("{}?{}", uri.path(), kept.join("&")), wanted)
        }
        "/v1/payment_intents/search" => {
            let query = parts().find_map(|part| part.strip_prefix("query=")).unwrap_or_default();
            let query = percent_encoding::percent_decode_str(query).decode_utf8_lossy().into_owned();
            let invoice = query.strip_prefix("metadata[\"invoice\"]:\"").and_then(|rest| rest.strip_suffix('"'));
            let value = invoice.unwrap_or_else(|| panic!("another search than the one known here: {query}")).to_owned();
            let wanted = Wanted { pointer: "/metadata/invoice", value };
            ("/v1/payment_intents?limit=100".to_owned(), Some(wanted))
        }
        _ => (uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(), None),
    }
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
