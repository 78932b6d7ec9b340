//! The composition root: the only place that names concrete logs, stores, providers and services.
//!
//! Start: lock the data directory, join a cluster if so configured, open keys, listen for other nodes, open log and state,
//! start the Raft groups, then the runtime, the clock and the services, and last the listeners. Where others are needed
//! for a majority, it waits for them. Stop: the other way round, after others lead what this node led. A failed disk stops the node: what was not acknowledged
//! is given up, what was is on the disk.

mod beginning;
mod descriptors;
mod edge;
mod gate;
mod members;
mod providers;
mod services;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::members::Between;
use crate::cluster::beginning::is_unfinished;
use crate::cluster::link::{Identity, Link, LinkSettings, NodeKey};
use crate::cluster::raft::{
    Formation, GroupSettings, Groups, Network, form, is_formed, joined_shards, must_have_log, note_log,
};
use crate::providers::keys::{FileKeys, KeyWrapper};
use crate::settings::Settings;
use crate::storage::data_dir::DataDir;
use crate::storage::state::{StateOptions, StateStore, StoreOptions};
use crate::storage::wal::{Wal, WalOptions};

/// Why a node does not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct NodeError {
    what: &'static str,
    /// Part of the message; not a source too, or it would be printed twice.
    cause: Box<dyn StdError + Send + Sync>,
}

fn failed<E: Into<Box<dyn StdError + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> NodeError {
    move |cause| NodeError { what, cause: cause.into() }
}

/// Where a node that serves is reached.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
}

