//! What belongs to one request and its answer beside their content: ids, trace, source, and the headers of every answer.

use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, Method, StatusCode};
use tracing::Span;

use super::rate_limit::Report;
use super::reply::{Body, Reply};
use super::request::Head;
use crate::actors::runtime::entropy;

/// What an answer usually gets here.
const USUAL_HEADERS: usize = 10;

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Sent as `X-Request-Id`, or made.
    pub request_id: String,
    /// W3C trace context with a span of our own as the parent of what comes after.
    pub traceparent: String,
    /// The caller's span, when it sent one.
    pub parent_id: Option<String>,
    /// The pseudonym of the client's address.
    pub source: String,
    pub secure: bool,
    pub limit: Option<Report>,
    /// The answer is an upstream's: its own headers stand.
    pub foreign: bool,
}

impl Exchange {
    #[must_use]
    pub fn begin(head: &Head, source: String, secure: bool) -> Self {
        let random = entropy();
        let sent = head.header("x-request-id").filter(|id| is_request_id(id));
        let request_id = sent.map_or_else(|| hexed("req-", &random[..12], ""), str::to_owned);
        let parent = head.header("traceparent").and_then(trace);
        let parent_id = parent.as_ref().map(|(_, parent, _)| parent.clone());
        let span = &random[12..20];
        let traceparent = match parent {
            Some((trace_id, _, flags)) => hexed(&format!("00-{trace_id}-"), span, &format!("-{flags}")),
            None => hexed(&hexed("00-", &random[16..32], "-"), span, "-00"),
        };
        Self { request_id, traceparent, parent_id, source, secure, limit: None, foreign: false }
    }

    /// The 32 hexadecimal digits that join the spans of all services.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or_default()
    }

    /// The 16 hexadecimal digits of our own span.
    #[must_use]
    pub fn span_id(&self) -> &str {
        self.traceparent.get(36..52).unwrap_or_default()
    }

    /// The request's part of its trace. Nothing is formatted for it where nobody collects traces.
    #[must_use]
    pub fn span(&self, head: &Head) -> Span {
        tracing::debug_span!(
            "request",
            method = %head.method,
            operation = tracing::field::Empty,
            request_id = %self.request_id,
            trace_id = %self.trace_id(),
            span_id = %self.span_id(),
            parent_id = self.parent_id,
        )
    }

    /// Adds the headers that every answer has, and takes the body from an answer to HEAD.
    pub fn finish(&self, head: &Head, reply: &mut Reply) {
        if !self.foreign && head.is_safe() && reply.status == StatusCode::OK && knows(head, reply) {
            // The client has it (RFC 9110 §13.1.2).
            reply.status = StatusCode::NOT_MODIFIED;
            reply.body = Body::Full(bytes::Bytes::new());
            reply.headers.remove(CONTENT_TYPE);
        }
        let headers = &mut reply.headers;
        headers.reserve(USUAL_HEADERS);
        set(headers, HeaderName::from_static("x-request-id"), &self.request_id);
        if let Some(report) = &self.limit {
            headers.insert(HeaderName::from_static("ratelimit-policy"), report.policy.clone());
            headers.insert(HeaderName::from_static("ratelimit"), report.state.clone());
        }
        let foreign = self.foreign;
        let mut default = |name: HeaderName, value: &'static str| {
            if foreign {
                return;
            }
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        };
        default(X_CONTENT_TYPE_OPTIONS, "nosniff");
        default(X_FRAME_OPTIONS, "DENY");
        default(REFERRER_POLICY, "no-referrer");
        default(CACHE_CONTROL, "no-store");
        default(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
        if self.secure {
            default(STRICT_TRANSPORT_SECURITY, "max-age=31536000");
        }
        if head.method == Method::HEAD && reply.status != StatusCode::NOT_MODIFIED {
            if let (Body::Full(bytes), false) = (&reply.body, foreign) {
                reply.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            }
            reply.body = Body::Full(bytes::Bytes::new());
        }
    }
}

/// The bytes in hexadecimal between two texts.
fn hexed(before: &str, bytes: &[u8], after: &str) -> String {
    let mut digits = [0; 32];
    let digits = &mut digits[..bytes.len() * 2];
    let digits = if hex::encode_to_slice(bytes, digits).is_ok() { digits } else { &mut [] };
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    let mut text = String::with_capacity(before.len() + digits.len() + after.len());
    text.push_str(before);
    text.push_str(digits);
    text.push_str(after);
    text
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Ids of a client that may be echoed, logged and kept for good in the audit log, which is in clear and is never erased:
/// short, and of characters that make no mail address, network address or path.
fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Trace, parent and flags of a `traceparent` (W3C Trace Context §3.2); `None` when it is not valid.
fn trace(text: &str) -> Option<(String, String, String)> {
    let parts: Vec<&str> = text.split('-').collect();
    let (version, trace_id, parent, flags) = (*parts.first()?, *parts.get(1)?, *parts.get(2)?, *parts.get(3)?);
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.len() == 4);
    let whole = hex(trace_id, 32) && hex(parent, 16) && hex(flags, 2) && !zero(trace_id) && !zero(parent);
    (known && whole).then(|| (trace_id.to_owned(), parent.to_owned(), flags.to_owned()))
}

/// Whether the client says that it has this answer already: weak comparison, or any at all.
fn knows(head: &Head, reply: &Reply) -> bool {
    let Some(tag) = reply.headers.get(ETAG).and_then(|tag| tag.to_str().ok()) else { return false };
    let listed = head.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    listed
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(name: &'static str, value: &str) -> Exchange {
        let mut head = Head::new(Method::GET, "/");
        head.headers.insert(name, value.parse().expect("a value"));
        Exchange::begin(&head, String::new(), false)
    }

    #[test]
    fn a_request_id_is_echoed_or_made() {
        assert_eq!(begin("x-request-id", "abc-1").request_id, "abc-1");
        assert_eq!(begin("x-request-id", "Zx_9-").request_id, "Zx_9-");
        let personal = ["ada@example.org", "192.0.2.7", "2001:db8::7", "/u/ada", "a=b", "a+b"];
        for bad in ["", "has space", "<script>", &"x".repeat(129)].into_iter().chain(personal) {
            assert!(begin("x-request-id", bad).request_id.starts_with("req-"), "{bad}");
        }
    }

    #[test]
    fn a_trace_is_continued_under_a_span_of_our_own() {
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let exchange = begin("traceparent", sent);
        assert_eq!(exchange.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(exchange.traceparent.ends_with("-01") && !exchange.traceparent.contains("00f067aa0ba902b7"));
        assert_eq!((exchange.parent_id.as_deref(), exchange.span_id().len()), (Some("00f067aa0ba902b7"), 16));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "nonsense",
        ] {
            let made = begin("traceparent", bad);
            assert_ne!(made.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736", "{bad}");
            assert!(trace(&made.traceparent).is_some(), "{}", made.traceparent);
        }
    }

    #[test]
    fn an_answer_to_head_keeps_the_length_and_loses_the_body() {
        let head = Head::new(Method::HEAD, "/");
        let mut reply = Reply::json(200, &[1, 2, 3]);
        Exchange::begin(&head, String::new(), true).finish(&head, &mut reply);
        assert_eq!(reply.headers[CONTENT_LENGTH], "7");
        assert!(matches!(reply.body, Body::Full(bytes) if bytes.is_empty()));
        assert!(reply.headers.contains_key(STRICT_TRANSPORT_SECURITY));
        assert_eq!(reply.headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
