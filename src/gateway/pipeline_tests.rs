//! The pipeline whole, over a runtime in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::testing::{Answered, OPERATOR, gateway, send};
use super::{Access, Call, Caller, Endpoint, Gateway, IdempotencyRule, LimitClass, Permissions, Reply, Rpc};
use crate::kernel::{Error, Principal};
use crate::settings::{Limit, Settings};

const JSON: &str = "content-type: application/json";
const USER: &str = "authorization: Bearer usr_1:consumer";

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
}

static MADE: AtomicU32 = AtomicU32::new(0);

async fn make(call: Call<Thing>) -> Result<Reply, Error> {
    if call.body.name == "bad" {
        return Err(Error::invalid("/name", "is bad"));
    }
    if call.body.name == "panic" {
        panic!("as told");
    }
    let number = MADE.fetch_add(1, Ordering::SeqCst);
    let who = call.principal.audit_name().to_owned();
    Ok(Reply::created(&json!({"name": call.body.name, "number": number, "who": who})).etag(1))
}

async fn show(call: Call<()>) -> Result<Reply, Error> {
    call.check_if_match(3)?;
    Ok(Reply::ok(&json!({"id": call.param("id"), "source": call.origin.source})).etag(3))
}

async fn wait(_: Call<()>) -> Result<Reply, Error> {
    std::future::pending().await
}

fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/things", "makeThing").body::<Thing>().body_limit(200).handle(make),
        Endpoint::get("/v1/things/{id}", "getThing").access(Access::Public).handle(show),
        Endpoint::get("/v1/all/{id}", "readAll").access(Access::Permission("things:read")).handle(show),
        Endpoint::get("/v1/operator/{id}", "operate").access(Access::Operator).handle(show),
        Endpoint::post("/v1/pay", "pay").idempotency(IdempotencyRule::Required).body::<Thing>().handle(make),
        Endpoint::post("/v1/open", "open").access(Access::Public).body::<Thing>().handle(make),
        Endpoint::post("/v1/sign-in", "signIn")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<Value>()
            .handle(|_: Call<Value>| async { Ok(Reply::empty(204)) }),
        Endpoint::get("/v1/wait", "wait").deadline(Duration::from_millis(20)).handle(wait),
    ]
}

async fn started() -> std::sync::Arc<Gateway> {
    gateway(Settings::embedded(), endpoints()).await
}

