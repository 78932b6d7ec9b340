//! Push messages: the request and receipt every vendor speaks.

use serde::{Deserialize, Serialize};

pub mod encrypt;
pub mod target;
pub mod vapid;
pub mod web_push;

pub use vapid::VapidKey;
pub use web_push::{WebPush, WebPushOptions};

/// A browser's push subscription (W3C Push API): the endpoint and the keys that seal the payload, base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub endpoint: String,
    pub p256dh: String,
    pub auth: String,
}

/// RFC 8030 §5.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Urgency {
    Normal,
    High,
}

/// One message to one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRequest {
    pub subscription: Subscription,
    /// At most [`MAX_PAYLOAD_BYTES`].
    pub payload: Vec<u8>,
    /// `None`: as configured.
    pub ttl_seconds: Option<u32>,
    pub urgency: Urgency,
    /// A newer message with the same topic replaces an undelivered older one (RFC 8030 §5.4).
    pub topic: Option<String>,
}

/// What fits one RFC 8188 record of 4096 bytes (RFC 8291 §4).
pub const MAX_PAYLOAD_BYTES: usize = 3993;

/// The push service took the message. `location` is the message's own URL when it gave one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReceipt {
    pub location: String,
}
