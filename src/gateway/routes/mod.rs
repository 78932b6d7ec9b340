//! The public endpoints, collected from one file per area.

pub mod admin;

use super::Endpoint;

/// Every endpoint of the public listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    Vec::new()
}
