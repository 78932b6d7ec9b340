//! What handlers answer, and how refusals look: `application/problem+json` (RFC 9457).

use bytes::Bytes;
use futures::stream::BoxStream;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::kernel::{Error, ErrorCode};

/// The bytes of an answer.
pub enum Body {
    Full(Bytes),
    Stream(BoxStream<'static, Result<Bytes, std::io::Error>>),
}

/// An answer: status, headers, body.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

impl Reply {
    /// No body.
    ///
    /// # Panics
    /// When `status` is not between 100 and 999: a mistake in the code.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status code is a constant of the code");
        Self { status, headers: HeaderMap::new(), body: Body::Full(Bytes::new()) }
    }

    #[must_use]
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => Self::bytes(status, "application/json", bytes),
            Err(error) => {
                tracing::error!(%error, "a reply does not serialize");
                problem(&Error::internal(), "")
            }
        }
    }

    /// 200 with this JSON.
    #[must_use]
    pub fn ok<T: Serialize + ?Sized>(value: &T) -> Self {
        Self::json(200, value)
    }

    /// 201 with this JSON.
    #[must_use]
    pub fn created<T: Serialize + ?Sized>(value: &T) -> Self {
        Self::json(201, value)
    }

    /// 202 with this JSON.
    #[must_use]
    pub fn accepted<T: Serialize + ?Sized>(value: &T) -> Self {
        Self::json(202, value)
    }

    #[must_use]
    pub fn bytes(status: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let mut reply = Self::empty(status);
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        reply.body = Body::Full(bytes.into());
        reply
    }

    /// A body too large to hold: chunks as they come. A failing chunk cuts the answer off.
    #[must_use]
    pub fn stream(
        status: u16,
        content_type: &'static str,
        chunks: BoxStream<'static, Result<Bytes, std::io::Error>>,
    ) -> Self {
        let mut reply = Self::empty(status);
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        reply.body = Body::Stream(chunks);
        reply
    }

    /// 303: look there, with GET.
    #[must_use]
    pub fn see_other(location: &str) -> Self {
        Self::empty(303).header("location", location)
    }

    /// Sets a header. A value that no header can carry (a line break, say) is left out and logged.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        match HeaderValue::from_str(value.as_ref()) {
            Ok(value) => {
                self.headers.insert(HeaderName::from_static(name), value);
            }
            Err(_) => tracing::error!(header = name, "a header value is not sendable"),
        }
        self
    }

    /// The version of the resource as a strong entity tag, checked by `If-Match`.
    #[must_use]
    pub fn etag(mut self, version: u64) -> Self {
        let value = HeaderValue::from_str(&etag(version)).expect("digits and quotes");
        self.headers.insert(ETAG, value);
        self
    }

    /// Whether the answer may be remembered for a repeat of its request: a refusal that says when to ask again is none.
    #[must_use]
    pub fn is_final(&self) -> bool {
        let passes = self.status.is_client_error() && self.headers.contains_key(RETRY_AFTER);
        let status = self.status.as_u16();
        status < 500 && status != 429 && !passes && matches!(self.body, Body::Full(_))
    }
}

/// The entity tag of a version: `"7"`.
#[must_use]
pub fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The HTTP status of a refusal.
#[must_use]
pub const fn status_of(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::Malformed => 400,
        ErrorCode::Unauthenticated => 401,
        ErrorCode::PaymentDeclined => 402,
        ErrorCode::Forbidden | ErrorCode::StepUpRequired => 403,
        ErrorCode::NotFound => 404,
        ErrorCode::MethodNotAllowed => 405,
        ErrorCode::Conflict | ErrorCode::IdempotencyInProgress => 409,
        ErrorCode::Gone => 410,
        ErrorCode::PreconditionFailed => 412,
        ErrorCode::TooLarge => 413,
        ErrorCode::UnsupportedMediaType => 415,
        ErrorCode::Invalid | ErrorCode::IdempotencyMismatch => 422,
        ErrorCode::RateLimited => 429,
        ErrorCode::Internal => 500,
        ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::Parked => 503,
        ErrorCode::DeadlineExceeded => 504,
    }
}

