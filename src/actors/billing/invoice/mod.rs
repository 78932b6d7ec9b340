//! An invoice: `invoice/<inv id>`, on the slot of the person who pays. draft → open → paid, void or uncollectible.
//!
//! How one period is charged exactly once:
//! 1. the subscription's decision (renewal timer, start or change) *tells* this invoice `Create`; the id was made in
//!    that decision, so a second delivery finds the invoice and changes nothing;
//! 2. `Create` *tells* the series `Assign`; the number comes back as an outcome and finalizes the invoice. Lines,
//!    amounts and number never change again;
//! 3. an attempt *asks* the wallet what to charge and then *calls* the processor. The key of that call is the outbox
//!    record of this decision, so the processor sees the same key for every retry, also after a crash or from another
//!    node, and takes the money once. At most one attempt is under way, and a new one starts only when the one before
//!    is known to have failed;
//! 4. the outcome settles the attempt in the same batch that settles the outbox record. *Paid* tells the subscription
//!    and sends the receipt, both as effects of that one batch;
//! 5. an unknown outcome stays `Unknown`: nothing is charged again until a look-up by our reference
//!    (`<invoice id>/<attempt>`) says what happened. A webhook may settle it earlier; it names the same reference;
//! 6. should a payment succeed for an invoice that is paid or void already (a 3-D Secure challenge answered late), or
//!    whose subscription is over, it is given back by a refund of its own (`returns.rs`), which is not given up: looked
//!    up, and asked for again, until the money is back. A challenged attempt is looked up like an unknown one, before
//!    the invoice is voided and for a while after, as its payer may answer whenever they like.
//!
//! Not sealed under the person's key: an invoice holds amounts, a plan's name and opaque ids, and the law and the
//! ledger need it after the person is gone; erasing the person makes the user id point to nobody (see ADR 0030).
//! Deliberately absent: editing. A wrong invoice is voided or refunded by a credit note.

mod collect;
mod protocol;
mod refund;
mod returns;
mod settle;
mod state;
#[cfg(test)]
mod tests;

pub use protocol::{
    Attempt, AttemptStatus, Command, Draft, Event, Mode, Reason, RefundState, RefundStatus, Reply, Return, State, View,
};
pub use state::{Invoice, MOST_ATTEMPTS, MOST_REFUNDS};

use crate::kernel::EntityId;

/// Shard-wide index of invoices: `<user id>/<invoice id>`.
pub const INDEX: &str = "invoices";
/// Shard-wide index of credit notes: `<user id>/<credit note id>` → invoice id.
pub const CREDIT_NOTES: &str = "credit_notes";

/// The decline code of an attempt that found nothing to charge.
pub const NO_PAYMENT_METHOD: &str = "no_payment_method";
/// The decline code of an invoice that was given up before it was paid.
const CANCELED: &str = "canceled";

#[must_use]
pub fn id(invoice_id: &str) -> EntityId {
    EntityId::new("invoice", invoice_id)
}

/// The reference of an attempt at the processor.
#[must_use]
pub fn reference(invoice_id: &str, attempt: u32) -> String {
    format!("{invoice_id}/{attempt}")
}

/// The invoice and attempt of a reference.
#[must_use]
pub fn parse_reference(reference: &str) -> Option<(&str, u32)> {
    let (invoice_id, attempt) = reference.split_once('/')?;
    Some((invoice_id, attempt.parse().ok()?))
}
