//! Text messages: the request and receipt every vendor speaks.

use serde::{Deserialize, Serialize};

use super::ProviderError;
use crate::kernel::{Error, codec};

pub mod file;
pub mod twilio;

pub use file::SmsFile;
pub use twilio::{Twilio, TwilioOptions};

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

fn decode(request: &[u8], public_url: &str) -> Result<SmsRequest, ProviderError> {
    let mut request: SmsRequest = codec::decode(request).map_err(|error| {
        tracing::error!(%error, "a text message request does not decode");
        ProviderError::Refused(Error::internal())
    })?;
    request.body = request.body.replace(super::PUBLIC_URL, public_url);
    Ok(request)
}

fn receipt(id: String) -> Vec<u8> {
    codec::encode(&SmsReceipt { id }).expect("receipts are small and serializable")
}
