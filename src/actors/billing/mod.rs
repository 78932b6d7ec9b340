//! Subscriptions, invoices and payments.
