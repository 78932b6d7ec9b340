//! Why the server ends a connection. Clients reconnect after codes 3000–3499 and give up after 3500–3999.

/// The code and reason of a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    pub code: u16,
    pub reason: &'static str,
}

const fn disconnect(code: u16, reason: &'static str) -> Disconnect {
    Disconnect { code, reason }
}

impl Disconnect {
    /// RFC 6455 §7.4.1: a message larger than allowed.
    pub const TOO_LARGE: Self = disconnect(1009, "message too large");
    pub const SHUTDOWN: Self = disconnect(3001, "shutdown");
    pub const SERVER_ERROR: Self = disconnect(3004, "internal server error");
    /// The access token ran out and was not refreshed.
    pub const EXPIRED: Self = disconnect(3005, "connection expired");
    /// The client does not read what it is sent; it reconnects and recovers.
    pub const SLOW: Self = disconnect(3008, "slow");
    /// The stream no longer holds what comes next; the client reconnects and hears `recovered: false`.
    pub const INSUFFICIENT_STATE: Self = disconnect(3010, "insufficient state");
    pub const NO_PONG: Self = disconnect(3012, "no pong");
    pub const TOO_MANY_REQUESTS: Self = disconnect(3013, "too many requests");
    pub const INVALID_TOKEN: Self = disconnect(3500, "invalid token");
    pub const BAD_REQUEST: Self = disconnect(3501, "bad request");
    /// No `connect` came in time.
    pub const STALE: Self = disconnect(3502, "stale");
    /// The session was ended: signing in again is the only way back.
    pub const SESSION_ENDED: Self = disconnect(3503, "session ended");
    pub const NOT_AVAILABLE: Self = disconnect(3508, "not available");

    pub const ALL: [Self; 13] = [
        Self::TOO_LARGE,
        Self::SHUTDOWN,
        Self::SERVER_ERROR,
        Self::EXPIRED,
        Self::SLOW,
        Self::INSUFFICIENT_STATE,
        Self::NO_PONG,
        Self::TOO_MANY_REQUESTS,
        Self::INVALID_TOKEN,
        Self::BAD_REQUEST,
        Self::STALE,
        Self::SESSION_ENDED,
        Self::NOT_AVAILABLE,
    ];

    /// Whether a client may connect again with what it has.
    #[must_use]
    pub const fn reconnects(self) -> bool {
        self.code >= 3000 && self.code < 3500
    }
}
