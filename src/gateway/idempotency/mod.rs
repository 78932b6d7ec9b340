//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a repeat answers the first response.
//!
//! The scope of a key is its user; without one, its source and path. Commands of a request run under the scope, so
//! even a request that is carried out again after a crash takes effect once. Answers 5xx and 429 are not remembered,
//! nor is any refusal with `Retry-After`: it asks for the very same request again.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{Context as Digest, SHA256};
use ring::hkdf;
use serde::{Deserialize, Serialize};

use super::reply::{Body, Reply};
use super::request::Head;
use crate::actors::idempotency::{Command, Executor, Idempotency, Reply as Kept};
use crate::actors::runtime::{Router, entropy};
use crate::kernel::{Clock, Entity, EntityId, Error, ErrorCode, Origin, Principal, codec, fail_point};
use crate::storage::seal::DataKey;

/// Answers larger than this are not remembered; the request is then carried out again, with the same effect.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Where requests under a key are kept.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// # Errors
    /// The entity's refusal, or `unavailable`.
    async fn ask(&self, id: &EntityId, command: Command, origin: &Origin) -> Result<Kept, Error>;
}

#[async_trait]
impl Store for Router {
    async fn ask(&self, id: &EntityId, command: Command, origin: &Origin) -> Result<Kept, Error> {
        Router::ask::<Idempotency>(self, id, command, origin).await
    }
}

/// The key of one request, and what it stands for.
pub struct Scope {
    /// Goes with every command of the request.
    pub id: [u8; 32],
    fingerprint: [u8; 32],
    user_id: Option<String>,
    /// Seals the answer to a caller without an account: only who knows the key can read it.
    seal: Option<DataKey>,
}

impl Scope {
    /// # Errors
    /// `malformed` when the key is not 1 to 255 visible characters.
    pub fn new(key: &str, head: &Head, body: &[u8], principal: &Principal, source: &str) -> Result<Self, Error> {
        let key = key.trim();
        let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
        if !(1..=255).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let detail = "The header Idempotency-Key must be 1 to 255 visible ASCII characters.";
            return Err(Error::new(ErrorCode::Malformed, detail));
        }
        let fingerprint = digest(&[head.method.as_str(), &head.path, &head.query], body);
        let (id, user_id) = match principal {
            Principal::User { id, .. } => (digest(&["user", id], key.as_bytes()), Some(id.clone())),
            Principal::Operator | Principal::System => (digest(&["operator"], key.as_bytes()), None),
            Principal::Anonymous => (digest(&["anonymous", source, &head.path], key.as_bytes()), None),
        };
        let seal = user_id.is_none().then(|| derived_key(key, &id));
        Ok(Self { id, fingerprint, user_id, seal })
    }

    fn entity(&self) -> EntityId {
        EntityId::new(Idempotency::KIND, &hex::encode(self.id))
    }
}

/// A digest in which the parts cannot run into each other.
fn digest(parts: &[&str], last: &[u8]) -> [u8; 32] {
    let mut digest = Digest::new(&SHA256);
    for part in parts.iter().map(|part| part.as_bytes()).chain([last]) {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    bytes
}

/// HKDF (RFC 5869) over the key as the client chose it.
fn derived_key(key: &str, scope: &[u8; 32]) -> DataKey {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, scope).extract(key.as_bytes());
    let mut bytes = [0; 32];
    extracted
        .expand(&[b"construct idempotent answer"], hkdf::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut bytes))
        .expect("32 bytes are one block of the hash");
    DataKey::new(bytes)
}

/// A request that may be carried out, or was.
pub enum Begun {
    Proceed(Ticket),
    Replay(Reply),
}

/// Permission to carry a request out; to be [`Requests::finish`]ed.
pub struct Ticket {
    scope: Scope,
    executor: Executor,
    origin: Origin,
}

/// What is kept of an answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// The requests under keys that this node carries out.
pub struct Requests {
    store: Arc<dyn Store>,
    /// Wall time; the domain's may stand still.
    clock: Arc<dyn Clock>,
    node: u64,
    boot: [u8; 16],
}

impl Requests {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, node: u64) -> Self {
        let mut boot = [0; 16];
        boot.copy_from_slice(&entropy()[..16]);
        Self { store, clock, node, boot }
    }

    /// Asks whether to carry the request out, which will take at most `deadline_ms`.
    ///
    /// # Errors
    /// `idempotency_mismatch`, `idempotency_in_progress`, or `unavailable`.
    pub async fn begin(&self, scope: Scope, origin: &Origin, deadline_ms: i64) -> Result<Begun, Error> {
        let executor = Executor { node: self.node, boot: self.boot, request_id: origin.request_id.clone() };
        // The record itself is not under the scope: starting twice is what it is there to notice.
        let origin = Origin { idempotency: None, ..origin.clone() };
        let command = Command::Start {
            fingerprint: scope.fingerprint,
            user_id: scope.user_id.clone(),
            executor: executor.clone(),
            at: self.clock.now(),
            deadline_ms,
        };
        let kept = self.store.ask(&scope.entity(), command, &origin).await?;
        fail_point::reach("idempotency.started");
        match kept {
            Kept::Answered(bytes) => Ok(Begun::Replay(restore(&scope, &bytes)?)),
            Kept::Proceed | Kept::Noted => Ok(Begun::Proceed(Ticket { scope, executor, origin })),
        }
    }

    /// Keeps the answer (of [`Ticket::keep`]), or gives the key free when there is none to keep. Never fails: without the record a repeat
    /// is carried out again under the same scope.
    pub async fn finish(&self, ticket: Ticket, answer: Option<Vec<u8>>) {
        let Ticket { scope, executor, origin } = ticket;
        let command = match answer {
            Some(answer) => Command::Complete { executor, answer },
            None => Command::Abandon { executor },
        };
        if let Err(error) = self.store.ask(&scope.entity(), command, &origin).await {
            tracing::warn!(%error, "the answer to an idempotent request was not recorded");
        }
        fail_point::reach("idempotency.recorded");
    }
}

impl Ticket {
    /// What is kept of the answer; `None` when it is not one to keep.
    #[must_use]
    pub fn keep(&self, reply: &Reply) -> Option<Vec<u8>> {
        if reply.is_final() { keep(&self.scope, reply) } else { None }
    }
}

fn keep(scope: &Scope, reply: &Reply) -> Option<Vec<u8>> {
    let Body::Full(body) = &reply.body else { return None };
    let headers = reply.headers.iter();
    let headers = headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let answer = Answer { status: reply.status.as_u16(), headers: headers.collect(), body: body.to_vec() };
    let bytes = codec::encode(&answer).ok().filter(|bytes| bytes.len() <= MAX_ANSWER_BYTES)?;
    Some(match &scope.seal {
        Some(key) => key.seal(&scope.id, &bytes),
        None => bytes,
    })
}

fn restore(scope: &Scope, bytes: &[u8]) -> Result<Reply, Error> {
    let opened = match &scope.seal {
        Some(key) => key.open(&scope.id, bytes).map_err(|_| Error::internal())?,
        None => bytes.to_vec(),
    };
    let answer: Answer = codec::decode(&opened).map_err(|error| {
        tracing::error!(%error, "a remembered answer does not decode");
        Error::internal()
    })?;
    let mut reply = Reply::empty(answer.status);
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 1);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            headers.append(name, value);
        }
    }
    headers.insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    reply.headers = headers;
    reply.body = Body::Full(Bytes::from(answer.body));
    Ok(reply)
}
