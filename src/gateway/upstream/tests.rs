//! Routes before real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::StreamExt;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::gateway::reply::Reply;
use crate::gateway::request::{BodyBudget, Head, Request, read_body};
use crate::gateway::server::{App, Bounds, Server};
use crate::gateway::testing::{gateway, send};
use crate::settings::{Route, Settings};

/// Tells what reached it; fails as often as it was told to.
#[derive(Default)]
struct Service {
    failing: AtomicU32,
    asked: AtomicU32,
}

#[async_trait]
impl App for Service {
    async fn serve(&self, request: Request) -> Reply {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let failing = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Reply::empty(503);
        }
        let head = &request.head;
        let budget = BodyBudget::new(10_000);
        let body = read_body(head, request.body, 10_000, Duration::from_secs(1), &budget).await;
        let seen = json!({
            "method": head.method.as_str(),
            "path": head.path,
            "query": head.query,
            "user": head.header("x-construct-user"),
            "roles": head.header("x-construct-roles"),
            "authorization": head.header("authorization"),
            "secret": head.header("x-secret"),
            "forwarded": head.header("x-forwarded-for"),
            "host": head.header("x-forwarded-host"),
            "body": body.map_or(0, |body| body.bytes.len()),
        });
        Reply::ok(&seen).header("x-upstream", "yes").header("content-security-policy", "default-src 'self'")
    }
}

async fn listen(app: Arc<dyn App>) -> SocketAddr {
    let any = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(any, Bounds::of(&Settings::embedded().gateway), None, app).await.expect("a listener");
    let address = server.address();
    tokio::spawn(server.run(CancellationToken::new()));
    address
}

fn route(prefix: &str, upstreams: &[SocketAddr]) -> Route {
    Route {
        name: prefix.trim_matches('/').to_owned(),
        prefix: prefix.to_owned(),
        host: String::new(),
        upstreams: upstreams.iter().map(|address| format!("http://{address}")).collect(),
        access: "user".to_owned(),
        strip_prefix: true,
        timeout_ms: 2000,
        retries: 1,
        health_path: String::new(),
        websocket: true,
    }
}

fn settings(routes: Vec<Route>) -> Settings {
    let mut settings = Settings::embedded();
    settings.gateway.max_body_bytes = 5000;
    settings.gateway.routes = routes;
    settings
}

const USER: &str = "authorization: Bearer usr_1:consumer";

#[tokio::test]
async fn an_upstream_sees_who_calls_and_nothing_the_client_made_up() {
    let address = listen(Arc::new(Service::default())).await;
    let open = Route { access: "public".to_owned(), strip_prefix: false, ..route("/open", &[address]) };
    let gateway = gateway(settings(vec![route("/catalogue/", &[address]), open]), Vec::new()).await;
    let forged = ["x-construct-user: usr_evil", "x_construct_roles: operator", "x-forwarded-for: 1.2.3.4"];
    let headers = [&forged[..], &[USER, "connection: x-secret", "x-secret: 1", "host: shop.example.com"]].concat();
    let answer = send(&gateway, Method::GET, "/catalogue/items/7?a=1", &headers, "").await;
    assert_eq!(answer.status, 200, "{:?}", answer.bytes);
    let expected = json!({
        "method": "GET", "path": "/items/7", "query": "a=1", "user": "usr_1", "roles": "consumer",
        "authorization": null, "secret": null, "forwarded": "127.0.0.1", "host": "shop.example.com", "body": 0,
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("x-upstream"), "yes");
    assert_eq!(answer.header("content-security-policy"), "default-src 'self'");
    assert!(!answer.header("x-request-id").is_empty() && !answer.header("ratelimit").is_empty());
    assert_eq!(send(&gateway, Method::GET, "/catalogue", &[], "").await.status, 401);
    assert_eq!(send(&gateway, Method::GET, "/catalogues", &[USER], "").await.status, 404);
    for path in ["/catalogue/%2e%2e/x", "/catalogue/%2f%2e%2e/x", "/catalogue/a%2f..%2fx", "/catalogue/..%5cx"] {
        assert_eq!(send(&gateway, Method::GET, path, &[USER], "").await.status, 400, "{path}");
    }
    for path in ["/%63atalogue/x", "/catalo%67ue"] {
        assert_eq!(send(&gateway, Method::GET, path, &[], "").await.status, 401, "{path} is the same place");
        assert_eq!(send(&gateway, Method::GET, path, &[USER], "").await.status, 200, "{path}");
    }
    for path in ["//catalogue/x", "/open//x", "/open/%2fx"] {
        assert_eq!(send(&gateway, Method::GET, path, &[USER], "").await.status, 400, "{path}");
    }
    let open = send(&gateway, Method::GET, "/open/x", &["x-construct-user: usr_evil"], "").await.json();
    assert_eq!((&open["path"], &open["user"]), (&json!("/open/x"), &json!(null)));
}

#[tokio::test]
async fn bodies_stream_through_up_to_the_limit() {
    let address = listen(Arc::new(Service::default())).await;
    let gateway = gateway(settings(vec![route("/up", &[address])]), Vec::new()).await;
    let post = async |size: usize| {
        let headers = [USER, "transfer-encoding: chunked"];
        send(&gateway, Method::POST, "/up/x", &headers, &"x".repeat(size)).await
    };
    assert_eq!(post(4000).await.json()["body"], 4000);
    assert_eq!(post(6000).await.status, 413);
}

#[tokio::test]
async fn a_body_over_http_2_that_announces_no_length_arrives() {
    let address = listen(Arc::new(Service::default())).await;
    let front = listen(gateway(settings(vec![route("/up", &[address])]), Vec::new()).await).await;
    let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(front).await.expect("a connection"));
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let chunks =
        futures::stream::iter(["seven", " b"]).map(|text| Ok::<_, std::io::Error>(Frame::data(Bytes::from(text))));
    let request = http::Request::post(format!("http://{front}/up/x")).header("authorization", "Bearer usr_1:consumer");
    let request = request.body(StreamBody::new(chunks)).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    let answer: serde_json::Value = serde_json::from_slice(&answer.to_bytes()).expect("JSON");
    assert_eq!((&answer["method"], &answer["body"]), (&json!("POST"), &json!(7)));
}