/// Runs a node until `shutdown`; `ready` is called once it serves.
///
/// # Errors
/// [`NodeError`] when it cannot start, or when its disk failed.
pub async fn run(
    settings: Settings,
    shutdown: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> Result<(), NodeError> {
    let mut settings = descriptors::fit(settings).map_err(failed("open files"))?;
    let data_dir = DataDir::open(&settings.node.data_dir).map_err(failed("the data directory"))?;
    if is_unfinished(&settings.node.data_dir) {
        let why = "a new cluster was being made in it and that did not come to its end; do it again";
        return Err(failed("the data directory")(why));
    }
    let joins = !is_formed(&settings.node.data_dir) && !settings.cluster.join.is_empty();
    if joins && !members::join(&settings, &shutdown).await? {
        return Ok(());
    }
    if is_formed(&settings.node.data_dir) {
        FileKeys::must_exist(&settings.node.data_dir).map_err(failed("the key-encryption keys"))?;
    }
    let keys: Arc<dyn KeyWrapper> =
        Arc::new(FileKeys::open(&settings.node.data_dir).map_err(failed("the key-encryption keys"))?);
    let (link, formation) = open_link(&mut settings, &keys).await?;
    let between = Between::open(link.clone(), formation, keys.as_ref()).await?;
    let network = Network::over(link.clone(), settings.cluster.snapshot_bytes_per_second);
    let groups = Arc::new(open_groups(&settings, network, formation).await?);
    let settings = Arc::new(settings);
    let composed = services::compose(&settings, &groups, &keys, &between, &shutdown).await?;
    let runtime = Arc::clone(&composed.services.runtime);
    let result = serve(&settings, &groups, composed, shutdown, ready).await;
    groups.hand_over().await;
    runtime.stop().await;
    let stopped = groups.shutdown().await.map_err(failed("the shards did not stop cleanly"));
    link.shutdown().await;
    drop(data_dir);
    // Why it had to stop says more than that it did not do so cleanly.
    result.and(stopped)
}

async fn serve(
    settings: &Arc<Settings>,
    groups: &Groups,
    composed: services::Composed,
    shutdown: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> Result<(), NodeError> {
    let mut disk = groups.failed();
    let draining = CancellationToken::new();
    let edge = edge::Edge::bind(settings, composed, &draining).await?;
    ready(edge.addresses());
    let serving = edge.run(draining.clone());
    let watch = async {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            failure = disk.wait_for(Option::is_some) => {
                let why = failure.ok().and_then(|why| why.clone()).unwrap_or_else(|| "the log ended".to_owned());
                tracing::error!(why, "the disk failed; the node stops, nothing unacknowledged is kept");
                Err(failed("the disk failed")(why))
            }
        }
    };
    let stop = async {
        let result = watch.await;
        draining.cancel();
        result
    };
    let (result, ()) = tokio::join!(stop, serving);
    result
}

/// Forms the data directory where it is new, and binds the listener for other nodes with this node's certificate.
async fn open_link(settings: &mut Settings, keys: &Arc<dyn KeyWrapper>) -> Result<(Link, Formation), NodeError> {
    let dir = settings.node.data_dir.clone();
    if let Some(shards) = joined_shards(&dir).map_err(failed("the cluster's formation"))? {
        // Who joined has as many shards as the cluster.
        settings.cluster.shards = shards;
    }
    let (dir, cluster) = (dir.as_path(), &settings.cluster);
    let formation = form(dir, settings.node.id, cluster.shards).map_err(failed("the cluster's formation"))?;
    let identity = Identity::open(dir, formation.node, formation.cluster, keys.as_ref());
    let identity = identity.map_err(failed("the node's certificate"))?;
    let options = LinkSettings { plain_text: cluster.plain_text, ..LinkSettings::listening(cluster.listen) };
    let link = Link::bind(dir, options, &identity).await.map_err(failed("the link between nodes"))?;
    link.doubt_members(link.members().len() > 1);
    if link.members().is_empty() {
        let members = BTreeMap::from([(link.node(), cluster.address.clone())]);
        link.set_members(members).map_err(failed("the list of members"))?;
    }
    Ok((link, formation))
}

/// Opens log and state and starts the shards. Reads the whole log, so off the async threads.
async fn open_groups(settings: &Settings, network: Network, formation: Formation) -> Result<Groups, NodeError> {
    let (dir, storage) = (settings.node.data_dir.clone(), &settings.storage);
    let wal = WalOptions { segment_bytes: storage.wal_segment_bytes, ..WalOptions::default() };
    let store = StoreOptions {
        compact_min_bytes: storage.compact_min_bytes,
        cache_bytes: storage.cache_bytes,
        flush_every: Duration::from_millis(storage.flush_interval_ms),
        shard: StateOptions {
            overlay_bytes: usize::try_from(storage.overlay_max_bytes / (u64::from(settings.cluster.shards) + 1))
                .unwrap_or(usize::MAX),
            ..StateOptions::default()
        },
    };
    let opened = tokio::task::spawn_blocking(move || {
        must_have_log(&dir).map_err(failed("the write-ahead log"))?;
        let (wal, recovered) = Wal::open(&dir.join("wal"), wal).map_err(failed("the write-ahead log"))?;
        note_log(&dir).map_err(failed("the write-ahead log"))?;
        tracing::info!(?recovered, "the write-ahead log is open");
        let store = StateStore::open(&dir, store).map_err(failed("the state store"))?;
        Ok((wal, store))
    });
    let (wal, store) = opened.await.map_err(failed("opening the stores"))??;
    let (cluster, actors) = (&settings.cluster, &settings.actors);
    let key = match formation.named {
        true => Some(NodeKey::open(&settings.node.data_dir).map_err(failed("the node's key"))?.hash()),
        false => None,
    };
    let groups = GroupSettings {
        node_id: settings.node.id,
        founder: formation.founder,
        key,
        address: cluster.address.clone(),
        shards: cluster.shards,
        heartbeat_ms: cluster.heartbeat_ms,
        election_ms: cluster.election_ms,
        queue_ops: actors.shard_queue_max.saturating_mul(2),
        snapshot_every: Duration::from_secs(storage.snapshot_interval_seconds),
        snapshots_kept: storage.snapshots_kept,
        min_free_bytes: storage.min_free_bytes,
        ..GroupSettings::default()
    };
    Groups::start(&settings.node.data_dir, wal, store, groups, network).await.map_err(failed("the shards"))
}
