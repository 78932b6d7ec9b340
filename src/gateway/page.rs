//! Lists: `?limit=&cursor=` in, `{"items": [...], "next_cursor": ...}` out. A cursor is opaque to the client.
//!
//! A cursor names its list ([`ListId`]) and the key after which the next page starts. Keys are unique within their list,
//! so items of one instant have an order too, and pages neither lose nor repeat what stays.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context as Digest, SHA256};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::kernel::Error;

pub const DEFAULT_LIMIT: usize = 20;
pub const MAX_LIMIT: usize = 100;
/// A cursor over all shards of a large cluster names a place in each.
const MAX_CURSOR_BYTES: usize = 16 << 10;
const LIST_BYTES: usize = 8;

/// Which list of whom, and under which filter: a cursor of one is none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListId([u8; LIST_BYTES]);

impl ListId {
    /// The list at `path`, narrowed by what `query` says apart from the page, as this user sees it.
    #[must_use]
    pub fn of(path: &str, query: &str, user_id: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "limit" && name != "cursor");
        let mut filter: Vec<_> = pairs.collect();
        filter.sort_unstable();
        let mut digest = Digest::new(&SHA256);
        let parts = filter.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]);
        for part in [path, user_id.unwrap_or_default()].into_iter().chain(parts) {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        Self(digest.finish().as_ref().first_chunk().copied().unwrap_or_default())
    }
}

/// The query of every list.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// How many items to answer at most, 1 to 100; 20 when it is not given.
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<u16>,
    /// `next_cursor` of the page before.
    #[schema(format = "cursor")]
    pub cursor: Option<String>,
}

impl PageQuery {
    /// # Errors
    /// `invalid` when `limit` is not between 1 and 100.
    pub fn limit(&self) -> Result<usize, Error> {
        match self.limit {
            None => Ok(DEFAULT_LIMIT),
            Some(limit) if (1..=MAX_LIMIT).contains(&usize::from(limit)) => Ok(usize::from(limit)),
            Some(_) => Err(Error::invalid("/limit", format!("must be between 1 and {MAX_LIMIT}"))),
        }
    }

    /// The key after which the page starts; an empty cursor is the first page.
    ///
    /// # Errors
    /// `invalid` when the cursor was not made by [`cursor`] for this list.
    pub fn after(&self, list: ListId) -> Result<Option<Vec<u8>>, Error> {
        let Some(cursor) = self.cursor.as_ref().filter(|cursor| !cursor.is_empty()) else { return Ok(None) };
        if cursor.len() > MAX_CURSOR_BYTES {
            return Err(not_ours());
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| not_ours())?;
        let key = bytes.strip_prefix(&list.0).ok_or_else(not_ours)?;
        Ok(Some(key.to_vec()))
    }
}

/// The opaque form of a key for `next_cursor`.
#[must_use]
pub fn cursor(list: ListId, key: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&list.0, key].concat())
}

fn not_ours() -> Error {
    Error::invalid("/cursor", "is not a cursor of this list under this filter; start again without one")
}

/// The query of a list of what belongs to somebody.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnedQuery {
    /// Whose; the caller's own when it is not given.
    #[schema(pattern = "^usr_[0-7][0-9a-hjkmnp-tv-z]{9}[ef][0-9a-hjkmnp-tv-z]{15}$")]
    pub user_id: Option<String>,
    /// How many items to answer at most, 1 to 100; 20 when it is not given.
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    #[schema(format = "cursor")]
    cursor: Option<String>,
}

impl OwnedQuery {
    /// Which page is wanted.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery { limit: self.limit, cursor: self.cursor.clone() }
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize)]
pub struct List<T> {
    pub items: Vec<T>,
    /// Where the next page starts; `null` on the last page.
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A page of at most `limit` of `found`, each item with its key. Ask the store for `limit + 1` of them: the one
    /// too many only says that there is another page.
    #[must_use]
    pub fn page(found: Vec<(Vec<u8>, T)>, limit: usize, list: ListId) -> Self {
        let more = found.len() > limit;
        let mut items = Vec::with_capacity(found.len().min(limit));
        let mut last = None;
        for (key, item) in found.into_iter().take(limit) {
            items.push(item);
            last = Some(key);
        }
        Self { items, next_cursor: last.filter(|_| more).map(|key| cursor(list, &key)) }
    }

