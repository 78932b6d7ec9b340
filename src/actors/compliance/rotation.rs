//! Rotation of the key-encryption key: a new version wraps every key anew, then the old versions are destroyed.
//!
//! This is what closes erasure for good: a data key that was erased may still lie, wrapped, in old pages of the disk, in
//! the write-ahead log until it is purged, and in backups; with its KEK version gone none of these opens. The same holds
//! for the keys of the living in backups from before: a restore of such a backup needs the keyrings of today.
//! Every member is given the new version before it is in use ([`super::kek`]), and destroys the old ones when nothing needs
//! them; one that is away does both when it is back. Resumable: after a crash the next rotation finds what is still wrapped under old versions by index. Architecture
//! invariant: a version is destroyed only after no stored key needs it, and none that needs it can be stored any more
//! (ADR 24).

use serde::Serialize;

use super::audit_log::signing_key::{self, OWNER, SigningKey, signing_key_id};
use super::kek::{self, sharing};
use super::keyring::fence::{self, KeyFence, fence_id};
use super::keyring::{BY_VERSION, Command, Keyring, Reply, TABLE, keyring_id};
use super::service::Compliance;
use crate::actors::identity::authority::Authority;
use crate::actors::runtime::{Page, Scope};
use crate::kernel::{AuditRecord, EntityId, Error, ErrorCode, Origin, ShardId, codec, fail_point};
use crate::providers::keys::{KeyError, WrappedKey};

/// Keyrings read at once.
const PAGE: usize = 256;

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// The version that wraps now; older ones are destroyed.
    pub version: u32,
    /// Data keys that were wrapped anew.
    pub rewrapped: u64,
    /// Members that were not heard to have destroyed the older versions too; they do when they are back.
    pub waiting: Vec<u64>,
}

impl Compliance {
    /// Rotates the KEK, wraps every stored key anew and destroys the older versions.
    ///
    /// # Errors
    /// `conflict` while another rotation runs here or overtook this one; `unavailable` when a shard has no leader, or fewer
    /// than a majority of the members can be given the new version: older ones are then kept, and the next rotation, on any
    /// member, finishes what is left.
    pub async fn rotate_keys(&self, identity: &Authority, origin: &Origin) -> Result<Rotated, Error> {
        let running = || Error::conflict("A rotation is under way.");
        let _one = self.rotating.try_lock().map_err(|_| running())?;
        let version = self.new_version(origin).await?;
        // Not under the idempotency key: a repeat after a crash has a newer version, and must not be told of the key that
        // the first try made under the version that is about to be destroyed.
        identity.rotate_signing_key(&unkeyed(origin)).await?;
        fail_point::reach("rotation.signing_key_rotated");
        self.rewrap_audit_key(version, origin).await?;
        fail_point::reach("rotation.audit_key_wrapped");
        self.raise_fences(version, origin).await?;
        fail_point::reach("rotation.fences_raised");
        let rewrapped = self.rewrap_keyrings(version, origin).await?;
        fail_point::reach("rotation.keys_wrapped");
        self.agree(kek::Command::Retire { below: version }, origin).await?;
        fail_point::reach("rotation.old_retired");
        self.keys.destroy_below(version).await.map_err(|error| failed(&error))?;
        fail_point::reach("rotation.old_destroyed");
        let waiting = sharing::destroyed(&self.router, version).await?;
        self.note(version, origin).await?;
        tracing::info!(version, rewrapped, ?waiting, "the key-encryption key was rotated");
        Ok(Rotated { version, rewrapped, waiting })
    }

    /// A version that wraps on every member from now on. A crash before it is in use leaves a number that is never used.
    async fn new_version(&self, origin: &Origin) -> Result<u32, Error> {
        let above = self.keys.versions().last().copied().unwrap_or_default();
        let version = self.agree(kek::Command::Introduce { above }, origin).await?.introduced;
        self.keys.make(version).await.map_err(|error| failed(&error))?;
        fail_point::reach("rotation.version_added");
        sharing::share(&self.router, self.keys.as_ref(), version).await?;
        fail_point::reach("rotation.version_shared");
        self.agree(kek::Command::Activate { version }, origin).await?;
        fail_point::reach("rotation.version_active");
        self.keys.wrap_under(version).await.map_err(|error| failed(&error))?;
        Ok(version)
    }

    /// Not under the idempotency key: a repeat after a crash is another rotation.
    async fn agree(&self, command: kek::Command, origin: &Origin) -> Result<kek::Versions, Error> {
        self.router.ask::<kek::Versions>(&kek::id(), command, &unkeyed(origin)).await
    }

