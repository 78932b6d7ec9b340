//! The public endpoints, collected from one file per area.

pub mod admin;
pub mod backups;
pub mod billing;
pub mod cluster;
pub mod compliance;
pub mod docs;
pub mod health;
pub mod held;
pub mod identity;
pub mod metrics;
pub mod notifications;
pub mod pages;
pub mod upstreams;

use super::{Endpoint, websocket};

/// Every endpoint of the public listener, with its documentation.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let parts = [
        identity::endpoints(),
        billing::endpoints(),
        compliance::endpoints(),
        notifications::endpoints(),
        websocket::endpoints(),
        pages::endpoints(),
        health::endpoints(),
    ];
    let endpoints = docs::with_asyncapi(parts.into_iter().flatten().collect());
    docs::documented(endpoints, |settings| settings.gateway.public_url.clone())
}

/// Every endpoint of the admin listener, with its documentation.
#[must_use]
pub fn admin_endpoints() -> Vec<Endpoint> {
    let parts = [
        admin::endpoints(),
        upstreams::endpoints(),
        cluster::endpoints(),
        backups::endpoints(),
        held::endpoints(),
        billing::admin_endpoints(),
        compliance::admin_endpoints(),
        health::endpoints(),
        metrics::endpoints(),
    ];
    docs::documented(parts.into_iter().flatten().collect(), |settings| settings.admin.url(settings.admin.listen))
}

/// Every endpoint of the listener for scrapers and probes.
#[must_use]
pub fn telemetry_endpoints() -> Vec<Endpoint> {
    let parts = [health::endpoints(), metrics::endpoints()];
    parts.into_iter().flatten().collect()
}
