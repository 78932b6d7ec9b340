//! Fuzz targets of what clients send over HTTP: bodies, forms, cursors, paths, fields, idempotency keys, hosts.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::exchange::Exchange;
use super::forwarded::TrustedProxies;
use super::idempotency::Scope;
use super::page::{List, ListId, PageQuery, cursor};
use super::request::Head;
use super::{routes, table, validate};
use crate::kernel::fuzz_tests::fuzz;
use crate::kernel::{Error, Principal};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    name: String,
    #[serde(default)]
    lines: Vec<Line>,
    note: Option<Value>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    quantity: i64,
}

/// A path and fields, one a line; what is no field is left out, as it never gets past the server.
pub(super) fn head_of(bytes: &[u8]) -> Head {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut head = Head::new(Method::GET, &path);
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(0));
        let value = HeaderValue::from_bytes(value.get(2..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    head.headers = headers;
    head
}

/// The way of an input: accepted, or the code of its refusal and what was said, without what was sent.
fn way<T>(outcome: &Result<T, Error>) -> String {
    match outcome {
        Ok(_) => "accepted".to_owned(),
        Err(error) => {
            assert!(matches!(super::reply::status_of(error.code), 400..=422), "{error}");
            let details = error.errors.iter().map(|field| field.detail.chars().take(20).collect::<String>());
            format!("{} {:?}", error.code.as_str(), details.collect::<Vec<_>>())
        }
    }
}

/// The same but for the last digits of numbers beyond whole ones: serde_json reads some of those a little off.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let near = |one: f64, other: f64| (one - other).abs() <= 4.0 * f64::EPSILON * one.abs();
            one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| near(one, other))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, member): (&String, &Value)| other.get(name).is_some_and(|other| alike(member, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

#[test]
fn any_bytes_as_a_json_body() {
    let seeds: [&[u8]; 5] = [
        br#"{"name":"x","lines":[],"note":{"a":[118446744073709551616]}}"#,
        br#"{"name":"x","lines":[{"quantity":1},{"quantity":-9223372036854775808}],"note":{"a":[1,2.5,null]}}"#,
        br#"{"name":"x","name":"y"}"#,
        br#"{"name":"\ud83d\ude00","note":[[[[[[[[[[]]]]]]]]]]}"#,
        br#"["x",[]]"#,
    ];
    fuzz("json", &seeds, |bytes| {
        let typed = validate::json::<Order>(bytes);
        if let Ok(order) = &typed {
            let text = serde_json::to_vec(order).expect("serializes");
            let again = validate::json::<Order>(&text).expect("what was accepted is accepted again");
            assert_eq!((&again.name, &again.lines), (&order.name, &order.lines));
            assert!(alike(&json!(again.note), &json!(order.note)), "{order:?} and {again:?}");
            let tree: Value = serde_json::from_slice(bytes).expect("what was accepted is JSON");
            assert!(tree.is_object(), "an object is an object");
        }
        let tree = validate::json::<Value>(bytes);
        assert!(tree.is_ok() || typed.is_err(), "no shape makes a text better");
        format!("{} {}", way(&typed), way(&tree))
    });
}

#[test]
fn any_bytes_as_a_form_or_query() {
    let seeds: [&[u8]; 4] = [b"limit=20&cursor=AAAA", b"limit=1&limit=2", b"%6cimit=%31", b"cursor=+%2B&&="];
    fuzz("form", &seeds, |bytes| {
        let query = validate::form::<PageQuery>(bytes);
        let page = query.as_ref().map_err(Clone::clone).and_then(|query| {
            let list = ListId::of("/v1/things", "", None);
            let after = query.after(list)?;
            if let Some(key) = &after {
                // One cursor for each place, so that a page cannot be asked for in many ways.
                assert_eq!(query.cursor.as_deref(), Some(cursor(list, key).as_str()));
            }
            List::part((0..50).collect::<Vec<u32>>(), query, list)
        });
        if let Ok(page) = &page {
            assert!(page.items.len() <= 100);
        }
        format!("{} {}", way(&query), way(&page))
    });
}

#[test]
fn any_bytes_as_a_path_and_fields() {
    let table = table::Table::new(routes::endpoints()).expect("a table");
    let proxies = TrustedProxies::new(&["127.0.0.0/8".to_owned()]).expect("a network");
    let seeds: [&[u8]; 4] = [
        b"/v1/users/usr_1\nx-forwarded-for: 1.2.3.4, ::1\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"/v1/templates/a%2Fb/de\nforwarded: for=1.2.3.4;proto=https\nx-request-id: abc",
        b"/u/%ff\nidempotency-key: \"k\"\nif-match: \"1\"",
        b"//..%2f\nauthorization: Bearer x",
    ];
    fuzz("head", &seeds, |bytes| {
        let head = head_of(bytes);
        let found = match table.find(&Method::GET, &head.path) {
            table::Found::Endpoint(endpoint, _) => endpoint.declaration.operation.to_owned(),
            table::Found::Methods(_) => "methods".to_owned(),
            table::Found::Nothing => "nothing".to_owned(),
        };
        let exchange = Exchange::begin(&head, String::new(), proxies.is_secure(&head));
        assert_eq!(exchange.trace_id().len(), 32);
        assert!(HeaderValue::from_str(&exchange.request_id).is_ok() && exchange.request_id.len() <= 128);
        let client = proxies.client(&head);
        let key = head.header("idempotency-key").unwrap_or_default();
        let scope = Scope::new(key, &head, bytes, &Principal::Anonymous, "source").map(|scope| {
            let again = Scope::new(key, &head, bytes, &Principal::Anonymous, "source").expect("the same");
            assert_eq!(scope.id, again.id);
        });
        format!("{found} {} {} {}", client.is_ipv4(), exchange.request_id.starts_with("req-"), way(&scope))
    });
}

#[test]
fn any_bytes_as_a_host() {
    let seeds: [&[u8]; 5] = [b"a.example:80", b"[::1]:8080", b"user@x", b"x, y", b""];
    fuzz("host", &seeds, |bytes| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return "no value".to_owned() };
        let request = http::Request::builder().uri("/").header("host", value).body(());
        let taken = super::server::accepts_host(request.expect("a request"));
        if let Some(host) = &taken {
            assert!(!host.contains('@') && !host.contains(',') && !host.contains('/'), "{host}");
        }
        format!("{}", taken.is_some())
    });
}
