//! A subscription: `subscription/<sub id>`, on the slot of the person who holds it.
//!
//! ```text
//! incomplete ──paid──▶ active ◀──paid── past_due ──exhausted──▶ canceled | paused
//! trialing ──trial over──▶ active ──declined──▶ past_due      (cancel: from every state; pause: trialing, active)
//! ```
//!
//! Exactly one invoice per period: the decision that begins a period makes the invoice's id, tells the invoice to come
//! into being, and moves the period on, in one batch. The timer `renew` is due at the end of the period and is consumed
//! by that same batch, so it cannot begin a period twice. While an invoice is unsettled (`settling`) the next period
//! does not begin; when the invoice is settled the timer is set again, at once if it is overdue. So after a long
//! absence, or a clock moved ahead by a year, every period is billed, one after the other.
//!
//! A change that costs something takes effect when its invoice is paid and is dropped when that is declined. One that
//! gives something back takes effect at once and leaves credit, which the next invoices use up. Preview, change, start
//! and renewal all price with [`super::quote`].
//!
//! A trial lasts as long as that of the plan it is on, counted from its start: a change to a plan with a shorter one
//! shortens it, and where nothing is left of it the first period is paid before the change takes effect.
//!
//! Price and entitlements are those of the plan's version at the time of start or change. Not sealed, like invoices and
//! for the same reason. Deliberately absent: refunds for unused time on cancellation (an operator refunds an invoice).

mod change;
mod lifecycle;
mod older;
mod protocol;
mod settle;
mod state;
#[cfg(test)]
mod tests;

pub use lifecycle::preview_start;
pub use protocol::{
    CancelAt, ChangeRequest, Command, Event, Pending, Preview, Reply, Settling, StartRequest, State, Terms, View,
};
pub use state::Subscription;

use crate::kernel::EntityId;

/// Shard-wide index of subscriptions: `<user id>/<subscription id>`.
pub const INDEX: &str = "subscriptions";

#[must_use]
pub fn id(subscription_id: &str) -> EntityId {
    EntityId::new("subscription", subscription_id)
}
