//! Subscriptions, invoices and payments.
//!
//! A charge, file by file: `subscription/lifecycle.rs` begins a period and tells `invoice/`; `numbering/` gives the
//! number; `invoice/collect.rs` asks `wallet/` what to charge and calls the payment provider; `invoice/settle.rs` tells
//! the subscription and sends the receipt. `quote.rs` prices everything, `ledger.rs` books everything. The reasoning
//! why each step takes effect once is in [`invoice`] and [`subscription`].

pub mod calendar;
pub mod census;
pub mod dunning;
pub mod invoice;
pub mod ledger;
pub mod notices;
pub mod numbering;
pub mod plans;
pub mod proration;
pub mod quote;
#[cfg(test)]
mod simulation;
pub mod subscription;
pub mod terms;
pub mod verify;
pub mod wallet;
