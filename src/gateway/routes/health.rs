//! Whether the node lives and is ready, for load balancers and supervisors.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::runtime::log::Leadership;
use crate::gateway::reply::Problem;
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, ShardId};

const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Health, on every listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/livez", "getLiveness")
            .summary("Whether the process answers")
            .tag("gateway")
            .access(Access::Public)
            .limit(LimitClass::Unlimited)
            .response::<Liveness>(200, "It does")
            .handle(|_: Call<()>| async { Ok(Reply::ok(&Liveness { status: "alive" })) }),
        Endpoint::get("/readyz", "getReadiness")
            .summary("Whether the node can serve: each check by name")
            .tag("gateway")
            .access(Access::Public)
            .limit(LimitClass::Unlimited)
            .response::<Readiness>(200, "It can")
            .problem(503)
            .handle(get_readiness),
    ]
}

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
struct Liveness {
    /// `alive`.
    status: &'static str,
}

/// What was looked at, and what was found.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `ready`.
    status: &'static str,
    checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Check {
    /// `draining`, `shards`, `log` or `disk`.
    pub name: &'static str,
    pub ok: bool,
    detail: String,
}

/// A refusal to be ready, with what was found.
#[derive(Debug, Serialize)]
struct NotReady {
    #[serde(flatten)]
    problem: Problem,
    checks: Vec<Check>,
}

async fn get_readiness(call: Call<()>) -> Result<Reply, Error> {
    let checks = checks(&call).await;
    if checks.iter().all(|check| check.ok) {
        return Ok(Reply::ok(&Readiness { status: "ready", checks }));
    }
    let failed: Vec<&str> = checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
    let error = Error::unavailable(format!("Not ready: {}.", failed.join(", ")));
    let problem = Problem::new(&error, &call.origin.request_id);
    let body = serde_json::to_vec(&NotReady { problem, checks }).map_err(|_| Error::internal())?;
    Ok(Reply::bytes(503, "application/problem+json", body).header("retry-after", "1"))
}

/// Everything that must hold for this node to be asked.
pub(super) async fn checks(call: &Call<()>) -> Vec<Check> {
    let serving = Check {
        name: "draining",
        ok: !call.draining.is_cancelled(),
        detail: if call.draining.is_cancelled() { "shutting down" } else { "no" }.to_owned(),
    };
    vec![serving, shards(call), log(call).await, disk(call)]
}

/// Every shard with a replica here has a leader. One that was taken away while this node was down does not know that, and
/// is not counted once the members say so.
fn shards(call: &Call<()>) -> Check {
    let (placement, node) = (call.services.cluster.view().borrow().placement.clone(), call.services.settings.node.id);
    let placed = |shard: &ShardId| {
        placement.get(shard).is_none_or(|at| at.voters.contains(&node) || at.learners.contains(&node))
    };
    let replicas = call.services.router.replicas().map(|replica| (replica.id(), replica.leadership()));
    let counted = |(shard, known): &(ShardId, Leadership)| known.replica && (known.leader.is_some() || placed(shard));
    let known: Vec<_> = replicas.filter(counted).map(|(_, known)| known).collect();
    let led = known.iter().filter(|known| known.leader.is_some()).count();
    let ok = led == known.len() && !known.is_empty();
    Check { name: "shards", ok, detail: format!("{led} of {} have a leader", known.len()) }
}

/// Every log that this node leads can prove that it is current.
async fn log(call: &Call<()>) -> Check {
    let barriers = call.services.router.led().into_iter().map(|shard| async move { shard.barrier().await });
    let outcome = tokio::time::timeout(CHECK_TIMEOUT, futures::future::join_all(barriers)).await;
    let (ok, detail) = match outcome {
        Ok(results) => match results.into_iter().find_map(Result::err) {
            None => (true, "current".to_owned()),
            Some(error) => (false, Error::from(error).to_string()),
        },
        Err(_) => (false, "does not answer in time".to_owned()),
    };
    Check { name: "log", ok, detail }
}

fn disk(call: &Call<()>) -> Check {
    let settings = &call.services.settings;
    let wanted = settings.storage.min_free_bytes;
    let (ok, detail) = match fs4::available_space(&settings.node.data_dir) {
        Ok(free) if free >= wanted => (true, format!("{} MiB free", free >> 20)),
        Ok(free) => {
            (false, format!("{} MiB free of {} MiB that are needed to accept anything", free >> 20, wanted >> 20))
        }
        Err(error) => {
            tracing::warn!(%error, "the data directory cannot be looked at");
            (false, "cannot be looked at".to_owned())
        }
    };
    Check { name: "disk", ok, detail }
}
