//! How the key-encryption key stands: which versions the members agreed on, and which each of them has.

use std::collections::BTreeMap;

use super::kek::{self, Versions, sharing};
use super::service::Compliance;
use crate::kernel::{Error, Origin};

/// The versions of the key-encryption key, as one node heard of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// The version that wraps.
    pub active: u32,
    /// Versions below are needed by nothing.
    pub retired_below: u32,
    /// A rotation is under way on some member, or ended before it was done.
    pub unfinished: bool,
    /// Of each member, oldest first, or why it did not say.
    pub members: BTreeMap<u64, Result<Vec<u32>, Error>>,
}

impl Compliance {
    /// Asks the meta shard what is agreed, and every member what it has. `own` is this one.
    ///
    /// # Errors
    /// `unavailable` when the meta shard does not answer.
    pub async fn key_status(&self, own: u64, origin: &Origin) -> Result<KeyStatus, Error> {
        let agreed = self.router.ask::<Versions>(&kek::id(), kek::Command::Get, origin).await?;
        let mut members = sharing::held(&self.router).await?;
        members.insert(own, Ok(self.keys.versions()));
        let unfinished = agreed.introduced > agreed.active || agreed.active > agreed.retired_below;
        // Before the first rotation nothing is agreed, and what every member has is in use.
        let active = if agreed.active == 0 { self.keys.current_version() } else { agreed.active };
        Ok(KeyStatus { active, retired_below: agreed.retired_below, unfinished, members })
    }
}
