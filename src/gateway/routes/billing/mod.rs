//! Plans, payment methods, subscriptions, invoices and the processor's webhooks over HTTP.
//!
//! A handler turns a body into commands and a reply into a view; it decides nothing. A person's ids are checked by the
//! entities themselves: another person's object is a 404.

mod held;
mod invoices;
mod ledger;
mod payment_methods;
mod plans;
mod report;
mod subscriptions;
#[cfg(test)]
mod tests;
mod views;
mod wait;
mod webhooks;

pub(super) use held::{Held, held};

use crate::gateway::Endpoint;

/// Every billing endpoint of the public listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    [
        plans::endpoints(),
        payment_methods::endpoints(),
        subscriptions::endpoints(),
        invoices::endpoints(),
        report::endpoints(),
        webhooks::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Billing endpoints of the admin listener.
#[must_use]
pub fn admin_endpoints() -> Vec<Endpoint> {
    [ledger::endpoints(), report::admin_endpoints()].into_iter().flatten().collect()
}
