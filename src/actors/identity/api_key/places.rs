//! `api_key_places/<usr_id>`: how many API keys a person may have, held where requests that come at once meet.
//!
//! Architecture invariant: a key is made only for a place that was taken before, and there are [`MAX_KEYS`] places. A
//! place whose key was never made (its maker crashed) is found out by the next taking that is an hour later. Keys from
//! before there were places get theirs with the first taking. Sealed under the person's key.

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp};

/// Keys a person may have at a time.
pub const MAX_KEYS: usize = 50;
/// Within this a key is made for its place, or never.
const MAKING_SECONDS: i64 = 3600;

/// The places of a person.
#[must_use]
pub fn id(user_id: &str) -> EntityId {
    EntityId::new(ApiKeyPlaces::KIND, user_id)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Takes a place for a new key. `living`: the person's keys by the index, read just before.
    Take { living: Vec<String> },
    /// The key is over.
    Free { key_id: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first: for these keys, which were there before.
    Opened {
        key_ids: Vec<String>,
        at: Timestamp,
    },
    Taken {
        key_id: String,
        at: Timestamp,
    },
    Freed {
        key_id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The id of the key to make.
    Taken {
        key_id: String,
    },
    Done,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyPlaces {
    opened: bool,
    taken: Vec<(String, Timestamp)>,
}

impl ApiKeyPlaces {
    fn take(&self, context: &Context, living: Vec<String>) -> Result<Decision<Self>, Error> {
        let mut events = Vec::new();
        let never_made = self
            .taken
            .iter()
            .filter(|(key_id, at)| !living.contains(key_id) && context.now.millis_since(*at) >= MAKING_SECONDS * 1000);
        events.extend(never_made.map(|(key_id, _)| Event::Freed { key_id: key_id.clone() }));
        if !self.opened {
            events.push(Event::Opened { key_ids: living, at: context.now });
        }
        let mut after = self.clone();
        events.iter().for_each(|event| after.apply(event));
        if after.taken.len() >= MAX_KEYS {
            return Err(Error::conflict("There are as many API keys as there may be; revoke one first."));
        }
        let key_id = context.new_id("key", "key");
        events.push(Event::Taken { key_id: key_id.clone(), at: context.now });
        let mut decision = Decision::reply(Reply::Taken { key_id });
        decision.events = events;
        Ok(decision)
    }
}

impl Entity for ApiKeyPlaces {
    const KIND: &'static str = "api_key_places";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Take { living } => self.take(context, living),
            Command::Free { key_id } if self.taken.iter().any(|(taken, _)| *taken == key_id) => {
                Ok(Decision::reply(Reply::Done).event(Event::Freed { key_id }))
            }
            Command::Free { .. } => Ok(Decision::reply(Reply::Done)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Opened { key_ids, at } => {
                self.opened = true;
                self.taken.extend(key_ids.iter().map(|key_id| (key_id.clone(), *at)));
            }
            Event::Taken { key_id, at } => self.taken.push((key_id.clone(), *at)),
            Event::Freed { key_id } => self.taken.retain(|(taken, _)| taken != key_id),
        }
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;
    use crate::kernel::ErrorCode;

    const USER: &str = "usr_01h455vb4pex5vsknk084sn02q";

    fn take(given: &mut Given<ApiKeyPlaces>, living: &[String]) -> Result<String, ErrorCode> {
        match given.when(Command::Take { living: living.to_vec() }).map_err(|error| error.code)?.reply {
            Reply::Taken { key_id } => Ok(key_id),
            Reply::Done => panic!("a place"),
        }
    }

    #[test]
    fn there_are_fifty_places_and_keys_of_before_have_theirs() {
        let mut given = Given::<ApiKeyPlaces>::new(USER);
        let before: Vec<String> = (0..48).map(|n| format!("key_{n}")).collect();
        let first = take(&mut given, &before).expect("the 49th");
        take(&mut given, &[]).expect("the 50th");
        assert_eq!(take(&mut given, &[]), Err(ErrorCode::Conflict));
        given.when(Command::Free { key_id: first }).expect("freed");
        given.when(Command::Free { key_id: "key_0".to_owned() }).expect("freed");
        assert!(given.when(Command::Free { key_id: "key_0".to_owned() }).expect("repeat").is_query());
        take(&mut given, &[]).expect("one of two");
        take(&mut given, &[]).expect("two of two");
        assert_eq!(take(&mut given, &[]), Err(ErrorCode::Conflict));
    }

    #[test]
    fn a_place_whose_key_was_never_made_is_free_an_hour_later() {
        let mut given = Given::<ApiKeyPlaces>::new(USER);
        let mut living: Vec<String> = (0..49).map(|_| take(&mut given, &[]).expect("a place")).collect();
        take(&mut given, &living).expect("the 50th, whose maker crashes");
        given.at("2026-01-31T10:59:59Z");
        assert_eq!(take(&mut given, &living), Err(ErrorCode::Conflict), "it may still be made");
        given.at("2026-01-31T11:00:00Z");
        living.push(take(&mut given, &living).expect("freed"));
        given.at("2026-01-31T13:00:00Z");
        assert_eq!(take(&mut given, &living), Err(ErrorCode::Conflict), "those that live keep theirs");
    }
}
