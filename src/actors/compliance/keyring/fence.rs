//! `key_fence/<shard>`: below which version of the key-encryption key no new data key is made on a shard any more.
//!
//! Architecture invariants: a data key is announced here before its keyring is asked to take it; the fence only rises;
//! and an announcement is in [`BY_VERSION`] before it is acknowledged. So whoever raised the fence finds in that index
//! every key that may still be made under an older version (ADR 24). Holds ids only, and is stored in clear.

use serde::{Deserialize, Serialize};

use super::{BY_VERSION, by_version_key};
use crate::kernel::id::type_id;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, ShardId, Slot, Timestamp};

/// The fence of a data shard, which lives on it.
#[must_use]
pub fn fence_id(shard: ShardId) -> EntityId {
    let slot = Slot(shard.0.saturating_sub(1));
    EntityId::new(KeyFence::KIND, &type_id("shard", Timestamp::ZERO, slot, [0; 8]))
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFence {
    lowest: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Says that this person's first key, wrapped under `version`, is about to be made.
    Announce { user_id: String, version: u32 },
    /// Lets no key be announced under a version below this one any more.
    Raise { lowest: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Raised { lowest: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// The version is being destroyed: wrap the key under a newer one.
    Superseded,
}

impl Entity for KeyFence {
    const KIND: &'static str = "key_fence";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, _context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Announce { version, .. } if version < self.lowest => Ok(Decision::reply(Reply::Superseded)),
            Command::Announce { user_id, version } => {
                Ok(Decision::reply(Reply::Done).index(BY_VERSION, by_version_key(version, &user_id), Vec::new()))
            }
            Command::Raise { lowest } if lowest > self.lowest => {
                Ok(Decision::reply(Reply::Done).event(Event::Raised { lowest }))
            }
            Command::Raise { .. } => Ok(Decision::reply(Reply::Done)),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::Raised { lowest } = event;
        self.lowest = *lowest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;
    use crate::kernel::Change;

    #[test]
    fn keys_are_announced_in_the_index_until_their_version_is_fenced_off() {
        let mut given = Given::<KeyFence>::new("shard");
        let announce = |version| Command::Announce { user_id: "usr_a".to_owned(), version };
        let announced = given.when(announce(1)).expect("announced");
        let entry =
            Change::Index { index: BY_VERSION.into(), key: by_version_key(1, "usr_a"), value: Some(Vec::new()) };
        assert_eq!((announced.reply, announced.changes), (Reply::Done, vec![entry]));
        given.when(Command::Raise { lowest: 3 }).expect("raised");
        assert!(given.when(Command::Raise { lowest: 2 }).expect("lower").is_query(), "it only rises");
        let late = given.when(announce(2)).expect("answered");
        assert!(late.is_query() && late.reply == Reply::Superseded);
        assert_eq!(given.when(announce(3)).expect("announced").reply, Reply::Done);
    }

    #[test]
    fn a_fence_lies_on_its_shard() {
        for shard in 1..=64 {
            assert_eq!(fence_id(ShardId(shard)).slot().shard(64), ShardId(shard));
        }
    }
}