fn check(answer: &Answered, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{:?}", answer.bytes);
    if !code.is_empty() {
        let body = answer.json();
        assert_eq!(body["type"], format!("urn:construct:problem:{code}"));
        assert_eq!(body["request_id"], answer.header("x-request-id"));
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
}

#[tokio::test]
async fn access_is_decided_before_anything_is_read() {
    let gateway = started().await;
    let get = async |path: &str, token: &str| {
        let header = format!("authorization: Bearer {token}");
        send(&gateway, Method::GET, path, &[header.as_str()][..usize::from(!token.is_empty())], "").await
    };
    let anonymous = get("/v1/all/1", "").await;
    check(&anonymous, 401, "unauthenticated");
    assert_eq!(anonymous.header("www-authenticate"), "Bearer realm=\"construct\"");
    let unknown = get("/v1/all/1", "who").await;
    check(&unknown, 401, "unauthenticated");
    assert!(unknown.header("www-authenticate").contains("invalid_token"));
    check(&get("/v1/all/1", "usr_1:consumer").await, 403, "forbidden");
    check(&get("/v1/all/1", "usr_1:things.read").await, 200, "");
    check(&get("/v1/operator/1", "usr_1:things.read").await, 403, "forbidden");
    check(&get("/v1/operator/1", "usr_1:administrator").await, 200, "");
    check(&get("/v1/operator/1", OPERATOR).await, 200, "");
    check(&get("/v1/things/1", "").await, 200, "");
    check(&get("/v1/things/1", "who").await, 200, "");
    let post = send(&gateway, Method::POST, "/v1/things", &[JSON], "not json").await;
    check(&post, 401, "unauthenticated");
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there() {
    let gateway = started().await;
    check(&send(&gateway, Method::GET, "/v1/nothing", &[], "").await, 404, "not_found");
    let wrong = send(&gateway, Method::PUT, "/v1/things/1", &["x-request-id: mine-1"], "").await;
    check(&wrong, 405, "method_not_allowed");
    assert_eq!((wrong.header("allow"), wrong.header("x-request-id")), ("GET, HEAD, OPTIONS", "mine-1"));
    let options = send(&gateway, Method::OPTIONS, "/v1/things", &[], "").await;
    assert_eq!((options.status, options.header("allow")), (204, "OPTIONS, POST"));
    let head = send(&gateway, Method::HEAD, "/v1/things/1", &[], "").await;
    assert_eq!((head.status, head.bytes.len(), head.header("etag")), (200, 0, "\"3\""));
    assert!(head.header("content-length").parse::<u32>().is_ok_and(|length| length > 10));
    for (known, status) in [("\"3\"", 304), ("\"2\", W/\"3\"", 304), ("*", 304), ("\"2\"", 200)] {
        let again = send(&gateway, Method::GET, "/v1/things/1", &[&format!("if-none-match: {known}")], "").await;
        assert_eq!((again.status, again.bytes.is_empty(), again.header("etag")), (status, status == 304, "\"3\""));
    }
    let stale = send(&gateway, Method::GET, "/v1/things/1", &["if-match: \"2\""], "").await;
    check(&stale, 412, "precondition_failed");
    assert_eq!(stale.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn bodies_are_checked_before_the_handler_runs() {
    let gateway = started().await;
    let post = async |content_type: &str, body: &str| {
        let content_type = format!("content-type: {content_type}");
        send(&gateway, Method::POST, "/v1/things", &[USER, &content_type], body).await
    };
    check(&post("application/json", r#"{"name":"x"}"#).await, 201, "");
    check(&post("text/plain", r#"{"name":"x"}"#).await, 415, "unsupported_media_type");
    check(&post("application/json", "{").await, 400, "malformed");
    check(&post("application/json", &format!(r#"{{"name":"{}"}}"#, "x".repeat(300))).await, 413, "too_large");
    let card = post("application/json", r#"{"name":"4242 4242 4242 4242"}"#).await;
    check(&card, 422, "invalid");
    assert_eq!(card.json()["errors"][0]["pointer"], "/name");
    let unknown = post("application/json", r#"{"name":"x","a":1}"#).await;
    assert_eq!((unknown.status, &unknown.json()["errors"][0]["pointer"]), (422, &json!("/a")));
    check(&post("application/json", r#"{"name":"panic"}"#).await, 500, "internal");
    check(&send(&gateway, Method::GET, "/v1/wait", &[USER], "").await, 504, "deadline_exceeded");
}

#[tokio::test]
async fn a_repeat_under_a_key_answers_the_first_response() {
    let gateway = started().await;
    let post = async |path: &str, token: &str, key: &str, body: &str| {
        send(&gateway, Method::POST, path, &[JSON, token, &format!("idempotency-key: {key}")], body).await
    };
    for (path, token) in [("/v1/things", USER), ("/v1/pay", USER), ("/v1/open", "accept: */*")] {
        let (key, body) = (path.trim_start_matches('/').to_owned(), r#"{"name":"x"}"#);
        let first = post(path, token, &key, body).await;
        check(&first, 201, "");
        assert_eq!(first.header("idempotency-replayed"), "");
        let again = post(path, token, &key, body).await;
        assert_eq!((again.status, &again.bytes), (201, &first.bytes), "{path}");
        assert_eq!((again.header("idempotency-replayed"), again.header("etag")), ("true", "\"1\""));
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
        check(&post(path, token, &key, r#"{"name":"y"}"#).await, 422, "idempotency_mismatch");
        let other = post(path, "authorization: Bearer usr_2:consumer", &key, body).await;
        assert_ne!(other.bytes, first.bytes, "another caller's key is another key");
    }
    let refused = post("/v1/things", USER, "refused", r#"{"name":"bad"}"#).await;
    let again = post("/v1/things", USER, "refused", r#"{"name":"bad"}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (422, "true"));
    assert_eq!(refused.bytes, again.bytes);
    let unread = post("/v1/things", USER, "unread", "{}").await;
    check(&unread, 422, "invalid");
    check(&post("/v1/things", USER, "unread", r#"{"name":"x"}"#).await, 201, "");
    let missing = send(&gateway, Method::POST, "/v1/pay", &[JSON, USER], r#"{"name":"x"}"#).await;
    check(&missing, 400, "malformed");
    assert!(missing.json()["detail"].as_str().is_some_and(|detail| detail.contains("Idempotency-Key")));
}

#[tokio::test]
async fn limits_are_told_and_kept() {
    let mut settings = Settings::embedded();
    settings.limits.read = Limit { per_minute: 1, burst: 2 };
    settings.limits.auth = Limit { per_minute: 1, burst: 3 };
    settings.limits.account = Limit { per_minute: 1, burst: 1 };
    let gateway = gateway(settings, endpoints()).await;
    let read = async |headers: &[&str]| send(&gateway, Method::GET, "/v1/things/1", headers, "").await;
    let first = read(&[]).await;
    assert_eq!(first.header("ratelimit-policy"), "\"read\";q=2;w=120");
    assert_eq!(first.header("ratelimit"), "\"read\";r=1;t=60");
    check(&read(&[]).await, 200, "");
    let limited = read(&[]).await;
    check(&limited, 429, "rate_limited");
    assert_eq!(limited.header("ratelimit"), "\"read\";r=0;t=120");
    assert_eq!(limited.header("retry-after"), "60");
    check(&read(&[USER]).await, 200, "");
    let sign_in = async |email: &str| {
        let body = json!({"email": email, "password": "x"}).to_string();
        send(&gateway, Method::POST, "/v1/sign-in", &[JSON], &body).await
    };
    check(&sign_in("ada@example.org").await, 204, "");
    let guessed = sign_in("ADA@example.org").await;
    check(&guessed, 429, "rate_limited");
    assert!(guessed.header("ratelimit").starts_with("\"account\";r=0"));
    check(&sign_in("bob@example.org").await, 204, "");
    check(&sign_in("eve@example.org").await, 429, "rate_limited");
}

#[tokio::test]
async fn rpc_reaches_the_same_handlers() {
    let gateway = started().await;
    let principal = Principal::User { id: "usr_9".into(), session: None, roles: Vec::new() };
    let caller = Caller { principal, permissions: Permissions::default() };
    let call = async |operation: &str, data: Value| {
        let (operation, caller) = (operation.to_owned(), caller.clone());
        let (source, request_id) = ("here".to_owned(), "rpc-1".to_owned());
        gateway.rpc(Rpc { operation, data, caller, source, request_id }).await
    };
    let (status, body) = call("getThing", json!({"id": "a/b"})).await.expect("a reply");
    assert_eq!((status, body), (200, json!({"id": "a/b", "source": "here"})));
    let (status, first) = call("makeThing", json!({"name": "x", "idempotency_key": "k"})).await.expect("a reply");
    assert_eq!((status, &first["who"]), (201, &json!("usr_9")));
    let (_, again) = call("makeThing", json!({"name": "x", "idempotency_key": "k"})).await.expect("a reply");
    assert_eq!(again, first);
    let code = async |operation: &str, data: Value| {
        call(operation, data).await.map_err(|error| error.code.as_str()).expect_err("refused")
    };
    assert_eq!(code("makeThing", json!({"nome": "x"})).await, "invalid");
    assert_eq!(code("getThing", json!({})).await, "invalid");
    assert_eq!(code("readAll", json!({"id": "1"})).await, "forbidden");
    assert_eq!(code("pay", json!({"name": "x"})).await, "malformed");
    assert_eq!(code("nothing", Value::Null).await, "not_found");
}
