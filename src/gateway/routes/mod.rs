//! The public endpoints, collected from one file per area.

pub mod admin;
pub mod billing;
pub mod identity;

use super::Endpoint;

/// Every endpoint of the public listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let parts = [identity::endpoints(), billing::endpoints()];
    parts.into_iter().flatten().collect()
}
