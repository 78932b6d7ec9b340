//! Raft between nodes: what openraft sends of a shard goes over the raft lane, all shards of a node on one stream.
//!
//! Each node dials every other and sends its requests on that stream; replies come back on it. [`lane`] is this side of
//! it, [`inbound`] the other; [`pipeline`] keeps appends of a shard in flight one after another; [`snapshot`] moves
//! state over streams of its own; [`wire`] is the format. A cluster of one ([`Network::alone`]) has nobody to talk to,
//! and every attempt says so.

mod inbound;
mod lane;
mod pipeline;
mod snapshot;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AnyError, BasicNode};
use tokio::time::Instant;

use self::lane::{LaneError, Peer};
use self::wire::{Call, Reply};
use super::proposer::Raft;
use crate::cluster::link::{Lane, Link};
use crate::cluster::raft::naming;
use crate::kernel::ShardId;
use crate::storage::state::{ShardMachine, SnapshotFile};
use crate::storage::types::{LogId, TypeConfig, Vote};

/// The longest a stream of appends waits for one answer. That a node is dead is the link's to find out; this bounds
/// what a node that lives and does not answer can cost. Not openraft's own limit: a disk may take longer to sync.
const APPEND_ANSWER: Duration = Duration::from_secs(5);

/// The way to the replicas of all shards. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    link: Option<Link>,
    /// Bytes a second of one snapshot.
    snapshot_rate: u64,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    groups: RwLock<BTreeMap<u16, Group>>,
}

/// A shard of this node, as other nodes reach it.
#[derive(Clone)]
struct Group {
    raft: Raft,
    machine: ShardMachine,
    /// Votes may be asked for from then on.
    votes_from: Instant,
    voting: Voting,
}

/// What a replica must wait for before it votes or stands for election.
#[derive(Debug, Clone, Default)]
pub(super) struct Voting {
    /// How long a promise of an earlier process may bind it; until then it votes for nobody but whom its leader names.
    pub promised: Duration,
    /// The name of its key, by which its log must mean it; none when it is meant by its id alone.
    pub own: Option<String>,
    /// The last entry that it had when it was emptied. It votes for nobody who lacks that one, and takes over from nobody
    /// before it stands for election by itself.
    pub mark: Option<LogId>,
    /// Whether it may stand for election by now.
    pub stands: Arc<AtomicBool>,
}

impl Network {
    /// Of a cluster of one.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(None, u64::MAX)
    }

    /// Over the streams of a link; requests of other nodes are answered from now on.
    #[must_use]
    pub fn over(link: Link, snapshot_rate: u64) -> Self {
        let network = Self::new(Some(link.clone()), snapshot_rate);
        link.spawn(inbound::accept(network.clone(), link.clone()));
        link.spawn(snapshot::accept(network.clone(), link.clone()));
        network
    }

    fn new(link: Option<Link>, snapshot_rate: u64) -> Self {
        let (peers, groups) = (Mutex::default(), RwLock::default());
        Self { shared: Arc::new(Shared { link, snapshot_rate, peers, groups }) }
    }

    /// The way to the other replicas of one shard.
    #[must_use]
    pub fn of(&self, shard: ShardId) -> ShardNetwork {
        ShardNetwork { network: self.clone(), shard: shard.0 }
    }

    /// Lets other nodes reach a shard of this one.
    pub(super) fn register(&self, shard: ShardId, raft: Raft, machine: ShardMachine, voting: Voting) {
        let group = Group { raft, machine, votes_from: Instant::now() + voting.promised, voting };
        self.shared.groups.write().unwrap_or_else(PoisonError::into_inner).insert(shard.0, group);
    }

    /// Lets no other node reach a shard of this one until it is registered again.
    pub(super) fn withdraw(&self, shard: ShardId) {
        self.shared.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&shard.0);
    }

    fn group(&self, shard: u16) -> Option<Group> {
        self.shared.groups.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    /// This side of the raft lane to a node, kept up from its first use on.
    fn peer(&self, link: &Link, node: u64) -> Arc<Peer> {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer::new(node));
        peers.insert(node, Arc::clone(&peer));
        let (network, kept_by, kept) = (self.clone(), link.clone(), Arc::clone(&peer));
        link.spawn(async move {
            kept_by.keep(node, Lane::Raft, |wire| kept.run(wire, &kept_by)).await;
            // Forgotten or stopping; whoever needs the node again starts over.
            network.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        });
        peer
    }
}

