//! Routes to other services, changed while the node serves, and durable.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::http::Answer;
use crate::mail::ARRIVES_WITHIN;
use crate::node::{Node, Plan, loopback};

/// A service that answers its name to everything.
async fn service(name: &'static str) -> String {
    let listener = TcpListener::bind((loopback(), 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

/// Waits until the gateway answers so under the path.
async fn answers(node: &Node, path: &str, status: u16, text: &str) {
    let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        poll.tick().await;
        let answer = node.api().get(path).await;
        if answer.status == status && answer.text.contains(text) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} answers {answer:?}, expected {status} {text}");
    }
}

async fn put(node: &Node, name: &str, body: &Value, version: Option<&str>) -> Answer {
    let client = node.operator();
    let client = version.map_or(client.clone(), |version| client.with_header("if-match", version));
    client.send(Method::PUT, &format!("/admin/v1/routes/{name}"), None, Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_changed_while_the_node_serves_and_stay_so_after_a_kill() {
    let (one, two) = (service("one").await, service("two").await);
    let seed = format!(r#"[{{ name = "seed", prefix = "/seed/", access = "public", upstreams = ["{one}"] }}]"#);
    let mut node = Plan::sandbox().set("gateway.routes", &seed).start().await;
    answers(&node, "/seed/x", 200, "one").await;
    answers(&node, "/shop/x", 404, "").await;

    let route = |upstream: &str| json!({ "prefix": "/shop/", "access": "public", "upstreams": [upstream] });
    let made = put(&node, "shop", &route(&one), None).await;
    assert_eq!((&made.expect(200)["version"], made.header("etag")), (&json!(1), "\"1\""));
    answers(&node, "/shop/x", 200, "one").await;
    put(&node, "shop", &route(&two), Some("\"7\"")).await.expect(412);
    put(&node, "shop", &route(&two), Some("\"1\"")).await.expect(200);
    answers(&node, "/shop/x", 200, "two").await;
    node.operator().delete("/admin/v1/routes/seed").await.expect(204);
    answers(&node, "/seed/x", 404, "").await;

    node.crash().await;
    let shop = node.api().get("/shop/x").await;
    assert_eq!((shop.status, shop.text.as_str()), (200, "two"), "in force from the first request on");
    node.api().get("/seed/x").await.expect(404);
    let listed = node.operator().get("/admin/v1/routes").await;
    assert_eq!(listed.expect(200)["items"].as_array().map(Vec::len), Some(1), "{}", listed.text);

    for (name, body, status, pointer) in [
        ("other", json!({ "prefix": "/shop", "upstreams": [one] }), 409, ""),
        ("other", json!({ "prefix": "/v1/x", "upstreams": [one] }), 422, "/prefix"),
        ("other", json!({ "prefix": "/x", "upstreams": [] }), 422, "/upstreams"),
        ("other", json!({ "prefix": "/x", "upstreams": ["ftp://x"] }), 422, "/upstreams"),
        ("other", json!({ "prefix": "/x", "upstreams": [one], "access": "users:fly" }), 422, "/access"),
        ("OTHER", json!({ "prefix": "/x", "upstreams": [one] }), 422, "/name"),
        ("other", json!({ "prefix": "/x", "upstreams": [one], "timeout_ms": 1 }), 422, "/timeout_ms"),
        ("other", json!({ "prefix": "/x", "upstreams": [one], "more": 1 }), 422, "/more"),
    ] {
        let refused = put(&node, name, &body, None).await;
        refused.expect(status);
        assert_eq!(refused.json["errors"][0]["pointer"].as_str().unwrap_or(""), pointer, "{body}");
    }
    node.operator().get("/admin/v1/routes/none").await.expect(404);
    let log = node.operator_api().get("/v1/audit/entries?limit=100").await;
    for action in ["routes.seeded", "route.put", "route.deleted"] {
        assert!(log.expect(200).to_string().contains(action), "{action} is in the audit log");
    }
}
