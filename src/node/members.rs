//! This node among others: the lanes to them, who they are, and patience until there is somebody to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gate::Admission;
use super::{NodeError, failed};
use crate::actors::members::{Member, Replicas};
use crate::actors::runtime::Runtime;
use crate::cluster::coordinator::Coordinator;
use crate::cluster::entities::{EntityLane, HandlerCell};
use crate::cluster::join::{self, JoinSettings};
use crate::cluster::level::{fits, keep, reached};
use crate::cluster::link::{Authority, Link};
use crate::cluster::raft::{Formation, Groups, adopt};
use crate::cluster::secrets;
use crate::kernel::{Error, ErrorCode, Secret, ShardId};
use crate::providers::keys::KeyWrapper;
use crate::settings::Settings;

/// In place of a token: forms the cluster.
const FORM: &str = "form";
/// Why a node does not form a cluster though it is told to.
#[derive(Debug, thiserror::Error)]
#[error(
    "it says \"form\", but {address} of cluster.join is a member of a cluster already; if this node lost its disk, \
     `construct cluster remove` it there and give it a token (`construct cluster token`) instead"
)]
struct Formed {
    address: String,
}

const AGAIN: Duration = Duration::from_millis(200);
/// How long a node that joins asks members that do not answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ways to other nodes.
#[derive(Clone)]
pub(super) struct Between {
    pub link: Link,
    pub formation: Formation,
    lane: EntityLane,
    handler: HandlerCell,
}

impl Between {
    pub async fn open(link: Link, formation: Formation, keys: &dyn KeyWrapper) -> Result<Self, NodeError> {
        let handler = Arc::new(OnceLock::new());
        let cookie = hex::encode(keys.derive("cluster entity lane v1").as_ref());
        let lane = EntityLane::start(link.clone(), Arc::clone(&handler), &cookie).await;
        let lane = lane.map_err(failed("the lane of entities between nodes"))?;
        Ok(Self { link, formation, lane, handler })
    }

    /// From here on this node asks others, and answers them.
    pub fn connect(&self, runtime: &Runtime) {
        runtime.router.set_peers(self.link.members().into_keys().collect());
        runtime.router.connect(self.formation.node, Arc::new(self.lane.clone()));
        let _ = self.handler.set(runtime.handler());
    }

