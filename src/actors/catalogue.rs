//! Every entity kind of the product, one line each.

use super::notifications::{Delivery, Devices, Inbox, Preferences, TemplateBook};
use super::runtime::clock::VirtualClock;
use super::runtime::kinds::Kind;

/// All kinds a node serves.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::of::<VirtualClock>(),
        Kind::of::<Delivery>(),
        Kind::of::<Devices>(),
        Kind::of::<Inbox>(),
        Kind::of::<Preferences>(),
        Kind::of::<TemplateBook>(),
    ]
}
