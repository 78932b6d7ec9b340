//! The entity lane: requests to entities on other nodes, in envelopes, over `ractor_cluster` on streams of the link.
//!
//! A call's way: [`EntityLane::call`] → [`peer`] (queue, deadline, and the window of envelopes in flight: whatever
//! queued meanwhile goes into the next one) → [`router`] of the other node (one remotable actor a node) → the runtime
//! there → an answer, which travels back in an envelope of the other direction together with whatever else goes that
//! way. An envelope is acknowledged when it was taken in, not when it was worked off, so that a slow entity holds up
//! nobody. [`session`] puts the streams under `ractor_cluster`; [`envelope`] is the format.
//!
//! Invariants: every call ends by its deadline; every request that was taken in is answered or refused, unless the
//! connection breaks, which its caller is told; queues, windows and bytes are bounded, and at the bound the caller hears
//! `overloaded`. `ractor_cluster` brings none of that along: no liveness, no reconnect, no bounds.

mod envelope;
mod peer;
mod router;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use self::peer::Peer;
use self::router::Router;
use self::session::Sessions;
use super::link::{Lane, Link};
use crate::actors::runtime::remote::{Remote, RemoteError, RemoteHandler};
use crate::kernel::ShardId;

/// The process group of a node's router, by node and incarnation.
const SCOPE: &str = "construct";

/// Set once the runtime of this node is there; until then requests are refused as not led here.
pub type HandlerCell = Arc<OnceLock<Arc<dyn RemoteHandler>>>;

/// This node's end of the entity lane. Cheap to clone.
#[derive(Clone)]
pub struct EntityLane {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    handler: HandlerCell,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
}

impl EntityLane {
    /// Starts the lane. `cookie` is a secret that all nodes have: `ractor_cluster` opens a listener of its own on the
    /// loopback interface, which must let nobody in.
    ///
    /// # Errors
    /// When the actors cannot be spawned.
    pub async fn start(link: Link, handler: HandlerCell, cookie: &str) -> Result<Self, ractor::SpawnErr> {
        let shared = Arc::new(Shared { link: link.clone(), handler, peers: Mutex::default() });
        let lane = Self { shared };
        Router::start(lane.clone()).await?;
        let sessions = Sessions::start(&link, cookie).await?;
        link.spawn(session::accept(lane.clone(), Arc::clone(&sessions)));
        link.spawn(session::dial(lane.clone(), sessions));
        Ok(lane)
    }

    fn peer(&self, node: u64) -> Arc<Peer> {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(peers.entry(node).or_insert_with(|| Arc::new(Peer::new(node, &self.shared.link))))
    }

    fn link(&self) -> &Link {
        &self.shared.link
    }

    fn handler(&self) -> Option<&Arc<dyn RemoteHandler>> {
        self.shared.handler.get()
    }
}

#[async_trait]
impl Remote for EntityLane {
    async fn call(
        &self,
        node: u64,
        shard: ShardId,
        request: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<u8>, RemoteError> {
        self.peer(node).call(shard, request, deadline).await
    }
}

/// The name of a node's router and of its sessions, another one in each of its lives.
fn name(node: u64, incarnation: u64) -> String {
    format!("node-{node}-{incarnation:016x}")
}

/// The lane of a stream between two nodes is dialed by the one with the lower id.
fn dials(own: u64, other: u64) -> bool {
    own < other
}

const LANE: Lane = Lane::Entity;
