//! A request as the gateway sees it, free of any server library's types.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use tokio::time::{Duration, timeout};

use crate::kernel::{Error, ErrorCode};

/// The chunks of a body as they come in.
pub type BodyStream = BoxStream<'static, std::io::Result<Bytes>>;

/// A request whose body may still be on its way.
pub struct Request {
    pub head: Arc<Head>,
    pub body: BodyStream,
    /// There when the client asks for another protocol.
    pub upgrade: Option<OnUpgrade>,
}

/// The whole body, of at most `limit` bytes and within `deadline` in total: a drip does not hold it open.
///
/// # Errors
/// `too_large`; `malformed` when the body broke off or took too long.
pub async fn read_body(head: &Head, body: BodyStream, limit: usize, deadline: Duration) -> Result<Bytes, Error> {
    let too_large = || Error::new(ErrorCode::TooLarge, format!("The body may have at most {limit} bytes."));
    let announced = head.header("content-length").and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = body;
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_| Error::new(ErrorCode::Malformed, "The body broke off."))?;
            if whole.len() + chunk.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    };
    let late = |_| Error::new(ErrorCode::Malformed, "The body took too long to arrive.");
    timeout(deadline, reading).await.map_err(late)?
}

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