/// Makes [`Replica`]s of one shard.
pub struct ShardNetwork {
    network: Network,
    shard: u16,
}

/// Another node's replica of a shard.
#[derive(Clone)]
pub struct Replica {
    network: Network,
    shard: u16,
    target: u64,
    address: String,
}

impl RaftNetworkFactory<TypeConfig> for ShardNetwork {
    type Network = Replica;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Replica {
        let replica = Replica { network: self.network.clone(), shard: self.shard, target, address: node.addr.clone() };
        // Dialed before it is needed.
        replica.peer();
        replica
    }
}

impl Replica {
    /// The raft lane to the node; none in a cluster of one. Looked up each time: it starts anew when a node that was
    /// removed comes back.
    fn peer(&self) -> Option<Arc<Peer>> {
        let link = self.network.shared.link.as_ref()?;
        link.learn(self.target, naming::address(&self.address));
        Some(self.network.peer(link, self.target))
    }

    fn unreachable(&self) -> Unreachable<TypeConfig> {
        Unreachable::new(&AnyError::error(format!("node {} is not connected to this one", self.target)))
    }

    fn failed(&self, error: &LaneError, action: RPCTypes) -> RPCError<TypeConfig> {
        match error {
            LaneError::NotConnected | LaneError::Lost => self.unreachable().into(),
            LaneError::Late(timeout) => {
                let id = self.network.shared.link.as_ref().map_or(0, Link::node);
                let target = self.target;
                Timeout { action, id, target, timeout: *timeout }.into()
            }
            LaneError::Failed(why) => NetworkError::from_string(why).into(),
        }
    }

    async fn ask(&self, call: Call, action: RPCTypes, limit: Duration) -> Result<Reply, RPCError<TypeConfig>> {
        let Some(peer) = self.peer() else { return Err(self.unreachable().into()) };
        peer.ask(self.shard, call, limit).await.map_err(|error| self.failed(&error, action))
    }

    /// What openraft asks once: an answer of "not connected" would cost an election time-out.
    async fn ask_once(&self, call: Call, action: RPCTypes, limit: Duration) -> Result<Reply, RPCError<TypeConfig>> {
        let Some(peer) = self.peer() else { return Err(self.unreachable().into()) };
        peer.ask_once_connected(self.shard, call, limit).await.map_err(|error| self.failed(&error, action))
    }

    async fn ask_vote(&self, call: Call, option: &RPCOption) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.ask_once(call, RPCTypes::Vote, option.soft_ttl()).await? {
            Reply::Voted(vote) => Ok(vote),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> RPCError<TypeConfig> {
    NetworkError::from_string(format!("the replica answered something else: {reply:?}")).into()
}

impl RaftNetworkV2<TypeConfig> for Replica {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = Call::Append { stream: 0, append };
        match self.ask(call, RPCTypes::AppendEntries, option.soft_ttl()).await? {
            Reply::Appended(Ok(_)) => Ok(AppendEntriesResponse::Success),
            Reply::Appended(Err(StreamAppendError::Conflict(_))) => Ok(AppendEntriesResponse::Conflict),
            Reply::Appended(Err(StreamAppendError::HigherVote(vote))) => Ok(AppendEntriesResponse::HigherVote(vote)),
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: futures::Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let replica = self.clone();
        Box::pin(async move { pipeline::start(replica, input, option).await })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(Call::Vote(request), &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(Call::PreVote(request), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Some(link) = &self.network.shared.link else { return Err(self.unreachable().into()) };
        let rate = self.network.shared.snapshot_rate;
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = snapshot::send(link, self.target, self.shard, vote, &snapshot.snapshot, rate) => {
                let vote = sent.map_err(|error| Unreachable::new(&AnyError::error(error)))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.ask_once(Call::Transfer(request), RPCTypes::TransferLeader, option.soft_ttl()).await? {
            Reply::Transferred(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }
}
