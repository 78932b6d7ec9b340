//! The services behind the gateway, on the shards this node leads.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::beginning;
use super::members::{Between, patiently};
use super::providers::{self, Outside};
use super::{NodeError, failed};
use crate::actors::billing::census;
use crate::actors::billing::terms;
use crate::actors::catalogue;
use crate::actors::compliance::{Compliance, KeyringSealer, SharedKeys};
use crate::actors::identity::authority::Authority;
use crate::actors::routes;
use crate::actors::runtime::clock::{ClockCommand, NodeClock, VirtualClock};
use crate::actors::runtime::feed::FeedConsumer;
use crate::actors::runtime::kinds::Kinds;
use crate::actors::runtime::log::ShardLog;
use crate::actors::runtime::steady::wall_now;
use crate::actors::runtime::{Router, Runtime, RuntimeOptions, RuntimeParts};
use crate::cluster::backup::Backups;
use crate::cluster::coordinator::Coordinator;
use crate::cluster::raft::Groups;
use crate::gateway::Services;
use crate::gateway::websocket::{Bounds, Realtime};
use crate::kernel::{Clock, Origin, ShardId, Timestamp};
use crate::providers::keys::KeyWrapper;
use crate::settings::{ClockMode, Settings};

/// Unwrapped data keys kept in memory.
const KEYS_IN_MEMORY: usize = 20_000;

/// What the edge is put before.
pub(super) struct Composed {
    pub services: Arc<Services>,
    /// The secret behind the pseudonyms of addresses.
    pub source_key: Vec<u8>,
}

pub(super) async fn compose(
    settings: &Arc<Settings>,
    groups: &Arc<Groups>,
    own_keys: &Arc<dyn KeyWrapper>,
    between: &Between,
    shutdown: &CancellationToken,
) -> Result<Composed, NodeError> {
    let outside = providers::open(settings)?;
    let shared = Arc::new(SharedKeys::new(Arc::clone(own_keys)));
    let keys = &(Arc::clone(&shared) as Arc<dyn KeyWrapper>);
    let (runtime, sealer) = start_runtime(settings, groups, keys, &outside).await?;
    shared.connect(runtime.router.clone());
    between.connect(&runtime);
    let router = runtime.router.clone();
    let cluster = Arc::new(Coordinator::new(router.clone()));
    let noted = beginning::noted(settings)?;
    between.coordinate(settings, groups, &cluster, noted.is_some(), (runtime.stopping(), shutdown)).await?;
    let known = beginning::known(&router, noted.as_ref(), shutdown).await?;
    start_clock(settings, &runtime, beginning::clock_goes_on_at(settings, known.as_ref()), shutdown).await?;
    if let Some(known) = known {
        runtime.set_aftermath(known.aftermath);
    }
    let clock = Arc::clone(&runtime.clock) as Arc<dyn Clock>;
    let identity = Arc::new(Authority::new(router.clone(), Arc::clone(&clock), Arc::clone(keys), settings));
    patiently(shutdown, || identity.start()).await.map_err(failed("the signing keys"))?;
    let origin = &settings.audit.origin;
    let open = || Compliance::open(router.clone(), Arc::clone(keys), Arc::clone(&sealer), origin);
    let compliance = patiently(shutdown, open).await;
    let compliance = Arc::new(compliance.map_err(failed("the audit log"))?);
    let plans = patiently(shutdown, || terms::seed_plans(&router, settings)).await;
    plans.map_err(failed("the plan catalogue"))?;
    patiently(shutdown, || routes::seed(&router, settings)).await.map_err(failed("gateway.routes"))?;
    if let Some(noted) = noted {
        beginning::carry_out(settings, &router, &compliance, noted, shutdown).await?;
    }
    between.let_in(&runtime, settings, keys.as_ref())?;
    let census = Arc::new(census::Taker::new(router.clone()));
    runtime.follow(Arc::clone(&census) as Arc<dyn FeedConsumer>);
    runtime.go();
    let (settings, runtime) = (Arc::clone(settings), Arc::new(runtime));
    tokio::spawn(Arc::clone(&compliance).run(runtime.stopping()));
    let bounds = Bounds::of(&settings.gateway.websocket);
    let realtime = Arc::new(Realtime::new(router.clone(), Arc::clone(&clock), bounds));
    realtime.follow();
    let vapid = outside.vapid;
    let link = Some(between.link.clone());
    let backups = Arc::new(backups(&settings, &router, between, keys));
    let services = Services {
        settings,
        clock,
        router,
        runtime,
        identity,
        compliance,
        census,
        realtime,
        cluster,
        backups,
        link,
        vapid,
    };
    let source_key = keys.derive("gateway.source").to_vec();
    Ok(Composed { services: Arc::new(services), source_key })
}

