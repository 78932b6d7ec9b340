//! Other services of the platform behind this gateway: routes by host and prefix, changed while it serves ([`follow`]).
//!
//! Invariants: what a client says of its own identity never reaches an upstream, ours does; hop-by-hop fields end
//! here (RFC 9110 §7.6.1); only safe requests without a body are tried again; an upstream that fails repeatedly is
//! left alone for a while. The gateway's own endpoints come first and are never shadowed.

mod breaker;
mod connect;
pub mod follow;
mod headers;
mod proxy;
mod target;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use proxy::Forwarding;

use self::connect::Client;
use self::target::Target;
use super::registry::{Access, LimitClass};
use super::request::Head;
use crate::actors::identity::roles::permission::PERMISSIONS;
use crate::kernel::{Error, ErrorCode};
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
    websocket: bool,
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

    /// The route of a request: one of its host before one of any host, then the longest prefix.
    #[must_use]
    pub fn find(&self, head: &Head) -> Option<Arc<Route>> {
        self.current().iter().find(|route| route.matches(head)).cloned()
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

    fn matches(&self, head: &Head) -> bool {
        let rest = head.path.strip_prefix(self.prefix.as_str());
        let prefix = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let host = head.header("host").unwrap_or_default().to_lowercase();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
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
    fn place(&self, head: &Head) -> Result<String, Error> {
        let dots = head.path.split('/').any(|segment| {
            let segment = percent_decode_str(segment).decode_utf8_lossy();
            // An encoded slash parts segments, too, for an upstream that decodes before it looks.
            segment.contains('\\') || segment.split('/').any(|part| matches!(part, "." | ".."))
        });
        if dots {
            return Err(Error::new(ErrorCode::Malformed, "The path has dot segments."));
        }
        let path = if self.strip_prefix { &head.path[self.prefix.len()..] } else { head.path.as_str() };
        let path = if path.is_empty() { "/" } else { path };
        Ok(if head.query.is_empty() { path.to_owned() } else { format!("{path}?{}", head.query) })
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
