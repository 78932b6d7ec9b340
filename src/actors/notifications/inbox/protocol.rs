//! Commands, events and replies of an inbox. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::actors::notifications::delivery::Category;
use crate::kernel::Timestamp;

/// What a delivery puts in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewItem {
    /// The delivery's `ntf_…` id; a second append under the same id does nothing.
    pub id: String,
    pub category: Category,
    pub title: String,
    pub body: String,
    pub url: Option<String>,
}

/// One entry; the value of a row, and what a publication carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub id: String,
    pub offset: u64,
    pub category: Category,
    pub title: String,
    pub body: String,
    pub url: Option<String>,
    pub created_at: Timestamp,
}

/// Where the channel stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub epoch: String,
    /// The newest offset; 0 for an empty channel.
    pub offset: u64,
    /// The oldest offset still kept; `offset + 1` when there is none.
    pub first: u64,
    pub unread: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Gives the channel its epoch if it has none, so that a subscriber can recover from here.
    Open,
    Append(NewItem),
    Read {
        ids: Vec<String>,
    },
    /// Marks everything up to and including this offset.
    ReadUpTo {
        offset: u64,
    },
    GetPosition,
    /// Read marks of the offsets after `after`, at most `limit`.
    GetMarks {
        after: u64,
        limit: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Opened { epoch: String },
    Appended { item: Item },
    Read { offsets: Vec<u64>, at: Timestamp },
    ReadUpTo { offset: u64, at: Timestamp },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Position(Position),
    Appended {
        offset: u64,
    },
    /// How many became read.
    Marked {
        marked: u64,
        unread: u64,
    },
    Marks {
        position: Position,
        from: u64,
        read_at: Vec<Option<Timestamp>>,
    },
}
