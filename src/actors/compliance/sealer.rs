//! Where data keys come from: the person's keyring, unwrapped by the key service, and a bounded memory of them.
//!
//! Architecture invariants: an unwrapped key is only ever in memory and zeroized when forgotten; a key forgotten while
//! it was being fetched is not remembered; the memory is bounded, so that a million people cost what a few thousand
//! cost. Two callers that make a person's first key at once get the same one: the keyring takes the first. A key is
//! announced before it is made, so that a rotation knows of it ([`super::keyring::fence`], ADR 24).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::keyring::fence::{self, KeyFence, fence_id};
use super::keyring::{Command, Keyring, Reply, TABLE, keyring_id};
use crate::actors::runtime::sealer::Sealer;
use crate::actors::runtime::{Page, Router};
use crate::kernel::{Error, ErrorCode, Origin, codec};
use crate::providers::keys::{KeyError, KeyWrapper, WrappedKey};
use crate::storage::seal::DataKey;

/// How often a key is wrapped anew because a rotation overtook it.
const MAKING_TRIES: usize = 3;

/// How the sealer reaches keyrings: the router in the product, a map in tests.
#[async_trait]
pub trait Keyrings: Send + Sync + 'static {
    /// Asks `keyring/<user_id>`; linearizable.
    ///
    /// # Errors
    /// The keyring's refusal, or `unavailable`.
    async fn ask(&self, user_id: &str, command: Command) -> Result<Reply, Error>;

    /// Announces to the fence of the keyring's shard that a key under `version` is about to be made.
    ///
    /// # Errors
    /// `unavailable` when it cannot be told now.
    async fn announce(&self, user_id: &str, version: u32) -> Result<fence::Reply, Error>;

    /// The row of `keyring/<user_id>`; linearizable.
    ///
    /// # Errors
    /// `unavailable` when it cannot be read now.
    async fn wrapped(&self, user_id: &str) -> Result<Option<WrappedKey>, Error>;
}

#[async_trait]
impl Keyrings for Router {
    async fn ask(&self, user_id: &str, command: Command) -> Result<Reply, Error> {
        self.ask::<Keyring>(&keyring_id(user_id), command, &Origin::system("sealer")).await
    }

    async fn announce(&self, user_id: &str, version: u32) -> Result<fence::Reply, Error> {
        let fence = fence_id(self.shard_of(&keyring_id(user_id)));
        let command = fence::Command::Announce { user_id: user_id.to_owned(), version };
        self.ask::<KeyFence>(&fence, command, &Origin::system("sealer")).await
    }

    async fn wrapped(&self, user_id: &str) -> Result<Option<WrappedKey>, Error> {
        let page = Page { after: None, limit: 1, reverse: false };
        let rows = self.rows(&keyring_id(user_id), TABLE, page).await?;
        let Some((_, bytes)) = rows.first() else { return Ok(None) };
        codec::decode(bytes).map(Some).map_err(|error| {
            tracing::error!(user_id, %error, "the wrapped key of a person does not decode");
            Error::internal()
        })
    }
}

/// The [`Sealer`] of the product.
pub struct KeyringSealer {
    keys: Arc<dyn KeyWrapper>,
    /// Set once the router exists, which itself needs the sealer.
    keyrings: OnceLock<Arc<dyn Keyrings>>,
    cache: Mutex<KeyCache>,
}

impl KeyringSealer {
    /// Remembers up to `capacity` unwrapped keys. Answers `unavailable` until [`KeyringSealer::connect`] is called.
    #[must_use]
    pub fn new(keys: Arc<dyn KeyWrapper>, capacity: usize) -> Self {
        Self { keys, keyrings: OnceLock::new(), cache: Mutex::new(KeyCache::new(capacity)) }
    }

    /// Gives the sealer its way to the keyrings. Later calls change nothing.
    pub fn connect(&self, keyrings: Arc<dyn Keyrings>) {
        let _ = self.keyrings.set(keyrings);
    }

    /// Forgets the person's key, also one that is being fetched right now. Called when a keyring was erased.
    pub fn forget(&self, user_id: &str) {
        self.cache().forget(user_id);
    }

