//! warp as the service: one filter hands head and body to the [`App`].

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::header::CONNECTION;
use http::{HeaderValue, Method, StatusCode, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use tower::Service;
use warp::Filter;

use super::App;
use super::activity::{Activity, InFlight};
use super::strict::{self, After};
use crate::gateway::reply::{self, Reply};
use crate::gateway::request::{BodyStream, Head, Request};
use crate::kernel::{Error, ErrorCode};

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) secure: bool,
}

/// What warp answers with; it has no name for its body.
trait Carries {
    type Body;
}

impl<B> Carries for http::Response<B> {
    type Body = B;
}

type WarpBody = <warp::reply::Response as Carries>::Body;

/// A request's head on its way through warp.
#[derive(Clone)]
struct Arrived(Arc<Head>);

/// The service of one connection.
pub(super) fn service(
    app: Arc<dyn App>,
    activity: Arc<Activity>,
    peer: Peer,
) -> impl hyper::service::Service<
    http::Request<Incoming>,
    Response = http::Response<Tracked>,
    Error = Infallible,
    Future = impl Future<Output = Result<http::Response<Tracked>, Infallible>> + Send,
> {
    let warp = warp::service(filter(app));
    service_fn(move |mut request: http::Request<Incoming>| {
        let multiplexed = request.version() == Version::HTTP_2;
        let mut in_flight = activity.request(multiplexed);
        let checked = strict::check(&mut request);
        // warp's path filter panics at CONNECT, whose target is no path.
        let refused = match checked {
            _ if request.method() == Method::CONNECT || !request.uri().path().starts_with('/') => {
                Some(Error::new(ErrorCode::MethodNotAllowed, "This is no proxy; ask for a path."))
            }
            Err(detail) => Some(Error::new(ErrorCode::Malformed, detail)),
            Ok(_) => None,
        };
        let closes = !multiplexed && (refused.is_some() || checked == Ok(After::Close));
        let arrived = arrived(&mut request, peer);
        request.extensions_mut().insert(arrived);
        let mut warp = warp.clone();
        async move {
            let mut response = if let Some(error) = refused {
                warp::Reply::into_response(Answer(reply::problem(&error, "")))
            } else {
                let Ok(response) = warp.call(request).await;
                response
            };
            if closes && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            in_flight.hand_over();
            Ok(response.map(|body| Tracked { body, in_flight }))
        }
    })
}

/// Takes the head out of a request: it goes on as plain data, without being copied.
fn arrived(request: &mut http::Request<Incoming>, peer: Peer) -> Arrived {
    let headers = std::mem::take(request.headers_mut());
    let uri = request.uri();
    let head = Head {
        method: request.method().clone(),
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        peer: peer.address,
        secure: peer.secure,
        has_body: !request.body().is_end_stream(),
    };
    Arrived(Arc::new(head))
}

fn filter(app: Arc<dyn App>) -> impl Filter<Extract = (Answer,), Error = warp::Rejection> + Clone {
    warp::ext::get::<Arrived>().and(warp::ext::optional::<OnUpgrade>()).and(warp::body::stream()).then(
        move |Arrived(head): Arrived, upgrade, body| {
            let app = app.clone();
            let body = if head.has_body { chunks(body) } else { futures::stream::empty().boxed() };
            let request = Request { head, body, upgrade };
            async move { Answer(app.serve(request).await) }
        },
    )
}

fn chunks(body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static) -> BodyStream {
    body.map(|chunk| match chunk {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(error) => Err(std::io::Error::other(error)),
    })
    .boxed()
}

/// A [`Reply`] on its way through warp.
struct Answer(Reply);

impl warp::Reply for Answer {
    fn into_response(self) -> warp::reply::Response {
        let Reply { status, headers, body } = self.0;
        let mut response = match body {
            reply::Body::Full(bytes) => http::Response::new(bytes).into_response(),
            reply::Body::Stream(chunks) => warp::reply::stream(Shareable(Mutex::new(chunks))).into_response(),
        };
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// warp wants streams to be `Sync`; nobody but the polling task ever locks this one.
struct Shareable(Mutex<BoxStream<'static, std::io::Result<Bytes>>>);

impl Stream for Shareable {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(cx)
    }
}

/// An answer's body; while it lives, its request is in flight.
pub(super) struct Tracked {
    body: WarpBody,
    in_flight: InFlight,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = warp::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(_) => self.in_flight.hand_over(),
            Poll::Pending => self.in_flight.take_back(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
