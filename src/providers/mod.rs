//! The outside world behind one narrow trait; a folder per family, a file per vendor.
//!
//! Architecture invariant: a provider is called only by the outbox, after the decision that asked for it is durable,
//! and always with the same key for the same effect.

pub mod email;
pub mod keys;
mod line_file;
pub mod payment;
pub mod push;
pub mod sms;

use std::time::Duration;

use async_trait::async_trait;

use crate::kernel::{self, ProviderKind};

/// Stands for the public URL of the gateway in texts and links that entities write; providers replace it with
/// `gateway.public_url` when they send, so that journals do not carry an address that may change.
pub const PUBLIC_URL: &str = "%PUBLIC_URL%";

/// How a call ended that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProviderError {
    /// Certainly not done; worth trying again later.
    #[error("not done, may be retried: {0}")]
    Retry(String),
    /// Refused for good; not done.
    #[error("refused: {0}")]
    Refused(kernel::Error),
    /// May or may not have been done.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// One vendor of one family.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    fn kind(&self) -> ProviderKind;

    /// Whether the other side deduplicates by key, so that a repeat after a crash or a time-out cannot do it twice.
    fn idempotent(&self) -> bool;

    /// How long the other side knows a key at least; `None`: for ever, or it knows none. What was decided longer ago is
    /// looked up before it is done.
    fn keeps_keys(&self) -> Option<Duration> {
        None
    }

    /// Whether [`Provider::reconcile`] can tell of a request like this one whether it was done.
    fn can_find(&self, _request: &[u8]) -> bool {
        true
    }

    /// Does what the encoded request of the family says; answers the family's encoded receipt.
    ///
    /// # Errors
    /// [`ProviderError`], which says whether it may have been done.
    async fn execute(&self, key: &str, request: &[u8], attempt: u32) -> Result<Vec<u8>, ProviderError>;

    /// Finds out what became of an attempt whose outcome is unknown: `Some(receipt)` if it was done, `None` if it
    /// certainly was not.
    ///
    /// # Errors
    /// [`ProviderError::Unknown`] when that cannot be found out (now).
    async fn reconcile(&self, key: &str, request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError>;
}