#[tokio::test]
async fn clients_that_do_not_send_their_body_shut_no_upstream_off() {
    let service = Arc::new(Service::default());
    let address = listen(service.clone()).await;
    let slow = Route { timeout_ms: 50, ..route("/up", &[address]) };
    let gateway = gateway(settings(vec![slow]), Vec::new()).await;
    for broken in [false, true].repeat(8) {
        let mut head = Head::new(Method::POST, "/up/x");
        head.headers.insert("authorization", "Bearer usr_1:consumer".parse().expect("a value"));
        head.has_body = true;
        let first = futures::stream::iter([Ok(Bytes::from("x"))]);
        let body = if broken {
            first.chain(futures::stream::iter([Err(std::io::Error::other("gone"))])).boxed()
        } else {
            first.chain(futures::stream::pending()).boxed()
        };
        let reply = gateway.serve(Request { head: Arc::new(head), body, upgrade: None }).await;
        assert_eq!(reply.status, 400);
    }
    assert_eq!(send(&gateway, Method::GET, "/up/x", &[USER], "").await.status, 200);
}

#[tokio::test]
async fn safe_requests_are_tried_elsewhere_and_others_are_not() {
    let (bad, good) = (Arc::new(Service::default()), Arc::new(Service::default()));
    bad.failing.store(u32::MAX, Ordering::SeqCst);
    let addresses = [listen(bad.clone()).await, listen(good.clone()).await];
    let gateway = gateway(settings(vec![route("/up", &addresses)]), Vec::new()).await;
    for _ in 0..20 {
        assert_eq!(send(&gateway, Method::GET, "/up/x", &[USER], "").await.status, 200);
    }
    assert_eq!(good.asked.load(Ordering::SeqCst), 20);
    let asked = bad.asked.load(Ordering::SeqCst);
    assert!((5..10).contains(&asked), "then the breaker is open: {asked}");

    let failing = Arc::new(Service::default());
    failing.failing.store(1, Ordering::SeqCst);
    let address = listen(failing.clone()).await;
    let gateway = super::super::testing::gateway(settings(vec![route("/up", &[address])]), Vec::new()).await;
    let post = send(&gateway, Method::POST, "/up/x", &[USER, "content-length: 1"], "x").await;
    assert_eq!((post.status, failing.asked.load(Ordering::SeqCst)), (503, 1));
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_problem_document() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let gateway = gateway(settings(vec![route("/up", &[gone])]), Vec::new()).await;
    let answer = send(&gateway, Method::GET, "/up/x", &[USER], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/problem+json"));
    assert!(!answer.header("retry-after").is_empty());
}

#[tokio::test]
async fn an_upgraded_connection_passes_bytes_both_ways() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = upstream.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("x-construct-user: usr_1"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).await.expect("answered");
        let mut echoed = [0; 4];
        stream.read_exact(&mut echoed).await.expect("bytes");
        stream.write_all(&echoed).await.expect("echoed");
    });
    let gateway = gateway(settings(vec![route("/ws", &[address])]), Vec::new()).await;
    let address = listen(gateway).await;
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let request =
        format!("GET /ws/chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n{USER}\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    client.write_all(b"ping").await.expect("sent");
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.expect("bytes");
    assert_eq!(rest, "helloping");
}

#[test]
fn any_bytes_as_a_path_to_an_upstream() {
    let address: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let (client, stopping) = (super::connect::client(), tokio_util::sync::CancellationToken::new());
    let route = super::Route::new(&route("/up/", &[address]), &client, &stopping).expect("a route");
    let seeds: [&[u8]; 4] = [b"/up/a/b?c=d", b"/up/%2e%2e/x", b"/up/..\\x", b"/up//a%2fb"];
    crate::kernel::fuzz_tests::fuzz("upstream-path", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let head = Head::new(Method::GET, &text);
        let Ok(plain) = super::path::one_spelling(&head.path) else { return "refused".to_owned() };
        if !route.matches("", &plain) {
            return "another's".to_owned();
        }
        let place = route.place(&plain, &head.query);
        assert!(place.starts_with('/'), "{place}");
        let path =
            percent_encoding::percent_decode_str(place.split('?').next().unwrap_or_default()).decode_utf8_lossy();
        assert!(path.split(['/', '\\']).all(|segment| segment != ".."), "{place} climbs");
        format!("{}", route.targets[0].uri(&place).is_some())
    });
}
