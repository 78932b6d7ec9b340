//! Notifications over HTTP: one file per thing.

mod devices;
mod inbox;
mod preferences;
mod send;
mod templates;
#[cfg(test)]
mod tests;
mod unsubscribe;

pub use inbox::InboxItem;

use crate::gateway::Endpoint;

/// Every endpoint of this area.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let areas = [
        inbox::endpoints(),
        preferences::endpoints(),
        devices::endpoints(),
        send::endpoints(),
        templates::endpoints(),
        unsubscribe::endpoints(),
    ];
    areas.into_iter().flatten().collect()
}
