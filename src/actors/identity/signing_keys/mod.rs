//! `signing_keys/jwt` on the meta shard: the Ed25519 keys (RFC 8032) that sign access tokens, on every node the same.
//!
//! The private half arrives wrapped by the key service and is stored only so. One key signs; keys rotated out
//! still verify for as long as a token signed with them may live, by the setting at the rotation, and are then forgotten. Making, sealing and opening
//! keys is `tokens.rs`'s part: it needs randomness and the root key.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp};
use crate::providers::keys::WrappedKey;

/// A rotated-out key verifies at least this long.
const RETIRED_SECONDS: i64 = 24 * 3600;
/// Other nodes hear of a rotation within this, and sign with the old key until then.
const HEARD_OF_SECONDS: i64 = 300;
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
    /// As [`Command::RotateKeeping`] for tokens of at most a day; what nodes of an earlier version ask for.
    Rotate(SigningKey),
    /// The timer that forgets keys which verify nothing any more.
    Forget,
    /// Signs with `key` from now on; tokens live up to `life_seconds`, and so long the old one still verifies.
    RotateKeeping {
        key: SigningKey,
        life_seconds: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    KeyAdded {
        key: SigningKey,
        at: Timestamp,
    },
    KeysForgotten {
        before: Timestamp,
    },
    /// `key` signs; the one before verifies until then.
    KeyTookOver {
        key: SigningKey,
        until: Timestamp,
    },
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
    fn rotate(&self, context: &Context, key: SigningKey, life_seconds: i64) -> Decision<Self> {
        // One that a rotation made which another one overtook: what wraps it is about to be destroyed.
        let late = self.keys.first().is_some_and(|first| first.wrapped_seed.version > key.wrapped_seed.version);
        if late || self.keys.iter().any(|known| known.kid == key.kid) {
            return Decision::reply(Reply::Keys(self.keys.clone()));
        }
        let target = format!("key:{}", key.kid);
        let seconds = life_seconds.saturating_add(HEARD_OF_SECONDS).max(RETIRED_SECONDS);
        let event = Event::KeyTookOver { key, until: context.now.plus_seconds(seconds) };
        self.after(event).audit(context, "signing_key.rotated", &target, "ok")
    }

    /// What `event` leads to; the timer is at the next key that is over then.
    fn after(&self, event: Event) -> Decision<Self> {
        let mut after = self.clone();
        after.apply(&event);
        let next = after.keys.iter().filter_map(|key| key.verifies_until).min();
        let decision = Decision::reply(Reply::Keys(after.keys)).event(event);
        match next {
            Some(until) => decision.timer(FORGET_TIMER, until),
            None => decision,
        }
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
            Command::EnsureKey(key) if self.keys.is_empty() => {
                let target = format!("key:{}", key.kid);
                let decision = self.after(Event::KeyAdded { key, at: context.now });
                Ok(decision.audit(context, "signing_key.created", &target, "ok"))
            }
            Command::GetKeys | Command::EnsureKey(_) => Ok(Decision::reply(Reply::Keys(self.keys.clone()))),
            Command::Rotate(key) => Ok(self.rotate(context, key, RETIRED_SECONDS)),
            Command::RotateKeeping { key, life_seconds } => Ok(self.rotate(context, key, life_seconds)),
            Command::Forget => {
                if self.keys.iter().all(|key| key.verifies_until.is_none_or(|until| until > context.now)) {
                    return Ok(Decision::reply(Reply::Keys(self.keys.clone())));
                }
                Ok(self.after(Event::KeysForgotten { before: context.now }))
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
            Event::KeyTookOver { key, until } => {
                if let Some(signing) = self.keys.first_mut() {
                    signing.verifies_until = Some(*until);
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
