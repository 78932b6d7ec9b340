//! How a version of the key-encryption key comes to a member: the one that rotates gives it to all it reaches, and who was
//! away asks for it, at the latest when it meets something that is wrapped under it.
//!
//! Architecture invariants: a version wraps only after a majority of the members has it on disk; a member wraps under what
//! it has; and it destroys a version only after it has the one in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{Versions, id};
use crate::actors::members::{self, Members};
use crate::actors::runtime::Router;
use crate::actors::runtime::follow::Follower;
use crate::kernel::{Error, Origin, ShardId};
use crate::providers::keys::{KeyError, KeyWrapper, WrappedKey};

/// How often a member looks at what is agreed though it heard nothing of a change.
const REFRESH: Duration = Duration::from_secs(1);
/// How long whoever rotates waits for members to destroy what is no longer needed.
const DESTROYED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The key service of a member: its own keys, and what it does not have from another member.
pub struct SharedKeys {
    own: Arc<dyn KeyWrapper>,
    /// Set once the runtime exists.
    router: OnceLock<Router>,
    asking: tokio::sync::Mutex<()>,
}

impl SharedKeys {
    #[must_use]
    pub fn new(own: Arc<dyn KeyWrapper>) -> Self {
        Self { own, router: OnceLock::new(), asking: tokio::sync::Mutex::default() }
    }

    /// From here on other members are asked, and answered. Later calls change nothing.
    pub fn connect(&self, router: Router) {
        router.hold_keys(Arc::clone(&self.own));
        let _ = self.router.set(router);
    }

    /// Has the version come from another member, unless it is here.
    async fn fetch(&self, version: u32) -> Result<(), KeyError> {
        let Some(router) = self.router.get() else { return Err(KeyError::Away { version }) };
        let _one = self.asking.lock().await;
        obtain(router, self.own.as_ref(), version).await
    }

    /// Whether another member may have a version that is not here: what is below all that are here was destroyed.
    fn may_come(&self, version: u32) -> bool {
        self.own.versions().first().is_some_and(|oldest| *oldest < version)
    }
}

#[async_trait]
impl KeyWrapper for SharedKeys {
    async fn wrap(&self, owner: &str, key: &[u8; 32]) -> Result<WrappedKey, KeyError> {
        self.own.wrap(owner, key).await
    }

    async fn unwrap(&self, owner: &str, wrapped: &WrappedKey) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        match self.own.unwrap(owner, wrapped).await {
            Err(KeyError::NoSuchVersion { version }) if self.may_come(version) => {
                self.fetch(version).await?;
                self.own.unwrap(owner, wrapped).await
            }
            result => result,
        }
    }

    fn current_version(&self) -> u32 {
        self.own.current_version()
    }

    fn versions(&self) -> Vec<u32> {
        self.own.versions()
    }

    async fn make(&self, version: u32) -> Result<(), KeyError> {
        self.own.make(version).await
    }

    async fn wrap_under(&self, version: u32) -> Result<(), KeyError> {
        if version > self.own.current_version() && !self.own.versions().contains(&version) {
            self.fetch(version).await?;
        }
        self.own.wrap_under(version).await
    }

    async fn hand_out(&self, version: u32) -> Result<Vec<u8>, KeyError> {
        self.own.hand_out(version).await
    }

    async fn take_in(&self, version: u32, sealed: &[u8]) -> Result<(), KeyError> {
        self.own.take_in(version, sealed).await
    }

    async fn destroy_below(&self, version: u32) -> Result<(), KeyError> {
        self.own.destroy_below(version).await
    }

    fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        self.own.derive(label)
    }
}

async fn obtain(router: &Router, own: &dyn KeyWrapper, version: u32) -> Result<(), KeyError> {
    if own.versions().contains(&version) {
        return Ok(());
    }
    let asked: Vec<_> = router.others().into_iter().map(|node| Box::pin(router.hand_out_key(node, version))).collect();
    let away = KeyError::Away { version };
    if asked.is_empty() {
        return Err(away);
    }
    let Ok((sealed, _)) = futures::future::select_ok(asked).await else { return Err(away) };
    own.take_in(version, &sealed).await?;
    tracing::info!(version, "a version of the key-encryption key came from another member");
    Ok(())
}

