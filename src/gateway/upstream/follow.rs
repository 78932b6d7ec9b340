//! Keeps a gateway's routes as the route table says, on every node: the meta shard is on each of them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::actors::routes::{self, Routes};
use crate::actors::runtime::Router;
use crate::gateway::pipeline::Gateway;
use crate::kernel::{Entity as _, Error, Origin, ShardId};
use crate::settings::Route;

const PAGE: usize = 512;
const PAUSE: Duration = Duration::from_millis(500);

/// Reads the route table and puts it before the gateway.
///
/// # Errors
/// When the table cannot be read, or a route of it cannot be made.
pub async fn load(gateway: &Gateway, router: &Router) -> Result<(), Error> {
    let table = routes::list(router, &Origin::system("upstream routes")).await?;
    let routes: Vec<Route> = table.into_iter().map(|view| view.route.into()).collect();
    gateway.set_routes(&routes).map_err(|detail| Error::invalid("/routes", detail))
}

/// Follows the table's changes until `stopping`.
pub async fn follow(gateway: Arc<Gateway>, router: Router, stopping: CancellationToken) {
    let Some(state) = router.replica(ShardId::META).map(|replica| Arc::clone(replica.state())) else { return };
    let mut applied = state.applied();
    let mut position = state.feed_head();
    let mut stale = true;
    loop {
        applied.mark_unchanged();
        match state.feed(position, PAGE) {
            Ok(entries) if !entries.is_empty() => {
                stale |= entries.iter().any(|entry| entry.entity.kind() == Routes::KIND);
                position = entries.last().map_or(position, |entry| entry.position);
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the feed of the meta shard cannot be read"),
        }
        if stale {
            match load(&gateway, &router).await {
                Ok(()) => stale = false,
                Err(error) => tracing::warn!(%error, "the upstream routes stay as they were"),
            }
        }
        let again = if stale { PAUSE } else { Duration::from_secs(3600) };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(again) => {}
            changed = applied.changed() => if changed.is_err() { return },
        }
    }
}
