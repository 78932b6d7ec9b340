//! What a person pays with: `wallet/<user id>`, on the person's slot, sealed under the person's key.
//!
//! Holds the processor's tokens and what may be shown of a card (brand, last four digits, expiry), never a card
//! number. A payment method is attached in steps, each one an effect whose outcome commands the wallet: first the
//! customer at the processor (once), then the method. Until the last outcome the method is `Pending`.
//!
//! The wallet also hands out the ids of the person's subscriptions (the reply is remembered under the request's
//! idempotency key, so a repeated request starts the same subscription) and knows which of them still run, so that
//! closing the account ends them. It remembers which plans were tried and by which subscription, so that ending one
//! subscription and starting another is no second trial. A method is known by the processor's token and kept once.
//! Bounded: [`MOST_METHODS`], [`MOST_SUBSCRIPTIONS`].

mod protocol;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{Command, Event, Method, MethodStatus, Payable, Reply, Trial};
pub use state::{MOST_METHODS, MOST_SUBSCRIPTIONS, Wallet};

use crate::kernel::EntityId;

/// The wallet of a user.
#[must_use]
pub fn id(user_id: &str) -> EntityId {
    EntityId::new("wallet", user_id)
}
