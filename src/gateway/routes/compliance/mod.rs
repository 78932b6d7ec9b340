//! Security and compliance: the audit log, export and erasure, consents, the report.

mod alerts;
mod audit;
mod export;
mod keys;
mod me;
mod report;
#[cfg(test)]
mod tests;

use crate::gateway::Endpoint;

/// Endpoints of the public listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let parts = [audit::endpoints(), me::endpoints(), report::endpoints(), alerts::endpoints()];
    parts.into_iter().flatten().collect()
}

/// Endpoints of the admin listener.
#[must_use]
pub fn admin_endpoints() -> Vec<Endpoint> {
    [audit::admin_endpoints(), keys::admin_endpoints()].into_iter().flatten().collect()
}