    fn cache(&self) -> MutexGuard<'_, KeyCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keyrings(&self) -> Result<&Arc<dyn Keyrings>, Error> {
        self.keyrings.get().ok_or_else(|| Error::unavailable("The node is still starting."))
    }

    /// The key as [`Sealer::key`] gives it, neither taken from memory nor remembered.
    ///
    /// # Errors
    /// As [`Sealer::key`].
    pub async fn fresh_key(&self, subject: &str, create: bool) -> Result<Option<DataKey>, Error> {
        match self.fetch(subject).await? {
            Fetched::Key(key) => Ok(Some(key)),
            Fetched::Erased => Ok(None),
            Fetched::Absent if !create => Ok(None),
            Fetched::Absent => match self.make(subject).await? {
                Some(key) => Ok(Some(key)),
                None => match self.fetch(subject).await? {
                    Fetched::Key(key) => Ok(Some(key)),
                    Fetched::Absent | Fetched::Erased => Ok(None),
                },
            },
        }
    }

    /// The key as the keyring has it.
    async fn fetch(&self, user_id: &str) -> Result<Fetched, Error> {
        let keyrings = self.keyrings()?;
        match keyrings.ask(user_id, Command::Get).await? {
            Reply::Held { .. } => {}
            Reply::Erased { .. } => return Ok(Fetched::Erased),
            Reply::Absent | Reply::Accepted | Reply::Superseded => return Ok(Fetched::Absent),
        }
        let Some(wrapped) = keyrings.wrapped(user_id).await? else {
            // Erased between the two questions, or else the row is lost, which must not look like an erasure.
            let erased = matches!(keyrings.ask(user_id, Command::Get).await?, Reply::Erased { .. });
            return if erased { Ok(Fetched::Erased) } else { Err(lost(user_id)) };
        };
        let key = self.keys.unwrap(user_id, &wrapped).await.map_err(|error| failed(user_id, &error))?;
        Ok(Fetched::Key(DataKey::new(*key)))
    }

    /// Makes the person's first key. `None`: another caller was first, or the person was erased meanwhile.
    async fn make(&self, user_id: &str) -> Result<Option<DataKey>, Error> {
        let mut key = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(key.as_mut()).map_err(|_| Error::internal())?;
        let keyrings = self.keyrings()?;
        for _ in 0..MAKING_TRIES {
            let wrapped = self.keys.wrap(user_id, &key).await.map_err(|error| failed(user_id, &error))?;
            if keyrings.announce(user_id, wrapped.version).await? == fence::Reply::Superseded {
                continue;
            }
            match keyrings.ask(user_id, Command::Create { wrapped }).await {
                Ok(Reply::Superseded) => {}
                Ok(_) => return Ok(Some(DataKey::new(*key))),
                Err(error) if matches!(error.code, ErrorCode::Conflict | ErrorCode::Gone) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable("The keys of this node are being rotated."))
    }
}

enum Fetched {
    Key(DataKey),
    Absent,
    Erased,
}

#[async_trait]
impl Sealer for KeyringSealer {
    async fn key(&self, subject: &str, create: bool) -> Result<Option<DataKey>, Error> {
        let generation = {
            let mut cache = self.cache();
            if let Some(key) = cache.get(subject) {
                return Ok(Some(key));
            }
            cache.generation
        };
        let Some(key) = self.fresh_key(subject, create).await? else { return Ok(None) };
        self.cache().put(subject, &key, generation);
        Ok(Some(key))
    }
}

fn lost(user_id: &str) -> Error {
    tracing::error!(user_id, "the wrapped key of a person is missing from its keyring");
    Error::internal()
}

fn failed(user_id: &str, error: &KeyError) -> Error {
    tracing::error!(user_id, %error, "the data key of a person cannot be used");
    error.refusal()
}

/// Unwrapped keys in two generations: what is used moves to the young one; when that is full, the old one goes.
/// So it holds at most `capacity` keys and every key used within the last `capacity / 2` is among them.
struct KeyCache {
    half: usize,
    young: HashMap<String, DataKey>,
    old: HashMap<String, DataKey>,
    /// Raised by every [`KeyCache::forget`]; a key fetched under another generation is not remembered.
    generation: u64,
}

impl KeyCache {
    fn new(capacity: usize) -> Self {
        Self { half: (capacity / 2).max(1), young: HashMap::new(), old: HashMap::new(), generation: 0 }
    }

    fn get(&mut self, user_id: &str) -> Option<DataKey> {
        if let Some(key) = self.young.get(user_id) {
            return Some(key.clone());
        }
        let key = self.old.remove(user_id)?;
        self.insert(user_id, key.clone());
        Some(key)
    }

    fn put(&mut self, user_id: &str, key: &DataKey, generation: u64) {
        if generation == self.generation {
            self.insert(user_id, key.clone());
        }
    }

    fn insert(&mut self, user_id: &str, key: DataKey) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(user_id.to_owned(), key);
    }

    fn forget(&mut self, user_id: &str) {
        self.generation += 1;
        self.young.remove(user_id);
        self.old.remove(user_id);
    }
}

#[cfg(test)]
#[path = "sealer_tests.rs"]
mod tests;
