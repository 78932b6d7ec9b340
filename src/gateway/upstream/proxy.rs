//! One request through a route, with its tries, its deadlines, and the bytes after an upgrade.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::Outgoing;
use super::headers::{outgoing, remove_hop_by_hop};
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
    pub body: BodyStream,
    pub upgrade: Option<OnUpgrade>,
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
        let Forwarding { head, body, upgrade, caller, exchange, client, max_body_bytes, draining } = forwarding;
        let place = route.place(head)?;
        // To HTTP/2 in the clear, say, the client would speak past the gateway, as whoever it likes.
        let websocket =
            head.header(UPGRADE.as_str()).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        let upgrade = upgrade.filter(|_| route.websocket && websocket);
        let headers = outgoing(head, caller, route.access, exchange, client, upgrade.is_some());
        let empty = !head.headers.contains_key(TRANSFER_ENCODING)
            && head.header(CONTENT_LENGTH.as_str()).is_none_or(|length| length == "0");
        let tries = if head.is_safe() && empty && upgrade.is_none() { 1 + route.retries } else { 1 };
        let limit = Arc::new(Limit { left: AtomicUsize::new(max_body_bytes), passed: AtomicBool::new(false) });
        let mut body = Some(body);
        let mut tried: Vec<Arc<Target>> = Vec::new();
        let mut failure = Error::unavailable("No upstream takes requests now.");
        for attempt in 1..=tries {
            let Some(target) = route.pick(&tried) else { break };
            let uri = target.uri(&place).ok_or_else(|| Error::new(ErrorCode::Malformed, "The path is not a path."))?;
            let body = match body.take().filter(|_| !empty) {
                Some(body) => limited(body, &limit),
                None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            };
            let mut request = Request::new(body);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = uri;
            *request.headers_mut() = headers.clone();
            let outcome = tokio::time::timeout(route.timeout, self.client.request(request)).await;
            tried.push(target.clone());
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
                Ok(Err(_)) if limit.passed.load(Ordering::Relaxed) => {
                    let detail = format!("The body may have at most {max_body_bytes} bytes.");
                    return Err(Error::new(ErrorCode::TooLarge, detail));
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

struct Limit {
    left: AtomicUsize,
    passed: AtomicBool,
}

/// The body as it comes in, cut off with an error beyond the limit.
fn limited(body: BodyStream, limit: &Arc<Limit>) -> Outgoing {
    let limit = Arc::clone(limit);
    let frames = body.map(move |chunk| {
        let chunk = chunk?;
        let left = limit.left.load(Ordering::Relaxed);
        let Some(left) = left.checked_sub(chunk.len()) else {
            limit.passed.store(true, Ordering::Relaxed);
            return Err(io::Error::other("the body is too large"));
        };
        limit.left.store(left, Ordering::Relaxed);
        Ok(Frame::data(chunk))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn answered(mut response: Response<Incoming>, upgrade: Option<OnUpgrade>, draining: CancellationToken) -> Reply {
    let status = response.status();
    let mut reply = Reply::empty(status.as_u16());
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(ours)) = (status, upgrade) {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(pass_through(ours, theirs, draining));
        reply.headers = std::mem::take(response.headers_mut());
        return reply;
    }
    reply.headers = std::mem::take(response.headers_mut());
    remove_hop_by_hop(&mut reply.headers);
    reply.body = Body::Stream(chunks(response.into_body()).boxed());
    reply
}

fn chunks(body: Incoming) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
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

/// Copies bytes both ways until one side closes or the node drains.
async fn pass_through(ours: OnUpgrade, theirs: OnUpgrade, draining: CancellationToken) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else {
        return tracing::debug!("an upgrade through the gateway did not come about");
    };
    let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "an upgraded connection broke off");
            }
        }
        () = draining.cancelled() => {}
    }
}
