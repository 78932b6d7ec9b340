//! Every stream between nodes: made, authenticated, kept alive and bounded here.
//!
//! A stream is one TLS connection of one [`Lane`]. The side that needs it dials ([`dial`]), the other accepts
//! ([`accept`]); both say [`hello`], which checks wire version, cluster, node and membership; then it carries frames
//! ([`stream`]). [`peers`] knows who may connect and who is there, [`identity`] and [`tls`] who is who.
//!
//! Invariants: nothing is believed before the certificate and the hello fit together; a node outside the membership is
//! refused; silence, a stalled write and an oversized frame end the one stream and nothing else; what a stranger can
//! hold open is bounded in number and time. Deliberately absent: what the frames mean, which is the lanes' affair.

mod accept;
mod dial;
mod hello;
mod identity;
mod peers;
mod stream;
#[cfg(test)]
pub(in crate::cluster) mod testing;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::peers::Peers;
use self::stream::{FrameReceiver, FrameSender, Io, Pace};
use self::tls::Tls;

pub(in crate::cluster) use self::dial::{Joining, dial_member, is_member};
pub use self::hello::{Lane, NEWEST, Rejection};
pub(in crate::cluster) use self::identity::sha256;
pub use self::identity::{Authority, ClusterId, Identity, IdentityError, NodeKey, fingerprint};
pub use self::peers::PeerStatus;
pub(in crate::cluster) use self::peers::remember as remember_members;
pub(in crate::cluster) use self::stream::FrameSender as Sender;
pub use self::stream::StreamError;

/// Version of this program, as other nodes hear it.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
/// Streams accepted and not yet taken by their lane.
const ACCEPTED: usize = 64;

/// Periods and bounds of the link.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    pub listen: SocketAddr,
    /// Without encryption, also towards others. For one machine only: settings refuse it on any other address.
    pub plain_text: bool,
    pub heartbeat: Duration,
    /// From connecting to the end of the hello.
    pub handshake: Duration,
    /// The longest what was sent may stay unacknowledged, and a write without progress.
    pub stall: Duration,
    /// Pause before dialing again: the first, doubling, at most the second; each cut by a random part.
    pub redial: (Duration, Duration),
    /// Connections that are still at their handshake: in all, and of one address.
    pub handshakes: (usize, usize),
}

impl LinkSettings {
    #[must_use]
    pub fn listening(listen: SocketAddr) -> Self {
        Self {
            listen,
            plain_text: false,
            heartbeat: Duration::from_millis(500),
            handshake: Duration::from_secs(5),
            stall: Duration::from_secs(5),
            redial: (Duration::from_millis(50), Duration::from_secs(1)),
            handshakes: (256, 32),
        }
    }

    /// Three missed heartbeats.
    fn pace(&self, lane: Lane) -> Pace {
        let (frame_bytes, queue_bytes) = match lane {
            Lane::Raft => (24 << 20, 32 << 20),
            Lane::Entity => (256 << 10, 1 << 20),
            Lane::Snapshot => (1 << 20, 4 << 20),
            Lane::Join => (1 << 20, 1 << 20),
        };
        let silence = self.heartbeat * 3;
        Pace { heartbeat: self.heartbeat, silence, stall: self.stall, frame_bytes, queue_bytes }
    }
}

