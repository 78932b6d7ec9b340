//! Heads and bodies that two readers may frame differently, targets, hosts, floods of fields.

use super::{Siege, hasty};

/// What must not be answered when it hides behind another request.
const HIDDEN: &str = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{fields}\r\n{body}")
}

fn get(fields: &str) -> String {
    format!("GET /livez HTTP/1.1\r\nconnection: close\r\n{fields}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_frames_ambiguously_is_refused_and_hides_nothing() {
    let siege = Siege::lay(hasty()).await;
    let chunked = "transfer-encoding: chunked\r\n";
    let empty = format!("0\r\n\r\n{HIDDEN}");
    let table: Vec<(&str, String, &[u16])> = vec![
        ("CL and TE", post(&format!("content-length: 5\r\n{chunked}"), &empty), &[400]),
        ("TE and CL", post(&format!("{chunked}content-length: 5\r\n"), &empty), &[400]),
        ("TE alone, pipelined", post(chunked, &empty), &[400]),
        ("two lengths", post("content-length: 5\r\ncontent-length: 6\r\n", HIDDEN), &[400]),
        ("a list of lengths", post("content-length: 5, 5\r\n", HIDDEN), &[400]),
        ("a signed length", post("content-length: +5\r\n", HIDDEN), &[400]),
        ("a negative length", post("content-length: -1\r\n", HIDDEN), &[400]),
        ("a hexadecimal length", post("content-length: 0x5\r\n", HIDDEN), &[400]),
        ("an endless length", post("content-length: 99999999999999999999\r\n", HIDDEN), &[400]),
        ("a length beyond the limit", post("content-length: 4294967296\r\n", ""), &[413]),
        ("gzip, chunked", post("transfer-encoding: gzip, chunked\r\n", &empty), &[400]),
        ("chunked, chunked", post("transfer-encoding: chunked, chunked\r\n", &empty), &[400]),
        ("chunked twice", post(&format!("{chunked}{chunked}"), &empty), &[400]),
        ("chunked, identity", post("transfer-encoding: chunked, identity\r\n", &empty), &[400]),
        ("xchunked", post("transfer-encoding: xchunked\r\n", &empty), &[400]),
        ("a tab before chunked", post("transfer-encoding:\tchunked\r\n", &empty), &[400]),
        ("a vertical tab", post("transfer-encoding: \x0bchunked\r\n", &empty), &[400]),
        ("TE in HTTP/1.0", post(chunked, &empty).replace("HTTP/1.1", "HTTP/1.0"), &[400]),
        ("a space before the colon", post("content-length : 5\r\n", HIDDEN), &[400]),
        ("a folded field", post("x-a: 1\r\n content-length: 5\r\n", HIDDEN), &[400]),
        ("a field without a colon", post("nonsense\r\n", HIDDEN), &[400]),
        ("a NUL in a field", post("x-a: 1\x002\r\n", HIDDEN), &[400]),
        ("a bare CR in a field", post("x-a: 1\rcontent-length: 5\r\n", HIDDEN), &[400]),
        ("a chunk size that is none", post(chunked, &format!("zz\r\n{HIDDEN}")), &[400]),
        ("a chunk size beyond 64 bits", post(chunked, &format!("fffffffffffffffff\r\n{HIDDEN}")), &[400]),
        ("a chunk size with a sign", post(chunked, &format!("+5\r\nhello\r\n{empty}")), &[400]),
        ("a chunk that is longer than it says", post(chunked, &format!("2\r\nhello\r\n{empty}")), &[400]),
        ("a chunk extension", post(chunked, &format!("2;a=\"b\"\r\n{{}}\r\n{empty}")), &[422]),
        ("a bare LF in an extension", post(chunked, &format!("2;a\n{{}}\r\n{empty}")), &[400]),
        ("endless extensions", post(chunked, &format!("2;{}", "a".repeat(40_000))), &[400]),
        ("trailers without end", post(chunked, &format!("0\r\n{}", "x-a: b\r\n".repeat(5000))), &[400]),
        // RFC 9112 §2.2 lets a reader take a lone LF for the end of a line; what matters is that it ends there for all.
        ("lone line feeds", get("host: x\r\n").replace("\r\n", "\n"), &[200]),
        ("a version of its own", get("host: x\r\n").replace("HTTP/1.1", "HTTP/1.7"), &[400]),
        ("no version", "GET /livez\r\n\r\n".to_owned(), &[400]),
        ("bytes that are no HTTP", "\x16\x03\x01\x02\0\x01\0".to_owned() + HIDDEN, &[400]),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(siege.statuses(bytes.as_bytes()).await, expected, "{what}");
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_and_hosts_that_are_none_are_refused() {
    let siege = Siege::lay(hasty()).await;
    let line = |line: &str| format!("{line}\r\nhost: x\r\nconnection: close\r\n\r\n");
    let table: Vec<(String, u16)> = vec![
        (line("CONNECT example.org:443 HTTP/1.1"), 405),
        (line("OPTIONS * HTTP/1.1"), 405),
        (line("GET * HTTP/1.1"), 405),
        (line("GET http://example.org/livez HTTP/1.1"), 200),
        (line("GET http://user:secret@example.org/livez HTTP/1.1"), 400),
        (line("GET livez HTTP/1.1"), 405),
        (line("GET /li vez HTTP/1.1"), 400),
        (line("GET /livez\0 HTTP/1.1"), 400),
        (line("GET /livez\u{e9} HTTP/1.1"), 404),
        (line("GET //livez HTTP/1.1"), 404),
        (line("GET /livez/ HTTP/1.1"), 404),
        (line("GET /livez/../livez HTTP/1.1"), 404),
        (line("GET /docs/..%2f..%2fetc/passwd HTTP/1.1"), 404),
        (line("GET /docs/../../etc/passwd HTTP/1.1"), 404),
        (line("GET /docs/%2e%2e/%2e%2e/etc/passwd HTTP/1.1"), 404),
        (line("GET /%6civez HTTP/1.1"), 404),
        (line("GET /v1/users/%ff HTTP/1.1"), 404),
        (line("GET /v1/plans/%2e%2e HTTP/1.1"), 404),
        (line("GET /v1/plans/%00 HTTP/1.1"), 404),
        (line("GET /v1/plans?limit=%ff HTTP/1.1"), 400),
        (line("GET /v1/plans?limit=1&limit=2 HTTP/1.1"), 422),
        (line("GET /v1/plans?limit=%00 HTTP/1.1"), 422),
        (line("get /livez HTTP/1.1"), 405),
        (line("TRACE /v1/me HTTP/1.1"), 405),
        (line("FROBNICATE /v1/me HTTP/1.1"), 405),
        (line("G@T /livez HTTP/1.1"), 400),
        (get("host: x\r\nhost: x\r\n"), 400),
        (get("host: x\r\nhost: y\r\n"), 400),
        (get(""), 400),
        (get("host: user@x\r\n"), 400),
        (get("host: x, y\r\n"), 400),
        (get("host: x/y\r\n"), 400),
        (get("host: x:99999\r\n"), 400),
        (get("host:\r\n"), 400),
        (get("host: [::1]:80\r\n"), 200),
        (get("").replace("HTTP/1.1", "HTTP/1.0"), 200),
    ];
    for (bytes, expected) in table {
        let answers = siege.statuses(bytes.as_bytes()).await;
        assert_eq!(answers, [expected], "{}", bytes.escape_debug());
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_fields_are_refused_before_they_are_kept() {
    let siege = Siege::lay(hasty()).await;
    let table = [
        format!("host: x\r\n{}", "a: b\r\n".repeat(101)),
        format!("host: x\r\n{}", "a: b\r\n".repeat(100_000)),
        format!("host: x\r\nx-giant: {}\r\n", "x".repeat(40_000)),
        format!("host: x\r\nx-giant: {}\r\n", "x".repeat(8 << 20)),
        format!("host: x\r\n{}: 1\r\n", "x".repeat(40_000)),
        format!("host: x\r\ncookie: {}\r\n", "a=b; ".repeat(10_000)),
    ];
    for fields in &table {
        for round in 0..10 {
            assert_eq!(siege.statuses(get(fields).as_bytes()).await, [431], "{} bytes, {round}", fields.len());
        }
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(60_000));
    assert_eq!(siege.statuses(path.as_bytes()).await, [431]);
    siege.lift(64).await;
}
