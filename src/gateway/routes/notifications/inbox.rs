//! The inbox of the caller.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::notifications::delivery::Category;
use crate::actors::notifications::inbox::{self, Inbox, Position, row_key};
use crate::actors::runtime::Page;
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::{Entity as _, EntityId, Error, Timestamp, codec};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// Rows read at a time while unread ones are looked for.
const SCAN: usize = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/inbox", "listInbox")
            .summary("My notifications, oldest first")
            .tag("notifications")
            .query::<InboxQuery>()
            .response::<InboxPage>(200, "A page of the inbox")
            .problem(422)
            .handle(list),
        Endpoint::post("/v1/inbox/read", "markInboxRead")
            .summary("Mark notifications as read, by id or up to an offset")
            .tag("notifications")
            .body::<MarkRead>()
            .response::<Marked>(200, "How many became read, and how many are left")
            .problem(422)
            .handle(mark_read),
        Endpoint::get("/v1/inbox/unread-count", "countUnread")
            .summary("How many of my notifications are unread")
            .tag("notifications")
            .response::<Unread>(200, "The count")
            .handle(unread_count),
    ]
}

/// One notification in an inbox; also what a publication on `inbox:<user id>` carries.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct InboxItem {
    pub id: String,
    /// Its place in the inbox; they have no gaps.
    pub offset: u64,
    pub category: Category,
    pub title: String,
    pub body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub read_at: Option<Timestamp>,
}

impl InboxItem {
    #[must_use]
    pub fn new(item: inbox::Item, read_at: Option<Timestamp>) -> Self {
        let inbox::Item { id, offset, category, title, body, url, created_at } = item;
        Self { id, offset, category, title, body, url, created_at, read_at }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InboxQuery {
    /// Only items beyond this offset.
    #[schema(maximum = 9_223_372_036_854_775_807_i64)]
    after: Option<u64>,
    /// Only unread items.
    unread: Option<bool>,
    /// 1 to 100; 20 when it is not given.
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before; means the same as `after`.
    #[schema(format = "cursor")]
    cursor: Option<String>,
}

/// A page of the inbox and where the channel stands.
#[derive(Debug, Serialize, ToSchema)]
struct InboxPage {
    items: Vec<InboxItem>,
    /// Where the next page starts; null on the last page.
    next_cursor: Option<String>,
    /// With `offset`, the position from which a subscription to `inbox:<user id>` can recover.
    epoch: String,
    offset: u64,
    unread: u64,
}

fn me(call_user: &str) -> EntityId {
    EntityId::new(Inbox::KIND, call_user)
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let query: InboxQuery = call.query()?;
    let limit = query.limit.map_or(DEFAULT_LIMIT, usize::from);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Error::invalid("/limit", format!("must be between 1 and {MAX_LIMIT}")));
    }
    let cursor = query.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(str::parse::<u64>).transpose();
    let cursor = cursor.map_err(|_| Error::invalid("/cursor", "is not a cursor of this list"))?;
    let mut after = query.after.or(cursor).unwrap_or(0);
    if i64::try_from(after).is_err() {
        return Err(Error::invalid("/after", "is beyond every offset"));
    }
    let (id, router) = (me(call.user_id()?), &call.services.router);

    let asked = inbox::Command::GetMarks { after, limit: inbox::HISTORY };
    let inbox::Reply::Marks { position, from, read_at } = router.ask::<Inbox>(&id, asked, &call.origin).await? else {
        return Err(Error::internal());
    };
    let read_at = |offset: u64| {
        let place = offset.checked_sub(from).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| read_at.get(place)).copied().flatten()
    };
    let only_unread = query.unread.unwrap_or(false);
    // One more than asked for says whether there is another page.
    let (wanted, page_size) = (limit + 1, if only_unread { SCAN } else { limit + 1 });
    let mut items: Vec<InboxItem> = Vec::with_capacity(wanted);
    loop {
        let page = Page { after: Some(row_key(after)), limit: page_size, reverse: false };
        let rows = router.rows(&id, inbox::ITEMS, page).await?;
        let last_page = rows.len() < page_size;
        for (_, value) in rows {
            let item: inbox::Item = codec::decode(&value).map_err(|error| {
                tracing::error!(inbox = %id, %error, "a row of an inbox cannot be read");
                Error::internal()
            })?;
            after = item.offset;
            let read_at = read_at(item.offset);
            if items.len() < wanted && !(only_unread && read_at.is_some()) {
                items.push(InboxItem::new(item, read_at));
            }
        }
        if last_page || items.len() >= wanted {
            break;
        }
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|item| item.offset.to_string());
    let Position { epoch, offset, unread, .. } = position;
    let epoch = router.aftermath().map_or_else(|| epoch.clone(), |aftermath| aftermath.epoch(&epoch));
    Ok(Reply::ok(&InboxPage { items, next_cursor, epoch, offset, unread }))
}

/// Either `ids` or `up_to`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MarkRead {
    #[schema(max_items = 500)]
    ids: Option<Vec<String>>,
    /// Everything up to and including this offset.
    up_to: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Marked {
    /// How many were unread before.
    marked: u64,
    unread: u64,
}

async fn mark_read(call: Call<MarkRead>) -> Result<Reply, Error> {
    let command = match (&call.body.ids, call.body.up_to) {
        (Some(ids), None) => inbox::Command::Read { ids: ids.clone() },
        (None, Some(offset)) => inbox::Command::ReadUpTo { offset },
        _ => return Err(Error::invalid("", "Give either ids or up_to.")),
    };
    let id = me(call.user_id()?);
    match call.services.router.ask::<Inbox>(&id, command, &call.origin).await? {
        inbox::Reply::Marked { marked, unread } => Ok(Reply::ok(&Marked { marked, unread })),
        _ => Err(Error::internal()),
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct Unread {
    unread: u64,
}

async fn unread_count(call: Call<()>) -> Result<Reply, Error> {
    let id = me(call.user_id()?);
    match call.services.router.ask::<Inbox>(&id, inbox::Command::GetPosition, &call.origin).await? {
        inbox::Reply::Position(Position { unread, .. }) => Ok(Reply::ok(&Unread { unread })),
        _ => Err(Error::internal()),
    }
}
