//! `signing_keys/jwt` on the meta shard: the Ed25519 keys (RFC 8032) that sign access tokens, on every node the same.
//!
//! The private half arrives wrapped by the key service and is stored only so. One key signs; keys rotated out
//! still verify for as long as a token signed with them may live, and are then forgotten. Making, sealing and opening
//! keys is `tokens.rs`'s part: it needs randomness and the root key.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp};
use crate::providers::keys::WrappedKey;

/// A rotated-out key verifies this long; no access token lives longer.
pub const RETIRED_SECONDS: i64 = 24 * 3600;
const FORGET_TIMER: &str = "forget";

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new(SigningKeys::KIND, "jwt")
}

/// A key pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// RFC 7638 thumbprint of the public key.
    pub kid: String,
    pub public_key: [u8; 32],
    /// The seed of the private key (RFC 8032 §5.1.5), wrapped by the key service.
    pub wrapped_seed: WrappedKey,
    pub created_at: Timestamp,
    /// Set when another key took over: until then it verifies.
    pub verifies_until: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    GetKeys,
    /// Takes this key if there is none yet: the first start of a cluster.
    EnsureKey(SigningKey),
    /// Signs with this key from now on.
    Rotate(SigningKey),
    /// The timer that forgets keys which verify nothing any more.
    Forget,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    KeyAdded { key: SigningKey, at: Timestamp },
    KeysForgotten { before: Timestamp },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The signing key first, then those that only verify.
    Keys(Vec<SigningKey>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeys {
    /// Newest first.
    keys: Vec<SigningKey>,
}

impl SigningKeys {
    fn add(&self, context: &Context, key: SigningKey, action: &str) -> Decision<Self> {
        let target = format!("key:{}", key.kid);
        let event = Event::KeyAdded { key, at: context.now };
        let mut after = self.clone();
        after.apply(&event);
        Decision::reply(Reply::Keys(after.keys))
            .event(event)
            .timer(FORGET_TIMER, context.now.plus_seconds(RETIRED_SECONDS))
            .audit(context, action, &target, "ok")
    }
}

impl Entity for SigningKeys {
    const KIND: &'static str = "signing_keys";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::EnsureKey(key) if self.keys.is_empty() => Ok(self.add(context, key, "signing_key.created")),
            Command::GetKeys | Command::EnsureKey(_) => Ok(Decision::reply(Reply::Keys(self.keys.clone()))),
            Command::Rotate(key) if self.keys.iter().any(|known| known.kid == key.kid) => {
                Ok(Decision::reply(Reply::Keys(self.keys.clone())))
            }
            Command::Rotate(key) => Ok(self.add(context, key, "signing_key.rotated")),
            Command::Forget => {
                let decision = Decision::reply(Reply::Keys(self.keys.clone()));
                if self.keys.iter().all(|key| key.verifies_until.is_none_or(|until| until > context.now)) {
                    return Ok(decision);
                }
                Ok(decision.event(Event::KeysForgotten { before: context.now }))
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::KeyAdded { key, at } => {
                if let Some(signing) = self.keys.first_mut() {
                    signing.verifies_until = Some(at.plus_seconds(RETIRED_SECONDS));
                }
                self.keys.insert(0, key.clone());
            }
            Event::KeysForgotten { before } => {
                self.keys.retain(|key| key.verifies_until.is_none_or(|until| until > *before));
            }
        }
    }

    fn on_timer(name: &str) -> Option<Command> {
        (name == FORGET_TIMER).then_some(Command::Forget)
    }
}
