//! The audit log: one Merkle tree per shard, written with the decisions it is about, read and proved here.
//!
//! Entries are written by the shard's state machine in the batch of the decision they record, so that none is lost and
//! none is about something that did not happen. This service reads them, signs checkpoints and builds proofs.
//! Architecture invariant: entries hold ids and keyed pseudonyms, never personal data, and so outlive erasure.
//! Deliberately absent: any way to change or remove an entry.

pub mod export;
pub mod note;
pub mod search;
pub mod signing_key;

use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

pub use crate::actors::runtime::audit::{Answer, Query};

use self::note::{Checkpoint, Signer, Verifier, shard_origin};
use self::signing_key::{Command, OWNER, SigningKey, StoredKey, signing_key_id};
use crate::actors::runtime::Router;
use crate::kernel::merkle::Hash;
use crate::kernel::{Error, Origin, ShardId};
use crate::providers::keys::{KeyError, KeyWrapper};

/// A checkpoint and the note that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub shard: ShardId,
    pub checkpoint: Checkpoint,
    pub note: String,
}

/// Reads, proves and signs the logs of all shards.
pub struct AuditLog {
    router: Router,
    origin: String,
    signer: Signer,
}

impl AuditLog {
    /// Opens the log, making its signing key when there is none. `origin` names the installation at first start; later
    /// the name it had then is kept.
    ///
    /// # Errors
    /// `unavailable` when the meta shard has no leader; `internal` when the key does not open.
    pub async fn open(router: Router, keys: Arc<dyn KeyWrapper>, origin: &str) -> Result<Self, Error> {
        let (id, system) = (signing_key_id(), Origin::system("audit"));
        let stored = match router.ask::<SigningKey>(&id, Command::Get, &system).await? {
            Some(stored) => stored,
            None => {
                let create = Command::Create(fresh_key(keys.as_ref(), origin).await?);
                router.ask::<SigningKey>(&id, create, &system).await?.ok_or_else(Error::internal)?
            }
        };
        let seed = keys.unwrap(OWNER, &stored.seed).await.map_err(|error| failed(&error))?;
        let signer = Signer::from_seed(&seed).ok_or_else(Error::internal)?;
        if *signer.public_key() != stored.public_key {
            tracing::error!("the seed of the audit signing key does not belong to its public key");
            return Err(Error::internal());
        }
        Ok(Self { origin: stored.origin, signer, router })
    }

    /// The shards that have a log, in order.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        self.router.shard_ids().collect()
    }

    /// The name of the installation's logs.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The key that checks the shard's checkpoints.
    #[must_use]
    pub fn verifier(&self, shard: ShardId) -> Verifier {
        Verifier::new(&shard_origin(&self.origin, shard), *self.signer.public_key())
    }

    /// Asks one shard's log. Linearizable: sees every entry acknowledged before.
    ///
    /// # Errors
    /// `not_found` for a shard that does not exist, `unavailable`, or the refusal of [`audit::answer`](crate::actors::runtime::audit::answer).
    pub async fn ask(&self, shard: ShardId, query: &Query) -> Result<Answer, Error> {
        self.router.read_audit(shard, query).await
    }

    /// Number of entries and root: of the whole log, or of its first `size` entries.
    ///
    /// # Errors
    /// As [`AuditLog::ask`].
    pub async fn head(&self, shard: ShardId, size: Option<u64>) -> Result<(u64, Hash), Error> {
        let query = size.map_or(Query::Head, |size| Query::Root { size });
        match self.ask(shard, &query).await? {
            Answer::Head { size, root } => Ok((size, root)),
            Answer::Entries(_) | Answer::Proof { .. } => Err(Error::internal()),
        }
    }

    /// A signed checkpoint: of the whole log, or of its first `size` entries.
    ///
    /// # Errors
    /// As [`AuditLog::ask`].
    pub async fn checkpoint(&self, shard: ShardId, size: Option<u64>) -> Result<Signed, Error> {
        let (size, root) = self.head(shard, size).await?;
        let checkpoint = Checkpoint { origin: shard_origin(&self.origin, shard), size, root };
        let note = self.signer.sign(&checkpoint);
        Ok(Signed { shard, checkpoint, note })
    }

    /// Leaf bytes of up to `count` entries from `from` on.
    ///
    /// # Errors
    /// As [`AuditLog::ask`].
    pub async fn entries(&self, shard: ShardId, from: u64, count: u32) -> Result<Vec<Vec<u8>>, Error> {
        match self.ask(shard, &Query::Entries { from, count }).await? {
            Answer::Entries(entries) => Ok(entries),
            Answer::Head { .. } | Answer::Proof { .. } => Err(Error::internal()),
        }
    }

    /// A proof of inclusion or consistency.
    ///
    /// # Errors
    /// As [`AuditLog::ask`].
    pub async fn proof(&self, shard: ShardId, query: &Query) -> Result<Vec<Hash>, Error> {
        match self.ask(shard, query).await? {
            Answer::Proof { hashes } => Ok(hashes),
            Answer::Head { .. } | Answer::Entries(_) => Err(Error::internal()),
        }
    }
}

async fn fresh_key(keys: &dyn KeyWrapper, origin: &str) -> Result<StoredKey, Error> {
    let mut seed = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(seed.as_mut()).map_err(|_| Error::internal())?;
    let public_key = *Signer::from_seed(&seed).ok_or_else(Error::internal)?.public_key();
    let seed = keys.wrap(OWNER, &seed).await.map_err(|error| failed(&error))?;
    Ok(StoredKey { origin: origin.to_owned(), public_key, seed })
}

fn failed(error: &KeyError) -> Error {
    tracing::error!(%error, "the audit signing key cannot be used");
    error.refusal()
}
