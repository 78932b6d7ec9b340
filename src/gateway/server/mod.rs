//! The accept loop: connections, their deadlines and bounds, TLS, and the drain at shutdown. warp is the service.
//!
//! Invariants: a connection never outlives its deadlines without making progress (first request, each head, writing,
//! idleness); there are at most as many as configured, in all and from one address; CONNECT never reaches warp, whose
//! path filter cannot bear it. Deadlines of bodies and handlers belong to the pipeline behind [`App`].

mod activity;
mod connection;
mod service;
mod strict;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use tls::{TlsError, TlsFiles};

use super::reply::Reply;
use super::request::Request;
use crate::settings::Gateway;

/// What answers the requests of a listener.
#[async_trait]
pub trait App: Send + Sync + 'static {
    /// Answers; never fails: a refusal is an answer too.
    async fn serve(&self, request: Request) -> Reply;
}

/// The bounds and deadlines of a listener.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_header_bytes: usize,
    /// HTTP/2 requests at a time on one connection.
    pub max_streams: u32,
    /// From the first byte of a head (or the opening of the connection) to its last.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// Without the other side taking a byte of an answer.
    pub write_timeout: Duration,
    /// From shutdown to the end of the last request.
    pub drain_timeout: Duration,
}

impl Bounds {
    #[must_use]
    pub fn of(gateway: &Gateway) -> Self {
        Self {
            max_connections: gateway.max_connections,
            max_connections_per_address: gateway.max_connections_per_address,
            max_header_bytes: gateway.max_header_bytes,
            max_streams: 128,
            header_timeout: Duration::from_millis(gateway.header_timeout_ms),
            idle_timeout: Duration::from_millis(gateway.idle_timeout_ms),
            write_timeout: Duration::from_millis(gateway.body_timeout_ms),
            drain_timeout: Duration::from_millis(gateway.drain_timeout_ms),
        }
    }
}

/// Why a listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound listener, not yet accepting.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What every connection of a listener shares.
struct Shared {
    bounds: Bounds,
    app: Arc<dyn App>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    connections: Arc<Semaphore>,
    /// Refusals being written; beyond these, connections are closed without a word.
    refusals: Arc<Semaphore>,
    addresses: Arc<Addresses>,
}

impl Server {
    /// # Errors
    /// [`ServerError`] when the address is taken or the certificate does not load.
    pub async fn bind(
        address: SocketAddr,
        bounds: Bounds,
        tls: Option<TlsFiles<'_>>,
        app: Arc<dyn App>,
    ) -> Result<Self, ServerError> {
        let tls = tls.map(tls::acceptor).transpose()?;
        let bind = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let connections = Arc::new(Semaphore::new(bounds.max_connections.min(Semaphore::MAX_PERMITS)));
        let addresses = Arc::new(Addresses::new(bounds.max_connections_per_address));
        drop(self::refusals());
        let refusals = Arc::new(Semaphore::new(64));
        let shared = Arc::new(Shared { bounds, app, tls, connections, refusals, addresses });
        Ok(Self { listener, address, shared })
    }

    /// Where it listens; the port is the real one also when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets requests under way finish within the drain deadline and cuts off the rest.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, shared, .. } = self;
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = admit(&shared, stream, peer.ip(), shutdown.clone());
                    let abort = abort.clone();
                    if let Some(connection) = connection {
                        tasks.spawn(async move {
                            tokio::select! {
                                () = connection => {}
                                () = abort.cancelled() => {}
                            }
                        });
                    }
                }
                Err(error) => {
                    // Out of file descriptors, say: the backlog keeps the others until some close.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(shared.bounds.drain_timeout, tasks.wait()).await.is_err() {
            tracing::warn!(connections = tasks.len(), "requests were cut off at the drain deadline");
            abort.cancel();
            tasks.wait().await;
        }
    }
}

fn refusals() -> metrics::Counter {
    metrics::counter!("construct_http_connections_refused_total")
}

/// The work of one connection, or of refusing it. `None`: too many even to refuse.
fn admit(
    shared: &Arc<Shared>,
    stream: TcpStream,
    peer: IpAddr,
    shutdown: CancellationToken,
) -> Option<futures::future::BoxFuture<'static, ()>> {
    let permit = shared.connections.clone().try_acquire_owned().ok();
    let place = permit.and_then(|permit| Some(Place { _permit: permit, _address: Addresses::enter(shared, peer)? }));
    if let Some(place) = place {
        metrics::gauge!("construct_http_connections").increment(1.0);
        return Some(Box::pin(connection::serve(shared.clone(), stream, peer, place, shutdown)));
    }
    refusals().increment(1);
    let permit = shared.refusals.clone().try_acquire_owned().ok()?;
    let speaks = shared.tls.is_none();
    Some(Box::pin(async move {
        if speaks {
            let refused = tokio::time::timeout(Duration::from_secs(1), refuse(stream)).await;
            if let Ok(Err(error)) = refused {
                tracing::debug!(%error, "a refused connection closed first");
            }
        }
        drop(permit);
    }))
}

/// Says 503 and waits for the other side to close, so that the answer is not lost to a reset.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let body = r#"{"type":"urn:construct:problem:overloaded","title":"Overloaded","status":503,"detail":"Too many connections; nothing was done."}"#;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A connection's place among the bounded number; given back when the transport itself closes, so that a connection
/// that was upgraded to another protocol still counts.
struct Place {
    _permit: OwnedSemaphorePermit,
    _address: AddressPlace,
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("construct_http_connections").decrement(1.0);
    }
}

/// Connections by address; an IPv6 caller counts by its /64, which is what one subscriber is given.
struct Addresses {
    max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

struct AddressPlace {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    fn new(max: usize) -> Self {
        Self { max, counts: Mutex::default() }
    }

    fn enter(shared: &Shared, peer: IpAddr) -> Option<AddressPlace> {
        let address = network(peer);
        let mut counts = shared.addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= shared.addresses.max {
            return None;
        }
        *count += 1;
        Some(AddressPlace { addresses: shared.addresses.clone(), address })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The host a request is for, if its head passes; for tests.
#[cfg(test)]
pub(super) fn accepts_host(mut request: http::Request<()>) -> Option<String> {
    strict::check(&mut request).ok()?;
    request.headers().get(http::header::HOST)?.to_str().map(str::to_owned).ok()
}

/// The address itself, or the /64 of an IPv6 address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}
