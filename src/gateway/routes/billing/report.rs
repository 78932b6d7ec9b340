//! How billing stands: the census of all shards, and taking it anew.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::billing::census::{Report, report};
use crate::gateway::{Access, Call, Endpoint, Reply};
use crate::kernel::Error;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/billing/report", "getBillingReport")
            .summary("Subscriptions by plan and state, and revenue by month")
            .description(
                "Counted from what happened, a moment later: `behind` says how many changes are not counted yet.",
            )
            .tag("billing")
            .access(Access::Permission("billing:read"))
            .response::<Report>(200, "How billing stands")
            .handle(get_report),
    ]
}

pub(super) fn admin_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/admin/v1/billing/report/rebuild", "rebuildBillingReport")
            .summary("Forget the counts of the billing report and count everything again")
            .operations()
            .deadline(Duration::from_secs(3600))
            .response::<Rebuilt>(200, "Counted again")
            .handle(rebuild),
    ]
}

#[derive(Debug, Serialize, ToSchema)]
struct Rebuilt {
    /// Shards whose objects were counted.
    shards: usize,
}

async fn get_report(call: Call<()>) -> Result<Reply, Error> {
    let services = &call.services;
    Ok(Reply::ok(&report(&services.router, &services.census, &call.origin).await?))
}

async fn rebuild(call: Call<()>) -> Result<Reply, Error> {
    let shards: Vec<_> = call.services.router.shard_ids().collect();
    call.services.census.rebuild(&shards).await?;
    Ok(Reply::ok(&Rebuilt { shards: shards.len() }))
}
