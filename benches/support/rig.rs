//! A node without its edge: log, state, Raft groups and runtime as the shipped configuration sets them up, with an
//! entity kind made for measuring beside (or instead of) the product's own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use construct::actors::runtime::clock::NodeClock;
use construct::actors::runtime::kinds::{Kind, Kinds};
use construct::actors::runtime::log::ShardLog;
use construct::actors::runtime::sealer::Sealer;
use construct::actors::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use construct::cluster::link::{Identity, Link, LinkSettings};
use construct::cluster::raft::{GroupSettings, Groups, Network};
use construct::kernel::{Context, Decision, Entity, EntityId, Error};
use construct::providers::Provider;
use construct::providers::keys::FileKeys;
use construct::settings::{Layers, Settings};
use construct::storage::seal::DataKey;
use construct::storage::state::{StateOptions, StateStore, StoreOptions};
use construct::storage::wal::{Wal, WalOptions};
use serde::{Deserialize, Serialize};

/// A piece of text that is replaced and read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Note {
    #[serde(with = "serde_bytes")]
    text: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum NoteCommand {
    Write(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Answers its length.
    GetLength,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum NoteEvent {
    Written(#[serde(with = "serde_bytes")] Vec<u8>),
}

impl Note {
    pub fn id(number: usize) -> EntityId {
        EntityId::new(Self::KIND, &format!("{number:08}"))
    }
}

impl Entity for Note {
    const KIND: &'static str = "note";
    type Command = NoteCommand;
    type Event = NoteEvent;
    type Reply = u64;

    fn decide(&self, command: NoteCommand, _context: &Context) -> Result<Decision<Self>, Error> {
        Ok(match command {
            NoteCommand::Write(text) => Decision::reply(text.len() as u64).event(NoteEvent::Written(text)),
            NoteCommand::GetLength => Decision::reply(self.text.len() as u64),
        })
    }

    fn apply(&mut self, event: &NoteEvent) {
        let NoteEvent::Written(text) = event;
        self.text.clone_from(text);
    }
}

/// The running node.
pub struct Rig {
    pub runtime: Runtime,
    pub groups: Groups,
}

/// A node's place in a cluster, whose groups the first one forms.
pub struct Seat {
    pub node_id: u64,
    pub address: String,
    pub network: Network,
}

impl Seat {
    /// The only node.
    pub fn alone() -> Self {
        Self { node_id: 1, address: String::new(), network: Network::alone() }
    }
}

/// The way from a node to the others, whose keys are in `dir`, with certificates and TLS as shipped.
pub async fn link(dir: &Path, node: u64) -> Link {
    let keys = FileKeys::open(dir).expect("keys");
    let data = dir.join(node.to_string());
    std::fs::create_dir_all(&data).expect("a directory");
    let identity = Identity::open(&data, node, [1; 16], &keys).expect("a certificate");
    let settings = LinkSettings::listening((Ipv4Addr::LOCALHOST, 0).into());
    Link::bind(&data, settings, &identity).await.expect("bound")
}

/// What is measured is set up as shipped.
pub fn settings() -> Settings {
    Settings::load(&Layers::default()).expect("the shipped configuration is good")
}

/// Starts the telemetry of the product, whose cost belongs to what is measured. Once.
pub fn telemetry(settings: &Settings) {
    construct::telemetry::start(&settings.telemetry, settings.node.id).expect("telemetry starts once");
}

impl Rig {
    /// Opens `dir` and starts `kinds` on it; timers and outboxes run when the caller says `runtime.go()`.
    pub async fn start(
        dir: &Path,
        settings: &Settings,
        kinds: &[Kind],
        clock: NodeClock,
        providers: Vec<Arc<dyn Provider>>,
    ) -> Self {
        Self::seated(dir, settings, kinds, clock, providers, Seat::alone()).await
    }

    /// As [`Rig::start`], at a place in a cluster.
    pub async fn seated(
        dir: &Path,
        settings: &Settings,
        kinds: &[Kind],
        clock: NodeClock,
        providers: Vec<Arc<dyn Provider>>,
        seat: Seat,
    ) -> Self {
        let groups = groups(dir, settings, seat).await;
        let logs = groups.shards().map(|group| Arc::clone(group) as Arc<dyn ShardLog>).collect();
        let kinds = Kinds::new(kinds, settings.cluster.shards);
        let options = options(settings);
        let parts = RuntimeParts { logs, kinds, clock: Arc::new(clock), providers, options };
        let runtime = Runtime::start(parts).await.expect("the runtime starts");
        runtime.set_sealer(Arc::new(OneKey));
        Self { runtime, groups }
    }

    /// A node of notes alone.
    pub async fn notes(dir: &Path, settings: &Settings) -> Self {
        let rig = Self::start(dir, settings, &[Kind::of::<Note>()], NodeClock::system(), Vec::new()).await;
        rig.runtime.go();
        rig
    }

    /// Returns once sled holds everything that was applied, so that the next measurement does not pay for this one.
    pub async fn settle(&self) {
        while self.groups.shards().any(|group| group.state().counts().overlay_bytes > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(self) {
        self.runtime.stop().await;
        self.groups.shutdown().await.expect("the shards stop");
    }
}

async fn groups(dir: &Path, settings: &Settings, seat: Seat) -> Groups {
    let Seat { node_id, address, network } = seat;
    let (storage, cluster) = (&settings.storage, &settings.cluster);
    let wal = WalOptions { segment_bytes: storage.wal_segment_bytes, ..WalOptions::default() };
    let overlay_bytes = storage.overlay_max_bytes / (u64::from(cluster.shards) + 1);
    let overlay_bytes = usize::try_from(overlay_bytes).expect("fits");
    let store = StoreOptions {
        cache_bytes: storage.cache_bytes,
        compact_min_bytes: storage.compact_min_bytes,
        flush_every: Duration::from_millis(storage.flush_interval_ms),
        shard: StateOptions { overlay_bytes, ..StateOptions::default() },
    };
    let (wal, _) = Wal::open(&dir.join("wal"), wal).expect("the log opens");
    let store = StateStore::open(dir, store).expect("the state opens");
    let settings = GroupSettings {
        node_id,
        founder: node_id == 1,
        address,
        shards: cluster.shards,
        heartbeat_ms: cluster.heartbeat_ms,
        election_ms: cluster.election_ms,
        queue_ops: settings.actors.shard_queue_max.saturating_mul(2),
        ..GroupSettings::default()
    };
    Groups::start(dir, wal, store, settings, network).await.expect("the shards start")
}

fn options(settings: &Settings) -> RuntimeOptions {
    let (actors, shards) = (&settings.actors, u64::from(settings.cluster.shards) + 1);
    RuntimeOptions {
        in_flight_outside: actors.shard_queue_max,
        in_flight_inside: actors.shard_queue_max,
        mailbox: actors.mailbox_max,
        idle_after_ms: actors.idle_after_ms,
        memory_budget_bytes: usize::try_from(actors.memory_budget_bytes / shards).expect("fits"),
        deadline_ms: actors.command_timeout_ms,
        outbox_lane: actors.outbox_in_flight,
        retry_ms: (actors.outbox_retry_min_ms, actors.outbox_retry_max_ms),
        restart_ms: (actors.restart_min_ms, actors.restart_max_ms),
        park_after: actors.park_after,
        ..RuntimeOptions::default()
    }
}

/// The same key for everybody: keyrings are measured elsewhere.
pub struct OneKey;

#[async_trait]
impl Sealer for OneKey {
    async fn key(&self, _subject: &str, _create: bool) -> Result<Option<DataKey>, Error> {
        Ok(Some(DataKey::new([0x5a; 32])))
    }
}
