//! One request through a route, with its tries and its deadlines.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header::UPGRADE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{self, Frame};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::Outgoing;
use super::headers::{outgoing, remove_hop_by_hop};
use super::passage::{Standing, pass_through};
use super::target::Target;
use super::{Route, Upstreams};
use crate::gateway::auth::Caller;
use crate::gateway::exchange::Exchange;
use crate::gateway::reply::{Body, Reply};
use crate::gateway::request::{BodyStream, Head};
use crate::kernel::{Error, ErrorCode};

/// Between two chunks of an answer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that may be forwarded.
pub struct Forwarding<'a> {
    pub head: &'a Head,
    /// Path and query as the upstream sees them.
    pub place: String,
    pub body: BodyStream,
    /// There when the client asks for a WebSocket on a route that has them.
    pub upgrade: Option<(OnUpgrade, Standing)>,
    pub caller: &'a Caller,
    pub exchange: &'a Exchange,
    pub client: IpAddr,
    pub max_body_bytes: usize,
    pub draining: CancellationToken,
}

impl Upstreams {
    /// Forwards the request and answers what the upstream answers.
    ///
    /// # Errors
    /// `unavailable` when no upstream takes it, `deadline_exceeded`, or `too_large`.
    pub async fn forward(&self, route: &Route, forwarding: Forwarding<'_>) -> Result<Reply, Error> {
        let Forwarding { head, place, body, upgrade, caller, exchange, client, max_body_bytes, draining } = forwarding;
        let headers = outgoing(head, caller, route.access, exchange, client, upgrade.is_some());
        let tries = if head.is_safe() && !head.has_body && upgrade.is_none() { 1 + route.retries } else { 1 };
        let incoming = Arc::new(Incoming::of(max_body_bytes));
        let mut body = Some(body);
        let mut tried: Vec<Arc<Target>> = Vec::new();
        let mut failure = Error::unavailable("No upstream takes requests now.");
        for attempt in 1..=tries {
            let Some(target) = route.pick(&tried) else { break };
            let uri = target.uri(&place).ok_or_else(|| Error::new(ErrorCode::Malformed, "The path is not a path."))?;
            let body = match body.take().filter(|_| head.has_body) {
                Some(body) => limited(body, &incoming),
                None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            };
            let mut request = Request::new(body);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = uri;
            *request.headers_mut() = headers.clone();
            let outcome = tokio::time::timeout(route.timeout, self.client.request(request)).await;
            tried.push(target.clone());
            let fault = match &outcome {
                Ok(Ok(_)) => None,
                other => incoming.fault(other.is_err(), max_body_bytes),
            };
            if let Some(fault) = fault {
                target.breaker.abandoned();
                return Err(fault);
            }
            failure = match outcome {
                Ok(Ok(response)) if !gave_up(response.status()) => {
                    target.breaker.succeeded();
                    return Ok(answered(response, upgrade, draining));
                }
                Ok(Ok(response)) => {
                    target.breaker.failed(Instant::now());
                    if attempt == tries {
                        return Ok(answered(response, None, draining));
                    }
                    continue;
                }
                Ok(Err(error)) => {
                    tracing::warn!(route = route.name, %error, "an upstream did not answer");
                    Error::unavailable("The upstream did not answer.")
                }
                Err(_) => Error::new(ErrorCode::DeadlineExceeded, "The upstream took too long."),
            };
            target.breaker.failed(Instant::now());
        }
        Err(failure)
    }
}

/// Answers that say that the upstream cannot serve now.
fn gave_up(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// How the client's body comes along.
struct Incoming {
    left: AtomicUsize,
    too_large: AtomicBool,
    broken: AtomicBool,
    /// The upstream waits for the client's next bytes.
    awaited: AtomicBool,
}

impl Incoming {
    fn of(most: usize) -> Self {
        let (too_large, broken, awaited) = Default::default();
        Self { left: AtomicUsize::new(most), too_large, broken, awaited }
    }

    /// What the client did wrong, so that the call did not come to its end, or is `late`.
    fn fault(&self, late: bool, most: usize) -> Option<Error> {
        let malformed = |detail| Some(Error::new(ErrorCode::Malformed, detail));
        if self.too_large.load(Ordering::Relaxed) {
            return Some(Error::new(ErrorCode::TooLarge, format!("The body may have at most {most} bytes.")));
        }
        if self.broken.load(Ordering::Relaxed) {
            return malformed("The body broke off.");
        }
        if late && self.awaited.load(Ordering::Relaxed) {
            return malformed("The body took too long to arrive.");
        }
        None
    }
}

/// The body as it comes in, cut off with an error beyond the limit.
fn limited(mut body: BodyStream, incoming: &Arc<Incoming>) -> Outgoing {
    let incoming = Arc::clone(incoming);
    let frames = stream::poll_fn(move |context| {
        let polled = body.poll_next_unpin(context);
        incoming.awaited.store(polled.is_pending(), Ordering::Relaxed);
        polled.map(|chunk| chunk.map(|chunk| take(&incoming, chunk)))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn take(incoming: &Incoming, chunk: io::Result<Bytes>) -> io::Result<Frame<Bytes>> {
    let chunk = chunk.inspect_err(|_| incoming.broken.store(true, Ordering::Relaxed))?;
    let left = incoming.left.load(Ordering::Relaxed);
    let Some(left) = left.checked_sub(chunk.len()) else {
        incoming.too_large.store(true, Ordering::Relaxed);
        return Err(io::Error::other("the body is too large"));
    };
    incoming.left.store(left, Ordering::Relaxed);
    Ok(Frame::data(chunk))
}

/// Whether the client asks for a WebSocket. Any other protocol, HTTP/2 in the clear say, it would speak past the
/// gateway, as whoever it likes.
pub fn asks_for_websocket(head: &Head) -> bool {
    head.header(UPGRADE.as_str()).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

fn answered(
    mut response: Response<body::Incoming>,
    upgrade: Option<(OnUpgrade, Standing)>,
    draining: CancellationToken,
) -> Reply {
    let status = response.status();
    let mut reply = Reply::empty(status.as_u16());
    if let (StatusCode::SWITCHING_PROTOCOLS, Some((ours, standing))) = (status, upgrade) {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(pass_through(ours, theirs, standing, draining));
        reply.headers = std::mem::take(response.headers_mut());
        return reply;
    }
    reply.headers = std::mem::take(response.headers_mut());
    remove_hop_by_hop(&mut reply.headers);
    reply.body = Body::Stream(chunks(response.into_body()).boxed());
    reply
}

fn chunks(body: body::Incoming) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        loop {
            match tokio::time::timeout(CHUNK_TIMEOUT, body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), Some(body)));
                    }
                }
                Ok(Some(Err(error))) => return Some((Err(io::Error::other(error)), None)),
                Err(_) => return Some((Err(io::Error::from(io::ErrorKind::TimedOut)), None)),
            }
        }
    })
}
