//! A request as the gateway sees it, free of any server library's types.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, Method};

/// Everything of a request but its body.
#[derive(Debug, Clone)]
pub struct Head {
    pub method: Method,
    /// The path as it was sent, percent-encoded.
    pub path: String,
    /// The query without its question mark; empty when there was none.
    pub query: String,
    pub headers: HeaderMap,
    /// The address of the connection's other end. Never stored or logged as it is: see `Origin::source`.
    pub peer: IpAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
}

impl Head {
    /// A head with no headers from the local host; what an internal call or a test starts from.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: HeaderMap::new(),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            secure: false,
        }
    }

    /// The header as text; `None` when it is missing or not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the method promises not to change anything (RFC 9110 §9.2.1).
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
    }
}
