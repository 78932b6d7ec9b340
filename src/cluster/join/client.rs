//! The joiner's side.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::{REPLY_BYTES, Refused, Reply, Request, Token};
use crate::cluster::link::{
    BUILD, IdentityError, Joining, LinkError, LinkSettings, NodeKey, StreamError, dial_member, fingerprint, is_member,
    remember_members,
};
use crate::cluster::raft::Formation;
use crate::kernel::codec::CodecError;

/// The longest one member may take to answer: the token's consumption must commit.
const ANSWER: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);

/// What a joiner says of itself, and whom it asks.
pub struct JoinSettings<'a> {
    pub node: u64,
    pub zone: &'a str,
    /// Where it will listen for other nodes, and how they reach that.
    pub listen: SocketAddr,
    pub address: String,
    pub members: &'a [String],
    pub token: &'a str,
    /// How long members that do not answer, or cannot decide, are asked again.
    pub patience: Duration,
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("cluster.token: {0}")]
    Token(#[from] super::TokenError),
    #[error("the cluster refused this node: {0}")]
    Refused(#[from] Refused),
    #[error("no member of cluster.join let this node join; the last one, {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the list of members cannot be written")]
    Members(#[source] io::Error),
    #[error("the member's answer does not fit the token: it is of another cluster or authority")]
    Foreign,
}

/// What a new member begins with.
pub struct Joined {
    pub formation: Formation,
    /// The cluster's keys, as the member packed them.
    pub secrets: Zeroizing<Vec<u8>>,
}

/// Asks the members until one grants or refuses. The node's key, its certificate and the list of members are then in
/// the data directory; the caller keeps the secrets and, last, the formation. Until then it may be repeated.
///
/// # Errors
/// [`JoinError`]; a refusal is final.
pub async fn join(data_dir: &Path, settings: JoinSettings<'_>) -> Result<Joined, JoinError> {
    let token: Token = settings.token.parse()?;
    let key = NodeKey::open(data_dir)?;
    let joining = Joining {
        cluster: token.cluster(),
        authority: token.authority(),
        node: settings.node,
        settings: LinkSettings::listening(settings.listen),
    };
    let request = Request {
        secret: token.secret(),
        node: settings.node,
        address: settings.address.clone(),
        zone: settings.zone.to_owned(),
        build: BUILD.to_owned(),
        key: key.public_key(),
    };
    let began = Instant::now();
    let reply = 'asking: loop {
        let mut last = (String::new(), "cluster.join names no member".to_owned());
        for address in settings.members {
            match ask(&joining, address, &request).await {
                Ok(Reply::Refused(Refused::Unavailable)) => {
                    last = (address.clone(), Refused::Unavailable.to_string());
                }
                Ok(Reply::Refused(refused)) => return Err(refused.into()),
                Ok(reply) => break 'asking reply,
                Err(error) => last = (address.clone(), error.to_string()),
            }
        }
        let (address, why) = last;
        if began.elapsed() >= settings.patience || address.is_empty() {
            return Err(JoinError::Unreachable { address, why });
        }
        tracing::warn!(address, why, "no member let this node join yet; asking again");
        sleep(PAUSE).await;
    };
    let Reply::Granted { cluster, shards, certificate, authority, members, secrets } = reply else {
        return Err(JoinError::Foreign);
    };
    let (certificate, authority) = (CertificateDer::from(certificate), CertificateDer::from(authority));
    if cluster != token.cluster() || fingerprint(&authority) != token.authority() {
        return Err(JoinError::Foreign);
    }
    key.keep(&certificate, &authority)?;
    remember_members(data_dir, &with_own(members, settings.node, settings.address)).map_err(JoinError::Members)?;
    let formation = Formation { node: settings.node, shards, cluster, founder: false, named: true };
    Ok(Joined { formation, secrets: Zeroizing::new(secrets) })
}

/// The first of these addresses at which a node of a cluster listens.
pub async fn existing(members: &[String], listen: SocketAddr) -> Option<&String> {
    let settings = LinkSettings::listening(listen);
    let asked = members.iter().map(|address| is_member(address, &settings));
    let found = futures::future::join_all(asked).await;
    members.iter().zip(found).find_map(|(address, is)| is.then_some(address))
}

fn with_own(mut members: BTreeMap<u64, String>, node: u64, address: String) -> BTreeMap<u64, String> {
    members.insert(node, address);
    members
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the member does not speak this protocol: {0}")]
    Protocol(#[from] CodecError),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

async fn ask(joining: &Joining, address: &str, request: &Request) -> Result<Reply, AskError> {
    let mut member = dial_member(joining, address).await?;
    let asked = async {
        member.send(&Zeroizing::new(request.encode()?)).await?;
        let reply = Zeroizing::new(member.receive(REPLY_BYTES).await?);
        Ok(Reply::decode(&reply)?)
    };
    timeout(ANSWER, asked).await.unwrap_or(Err(AskError::Late(ANSWER)))
}
