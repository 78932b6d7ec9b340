//! What is said to many: `topic/<name>`, a channel with offset and epoch that anyone with the permission may follow.
//!
//! Invariants: offsets start at 1 and have no gaps; following a topic writes nothing, so the epoch is made from the name.
//! Messages live in rows (table [`MESSAGES`], keyed like an inbox's); only the newest [`HISTORY`] are kept. They are not
//! personal data and are stored in clear.

use serde::{Deserialize, Serialize};

use super::inbox::row_key;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp, codec};

pub const MESSAGES: &str = "messages";
pub const HISTORY: u64 = 1000;
/// Of a message's JSON text.
pub const MAX_BYTES: usize = 16 * 1024;

/// One message; the value of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub offset: u64,
    /// JSON text.
    pub data: String,
    /// The id of whoever published it.
    pub publisher: String,
    pub at: Timestamp,
}

/// Where the topic stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Topic {
    last: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Publish { data: String },
    GetPosition,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Published { offset: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Published { offset: u64 },
    Position { epoch: String, offset: u64, first: u64 },
}

/// The entity of a topic; `None` when the name is not 1 to 64 of `a-z`, `0-9`, `_`, `-` and `.`.
#[must_use]
pub fn id(name: &str) -> Option<EntityId> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b);
    ((1..=64).contains(&name.len()) && name.bytes().all(plain)).then(|| EntityId::new(Topic::KIND, name))
}

impl Topic {
    fn first(&self) -> u64 {
        (self.last + 1).saturating_sub(HISTORY).max(1)
    }
}

impl Entity for Topic {
    const KIND: &'static str = "topic";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::GetPosition => {
                let digest = ring::digest::digest(&ring::digest::SHA256, context.id.as_str().as_bytes());
                let epoch = hex::encode(&digest.as_ref()[..4]);
                Ok(Decision::reply(Reply::Position { epoch, offset: self.last, first: self.first() }))
            }
            Command::Publish { data } if data.len() > MAX_BYTES => {
                Err(Error::invalid("/data", format!("At most {MAX_BYTES} bytes.")))
            }
            Command::Publish { data } => {
                let offset = self.last + 1;
                let publisher = context.origin.principal.audit_name().to_owned();
                let message = Message { offset, data, publisher, at: context.now };
                let row = codec::encode(&message).expect("messages are small and serializable");
                let mut decision = Decision::reply(Reply::Published { offset }).event(Event::Published { offset });
                if let Some(trimmed) = offset.checked_sub(HISTORY).filter(|trimmed| *trimmed > 0) {
                    decision = decision.row(MESSAGES, row_key(trimmed), None);
                }
                Ok(decision.row(MESSAGES, row_key(offset), Some(row)))
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::Published { offset } = event;
        self.last = *offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;
    use crate::kernel::{Change, ErrorCode};

    #[test]
    fn messages_get_offsets_and_old_ones_are_trimmed() {
        let mut given = Given::<Topic>::new("news");
        assert!(given.when(Command::GetPosition).expect("a position").is_query());
        let decision = given.when(Command::Publish { data: "{}".into() }).expect("published");
        assert_eq!(decision.reply, Reply::Published { offset: 1 });
        given.state = Topic { last: HISTORY };
        let decision = given.when(Command::Publish { data: "1".into() }).expect("published");
        let removed = |c: &Change| matches!(c, Change::Row { key, value: None, .. } if *key == row_key(1));
        assert!(decision.changes.iter().any(removed));
        let reply = given.when(Command::GetPosition).expect("a position").reply;
        assert!(matches!(reply, Reply::Position { first: 2, offset, .. } if offset == HISTORY + 1));
        let large = Command::Publish { data: "x".repeat(MAX_BYTES + 1) };
        assert_eq!(given.when(large).expect_err("refused").code, ErrorCode::Invalid);
        assert!(id("news.eu-1").is_some() && id("").is_none() && id("a/b").is_none());
    }
}