/// Why a link or a stream could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cluster.listen: {address} cannot be bound: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the certificates cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the list of members: {0}")]
    Members(#[source] io::Error),
    #[error("no address is known of node {0}")]
    Unknown(u64),
    #[error("{address} cannot be reached")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the handshake took longer than {0:?}")]
    Handshake(Duration),
    #[error("the stream was refused: {0}")]
    Refused(#[from] Rejection),
    #[error("another process answers as node {0}, with another key than the one the node joined with")]
    OtherKey(u64),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the other side does not speak this protocol")]
    Protocol(#[from] crate::kernel::codec::CodecError),
}

/// One stream with an authenticated node.
pub struct Wire {
    pub node: u64,
    pub incarnation: u64,
    pub sender: FrameSender,
    pub receiver: FrameReceiver,
}

/// A connection of a node that asks to join: authenticated by nothing yet.
pub(in crate::cluster) struct Stranger {
    pub address: SocketAddr,
    io: Io,
}

/// This node's end of all streams. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    settings: LinkSettings,
    node: u64,
    cluster: ClusterId,
    incarnation: u64,
    authority: [u8; 32],
    tls: Tls,
    peers: Peers,
    address: SocketAddr,
    /// By lane: where accepted streams go.
    lanes: Mutex<BTreeMap<Lane, mpsc::Sender<Wire>>>,
    strangers: Mutex<Option<mpsc::Sender<Stranger>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    /// Binds the listener and accepts from now on.
    ///
    /// # Errors
    /// [`LinkError::Bind`], [`LinkError::Tls`] or [`LinkError::Members`].
    pub async fn bind(data_dir: &Path, settings: LinkSettings, identity: &Identity) -> Result<Self, LinkError> {
        let unbound = |source| LinkError::Bind { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(unbound)?;
        let random = crate::actors::runtime::entropy();
        let shared = Arc::new(Shared {
            node: identity.node,
            cluster: identity.cluster,
            incarnation: u64::from_le_bytes(random.first_chunk().copied().unwrap_or_default()),
            authority: identity.authority_fingerprint(),
            tls: Tls::new(identity)?,
            peers: Peers::open(data_dir).map_err(LinkError::Members)?,
            address: listener.local_addr().map_err(unbound)?,
            settings,
            lanes: Mutex::new(BTreeMap::new()),
            strangers: Mutex::new(None),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(accept::run(listener, Arc::clone(&shared)));
        Ok(Self { shared })
    }

    #[must_use]
    pub fn node(&self) -> u64 {
        self.shared.node
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.cluster
    }

    /// Of this process, among all that this node ever was.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }

    /// SHA-256 of the authority's certificate: what a join token carries.
    #[must_use]
    pub fn authority(&self) -> [u8; 32] {
        self.shared.authority
    }

    /// Where this node listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Replaces the members: who may connect, and where each is dialed. Kept for the next start.
    ///
    /// # Errors
    /// [`LinkError::Members`]: they hold, but not beyond this process.
    pub fn set_members(&self, members: BTreeMap<u64, String>) -> Result<(), LinkError> {
        self.shared.peers.set_members(members).map_err(LinkError::Members)
    }

    /// Replaces what is known of the members' public keys, by SHA-256: whoever comes as one of them with another key is
    /// refused. Kept for the next start.
    ///
    /// # Errors
    /// [`LinkError::Members`]: they hold, but not beyond this process.
    pub fn set_keys(&self, keys: BTreeMap<u64, [u8; 32]>) -> Result<(), LinkError> {
        self.shared.peers.set_keys(keys).map_err(LinkError::Members)
    }

    /// Whether the members may have changed without this node: one that starts again knows them as of its last life, and who
    /// joined since may be the only one to tell. Meanwhile every certificate of the cluster is good enough.
    pub fn doubt_members(&self, doubted: bool) {
        self.shared.peers.doubt(doubted);
    }

    /// The members as this node knows them.
    #[must_use]
    pub fn members(&self) -> BTreeMap<u64, String> {
        self.shared.peers.members()
    }

    /// How the other nodes look from here.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.peers.status(self.shared.node)
    }

    /// The level of the cluster: older versions of the wire are not spoken from here on.
    pub fn set_level(&self, level: u16) {
        self.shared.peers.set_level(level);
    }

    /// Whether this node can be reached and shows signs of life.
    #[must_use]
    pub fn is_connected(&self, node: u64) -> bool {
        self.shared.peers.is_connected(node)
    }

    /// Closes all streams and the listener.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    pub(in crate::cluster) fn learn(&self, node: u64, address: &str) {
        self.shared.peers.learn(node, address);
    }

    pub(in crate::cluster) fn member_changes(&self) -> watch::Receiver<u64> {
        self.shared.peers.changes()
    }

    pub(in crate::cluster) fn set_connected(&self, node: u64, connected: bool) {
        self.shared.peers.set_connected(node, connected);
    }

    /// Streams of a lane that other nodes open from now on.
    pub(in crate::cluster) fn incoming(&self, lane: Lane) -> mpsc::Receiver<Wire> {
        let (accepted, incoming) = mpsc::channel(ACCEPTED);
        self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(lane, accepted);
        incoming
    }

    /// Connections of nodes that ask to join from now on.
    pub(in crate::cluster) fn strangers(&self) -> mpsc::Receiver<Stranger> {
        let (accepted, incoming) = mpsc::channel(ACCEPTED);
        *self.shared.strangers.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        incoming
    }

    /// Cancelled when the link shuts down.
    pub(in crate::cluster) fn stopping(&self) -> &CancellationToken {
        &self.shared.stop
    }

    /// Runs a task that [`Link::shutdown`] waits for; it must end when the link stops.
    pub(in crate::cluster) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }
}