    async fn rewrap_audit_key(&self, version: u32, origin: &Origin) -> Result<(), Error> {
        let id = signing_key_id();
        let stored = self.router.ask::<SigningKey>(&id, signing_key::Command::Get, origin).await?;
        let Some(stored) = stored.filter(|stored| stored.seed.version < version) else { return Ok(()) };
        let (from, seed) = (stored.seed.version, self.anew(OWNER, &stored.seed).await?);
        let rewrap = signing_key::Command::Rewrap { from, seed };
        self.router.ask::<SigningKey>(&id, rewrap, &unkeyed(origin)).await?;
        Ok(())
    }

    /// From when this returns no key is announced under an older version, and each that was is in the index.
    async fn raise_fences(&self, version: u32, origin: &Origin) -> Result<(), Error> {
        let (origin, raise) = (unkeyed(origin), fence::Command::Raise { lowest: version });
        for shard in self.router.shard_ids().filter(|shard| *shard != ShardId::META) {
            self.router.ask::<KeyFence>(&fence_id(shard), raise.clone(), &origin).await?;
        }
        Ok(())
    }

    /// Wraps the data keys under older versions anew, in passes until none is left.
    async fn rewrap_keyrings(&self, version: u32, origin: &Origin) -> Result<u64, Error> {
        let (origin, mut rewrapped) = (unkeyed(origin), 0);
        loop {
            let page = Page { after: None, limit: PAGE, reverse: false };
            let found = self.router.scan(Scope::All, BY_VERSION, b"", page).await?;
            let keys = found.iter().filter_map(|(key, _)| parse(key));
            let old: Vec<(u32, String)> = keys.filter(|(from, _)| *from < version).collect();
            if old.is_empty() {
                return Ok(rewrapped);
            }
            for (from, user_id) in old {
                rewrapped += u64::from(self.rewrap(from, version, &user_id, &origin).await?);
                fail_point::reach("rotation.key_wrapped");
            }
        }
    }

    /// Whether it was wrapped anew. Where no key is under `from`, one that was announced is barred to older versions.
    async fn rewrap(&self, from: u32, version: u32, user_id: &str, origin: &Origin) -> Result<bool, Error> {
        let id = keyring_id(user_id);
        let mut held = self.held(&id).await?;
        if held.as_ref().is_none_or(|held| held.version != from) {
            match self.router.ask::<Keyring>(&id, Command::Bar { from, lowest: version }, origin).await {
                Ok(_) => return Ok(false),
                Err(error) if error.code != ErrorCode::Conflict => return Err(error),
                // It was made just now, or else its row is lost.
                Err(_) => held = self.held(&id).await?,
            }
        }
        let Some(held) = held else {
            let asked = self.router.ask::<Keyring>(&id, Command::Get, origin).await?;
            return if matches!(asked, Reply::Held { .. }) { Err(Error::internal()) } else { Ok(false) };
        };
        let wrapped = self.anew(user_id, &held).await?;
        match self.router.ask::<Keyring>(&id, Command::Rewrap { from, wrapped }, origin).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.code, ErrorCode::Gone | ErrorCode::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn held(&self, keyring: &EntityId) -> Result<Option<WrappedKey>, Error> {
        let rows = self.router.rows(keyring, TABLE, Page { after: None, limit: 1, reverse: false }).await?;
        let Some((_, bytes)) = rows.first() else { return Ok(None) };
        codec::decode(bytes).map(Some).map_err(|_| Error::internal())
    }

    async fn anew(&self, owner: &str, held: &WrappedKey) -> Result<WrappedKey, Error> {
        let key = self.keys.unwrap(owner, held).await.map_err(|error| failed(&error))?;
        self.keys.wrap(owner, &key).await.map_err(|error| failed(&error))
    }

    async fn note(&self, version: u32, origin: &Origin) -> Result<(), Error> {
        let record = AuditRecord {
            at: self.router.now(),
            actor: origin.principal.audit_name().to_owned(),
            action: "kek.rotate".to_owned(),
            target: format!("kek_{version}"),
            outcome: "ok".to_owned(),
            source: origin.source.clone(),
            request_id: origin.request_id.clone(),
        };
        self.router.audit(&signing_key_id(), vec![record]).await
    }
}

/// The version and user of a key of [`BY_VERSION`].
fn parse(key: &[u8]) -> Option<(u32, String)> {
    let (version, user_id) = key.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*version), String::from_utf8(user_id.to_vec()).ok()?))
}

/// The same caller without the idempotency key: one request rewraps many times.
fn unkeyed(origin: &Origin) -> Origin {
    Origin { idempotency: None, ..origin.clone() }
}

fn failed(error: &KeyError) -> Error {
    tracing::error!(%error, "the key service failed in a rotation");
    error.refusal()
}
