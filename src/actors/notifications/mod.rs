//! Inbox channels, preferences, templates and delivery.
