//! Lets nodes in: the members entity decides, this node hands over what all have in common.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::actors::members::{self, Command, Member, Members};
use crate::actors::runtime::Router;
use crate::cluster::join::{Applicant, Gate, Grant, Refused};
use crate::cluster::secrets;
use crate::kernel::{ErrorCode, Origin};

/// Asks the members entity.
pub(super) struct Admission {
    router: Router,
    data_dir: PathBuf,
}

impl Admission {
    pub fn new(router: Router, data_dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { router, data_dir })
    }
}

#[async_trait]
impl Gate for Admission {
    async fn admit(&self, applicant: &Applicant) -> Result<Grant, Refused> {
        let Applicant { token_hash, node, address, zone, build, key, from } = applicant.clone();
        let member = Member { id: node, address, zone, version: build };
        let join = Command::Join { token: token_hash, key, member };
        let origin = Origin { source: from, ..Origin::system("join") };
        let view = self.router.ask::<Members>(&members::id(), join, &origin).await.map_err(|error| {
            tracing::warn!(node, %error, "a node was not let in");
            match error.code {
                ErrorCode::Forbidden => Refused::UnknownToken,
                ErrorCode::Gone => Refused::UsedToken,
                ErrorCode::Conflict => Refused::NodeId,
                ErrorCode::Invalid => Refused::Invalid,
                _ => Refused::Unavailable,
            }
        })?;
        let data_dir = self.data_dir.clone();
        let packed = tokio::task::spawn_blocking(move || secrets::pack(&data_dir)).await;
        let packed = packed.map_err(std::io::Error::other).flatten().map_err(|error| {
            tracing::error!(%error, "the secrets of the cluster cannot be read");
            Refused::Unavailable
        })?;
        let members = view.members.into_iter().map(|(id, known)| (id, known.member.address)).collect();
        tracing::info!(node, "a node was let in");
        Ok(Grant { shards: view.shards, members, secrets: Zeroizing::new(packed) })
    }
}
