//! Channels as clients name them, and what is in them.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::hub::Pushed;
use super::protocol::{Publication, Reply, StreamPosition, SubscribeRequest, SubscribeResult};
use crate::actors::notifications::inbox::{self, Inbox, row_key, row_offset};
use crate::actors::notifications::topic::{self, Topic};
use crate::actors::runtime::{Page, Router};
use crate::gateway::routes::notifications::InboxItem;
use crate::kernel::{Entity as _, EntityId, Error, Origin, codec};

/// Publications one recovery answers at most; whoever missed more hears `recovered: false` and reads the list.
pub const RECOVERY_LIMIT: u64 = 300;

/// What is true of every channel of a kind. Access is decided by it, and the AsyncAPI document made from it.
#[derive(Debug)]
pub struct ChannelKind {
    /// Before the colon of a channel's name.
    pub prefix: &'static str,
    /// What stands behind it.
    pub parameter: &'static str,
    pub description: &'static str,
    /// The permission to follow it; `None`: only for the person it names, whom the server subscribes.
    pub subscribe: Option<&'static str>,
    /// The permission to publish to it; `None`: only the platform does.
    pub publish: Option<&'static str>,
}

pub const INBOX: ChannelKind = ChannelKind {
    prefix: "inbox",
    parameter: "user_id",
    description: "A person's notifications, in order. The server subscribes each connection to its own person's.",
    subscribe: None,
    publish: None,
};

pub const TOPIC: ChannelKind = ChannelKind {
    prefix: "topic",
    parameter: "name",
    description: "What is said to many: 1 to 64 of `a-z`, `0-9`, `_`, `-` and `.`; the newest 1000 messages are kept.",
    subscribe: Some("topics:subscribe"),
    publish: Some("topics:publish"),
};

/// `inbox:<user id>` or `topic:<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    Inbox(String),
    Topic(String),
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbox(key) | Self::Topic(key) => write!(f, "{}:{key}", self.kind().prefix),
        }
    }
}

/// The text names no channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such channel")]
pub struct UnknownChannel;

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (prefix, key) = text.split_once(':').ok_or(UnknownChannel)?;
        if prefix == INBOX.prefix && !key.is_empty() && key.len() <= 64 {
            return Ok(Self::Inbox(key.to_owned()));
        }
        let topic = prefix == TOPIC.prefix && topic::id(key).is_some();
        topic.then(|| Self::Topic(key.to_owned())).ok_or(UnknownChannel)
    }
}

/// Where a channel stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
    /// The oldest offset still kept.
    pub first: u64,
}

impl Position {
    /// Whether everything after `since` is still there.
    #[must_use]
    pub fn reaches(&self, epoch: &str, since: u64) -> bool {
        epoch == self.epoch && since <= self.offset && since.saturating_add(1) >= self.first
    }
}

impl Channel {
    /// The channel an entity's events belong to.
    #[must_use]
    pub fn of(entity: &EntityId) -> Option<Self> {
        match entity.kind() {
            Inbox::KIND => Some(Self::Inbox(entity.key().to_owned())),
            Topic::KIND => Some(Self::Topic(entity.key().to_owned())),
            _ => None,
        }
    }

