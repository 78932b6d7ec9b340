//! Personal data is unreadable without its person's key: what the runtime needs to seal and open it.

use async_trait::async_trait;

use crate::kernel::Error;
use crate::storage::seal::DataKey;

/// Where data keys come from. Implemented by the compliance service's keyring.
#[async_trait]
pub trait Sealer: Send + Sync + 'static {
    /// The data key of a person; `create` makes one when there has never been one.
    ///
    /// `Ok(None)`: the person was erased (or, without `create`, never existed); what the key sealed is gone.
    ///
    /// # Errors
    /// `unavailable` when the keyring cannot be reached now.
    async fn key(&self, subject: &str, create: bool) -> Result<Option<DataKey>, Error>;
}