/// The short, unchanging name of a kind of problem.
#[must_use]
pub const fn title_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Malformed => "The request cannot be read",
        ErrorCode::Unauthenticated => "Authentication is needed",
        ErrorCode::PaymentDeclined => "The payment was declined",
        ErrorCode::Forbidden => "Not allowed",
        ErrorCode::StepUpRequired => "A recent proof of identity is needed",
        ErrorCode::NotFound => "Not found",
        ErrorCode::MethodNotAllowed => "The method is not allowed here",
        ErrorCode::Conflict => "The state of the object does not allow it",
        ErrorCode::IdempotencyInProgress => "The same request is under way",
        ErrorCode::Gone => "Gone",
        ErrorCode::PreconditionFailed => "The object has changed",
        ErrorCode::TooLarge => "The body is too large",
        ErrorCode::UnsupportedMediaType => "The media type is not supported",
        ErrorCode::Invalid => "The request is not valid",
        ErrorCode::IdempotencyMismatch => "The idempotency key was used for another request",
        ErrorCode::RateLimited => "Too many requests",
        ErrorCode::Internal => "The server failed",
        ErrorCode::Overloaded => "Overloaded",
        ErrorCode::Unavailable => "Not available right now",
        ErrorCode::Parked => "Out of service",
        ErrorCode::DeadlineExceeded => "The deadline passed",
    }
}

/// One invalid member of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemField {
    /// A JSON Pointer (RFC 6901) to the member at fault.
    #[schema(example = "/email")]
    pub pointer: String,
    #[schema(example = "is not an e-mail address")]
    pub detail: String,
}

/// A refusal (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:construct:problem:<code>`; the code is stable, the texts are not.
    #[serde(rename = "type")]
    #[schema(example = "urn:construct:problem:invalid")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// The `X-Request-Id` of the refused request.
    pub request_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemField>,
}

impl Problem {
    #[must_use]
    pub fn new(error: &Error, request_id: &str) -> Self {
        let errors = error.errors.iter();
        let errors = errors.map(|e| ProblemField { pointer: e.pointer.clone(), detail: e.detail.clone() }).collect();
        Self {
            kind: format!("urn:construct:problem:{}", error.code.as_str()),
            title: title_of(error.code).to_owned(),
            status: status_of(error.code),
            detail: error.detail.clone(),
            request_id: request_id.to_owned(),
            errors,
        }
    }
}

/// A refusal as an answer, with `Retry-After` and `WWW-Authenticate` where they belong.
#[must_use]
pub fn problem(error: &Error, request_id: &str) -> Reply {
    let status = status_of(error.code);
    let body = serde_json::to_vec(&Problem::new(error, request_id)).unwrap_or_default();
    let mut reply = Reply::bytes(status, "application/problem+json", body);
    let retry_after = error.retry_after_seconds.or(matches!(status, 429 | 503).then_some(1));
    if let Some(seconds) = retry_after {
        reply.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == 401 {
        reply.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"construct\""));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(error: &Error) -> (u16, HeaderMap, serde_json::Value) {
        let reply = problem(error, "req-1");
        let Body::Full(bytes) = reply.body else { panic!("a problem is a whole document") };
        (reply.status.as_u16(), reply.headers, serde_json::from_slice(&bytes).expect("JSON"))
    }

    #[test]
    fn a_validation_problem_names_the_members() {
        let error = Error::invalid("/email", "is not an e-mail address").field("/password", "is too short");
        let (status, headers, body) = rendered(&error);
        assert_eq!(status, 422);
        assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:construct:problem:invalid",
                "title": "The request is not valid",
                "status": 422,
                "detail": "The request is not valid.",
                "request_id": "req-1",
                "errors": [
                    {"pointer": "/email", "detail": "is not an e-mail address"},
                    {"pointer": "/password", "detail": "is too short"},
                ],
            })
        );
    }

    #[test]
    fn refusals_that_pass_say_when_to_come_back() {
        let (status, headers, body) = rendered(&Error::new(ErrorCode::RateLimited, "Slow down.").retry_after(7));
        assert_eq!((status, &headers[RETRY_AFTER]), (429, &HeaderValue::from(7)));
        assert!(body.get("errors").is_none());
        let (status, headers, _) = rendered(&Error::new(ErrorCode::Parked, "x"));
        assert_eq!((status, &headers[RETRY_AFTER]), (503, &HeaderValue::from(1)));
        let (status, headers, _) = rendered(&Error::unauthenticated("x"));
        assert_eq!((status, headers.contains_key(WWW_AUTHENTICATE)), (401, true));
    }

    #[test]
    fn only_final_answers_are_remembered() {
        assert!(Reply::empty(204).is_final() && Reply::empty(422).is_final());
        assert!(!Reply::empty(429).is_final() && !Reply::empty(500).is_final());
        assert!(Reply::empty(409).is_final() && !Reply::empty(409).header("retry-after", "5").is_final());
        assert_eq!(Reply::empty(200).etag(7).headers[ETAG], "\"7\"");
    }
}
