//! Text messages: the request and receipt every vendor speaks.

use serde::{Deserialize, Serialize};

/// One text message. `to` is E.164, such as `+14155550100`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmsRequest {
    pub to: String,
    pub body: String,
}

/// The message was accepted for delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmsReceipt {
    pub id: String,
}