    /// A page of a short list that is at hand whole; its keys are places.
    ///
    /// # Errors
    /// As [`PageQuery::limit`] and [`PageQuery::after`].
    pub fn part(items: Vec<T>, query: &PageQuery, list: ListId) -> Result<Self, Error> {
        let place = |key: Vec<u8>| key.try_into().map(u32::from_be_bytes).map_err(|_| not_ours());
        let after = query.after(list)?.map(place).transpose()?;
        let keyed = (0_u32..).zip(items).skip_while(|(place, _)| after.is_some_and(|after| *place <= after));
        let keyed = keyed.map(|(place, item)| (place.to_be_bytes().to_vec(), item)).collect();
        Ok(Self::page(keyed, query.limit()?, list))
    }

    /// The only page of a short list.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

impl<T: ToSchema> PartialSchema for List<T> {
    fn schema() -> RefOr<Schema> {
        let items = Ref::from_schema_name(T::name());
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("Where the next page starts; null on the last page."));
        ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(items))
            .property("next_cursor", cursor)
            .required("items")
            .required("next_cursor")
            .into()
    }
}

impl<T: ToSchema> ToSchema for List<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("{}List", T::name()))
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> ListId {
        ListId::of("/v1/things", "", Some("usr_1"))
    }

    #[test]
    fn a_cursor_of_another_list_or_filter_or_person_is_refused() {
        let narrowed = ListId::of("/v1/things", "state=open&limit=2&user_id=usr_2", Some("usr_1"));
        let made = PageQuery { limit: None, cursor: Some(cursor(narrowed, &[7])) };
        let same = ListId::of("/v1/things", "user_id=usr_2&cursor=x&limit=9&state=op%65n", Some("usr_1"));
        assert_eq!(made.after(same), Ok(Some(vec![7])));
        for (path, query, user) in [
            ("/v1/others", "state=open&user_id=usr_2", "usr_1"),
            ("/v1/things", "state=paid&user_id=usr_2", "usr_1"),
            ("/v1/things", "state=open", "usr_1"),
            ("/v1/things", "state=open&user_id=usr_2", "usr_3"),
        ] {
            let refused = made.after(ListId::of(path, query, Some(user))).expect_err("of another list");
            assert_eq!(refused.errors[0].pointer, "/cursor");
        }
    }

    #[test]
    fn a_page_ends_where_the_next_begins() {
        let found = |n: u8| (0..n).map(|i| (vec![i], i)).collect::<Vec<_>>();
        let full = List::page(found(3), 2, list());
        assert_eq!(full.items, [0, 1]);
        let next = PageQuery { limit: None, cursor: full.next_cursor };
        assert_eq!(next.after(list()), Ok(Some(vec![1])));
        assert_eq!(List::page(found(2), 2, list()).next_cursor, None);
        assert_eq!(List::page(found(0), 2, list()).next_cursor, None);
    }

    #[test]
    fn a_list_at_hand_is_paged_too() {
        let page = |limit, cursor| List::part((0..5).collect(), &PageQuery { limit: Some(limit), cursor }, list());
        let first = page(3, None).expect("a page");
        assert_eq!(first.items, [0, 1, 2]);
        let second = page(3, first.next_cursor).expect("a page");
        assert_eq!((second.items, second.next_cursor), (vec![3, 4], None));
        assert!(page(0, None).is_err() && page(3, Some("AA".to_owned())).is_err());
    }

    #[test]
    fn bounds_and_forged_cursors_are_refused() {
        let query = |limit, cursor: Option<&str>| PageQuery { limit, cursor: cursor.map(str::to_owned) };
        assert_eq!(query(None, None).limit(), Ok(20));
        assert_eq!(query(Some(100), None).limit(), Ok(100));
        assert!(query(Some(0), None).limit().is_err());
        assert!(query(Some(101), None).limit().is_err());
        assert!(query(None, Some("not base64!")).after(list()).is_err());
        assert!(query(None, Some(&"A".repeat(MAX_CURSOR_BYTES + 4))).after(list()).is_err());
        assert_eq!(query(None, Some("")).after(list()), Ok(None));
    }
}
