//! What can be asked of the route table, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

/// A route as an operator wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    pub prefix: String,
    pub host: String,
    pub upstreams: Vec<String>,
    pub access: String,
    pub strip_prefix: bool,
    pub timeout_ms: u64,
    pub retries: u32,
    pub health_path: String,
    pub websocket: bool,
}

impl Spec {
    /// Whether both would take the same requests.
    pub(super) fn takes_the_same(&self, other: &Self) -> bool {
        let place = |spec: &Self| (spec.host.to_lowercase(), spec.prefix.trim_end_matches('/').to_owned());
        place(self) == place(other)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Adds configured routes and renews those that nobody changed since.
    Seed {
        routes: Vec<Spec>,
    },
    /// `version`: only if it is still this one.
    PutRoute {
        route: Spec,
        version: Option<u64>,
    },
    DeleteRoute {
        name: String,
        version: Option<u64>,
    },
    GetRoute {
        name: String,
    },
    ListRoutes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    RoutePut { route: Spec, seeded: bool },
    RouteDeleted { name: String },
}

/// A route as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    pub route: Spec,
    /// As configured; nobody changed it.
    pub seeded: bool,
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Route(RouteView),
    Routes(Vec<RouteView>),
    Done,
}
