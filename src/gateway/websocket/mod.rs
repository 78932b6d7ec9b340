//! Real time: the Centrifuge client protocol v2 over WebSocket, at `GET /connection/websocket`.
//!
//! `mod.rs` shakes hands; a [`connection`] is a task that executes [`commands`] in the terms of [`protocol`]; channels
//! and what is in them are in [`channel`]; a [`publisher`] per shard follows the feed and wakes connections through the
//! [`hub`]; [`rpc`] sends calls through the same pipeline as HTTP. See docs/adr/0010-realtime.md.
//!
//! Deliberately absent: Protobuf frames, presence, and the HTTP-streaming and SSE fallbacks.

mod asyncapi;
mod channel;
mod commands;
mod connection;
mod disconnect;
mod hub;
mod protocol;
mod publisher;
mod rpc;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::asyncapi::document as asyncapi;
use self::connection::Connection;
pub use self::disconnect::Disconnect;
pub use self::hub::{Hub, Watched};
use super::call::{Call, Upgrade};
use super::registry::{Access, Endpoint, LimitClass};
use super::reply::Reply;
use super::request::Head;
use crate::actors::runtime::{Router, entropy};
use crate::kernel::{Clock, Error, ErrorCode};
use crate::settings::WebSocket;

/// Allocated for each connection as long as it lives. Most commands fit; longer messages come in several reads.
const READ_BUFFER_BYTES: usize = 1024;

/// Bounds and deadlines of connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub max_connections: usize,
    pub max_message_bytes: usize,
    pub max_queue_bytes: usize,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub connect_timeout: Duration,
    pub write_timeout: Duration,
}

impl Bounds {
    #[must_use]
    pub fn of(settings: &WebSocket) -> Self {
        let pong_timeout = Duration::from_millis(settings.pong_timeout_ms);
        Self {
            max_connections: settings.max_connections,
            max_message_bytes: settings.max_message_bytes,
            max_queue_bytes: settings.max_queue_bytes,
            ping_interval: Duration::from_millis(settings.ping_interval_ms),
            pong_timeout,
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            write_timeout: pong_timeout,
        }
    }
}

/// The real-time part of the gateway. One per node.
pub struct Realtime {
    hub: Arc<Hub>,
    router: Router,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    connections: Arc<Semaphore>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Publications handed to connections.
    publications: metrics::Counter,
}

impl Realtime {
    #[must_use]
    pub fn new(router: Router, clock: Arc<dyn Clock>, bounds: Bounds) -> Self {
        let connections = Arc::new(Semaphore::new(bounds.max_connections.min(Semaphore::MAX_PERMITS)));
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        drop(metrics::gauge!("construct_websocket_connections"));
        let publications = metrics::counter!("construct_websocket_publications_total");
        Self { hub: Arc::default(), router, clock, bounds, connections, stopping, tasks, publications }
    }

    /// Starts to follow the feed of every shard.
    pub fn follow(&self) {
        for replica in self.router.replicas() {
            let (router, replica, hub) = (self.router.clone(), Arc::clone(replica), Arc::clone(&self.hub));
            self.tasks.spawn(publisher::publish(router, replica, hub, self.stopping.clone()));
        }
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.bounds.max_connections.saturating_sub(self.connections.available_permits())
    }

    /// Asks every client to come back elsewhere and waits until they are gone.
    pub async fn drain(&self) {
        self.stopping.cancel();
        self.hub.end_all(Disconnect::SHUTDOWN);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Hears of the end of a session at once.
    #[must_use]
    pub fn watch(&self, session: &str) -> Watched {
        Watched::new(&self.hub, session)
    }

    /// A place among all WebSocket connections, those to upstreams included.
    ///
    /// # Errors
    /// `overloaded` when all are taken, `unavailable` while the node shuts down.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        if self.stopping.is_cancelled() {
            return Err(Error::unavailable("The node is shutting down."));
        }
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        permit.map_err(|_| Error::overloaded("The list of WebSocket connections"))
    }
}

/// The endpoint of the protocol.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/connection/websocket", "connectRealtime")
            .summary("Real time: the Centrifuge client protocol v2 over WebSocket")
            .description(
                "The `token` of the `connect` command is an access token. The channel `inbox:<user id>` is subscribed by \
                 the server and recovers; `topic:<name>` is subscribed by permission. The method of an `rpc` is an \
                 operationId of this document, its data one object of path parameters, query or body members.",
            )
            .tag("notifications")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .no_content(101, "The connection speaks the protocol from here on")
            .problem(503)
            .upgrade(accept),
    ]
}

async fn accept(call: Call<Upgrade>) -> Result<Reply, Error> {
    let key = handshake(&call.head)?;
    let realtime = Arc::clone(&call.services.realtime);
    let permit = realtime.admit()?;
    let offered = call.head.header("sec-websocket-protocol").is_some();
    let (source, Upgrade { connection, gateway }) = (call.origin.source.clone(), call.body);
    let tasks = realtime.tasks.clone();
    tasks.spawn(async move {
        let _permit = permit;
        let connect_timeout = realtime.bounds.connect_timeout;
        let Ok(Ok(upgraded)) = timeout(connect_timeout, connection).await else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(realtime.bounds.max_queue_bytes.max(READ_BUFFER_BYTES))
            .max_message_size(Some(realtime.bounds.max_message_bytes))
            .max_frame_size(Some(realtime.bounds.max_message_bytes));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let client = uuid::Builder::from_random_bytes(first_16(entropy())).into_uuid().to_string();
        let gauge = metrics::gauge!("construct_websocket_connections");
        gauge.increment(1.0);
        Connection::new(realtime, gateway, client, source, socket).run().await;
        gauge.decrement(1.0);
    });
    let reply = Reply::empty(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
    Ok(if offered { reply.header("sec-websocket-protocol", SUBPROTOCOL) } else { reply })
}

const SUBPROTOCOL: &str = "centrifuge-json";

fn first_16(bytes: [u8; 32]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&bytes[..16]);
    first
}

/// Checks the opening handshake (RFC 6455 §4.2.1) and answers its key.
fn handshake(head: &Head) -> Result<String, Error> {
    let malformed = |detail| Error::new(ErrorCode::Malformed, detail);
    let lists = |name: &str, token: &str| {
        head.header(name).is_some_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    };
    if !lists("connection", "upgrade") || !lists("upgrade", "websocket") {
        return Err(malformed("This is a WebSocket endpoint: ask for an upgrade to it."));
    }
    if head.header("sec-websocket-version") != Some("13") {
        return Err(malformed("Only version 13 of WebSocket is spoken (RFC 6455)."));
    }
    if head.header("sec-websocket-protocol").is_some() && !lists("sec-websocket-protocol", SUBPROTOCOL) {
        return Err(malformed("Only the subprotocol centrifuge-json is spoken."));
    }
    let key = head.header("sec-websocket-key").unwrap_or_default();
    if key.len() != 24 {
        return Err(malformed("Sec-WebSocket-Key is missing or not 16 bytes in base64."));
    }
    Ok(key.to_owned())
}
