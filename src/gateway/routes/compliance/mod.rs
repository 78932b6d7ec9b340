//! Security and compliance: the audit log, export and erasure, consents, the report.

mod audit;
mod export;
mod me;
mod report;

use crate::gateway::Endpoint;

/// Endpoints of the public listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let mut endpoints = audit::endpoints();
    endpoints.extend(me::endpoints());
    endpoints.extend(report::endpoints());
    endpoints
}

/// Endpoints of the admin listener.
#[must_use]
pub fn admin_endpoints() -> Vec<Endpoint> {
    let mut endpoints = audit::admin_endpoints();
    endpoints.extend(report::admin_endpoints());
    endpoints
}
