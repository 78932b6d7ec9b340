//! Inbox channels, preferences, devices, templates and delivery.
//!
//! The life of a notification: anyone tells `delivery/<ntf_id>` to `Send`; it asks the person's profile, preferences
//! and devices, plans the channels ([`delivery::plan`]), and tells the inbox or calls a provider for each; every
//! outcome is journaled in the delivery. Deliberately absent: campaigns and digests.

pub mod delivery;
pub mod devices;
pub mod inbox;
pub mod preferences;
pub mod template_book;
pub mod templates;
pub mod topic;

pub use delivery::{Category, Channel, Content, Delivery, SendRequest};
pub use devices::Devices;
pub use inbox::Inbox;
pub use preferences::Preferences;
pub use template_book::TemplateBook;
pub use topic::Topic;
