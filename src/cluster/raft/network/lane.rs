//! This side of the raft lane to one node: requests of all shards, and who waits for which reply.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::wire::{Call, Reply, Request};
use crate::cluster::link::{Link, Sender, Wire};

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaneError {
    #[error("the node is not connected")]
    NotConnected,
    #[error("the connection broke")]
    Lost,
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// What the other side says.
    #[error("{0}")]
    Failed(String),
}

pub(super) struct Peer {
    node: u64,
    next: AtomicU64,
    state: Mutex<State>,
    /// Wakes who waits for the stream.
    connected: Notify,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
}

/// A request under way; given up when dropped.
pub(super) struct Waiting {
    id: u64,
    peer: Arc<Peer>,
    reply: oneshot::Receiver<Reply>,
}

impl Peer {
    pub fn new(node: u64) -> Self {
        Self { node, next: AtomicU64::new(1), state: Mutex::default(), connected: Notify::new() }
    }

    /// Serves one stream until it ends.
    pub async fn run(self: &Arc<Self>, mut wire: Wire, link: &Link) {
        self.lock().sender = Some(wire.sender);
        self.connected.notify_waiters();
        link.set_connected(self.node, true);
        loop {
            let message = match wire.receiver.next().await {
                Ok(message) => message,
                Err(error) => {
                    tracing::info!(node = self.node, %error, "the raft lane ended");
                    break;
                }
            };
            let Ok((id, reply)) = Reply::decode(&message) else {
                tracing::warn!(node = self.node, "a message on the raft lane cannot be read");
                break;
            };
            let waiting = self.lock().waiting.remove(&id);
            if let Some(waiting) = waiting {
                // Whoever asked may have given up.
                let _ = waiting.send(reply);
            }
        }
        link.set_connected(self.node, false);
        let mut state = self.lock();
        // Dropping a sender tells who waits.
        (state.sender, state.waiting) = (None, HashMap::new());
    }

    /// A number for a request or a stream.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request, whose reply comes later.
    pub async fn send(self: &Arc<Self>, shard: u16, call: Call) -> Result<Waiting, LaneError> {
        let id = self.number();
        let message = Request { id, shard, call }.encode().map_err(|error| LaneError::Failed(error.to_string()))?;
        let (answer, reply) = oneshot::channel();
        let sender = {
            let mut state = self.lock();
            let sender = state.sender.clone().ok_or(LaneError::NotConnected)?;
            state.waiting.insert(id, answer);
            sender
        };
        let waiting = Waiting { id, peer: Arc::clone(self), reply };
        sender.send(message).await.map_err(|_| LaneError::Lost)?;
        Ok(waiting)
    }

    /// Sends what has no reply, if the node is connected.
    pub async fn tell(&self, shard: u16, call: Call) {
        let sender = self.lock().sender.clone();
        if let (Some(sender), Ok(message)) = (sender, Request { id: 0, shard, call }.encode()) {
            let _ = sender.send(message).await;
        }
    }

    pub async fn ask(self: &Arc<Self>, shard: u16, call: Call, limit: Duration) -> Result<Reply, LaneError> {
        let asked = async { self.send(shard, call).await?.reply().await };
        timeout(limit, asked).await.unwrap_or(Err(LaneError::Late(limit)))
    }

    /// As [`Peer::ask`]; where there is no stream yet, waits for one first. For what is not asked again by itself: who has
    /// just been made a voter may be told to stand for election before it ever spoke to the others.
    pub async fn ask_once_connected(
        self: &Arc<Self>,
        shard: u16,
        call: Call,
        limit: Duration,
    ) -> Result<Reply, LaneError> {
        let asked = async {
            self.stream().await;
            self.send(shard, call).await?.reply().await
        };
        timeout(limit, asked).await.unwrap_or(Err(LaneError::Late(limit)))
    }

    async fn stream(&self) {
        let mut connected = std::pin::pin!(self.connected.notified());
        loop {
            // Counts as waiting before it looks, so that nothing is missed in between.
            connected.as_mut().enable();
            if self.lock().sender.is_some() {
                return;
            }
            connected.as_mut().await;
            connected.set(self.connected.notified());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The reply. May be cancelled and called again.
    pub async fn reply(&mut self) -> Result<Reply, LaneError> {
        match (&mut self.reply).await {
            Ok(Reply::Failed(why)) => Err(LaneError::Failed(why)),
            Ok(reply) => Ok(reply),
            Err(_) => Err(LaneError::Lost),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.peer.lock().waiting.remove(&self.id);
    }
}
