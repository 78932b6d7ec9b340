//! A request as the gateway sees it, free of any server library's types.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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

/// What a body may have without being counted.
const FREE_BYTES: usize = 8 << 10;

/// Bytes of bodies that a listener keeps in memory, over all requests; small bodies are not counted.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let taken = u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(&self.0).try_acquire_many_owned(bytes).ok());
        taken.ok_or_else(|| Error::overloaded("The memory for request bodies"))
    }
}

/// A body that came in whole, and its part of the budget.
#[derive(Debug)]
pub struct WholeBody {
    pub bytes: Bytes,
    pub held: Option<OwnedSemaphorePermit>,
}

/// The whole body, of at most `limit` bytes and within `deadline` in total: a drip does not hold it open.
///
/// # Errors
/// `too_large`; `malformed` when the body broke off or took too long; `overloaded` when the budget is used up.
pub async fn read_body(
    head: &Head,
    body: BodyStream,
    limit: usize,
    deadline: Duration,
    budget: &BodyBudget,
) -> Result<WholeBody, Error> {
    let too_large = || Error::new(ErrorCode::TooLarge, format!("The body may have at most {limit} bytes."));
    let announced = head.header("content-length").and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = body;
        let (mut whole, mut held) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_| Error::new(ErrorCode::Malformed, "The body broke off."))?;
            let length = whole.len() + chunk.len();
            if length > limit {
                return Err(too_large());
            }
            let counted = length.saturating_sub(FREE_BYTES.max(whole.len()));
            if counted > 0 {
                let more = budget.take(counted)?;
                match &mut held {
                    Some(held) => held.merge(more),
                    None => held = Some(more),
                }
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(WholeBody { bytes: whole.freeze(), held })
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
    /// Whether a body follows; over HTTP/2 no field needs to say so.
    pub has_body: bool,
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
            has_body: false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_share_a_budget_that_small_ones_do_not_touch() {
        let budget = BodyBudget::new(30 << 10);
        let head = Head::new(Method::POST, "/");
        let read = async |chunks: usize| {
            let chunks = futures::stream::iter((0..chunks).map(|_| Ok(Bytes::from(vec![b'x'; 4 << 10]))));
            read_body(&head, chunks.boxed(), 1 << 20, Duration::from_secs(5), &budget).await
        };
        let small = read(2).await.expect("free");
        assert!(small.held.is_none() && budget.0.available_permits() == 30 << 10);
        let large = read(8).await.expect("counted");
        assert_eq!((large.bytes.len(), budget.0.available_permits()), (32 << 10, 6 << 10));
        assert_eq!(read(8).await.expect_err("used up").code, ErrorCode::Overloaded);
        drop(large);
        assert_eq!(budget.0.available_permits(), 30 << 10);
    }
}
