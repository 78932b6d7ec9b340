//! The admin listener: the actors and the clock of this node, and what an operator may do about them. The cluster is in
//! [`cluster`](super::cluster).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::runtime::clock::ClockMode;
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::{EntityId, Error, Timestamp};

/// Endpoints of the admin listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/actors", "listActors")
            .summary("Live actors by kind, mailbox depth, restarts, parked entities")
            .operations()
            .response::<ActorsView>(200, "The actors of this node")
            .handle(list_actors),
        Endpoint::post("/admin/v1/actors/unpark", "unparkEntity")
            .summary("Put a parked entity back into service")
            .operations()
            .body::<Unpark>()
            .response::<Unparked>(200, "Whether it was parked")
            .handle(unpark),
        Endpoint::get("/admin/v1/clock", "getClock")
            .summary("The cluster's time")
            .operations()
            .response::<ClockView>(200, "The clock")
            .handle(get_clock),
        Endpoint::post("/admin/v1/clock", "advanceClock")
            .summary("Advance the virtual clock; answers when every timer due by then has fired and its work is done")
            .operations()
            .deadline(std::time::Duration::from_secs(600))
            .body::<Advance>()
            .response::<ClockView>(200, "The clock after it")
            .problem(409)
            .handle(advance_clock),
    ]
}

/// Live actors of one kind on this node.
#[derive(Debug, Default, Serialize, ToSchema)]
struct KindView {
    kind: String,
    node: u64,
    live: usize,
    /// Requests waiting in their mailboxes, all together and in the fullest.
    mailbox_depth: usize,
    mailbox_deepest: usize,
    /// Batches on their way to the disk.
    committing: usize,
}

/// An entity that crashed within the last ten minutes, or is parked.
#[derive(Debug, Serialize, ToSchema)]
struct CrashView {
    entity: String,
    shard: u16,
    restarts: u32,
    parked: bool,
    reason: String,
}

/// The actors of this node.
#[derive(Debug, Serialize, ToSchema)]
struct ActorsView {
    kinds: Vec<KindView>,
    live: usize,
    restarts: u32,
    /// Entities out of service until an operator puts them back.
    parked: Vec<CrashView>,
    /// Entities that crashed lately and go on.
    crashed: Vec<CrashView>,
}

async fn list_actors(call: Call<()>) -> Result<Reply, Error> {
    let node = call.services.settings.node.id;
    let mut kinds: BTreeMap<String, KindView> = BTreeMap::new();
    let mut crashes = Vec::new();
    for shard in call.services.router.led() {
        for (id, handle) in shard.parts.directory.list() {
            let fresh = || KindView { kind: id.kind().to_owned(), node, ..KindView::default() };
            let view = kinds.entry(id.kind().to_owned()).or_insert_with(fresh);
            let depth = handle.vitals.depth.load(Ordering::Relaxed);
            view.live += 1;
            view.mailbox_depth += depth;
            view.mailbox_deepest = view.mailbox_deepest.max(depth);
            view.committing += handle.vitals.in_flight.load(Ordering::Relaxed);
        }
        let id = shard.parts.log.shard().0;
        crashes.extend(shard.crashes().await.into_iter().map(|crash| CrashView {
            entity: crash.entity,
            shard: id,
            restarts: crash.crashes,
            parked: crash.parked,
            reason: crash.reason,
        }));
    }
    let restarts = crashes.iter().map(|crash| crash.restarts).sum();
    let (parked, crashed) = crashes.into_iter().partition(|crash| crash.parked);
    let kinds: Vec<KindView> = kinds.into_values().collect();
    let live = kinds.iter().map(|kind| kind.live).sum();
    Ok(Reply::ok(&ActorsView { kinds, live, restarts, parked, crashed }))
}

/// Which entity to put back into service.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Unpark {
    /// `<kind>/<key>`, as listed.
    #[schema(pattern = "^[^/\\u0000-\\u001F\\u007F]*/[^\\u0000-\\u001F\\u007F]*$")]
    entity: String,
}

/// What unparking did.
#[derive(Debug, Serialize, ToSchema)]
struct Unparked {
    was_parked: bool,
}

async fn unpark(call: Call<Unpark>) -> Result<Reply, Error> {
    let Some((kind, key)) = call.body.entity.split_once('/') else {
        return Err(Error::invalid("/entity", "is not of the form <kind>/<key>"));
    };
    let (id, router) = (EntityId::new(kind, key), &call.services.router);
    let shard = router.replica(router.shard_of(&id)).and_then(|replica| replica.shard());
    let was_parked = match shard {
        Some(shard) => shard.unpark(&id).await,
        None => return Err(Error::conflict("Another node leads the entity's shard; ask there.")),
    };
    Ok(Reply::ok(&Unparked { was_parked }))
}

/// The cluster's time.
#[derive(Debug, Serialize, ToSchema)]
struct ClockView {
    /// RFC 3339.
    now: String,
    /// `system` or `virtual`.
    mode: &'static str,
}

/// How far to advance.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Advance {
    /// RFC 3339; not before the clock's time.
    #[schema(value_type = String, format = DateTime)]
    advance_to: Timestamp,
}

fn clock_view(call: &Call<impl Sized>) -> ClockView {
    let mode = match call.services.runtime.clock.mode() {
        ClockMode::System => "system",
        ClockMode::Virtual => "virtual",
    };
    ClockView { now: call.services.clock.now().to_string(), mode }
}

async fn get_clock(call: Call<()>) -> Result<Reply, Error> {
    Ok(Reply::ok(&clock_view(&call)))
}

async fn advance_clock(call: Call<Advance>) -> Result<Reply, Error> {
    call.services.runtime.advance(call.body.advance_to, &call.origin).await?;
    Ok(Reply::ok(&clock_view(&call)))
}