    #[must_use]
    pub const fn kind(&self) -> &'static ChannelKind {
        match self {
            Self::Inbox(_) => &INBOX,
            Self::Topic(_) => &TOPIC,
        }
    }

    fn entity(&self) -> EntityId {
        match self {
            Self::Inbox(user) => EntityId::new(Inbox::KIND, user),
            Self::Topic(name) => EntityId::new(Topic::KIND, name),
        }
    }

    /// # Errors
    /// Whatever the channel's entity answers.
    pub async fn position(&self, router: &Router, origin: &Origin) -> Result<Position, Error> {
        let position = self.stored_position(router, origin).await?;
        let epoch = router.aftermath().map(|aftermath| aftermath.epoch(&position.epoch));
        Ok(Position { epoch: epoch.unwrap_or(position.epoch), ..position })
    }

    async fn stored_position(&self, router: &Router, origin: &Origin) -> Result<Position, Error> {
        let id = self.entity();
        match self {
            Self::Inbox(_) => match router.ask::<Inbox>(&id, inbox::Command::Open, origin).await? {
                inbox::Reply::Position(inbox::Position { epoch, offset, first, .. }) => {
                    Ok(Position { epoch, offset, first })
                }
                _ => Err(Error::internal()),
            },
            Self::Topic(_) => match router.ask::<Topic>(&id, topic::Command::GetPosition, origin).await? {
                topic::Reply::Position { epoch, offset, first } => Ok(Position { epoch, offset, first }),
                topic::Reply::Published { .. } => Err(Error::internal()),
            },
        }
    }

    /// What comes after `after` (before it when `reverse`), at most `limit`.
    ///
    /// # Errors
    /// `unavailable` when the rows cannot be read now.
    pub async fn publications(
        &self,
        router: &Router,
        after: Option<u64>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Publication>, Error> {
        let table = match self {
            Self::Inbox(_) => inbox::ITEMS,
            Self::Topic(_) => topic::MESSAGES,
        };
        let page = Page { after: after.map(row_key), limit, reverse };
        let rows = router.rows(&self.entity(), table, page).await?;
        rows.iter().map(|(key, value)| self.publication(key, value)).collect()
    }

    /// The publications after `after`, at most `limit`, as one frame. `None`: there are none.
    ///
    /// # Errors
    /// As [`Channel::publications`].
    pub async fn page(&self, router: &Router, after: u64, limit: usize) -> Result<Option<Pushed>, Error> {
        let publications = self.publications(router, Some(after), limit, false).await?;
        let (Some(first), Some(last)) = (publications.first(), publications.last()) else { return Ok(None) };
        let (first, last, count) = (first.offset, last.offset, publications.len());
        let name = self.to_string();
        let lines: Vec<String> = publications.into_iter().map(|p| Reply::publication(&name, p).line()).collect();
        Ok(Some(Pushed { frame: lines.join("\n").into(), first, last, count: count as u64, more: count == limit }))
    }

    fn publication(&self, key: &[u8], value: &[u8]) -> Result<Publication, Error> {
        let unreadable = |detail: String| {
            tracing::error!(channel = %self, detail, "a row of a channel cannot be read");
            Error::internal()
        };
        let offset = row_offset(key).ok_or_else(|| unreadable("its key is no offset".to_owned()))?;
        let data = match self {
            Self::Inbox(_) => {
                let item: inbox::Item = codec::decode(value).map_err(|error| unreadable(error.to_string()))?;
                serde_json::to_value(InboxItem::new(item, None)).map_err(|error| unreadable(error.to_string()))?
            }
            Self::Topic(_) => {
                let message: topic::Message = codec::decode(value).map_err(|error| unreadable(error.to_string()))?;
                serde_json::from_str::<Value>(&message.data).map_err(|error| unreadable(error.to_string()))?
            }
        };
        Ok(Publication { data, offset })
    }

    /// The answer to a subscription, and the offset from which the connection goes on. The caller follows the channel
    /// before it asks, so that nothing falls between this answer and what comes live.
    ///
    /// # Errors
    /// As [`Channel::position`].
    pub async fn subscribe(
        &self,
        router: &Router,
        request: &SubscribeRequest,
        origin: &Origin,
    ) -> Result<(SubscribeResult, u64), Error> {
        let position = self.position(router, origin).await?;
        let mut result = SubscribeResult {
            recoverable: true,
            positioned: true,
            epoch: position.epoch.clone(),
            offset: position.offset,
            was_recovering: request.recover,
            ..SubscribeResult::default()
        };
        let near = position.offset.saturating_sub(request.offset) <= RECOVERY_LIMIT;
        if request.recover && near && position.reaches(&request.epoch, request.offset) {
            let missed = position.offset - request.offset;
            let limit = usize::try_from(missed).unwrap_or(usize::MAX);
            result.publications = self.publications(router, Some(request.offset), limit, false).await?;
            // Between the two reads the oldest may have been trimmed.
            result.recovered = whole(&result.publications, request.offset, position.offset);
            if !result.recovered {
                result.publications.clear();
            }
        }
        Ok((result, position.offset))
    }

    /// A page of the channel's history.
    ///
    /// # Errors
    /// `None` when `since` is not (any more) in the stream.
    pub async fn history(
        &self,
        router: &Router,
        since: Option<&StreamPosition>,
        limit: usize,
        reverse: bool,
        origin: &Origin,
    ) -> Result<Option<(Vec<Publication>, Position)>, Error> {
        let position = self.position(router, origin).await?;
        if since.is_some_and(|since| !position.reaches(&since.epoch, since.offset)) {
            return Ok(None);
        }
        let publications = if limit == 0 {
            Vec::new()
        } else {
            self.publications(router, since.map(|since| since.offset), limit, reverse).await?
        };
        Ok(Some((publications, position)))
    }
}

/// Whether the publications are exactly those after `after`, up to and including `upto`.
fn whole(publications: &[Publication], after: u64, upto: u64) -> bool {
    publications.iter().map(|publication| publication.offset).eq(after + 1..=upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_printed() {
        for name in ["inbox:usr_1", "topic:news.eu"] {
            assert_eq!(name.parse::<Channel>().map(|channel| channel.to_string()), Ok(name.to_owned()));
        }
        for bad in ["", "inbox:", "topic:", "topic:A B", "news", "$inbox:x"] {
            assert_eq!(bad.parse::<Channel>(), Err(UnknownChannel), "{bad}");
        }
    }

    #[test]
    fn a_position_is_recovered_only_from_a_whole_stream() {
        let position = Position { epoch: "e".into(), offset: 10, first: 4 };
        for (epoch, since, reached) in
            [("e", 10, true), ("e", 3, true), ("e", 2, false), ("e", 11, false), ("x", 10, false)]
        {
            assert_eq!(position.reaches(epoch, since), reached, "{epoch} {since}");
        }
        let publications = |offsets: &[u64]| -> Vec<Publication> {
            offsets.iter().map(|offset| Publication { data: Value::Null, offset: *offset }).collect()
        };
        assert!(whole(&publications(&[4, 5]), 3, 5) && whole(&[], 5, 5));
        assert!(!whole(&publications(&[5]), 3, 5) && !whole(&publications(&[4]), 3, 5));
    }
}