    /// Makes this node known, and keeps the cluster as its members say until the runtime stops.
    pub async fn coordinate(
        &self,
        settings: &Settings,
        groups: &Arc<Groups>,
        coordinator: &Arc<Coordinator>,
        begins_anew: bool,
        (stopping, shutdown): (CancellationToken, &CancellationToken),
    ) -> Result<(), NodeError> {
        let believing = stopping.clone();
        let member = Member {
            id: settings.node.id,
            address: settings.cluster.address.clone(),
            zone: settings.node.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let own = coordinator.router().replica(ShardId::META);
        // One that cannot be read may be a newer build's.
        let level = own.map_or(Ok(0), |meta| reached(meta)).map_err(failed("the level of the cluster"))?;
        fits(level).map_err(failed("the level of the cluster"))?;
        let Formation { cluster, shards, founder, .. } = self.formation;
        if begins_anew {
            // Before anybody carries out where the old cluster's shards should be.
            let remade = patiently(shutdown, || coordinator.remake(cluster, member.clone())).await;
            remade.map_err(failed("the new cluster"))?;
        }
        tokio::spawn(Arc::clone(coordinator).run(Arc::clone(groups), stopping.clone()));
        let (link, following) = (self.link.clone(), Arc::clone(coordinator));
        let node = settings.node.id;
        let (levelling, leveller) = (keep(self.link.clone(), Arc::clone(coordinator)), stopping.clone());
        tokio::spawn(async move { leveller.run_until_cancelled(levelling).await });
        tokio::spawn(async move { stopping.run_until_cancelled(follow(&link, &following, node)).await });
        let announced = patiently(shutdown, || coordinator.announce(cluster, shards, member.clone(), founder)).await;
        announced.map_err(failed("this node's membership"))?;
        let (link, coordinator) = (self.link.clone(), Arc::clone(coordinator));
        tokio::spawn(async move { believing.run_until_cancelled(believe(&link, &coordinator)).await });
        Ok(())
    }

    /// Lets other nodes join from now on.
    pub fn let_in(&self, runtime: &Runtime, settings: &Settings, keys: &dyn KeyWrapper) -> Result<(), NodeError> {
        let authority = Authority::derive(keys, self.formation.cluster);
        let authority = authority.map_err(failed("the cluster's certificate authority"))?;
        let gate = Admission::new(runtime.router.clone(), settings.node.data_dir.clone());
        tokio::spawn(join::serve(self.link.clone(), authority, gate));
        Ok(())
    }
}

/// Asks the members of a cluster to let this node join, and keeps what makes it one of them; the formation last, so that
/// a crash in between asks again. False when the node was told to stop before it had a token.
pub(super) async fn join(settings: &Settings, shutdown: &CancellationToken) -> Result<bool, NodeError> {
    let (data_dir, cluster) = (&settings.node.data_dir, &settings.cluster);
    let token = match cluster.token_file.as_str() {
        "" => Some(cluster.token.clone()),
        file => shutdown.run_until_cancelled(written(Path::new(file))).await.transpose()?,
    };
    let Some(token) = token else { return Ok(false) };
    if token.expose() == FORM {
        if let Some(address) = join::existing(&cluster.join, cluster.listen).await {
            return Err(failed("cluster.token_file")(Formed { address: address.clone() }));
        }
        tracing::info!(file = cluster.token_file, "this node forms the cluster, as its token file says");
        return Ok(true);
    }
    let joining = JoinSettings {
        node: settings.node.id,
        zone: &settings.node.zone,
        listen: cluster.listen,
        address: cluster.address.clone(),
        members: &cluster.join,
        token: token.expose(),
        patience: PATIENCE,
    };
    let joined = join::join(data_dir, joining).await.map_err(failed("joining the cluster"))?;
    secrets::unpack(data_dir, &joined.secrets).map_err(failed("the cluster's secrets"))?;
    adopt(data_dir, &joined.formation).map_err(failed("the cluster's formation"))?;
    Ok(true)
}

/// What the token file holds, once it holds something: whoever starts nodes may not have a token for them yet.
async fn written(file: &Path) -> Result<Secret<String>, NodeError> {
    let mut told = false;
    loop {
        match tokio::fs::read_to_string(file).await {
            Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("cluster.token_file")(error)),
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(file = %file.display(), "this node waits for a token with which it may join");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells the link and the router who the members are, whenever that changes.
async fn follow(link: &Link, coordinator: &Coordinator, node: u64) {
    let mut view = coordinator.view();
    loop {
        let (members, away): (BTreeMap<u64, String>, BTreeSet<ShardId>) = {
            let view = view.borrow_and_update();
            let elsewhere = |at: &Replicas| !at.voters.contains(&node) && !at.learners.contains(&node);
            let away = view.placement.iter().filter(|(_, at)| elsewhere(at)).map(|(shard, _)| *shard).collect();
            (view.members.iter().map(|(id, known)| (*id, known.member.address.clone())).collect(), away)
        };
        coordinator.router().set_away(away);
        if !members.is_empty() {
            coordinator.router().set_peers(members.keys().copied().collect());
            if let Err(error) = link.set_keys(coordinator.keys()).and_then(|()| link.set_members(members)) {
                tracing::error!(%error, "the list of members cannot be kept");
            }
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Once this node's own copy shows the members that the cluster has, nobody else is one.
async fn believe(link: &Link, coordinator: &Coordinator) {
    while !coordinator.is_current().await {
        tokio::time::sleep(AGAIN).await;
    }
    link.doubt_members(false);
}

/// Asks until there is an answer: a node that starts may wait for the others, for as long as nobody stops it.
pub(super) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    shutdown: &CancellationToken,
    mut ask: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut told = false;
    loop {
        match ask().await {
            Err(error) if waits(&error) && !shutdown.is_cancelled() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "this node waits for others to form a majority");
                }
            }
            answered => return answered,
        }
        let _ = tokio::time::timeout(AGAIN, shutdown.cancelled()).await;
    }
}

const fn waits(error: &Error) -> bool {
    matches!(error.code, ErrorCode::Unavailable | ErrorCode::DeadlineExceeded | ErrorCode::Overloaded)
}
