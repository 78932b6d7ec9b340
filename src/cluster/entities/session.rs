//! Sessions of `ractor_cluster` on streams of the link.
//!
//! `ractor_cluster` gets one end of a pipe in memory; what comes out of the other goes over the wire in frames, which
//! adds signs of life and back-pressure. A node has one session with another at a time: a new stream waits until the
//! session on the one before it is gone, so that the crate's own choice between two sessions never has to be made. Its
//! listener is bound to a free loopback port and lets in nobody without the cookie.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeEventSubscription, NodeServer, NodeServerMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::router::RouterMessage;
use super::{EntityLane, LANE, SCOPE, dials, name};
use crate::cluster::link::{Link, Wire};

/// Bytes between `ractor_cluster` and the wire.
const PIPE_BYTES: usize = 256 << 10;
const PIECE: usize = 128 << 10;
/// From the stream to a session that takes envelopes, and from its end to the crate's having noticed.
const SETTLING: Duration = Duration::from_secs(5);

/// The sessions of this node.
pub(super) struct Sessions {
    server: ActorRef<NodeServerMessage>,
    /// By label.
    open: Arc<Mutex<HashMap<String, Watched>>>,
    next: AtomicU64,
    /// Held by the stream of a node that is in use.
    turns: Mutex<BTreeMap<u64, Arc<tokio::sync::Mutex<()>>>>,
}

struct Watched {
    ready: Option<oneshot::Sender<()>>,
    gone: CancellationToken,
}

impl Sessions {
    pub async fn start(link: &Link, cookie: &str) -> Result<Arc<Self>, SpawnErr> {
        let own = name(link.node(), link.incarnation());
        // The host is part of what tells nodes apart, so it must not be one that they share.
        let (host, mode) = (own.clone(), Some(NodeConnectionMode::Isolated));
        let server = NodeServer::new(0, cookie.to_owned(), own, host, None, mode)
            .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (server, _) = Actor::spawn(None, server, ()).await?;
        let open: Arc<Mutex<HashMap<String, Watched>>> = Arc::default();
        let subscription = Box::new(Watcher { open: Arc::clone(&open) });
        let subscribe = NodeServerMessage::SubscribeToEvents { id: "link".to_owned(), subscription };
        // Fails only when the server has stopped, which the first session will find out.
        let _ = server.cast(subscribe);
        let (stopped, stopping) = (server.clone(), link.stopping().clone());
        link.spawn(async move {
            stopping.cancelled().await;
            stopped.stop(None);
        });
        Ok(Arc::new(Self { server, open, next: AtomicU64::new(0), turns: Mutex::default() }))
    }

    /// Runs a session on a stream until either ends.
    async fn run(&self, lane: &EntityLane, wire: Wire, is_server: bool) {
        let node = wire.node;
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(node).or_default())
        };
        let _turn = turn.lock().await;
        let label = format!("node-{node}#{}", self.next.fetch_add(1, Ordering::Relaxed));
        let (gone, (ready, is_ready)) = (CancellationToken::new(), oneshot::channel());
        self.lock().insert(label.clone(), Watched { ready: Some(ready), gone: gone.clone() });
        let (theirs, ours) = duplex(PIPE_BYTES);
        let stream = Box::new(Pipe { stream: theirs, label: label.clone() });
        let opened = self.server.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server });
        if opened.is_ok() {
            let (incarnation, closed) = (wire.incarnation, wire.sender.closed().clone());
            let envelopes = async {
                if matches!(timeout(SETTLING, is_ready).await, Ok(Ok(()))) {
                    match router_of(node, incarnation) {
                        Some(router) => lane.peer(node).run(router, &closed).await,
                        None => tracing::warn!(node, "the node's router is not there"),
                    }
                } else {
                    tracing::warn!(node, "the session with the node was not settled in time");
                }
                closed.cancel();
            };
            tokio::select! {
                ((), ()) = async { tokio::join!(pump(wire, ours), envelopes) } => {}
                () = gone.cancelled() => {}
            }
            closed.cancel();
            let ended = lane.link().stopping().run_until_cancelled(timeout(SETTLING, gone.cancelled())).await;
            if let Some(Err(_)) = ended {
                tracing::warn!(node, "the session with the node does not end");
            }
        }
        self.lock().remove(&label);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Watched>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The router of another node, which its session has put into its group.
fn router_of(node: u64, incarnation: u64) -> Option<ActorRef<RouterMessage>> {
    let members = ractor::pg::get_scoped_members(&SCOPE.to_owned(), &name(node, incarnation));
    members.into_iter().find(|member| !member.get_id().is_local()).map(ActorRef::from)
}

/// Carries bytes between the pipe and the wire until either ends.
async fn pump(mut wire: Wire, ours: DuplexStream) {
    let (mut read, mut write): (ReadHalf<_>, WriteHalf<_>) = split(ours);
    let sender = wire.sender.clone();
    let out = async {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            match read.read_buf(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    };
    let into = async {
        while let Ok(piece) = wire.receiver.next().await {
            if write.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = out => {}
        () = into => {}
    }
    wire.sender.close();
}

/// One end of the pipe, as `ractor_cluster` takes it.
struct Pipe {
    stream: DuplexStream,
    label: String,
}

impl ClusterBidiStream for Pipe {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = split(self.stream);
        (Box::new(read), Box::new(write))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

/// Hears of sessions that are ready or gone.
struct Watcher {
    open: Arc<Mutex<HashMap<String, Watched>>>,
}

impl NodeEventSubscription for Watcher {
    fn node_session_opened(&self, _session: NodeServerSessionInformation) {}

    fn node_session_authenticated(&self, _session: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = open.get_mut(&session.peer_addr).and_then(|watched| watched.ready.take()) {
            let _ = ready.send(());
        }
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = open.get(&session.peer_addr) {
            watched.gone.cancel();
        }
    }
}

/// Serves the streams that nodes with a lower id open.
pub(super) async fn accept(lane: EntityLane, sessions: Arc<Sessions>) {
    let link = lane.link().clone();
    let mut incoming = link.incoming(LANE);
    while let Some(Some(wire)) = link.stopping().run_until_cancelled(incoming.recv()).await {
        let (lane, sessions) = (lane.clone(), Arc::clone(&sessions));
        link.spawn(async move { sessions.run(&lane, wire, true).await });
    }
}

/// Keeps a stream to every member with a higher id.
pub(super) async fn dial(lane: EntityLane, sessions: Arc<Sessions>) {
    let link = lane.link().clone();
    let mut changes = link.member_changes();
    let kept: Arc<Mutex<BTreeMap<u64, ()>>> = Arc::default();
    let keep_all = async {
        loop {
            for node in link.members().into_keys().filter(|node| dials(link.node(), *node)) {
                if kept.lock().unwrap_or_else(PoisonError::into_inner).insert(node, ()).is_some() {
                    continue;
                }
                let (lane, sessions, kept) = (lane.clone(), Arc::clone(&sessions), Arc::clone(&kept));
                link.spawn(async move {
                    let link = lane.link().clone();
                    link.keep(node, LANE, |wire| sessions.run(&lane, wire, false)).await;
                    kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
                });
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = link.stopping().run_until_cancelled(keep_all).await;
}
