//! The member's side: strangers in, bounded in number and time; certificates out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{REQUEST_BYTES, Reply, Request, token};
use crate::cluster::link::{Authority, Link, Stranger, sha256};

/// Joiners heard at once.
const AT_ONCE: usize = 16;
/// From the hello to the request, and to the end of the reply.
const ASKED: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(20);
/// The longest address and zone.
const NAME_BYTES: usize = 255;

/// Who asks to join. The token is known by its digest alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    pub token_hash: [u8; 32],
    pub node: u64,
    pub address: String,
    pub zone: String,
    pub build: String,
    /// SHA-256 of the node's public key: tells a repeated request from another node with the same token.
    pub key: [u8; 32],
    /// The network address it asks from, for the audit log.
    pub from: String,
}

/// What a member who may join is given.
pub struct Grant {
    pub shards: u16,
    pub members: BTreeMap<u64, String>,
    /// The cluster's keys, packed.
    pub secrets: Zeroizing<Vec<u8>>,
}

/// Why a node may not join. Append-only: crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("the token is not one of this cluster, or it has expired")]
    UnknownToken,
    #[error("the token was used already")]
    UsedToken,
    #[error("another member has this node id; choose another node.id, or remove that member first")]
    NodeId,
    #[error("the cluster cannot decide now")]
    Unavailable,
    #[error("the request is not valid")]
    Invalid,
}

/// Decides who joins, durably: a token is consumed once, for one node id and key.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// # Errors
    /// [`Refused`], which is also written to the audit log.
    async fn admit(&self, applicant: &Applicant) -> Result<Grant, Refused>;
}

/// Hears the nodes that ask to join, until the link stops.
pub async fn serve(link: Link, authority: Authority, gate: Arc<dyn Gate>) {
    let (mut strangers, authority) = (link.strangers(), Arc::new(authority));
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(Some(stranger)) = link.stopping().run_until_cancelled(strangers.recv()).await {
        let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
        let (cluster, authority, gate) = (link.cluster(), Arc::clone(&authority), Arc::clone(&gate));
        tokio::spawn(async move {
            let address = stranger.address;
            match timeout(DEADLINE, hear(stranger, cluster, &authority, gate.as_ref())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%address, error, "a node that asked to join was not answered"),
                Err(_) => tracing::warn!(%address, "a node that asked to join took too long"),
            }
            drop(permit);
        });
    }
}

async fn hear(
    mut stranger: Stranger,
    cluster: super::ClusterId,
    authority: &Authority,
    gate: &dyn Gate,
) -> Result<(), String> {
    let request = timeout(ASKED, stranger.receive(REQUEST_BYTES)).await;
    let request = request.map_err(|_| "nothing was asked".to_owned())?.map_err(|error| error.to_string())?;
    let request = Zeroizing::new(request);
    let reply = match Request::decode(&request) {
        Ok(request) => decide(&request, cluster, authority, gate, &stranger.address.ip().to_string()).await,
        Err(_) => Reply::Refused(Refused::Invalid),
    };
    let outcome = if matches!(reply, Reply::Granted { .. }) { "granted" } else { "refused" };
    counter!("construct_joins_total", "outcome" => outcome).increment(1);
    let reply = Zeroizing::new(reply.encode().map_err(|error| error.to_string())?);
    stranger.send(&reply).await.map_err(|error| error.to_string())
}

async fn decide(
    request: &Request,
    cluster: super::ClusterId,
    authority: &Authority,
    gate: &dyn Gate,
    from: &str,
) -> Reply {
    // Before anything is consumed: an address or a key that is none.
    let (host, port) = request.address.rsplit_once(':').unwrap_or_default();
    let reachable = !host.is_empty() && port.parse::<u16>().is_ok() && host.len() <= NAME_BYTES;
    if !reachable || request.zone.is_empty() || request.zone.len() > NAME_BYTES || request.node == 0 {
        return Reply::Refused(Refused::Invalid);
    }
    let Ok(certificate) = authority.issue(request.node, &request.key) else {
        return Reply::Refused(Refused::Invalid);
    };
    let key = sha256(&request.key);
    let applicant = Applicant {
        token_hash: token::hash(&request.secret),
        node: request.node,
        address: request.address.clone(),
        zone: request.zone.clone(),
        build: request.build.clone(),
        key,
        from: from.to_owned(),
    };
    match gate.admit(&applicant).await {
        Ok(Grant { shards, members, secrets }) => Reply::Granted {
            cluster,
            shards,
            certificate: certificate.to_vec(),
            authority: authority.certificate().to_vec(),
            members,
            secrets: secrets.to_vec(),
        },
        Err(refused) => Reply::Refused(refused),
    }
}
