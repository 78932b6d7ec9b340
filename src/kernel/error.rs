//! The closed set of refusals that callers see, the same over HTTP, WebSocket and between nodes.

use serde::{Deserialize, Serialize};

/// Why a request was refused. The text form is the last part of the problem type `urn:construct:problem:<code>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// 400: the request cannot be read.
    Malformed,
    /// 401: no or bad credentials.
    Unauthenticated,
    /// 403: known, but not allowed.
    Forbidden,
    /// 403: a recent proof of identity is needed first.
    StepUpRequired,
    /// 404: no such thing, or not yours.
    NotFound,
    /// 409: the state of the object does not allow it.
    Conflict,
    /// 409: a request with the same idempotency key is under way.
    IdempotencyInProgress,
    /// 410: it was there and is gone for good.
    Gone,
    /// 412: `If-Match` names a version that is not current.
    PreconditionFailed,
    /// 413: the body is too large.
    TooLarge,
    /// 415: not a supported media type.
    UnsupportedMediaType,
    /// 422: understood, but not valid; `errors` names the fields.
    Invalid,
    /// 422: the idempotency key was used with another body.
    IdempotencyMismatch,
    /// 402: the payment was declined.
    PaymentDeclined,
    /// 429: too many requests.
    RateLimited,
    /// 503: a queue is full; the command was not accepted.
    Overloaded,
    /// 503: no leader or no majority right now; whether the command took effect is not known unless stated.
    Unavailable,
    /// 504: the deadline passed; whether the command took effect is not known.
    DeadlineExceeded,
    /// 500: a defect. The command did not take effect.
    Internal,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 503: the entity keeps failing and was taken out of service; an operator sees it as parked.
    Parked,
}

impl ErrorCode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::StepUpRequired => "step_up_required",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::IdempotencyInProgress => "idempotency_in_progress",
            Self::Gone => "gone",
            Self::PreconditionFailed => "precondition_failed",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Invalid => "invalid",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::PaymentDeclined => "payment_declined",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Parked => "parked",
        }
    }

    /// Whether the same request may succeed later without being changed.
    #[must_use]
    pub const fn may_retry(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::Unavailable
                | Self::DeadlineExceeded
                | Self::IdempotencyInProgress
                | Self::Internal
                | Self::Parked
        )
    }
}

/// One invalid member of a request. `pointer` is a JSON Pointer (RFC 6901) such as `/email`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub pointer: String,
    pub detail: String,
}

/// A refusal: a code, one sentence for the caller, and the fields at fault. Carries no internals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Error {
    pub code: ErrorCode,
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub retry_after_seconds: Option<u32>,
}

impl Error {
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after_seconds: None }
    }

    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no such {what}."))
    }

    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, detail)
    }

    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Forbidden, detail)
    }

    #[must_use]
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unauthenticated, detail)
    }

    /// The client sees only that it failed; the cause is logged where it happened.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "The server failed to handle the request.")
    }

    #[must_use]
    pub fn overloaded(what: &str) -> Self {
        Self::new(ErrorCode::Overloaded, format!("{what} is full; nothing was done.")).retry_after(1)
    }

    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, detail).retry_after(1)
    }

    /// A 422 about one member; `pointer` is a JSON Pointer.
    #[must_use]
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, "The request is not valid.").field(pointer, detail)
    }

    #[must_use]
    pub fn field(mut self, pointer: &str, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: pointer.to_owned(), detail: detail.into() });
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}
