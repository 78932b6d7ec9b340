//! Other services of the platform behind this gateway: routes by host and prefix, changed while it serves ([`follow`]).
//!
//! Invariants: what a client says of its own identity never reaches an upstream, ours does; hop-by-hop fields end
//! here (RFC 9110 §7.6.1); only safe requests without a body are tried again; an upstream that fails repeatedly is
//! left alone for a while, and nothing that a client does counts as its failure. The gateway's own endpoints come first
//! and are never shadowed. A path has one spelling: the one a route was chosen by is the one that is forwarded.

mod breaker;
mod connect;
pub mod follow;
mod headers;
mod passage;
mod path;
mod proxy;
mod target;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

pub use passage::Standing;
pub use proxy::{Forwarding, asks_for_websocket};

use self::connect::Client;
use self::path::one_spelling;
use self::target::Target;
use super::registry::{Access, LimitClass};
use super::request::Head;
use crate::actors::identity::roles::permission::PERMISSIONS;
use crate::kernel::Error;
use crate::settings::Route as RouteSettings;

/// All routes, as they are now.
pub struct Upstreams {
    routes: RwLock<Arc<Vec<Arc<Route>>>>,
    client: Client,
    stopping: CancellationToken,
}

/// One route.
pub struct Route {
    pub name: String,
    pub access: Access,
    settings: RouteSettings,
    prefix: String,
    host: String,
    strip_prefix: bool,
    timeout: Duration,
    retries: u32,
    pub websocket: bool,
    targets: Vec<Arc<Target>>,
    turn: AtomicUsize,
    /// Ends the health checks once nobody uses the route any more.
    _watching: DropGuard,
}

impl Upstreams {
    /// Must be called within a runtime when a route has a health check, which runs until `stopping`.
    ///
    /// # Errors
    /// When an upstream is not a URL, or the access of a route is not a permission.
    pub fn new(settings: &[RouteSettings], stopping: &CancellationToken) -> Result<Self, String> {
        let upstreams = Self { routes: RwLock::default(), client: connect::client(), stopping: stopping.clone() };
        upstreams.set(settings)?;
        Ok(upstreams)
    }

    /// Replaces the routes. One that is the same as before keeps what is known of its upstreams; calls under way end
    /// as they began.
    ///
    /// # Errors
    /// As [`Upstreams::new`]; then everything stays as it was.
    pub fn set(&self, settings: &[RouteSettings]) -> Result<(), String> {
        let old = self.current();
        let mut routes = Vec::with_capacity(settings.len());
        for settings in settings {
            routes.push(match old.iter().find(|route| route.settings == *settings) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Route::new(settings, &self.client, &self.stopping)?),
            });
        }
        routes.sort_by_key(|route| (route.host.is_empty(), std::cmp::Reverse(route.prefix.len())));
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
        Ok(())
    }

    fn current(&self) -> Arc<Vec<Arc<Route>>> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The route of a request, one of its host before one of any host, then the longest prefix; and path and query as
    /// the upstream will see them.
    ///
    /// # Errors
    /// `not_found`, or `malformed` when the path could be read in two ways.
    pub fn find(&self, head: &Head) -> Result<(Arc<Route>, String), Error> {
        let routes = self.current();
        let path = if routes.is_empty() { head.path.clone() } else { one_spelling(&head.path)? };
        let host = head.header("host").unwrap_or_default().to_lowercase();
        let route = routes.iter().find(|route| route.matches(&host, &path));
        let route = route.ok_or_else(|| Error::not_found("resource"))?;
        Ok((Arc::clone(route), route.place(&path, &head.query)))
    }
}

impl Route {
    fn new(settings: &RouteSettings, client: &Client, stopping: &CancellationToken) -> Result<Self, String> {
        let access = match settings.access.as_str() {
            "public" => Access::Public,
            "user" => Access::User,
            wanted => {
                let known = PERMISSIONS.iter().find(|permission| **permission == wanted);
                Access::Permission(known.ok_or_else(|| format!("{}: there is no permission {wanted}", settings.name))?)
            }
        };
        let targets = settings.upstreams.iter().map(|url| Target::new(url).map(Arc::new));
        let targets: Vec<Arc<Target>> = targets.collect::<Result<_, _>>()?;
        let watching = stopping.child_token();
        for target in targets.iter().filter(|_| !settings.health_path.is_empty()) {
            let (target, path) = (Arc::clone(target), settings.health_path.clone());
            tokio::spawn(target.watch(client.clone(), path, watching.clone()));
        }
        Ok(Self {
            name: settings.name.clone(),
            access,
            prefix: settings.prefix.trim_end_matches('/').to_owned(),
            host: settings.host.to_lowercase(),
            strip_prefix: settings.strip_prefix,
            timeout: Duration::from_millis(settings.timeout_ms),
            retries: settings.retries,
            websocket: settings.websocket,
            targets,
            turn: AtomicUsize::new(0),
            settings: settings.clone(),
            _watching: watching.drop_guard(),
        })
    }

    fn matches(&self, host: &str, path: &str) -> bool {
        let rest = path.strip_prefix(self.prefix.as_str());
        let prefix = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        prefix && (self.host.is_empty() || self.host == host || self.host == name)
    }

    /// Which limit counts a call.
    #[must_use]
    pub fn limit(&self, head: &Head) -> LimitClass {
        match (self.access, head.is_safe()) {
            (Access::Public, _) => LimitClass::Public,
            (_, true) => LimitClass::Read,
            (_, false) => LimitClass::Write,
        }
    }

    /// Path and query as the upstream sees them.
    fn place(&self, path: &str, query: &str) -> String {
        let path = if self.strip_prefix { &path[self.prefix.len()..] } else { path };
        let path = if path.is_empty() { "/" } else { path };
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }

    /// The next target that takes requests, other than those already tried when there are others.
    fn pick(&self, tried: &[Arc<Target>]) -> Option<Arc<Target>> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.targets.len();
        let in_turn = || (0..count).map(|offset| &self.targets[(start + offset) % count]);
        let fresh = in_turn().filter(|target| !tried.iter().any(|other| Arc::ptr_eq(other, target)));
        fresh.chain(in_turn()).find(|target| target.admits()).map(Arc::clone)
    }
}
