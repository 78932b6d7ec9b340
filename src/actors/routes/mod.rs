//! `routes/routes` on the meta shard: which other services of the platform the gateway forwards to.
//!
//! Configured routes are seeds: a route that nobody changed since follows its configuration at the next start; one that
//! was put or deleted by an operator stays as the operator left it. Holds no personal data. What a good route is, the
//! settings say ([`crate::settings::route_faults`]); here only names and places are kept apart.

mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Reply, RouteView, Spec};
pub use state::Routes;

use super::runtime::Router;
use crate::kernel::{EntityId, Error, Origin};
use crate::settings::{Route, Settings};

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new("routes", "routes")
}

/// Puts the configured routes there. Safe to repeat: at every start, on every node.
///
/// # Errors
/// When the table cannot be reached.
pub async fn seed(router: &Router, settings: &Settings) -> Result<(), Error> {
    let routes = settings.gateway.routes.iter().map(Spec::from).collect();
    router.ask::<Routes>(&id(), Command::Seed { routes }, &Origin::system("seed:routes")).await.map(drop)
}

/// Every route, by name.
///
/// # Errors
/// When the table cannot be reached.
pub async fn list(router: &Router, origin: &Origin) -> Result<Vec<RouteView>, Error> {
    match router.ask::<Routes>(&id(), Command::ListRoutes, origin).await? {
        Reply::Routes(routes) => Ok(routes),
        Reply::Route(_) | Reply::Done => Err(Error::internal()),
    }
}

impl From<&Route> for Spec {
    fn from(route: &Route) -> Self {
        Self {
            name: route.name.clone(),
            prefix: route.prefix.clone(),
            host: route.host.clone(),
            upstreams: route.upstreams.clone(),
            access: route.access.clone(),
            strip_prefix: route.strip_prefix,
            timeout_ms: route.timeout_ms,
            retries: route.retries,
            health_path: route.health_path.clone(),
            websocket: route.websocket,
        }
    }
}

impl From<Spec> for Route {
    fn from(spec: Spec) -> Self {
        Self {
            name: spec.name,
            prefix: spec.prefix,
            host: spec.host,
            upstreams: spec.upstreams,
            access: spec.access,
            strip_prefix: spec.strip_prefix,
            timeout_ms: spec.timeout_ms,
            retries: spec.retries,
            health_path: spec.health_path,
            websocket: spec.websocket,
        }
    }
}
