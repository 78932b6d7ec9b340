//! Subscriptions, invoices and payments.

pub mod calendar;
pub mod dunning;
pub mod proration;