fn backups(settings: &Settings, router: &Router, between: &Between, keys: &Arc<dyn KeyWrapper>) -> Backups {
    let (dir, formation) = (settings.node.data_dir.clone(), between.formation);
    let rate = settings.cluster.snapshot_bytes_per_second;
    Backups::new(router.clone(), dir, (formation.cluster, formation.shards), rate, Arc::clone(keys))
}

/// Starts the shards' actors with their clock, keys and providers; timers and outboxes stand still yet.
async fn start_runtime(
    settings: &Settings,
    groups: &Groups,
    keys: &Arc<dyn KeyWrapper>,
    outside: &Outside,
) -> Result<(Runtime, Arc<KeyringSealer>), NodeError> {
    let clock = Arc::new(match settings.clock {
        ClockMode::System => NodeClock::system(),
        ClockMode::Virtual => NodeClock::virtual_at(Timestamp::ZERO),
    });
    let logs = groups.shards().map(|group| Arc::clone(group) as Arc<dyn ShardLog>).collect();
    let kinds = Kinds::new(&catalogue::kinds(), settings.cluster.shards);
    let (providers, options) = (outside.providers.clone(), runtime_options(settings));
    let runtime = Runtime::start(RuntimeParts { logs, kinds, clock, providers, options }).await;
    let runtime = runtime.map_err(failed("the runtime"))?;
    let sealer = Arc::new(KeyringSealer::new(Arc::clone(keys), KEYS_IN_MEMORY));
    sealer.connect(Arc::new(runtime.router.clone()));
    runtime.set_sealer(Arc::clone(&sealer) as Arc<_>);
    Ok((runtime, sealer))
}

/// Takes the cluster's virtual clock, or starts it. A cluster that ran on one goes on with no other: what is due, expires or
/// was paid for is dated by it.
async fn start_clock(
    settings: &Settings,
    runtime: &Runtime,
    not_before: Option<Timestamp>,
    shutdown: &CancellationToken,
) -> Result<(), NodeError> {
    if settings.clock != ClockMode::Virtual {
        return ran_on_virtual(runtime).map_or(Ok(()), |at| {
            Err(failed("clock")(format!(
                "expected \"virtual\": this data directory is of a cluster that runs on a virtual clock, which stands at \
                 {at}. Under the system's clock everything dated by it would be due too early or too late. Remedy: set \
                 clock = \"virtual\", or begin in an empty data directory"
            )))
        });
    }
    let (id, origin) = (VirtualClock::id(), Origin::system("start"));
    let start = || runtime.router.ask::<VirtualClock>(&id, ClockCommand::Start(wall_now()), &origin);
    let mut now = patiently(shutdown, start).await.map_err(failed("the virtual clock"))?;
    if let Some(at) = not_before.filter(|at| *at > now) {
        let advance = || runtime.router.ask::<VirtualClock>(&id, ClockCommand::Advance(at), &origin);
        now = patiently(shutdown, advance).await.map_err(failed("the virtual clock"))?;
    }
    runtime.clock.set(now);
    Ok(())
}

/// Where the cluster's virtual clock stands, as far as this node's copy of the meta shard knows.
fn ran_on_virtual(runtime: &Runtime) -> Option<Timestamp> {
    let known = runtime.router.replica(ShardId::META)?.peek::<VirtualClock>(&VirtualClock::id());
    known.ok().flatten()?.1.stands_at()
}

/// Bounds and periods of the runtime, from the settings.
fn runtime_options(settings: &Settings) -> RuntimeOptions {
    let (actors, shards) = (&settings.actors, u64::from(settings.cluster.shards) + 1);
    RuntimeOptions {
        in_flight_outside: actors.shard_queue_max,
        in_flight_inside: actors.shard_queue_max,
        mailbox: actors.mailbox_max,
        idle_after_ms: actors.idle_after_ms,
        memory_budget_bytes: usize::try_from(actors.memory_budget_bytes / shards).unwrap_or(usize::MAX),
        deadline_ms: actors.command_timeout_ms,
        outbox_lane: actors.outbox_in_flight,
        outbox_most: actors.outbox_max,
        retry_ms: (actors.outbox_retry_min_ms, actors.outbox_retry_max_ms),
        restart_ms: (actors.restart_min_ms, actors.restart_max_ms),
        park_after: actors.park_after,
        remember_hours: i64::try_from(actors.dedupe_keep_hours).unwrap_or(i64::MAX),
        ..RuntimeOptions::default()
    }
}
