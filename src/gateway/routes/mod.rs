//! The public endpoints, collected from one file per area.

pub mod admin;
pub mod billing;
pub mod compliance;
pub mod identity;

use super::Endpoint;

/// Every endpoint of the public listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let parts = [identity::endpoints(), billing::endpoints(), compliance::endpoints()];
    parts.into_iter().flatten().collect()
}

/// Every endpoint of the admin listener.
#[must_use]
pub fn admin_endpoints() -> Vec<Endpoint> {
    let parts = [admin::endpoints(), billing::admin_endpoints(), compliance::admin_endpoints()];
    parts.into_iter().flatten().collect()
}
