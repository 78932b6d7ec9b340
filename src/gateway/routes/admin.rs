//! The admin listener: the actors of all members and the clock, and what an operator may do about them. The cluster is in
//! [`cluster`](super::cluster).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::runtime::clock::ClockMode;
use crate::actors::runtime::inventory::{CrashedEntity, Inventory, LiveKind};
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::{EntityId, Error, Timestamp};

/// Endpoints of the admin listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/actors", "listActors")
            .summary("Live actors of all members by kind, mailbox depth, restarts, parked entities; who did not answer is named")
            .operations()
            .response::<ActorsView>(200, "The actors of the members that answered")
            .handle(list_actors),
        Endpoint::post("/admin/v1/actors/unpark", "unparkEntity")
            .summary("Put a parked entity back into service, whichever node leads its shard")
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

/// Live actors of one kind on one node.
#[derive(Debug, Serialize, ToSchema)]
struct KindView {
    kind: String,
    node: u64,
    live: u64,
    /// Requests waiting in their mailboxes, all together and in the fullest.
    mailbox_depth: u64,
    mailbox_deepest: u64,
    /// Batches on their way to the disk.
    committing: u64,
}

/// An entity that crashed within the last ten minutes, or is parked.
#[derive(Debug, Serialize, ToSchema)]
struct CrashView {
    entity: String,
    shard: u16,
    /// The node that leads its shard.
    node: u64,
    restarts: u32,
    parked: bool,
    reason: String,
}

/// A member whose actors are missing from the answer.
#[derive(Debug, Serialize, ToSchema)]
struct SilentView {
    node: u64,
    reason: String,
}

/// The actors of all members that answered.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ActorsView {
    kinds: Vec<KindView>,
    live: u64,
    restarts: u32,
    /// Entities out of service until an operator puts them back.
    parked: Vec<CrashView>,
    /// Entities that crashed lately and go on.
    crashed: Vec<CrashView>,
    /// Parked and crashed entities that are not listed: of a node at most 1000 are, first those that are parked.
    unlisted: u64,
    /// Members that did not answer within two seconds. What they lead is missing here.
    unanswered: Vec<SilentView>,
}

impl ActorsView {
    fn add(&mut self, node: u64, inventory: Inventory) {
        for LiveKind { kind, live, mailbox_depth, mailbox_deepest, committing } in inventory.kinds {
            self.live += live;
            self.kinds.push(KindView { kind, node, live, mailbox_depth, mailbox_deepest, committing });
        }
        for CrashedEntity { entity, shard, restarts, parked, reason } in inventory.crashes {
            self.restarts += restarts;
            let list = if parked { &mut self.parked } else { &mut self.crashed };
            list.push(CrashView { entity, shard, node, restarts, parked, reason });
        }
        self.unlisted += inventory.more_crashes;
    }
}

async fn list_actors(call: Call<()>) -> Result<Reply, Error> {
    let own = call.services.settings.node.id;
    let mut nodes: Vec<u64> = call.services.cluster.view().borrow().members.keys().copied().collect();
    if nodes.is_empty() {
        // Before the first member is known.
        nodes.push(own);
    }
    let mut view = ActorsView::default();
    for (node, told) in call.services.router.inventories(own, nodes).await {
        match told {
            Ok(inventory) => view.add(node, inventory),
            Err(error) => view.unanswered.push(SilentView { node, reason: error.detail }),
        }
    }
    Ok(Reply::ok(&view))
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
    let was_parked = call.services.router.unpark(&EntityId::new(kind, key)).await?;
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
    // It may take minutes, and a node that stops does not wait for it: what follows is durable, and another node goes on.
    tokio::select! {
        advanced = call.services.runtime.advance(call.body.advance_to, &call.origin) => advanced?,
        () = call.draining.cancelled() => {
            return Err(Error::unavailable("The node shuts down before the clock is there; advance again at another node."));
        }
    };
    Ok(Reply::ok(&clock_view(&call)))
}