/// The members but this one, by what this node asks the meta shard now.
async fn other_members(router: &Router) -> Result<BTreeSet<u64>, Error> {
    let asked = router.ask::<Members>(&members::id(), members::Command::Get, &Origin::system("keys")).await?;
    let own = router.node();
    Ok(asked.members.into_keys().filter(|node| Some(*node) != own).collect())
}

/// Gives a version to every member that can be reached. Who cannot asks for it when it is back.
///
/// # Errors
/// `unavailable` when fewer than a majority of the members have it then.
pub(in crate::actors::compliance) async fn share(
    router: &Router,
    keys: &dyn KeyWrapper,
    version: u32,
) -> Result<(), Error> {
    let others = other_members(router).await?;
    let sealed = keys.hand_out(version).await.map_err(|error| error.refusal())?;
    let given = others.iter().map(|node| router.take_in_key(*node, version, sealed.clone()));
    let given = futures::future::join_all(given).await;
    for (node, error) in others.iter().zip(&given).filter_map(|(node, given)| Some((node, given.as_ref().err()?))) {
        tracing::warn!(node, version, %error, "a member does not take the new version of the key-encryption key now");
    }
    let have = 1 + given.iter().filter(|given| given.is_ok()).count();
    let detail = "Fewer than a majority of the members can be given a new key; the old one stays in use.";
    if have * 2 > others.len() + 1 { Ok(()) } else { Err(Error::unavailable(detail)) }
}

/// Waits for the other members to destroy the versions below this one. Who has not yet: it is away, or slow, and does so
/// when it hears of it.
///
/// # Errors
/// `unavailable` when it is not known who the members are.
pub(in crate::actors::compliance) async fn destroyed(router: &Router, below: u32) -> Result<Vec<u64>, Error> {
    let others = other_members(router).await?;
    let give_up = tokio::time::Instant::now() + DESTROYED_WITHIN;
    let waited = others.into_iter().map(|node| async move {
        loop {
            match router.key_versions(node).await {
                Ok(versions) if versions.iter().all(|version| *version >= below) => return None,
                Ok(_) if tokio::time::Instant::now() < give_up => tokio::time::sleep(LOOK_EVERY).await,
                Ok(_) | Err(_) => return Some(node),
            }
        }
    });
    Ok(futures::future::join_all(waited).await.into_iter().flatten().collect())
}

/// The versions that each of the other members has, or why it does not say.
///
/// # Errors
/// `unavailable` when it is not known who the members are.
pub(in crate::actors::compliance) async fn held(
    router: &Router,
) -> Result<BTreeMap<u64, Result<Vec<u32>, Error>>, Error> {
    let others = other_members(router).await?;
    let asked = others.into_iter().map(|node| async move { (node, router.key_versions(node).await) });
    Ok(futures::future::join_all(asked).await.into_iter().collect())
}

/// Keeps the keys of this member as the members agree, by its own copy of the meta shard, until that is gone.
pub(in crate::actors::compliance) async fn follow(router: &Router, keys: &dyn KeyWrapper) {
    let Some(meta) = router.replica(ShardId::META) else { return };
    let mut follower = Follower::new(Arc::clone(meta));
    loop {
        if let Ok(Some((_, agreed))) = meta.peek::<Versions>(&id())
            && let Err(error) = agree(keys, agreed).await
        {
            tracing::warn!(%error, "the key-encryption keys of this node are not those in use yet");
        }
        publish(keys);
        if !follower.hears_of(&id(), REFRESH).await {
            return;
        }
    }
}

async fn agree(keys: &dyn KeyWrapper, agreed: Versions) -> Result<(), KeyError> {
    if agreed.active > keys.current_version() {
        keys.wrap_under(agreed.active).await?;
    }
    if keys.versions().first().is_some_and(|oldest| *oldest < agreed.retired_below) {
        keys.destroy_below(agreed.retired_below).await?;
        tracing::info!(below = agreed.retired_below, "old versions of the key-encryption key are destroyed");
    }
    Ok(())
}

fn publish(keys: &dyn KeyWrapper) {
    let versions = keys.versions();
    metrics::gauge!("construct_kek_version").set(f64::from(keys.current_version()));
    metrics::gauge!("construct_kek_oldest_version").set(versions.first().map_or(0.0, |oldest| f64::from(*oldest)));
}
