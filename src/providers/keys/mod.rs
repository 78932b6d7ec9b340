//! Wrapping of keys by a key service: the root of everything that is sealed.
//!
//! A *root key* wraps *key-encryption keys* (KEKs) with versions, and a KEK wraps one data key per person. Only
//! wrapped data keys are stored with the data. Destroying a KEK version destroys whatever was wrapped under it,
//! wherever copies of it lie. Deliberately absent: caching and the question whose key it is; that is the keyring's.

mod file;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::kernel::Error;

pub use file::FileKeys;

/// A key as it may be stored: encrypted under version `version` of the KEK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    pub version: u32,
    pub bytes: Vec<u8>,
}

/// Why a key could not be wrapped, unwrapped or rotated.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The KEK version was destroyed or never existed; what it wrapped is gone.
    #[error("version {version} of the key-encryption key does not exist")]
    NoSuchVersion { version: u32 },
    /// Another member may have the version; none could be asked now.
    #[error("version {version} of the key-encryption key is not on this node yet, and no other member gave it")]
    Away { version: u32 },
    /// The wrapped bytes were changed, belong to another owner, or to another root key.
    #[error("the wrapped key does not open: it was changed, or it belongs to another owner or another root key")]
    DoesNotOpen,
    /// The key material cannot be used as it is; `problem` tells the operator what to do.
    #[error("{path}: {problem}")]
    Refused { path: String, problem: String },
    #[error("{path} cannot be {action}")]
    Io {
        path: String,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl KeyError {
    /// What a caller hears: it may ask again where only another member has the key.
    #[must_use]
    pub fn refusal(&self) -> Error {
        match self {
            Self::Away { .. } => Error::unavailable("A key that another node made has not come here yet."),
            _ => Error::internal(),
        }
    }
}

/// A key service: a local file, a hardware module or a cloud KMS.
#[async_trait]
pub trait KeyWrapper: Send + Sync + 'static {
    /// Wraps a data key under the current KEK. It opens again only for the same `owner`.
    async fn wrap(&self, owner: &str, key: &[u8; 32]) -> Result<WrappedKey, KeyError>;

    /// The key that [`KeyWrapper::wrap`] wrapped for this owner.
    async fn unwrap(&self, owner: &str, wrapped: &WrappedKey) -> Result<Zeroizing<[u8; 32]>, KeyError>;

    /// The KEK version that wraps now.
    fn current_version(&self) -> u32;

    /// The KEK versions that still unwrap, oldest first.
    fn versions(&self) -> Vec<u32>;

    /// Makes the KEK version `version`, which must be above all others and only unwraps until [`KeyWrapper::wrap_under`].
    /// Nothing is made where it is there.
    async fn make(&self, version: u32) -> Result<(), KeyError>;

    /// Wraps under `version` from now on, unless under a newer one already. Older versions still unwrap.
    async fn wrap_under(&self, version: u32) -> Result<(), KeyError>;

    /// A KEK version, encrypted under the root key: for other members, who have the same.
    async fn hand_out(&self, version: u32) -> Result<Vec<u8>, KeyError>;

    /// Keeps, durably, what [`KeyWrapper::hand_out`] gave on another member, to unwrap with.
    async fn take_in(&self, version: u32, sealed: &[u8]) -> Result<(), KeyError>;

    /// Destroys every KEK version below `version`, which must not be above the current one. What is still wrapped
    /// under them, in the data or in a backup, can never be opened again.
    async fn destroy_below(&self, version: u32) -> Result<(), KeyError>;

    /// A secret for one purpose, the same for the same label for the life of the installation and unaffected by
    /// versions of the KEK (HKDF-SHA-256, RFC 5869). For keyed hashes of index entries.
    fn derive(&self, label: &str) -> Zeroizing<[u8; 32]>;
}
