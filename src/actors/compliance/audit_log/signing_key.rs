//! `audit_key/checkpoint`: the name of the installation's logs and the key that signs their checkpoints.
//!
//! Made at first start and never changed, because readers pin both. The seed is stored only wrapped by the key
//! service; the public half is in clear. One entity on the meta shard, so that every node signs with the same key.

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error};
use crate::providers::keys::WrappedKey;

/// Whose key it is, as the key service knows it.
pub const OWNER: &str = "audit checkpoints";

#[must_use]
pub fn signing_key_id() -> EntityId {
    EntityId::new(SigningKey::KIND, "checkpoint")
}

/// The key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    pub origin: String,
    pub public_key: [u8; 32],
    pub seed: WrappedKey,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    key: Option<StoredKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// Stores the key unless there is one. Answers the one that is stored then.
    Create(StoredKey),
    /// Replaces the wrapping made under version `from` by another one of the same seed.
    Rewrap {
        from: u32,
        seed: WrappedKey,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Created(StoredKey),
    /// Says the whole state, so that it is enough after a purge.
    Rewrapped(StoredKey),
}

/// The key, if there is one.
pub type Reply = Option<StoredKey>;

impl Entity for SigningKey {
    const KIND: &'static str = "audit_key";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match (command, &self.key) {
            (Command::Create(key), None) => {
                let decision = Decision::reply(Some(key.clone())).event(Event::Created(key));
                Ok(decision.audit(context, "audit_key.create", context.id.key(), "ok"))
            }
            (Command::Get | Command::Create(_), held) => Ok(Decision::reply(held.clone())),
            (Command::Rewrap { from, seed }, Some(held)) if held.seed.version == from && seed.version > from => {
                let key = StoredKey { seed, ..held.clone() };
                Ok(Decision::reply(Some(key.clone())).event(Event::Rewrapped(key)).purge())
            }
            (Command::Rewrap { from, .. }, Some(held)) if held.seed.version > from => {
                Ok(Decision::reply(Some(held.clone())))
            }
            (Command::Rewrap { .. }, Some(_)) => Err(Error::conflict("The key is wrapped under another version.")),
            (Command::Rewrap { .. }, None) => Err(Error::not_found("key")),
        }
    }

    fn apply(&mut self, event: &Event) {
        let (Event::Created(key) | Event::Rewrapped(key)) = event;
        self.key = Some(key.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;
    use crate::kernel::ErrorCode;

    fn key(origin: &str, version: u32) -> StoredKey {
        let seed = WrappedKey { version, bytes: vec![1; 60] };
        StoredKey { origin: origin.into(), public_key: [4; 32], seed }
    }

    #[test]
    fn the_first_key_stays_and_only_its_wrapping_changes() {
        let mut given = Given::<SigningKey>::new("checkpoint");
        assert_eq!(given.when(Command::Get).expect("answered").reply, None);
        let seed = key("a", 2).seed;
        let none = given.when(Command::Rewrap { from: 1, seed: seed.clone() });
        assert_eq!(none.err().map(|error| error.code), Some(ErrorCode::NotFound));
        assert_eq!(given.when(Command::Create(key("a", 1))).expect("made").reply, Some(key("a", 1)));
        let second = given.when(Command::Create(key("b", 1))).expect("answered");
        assert!(second.is_query() && second.reply == Some(key("a", 1)));

        let rewrapped = given.when(Command::Rewrap { from: 1, seed: seed.clone() }).expect("rewrapped");
        assert!(rewrapped.purge && rewrapped.reply == Some(key("a", 2)));
        assert!(given.when(Command::Rewrap { from: 1, seed: seed.clone() }).expect("repeated").is_query());
        let wrong = given.when(Command::Rewrap { from: 3, seed });
        assert_eq!(wrong.err().map(|error| error.code), Some(ErrorCode::Conflict));
    }
}
