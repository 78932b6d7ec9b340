//! `GET /v1/me/export`: everything held about the caller, collected from the services that hold it.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::actors::compliance::audit_log::search::{AuditEntry, Filter, search};
use crate::actors::compliance::consents::{self, Consents, HISTORY, consents_id};
use crate::actors::identity::api_key::KeyView;
use crate::actors::identity::user::{self, User};
use crate::actors::notifications::devices::{self, Address, Devices};
use crate::actors::notifications::inbox::{self, ITEMS, Inbox};
use crate::actors::notifications::preferences::{self, Preferences};
use crate::actors::runtime::Page;
use crate::gateway::page::{ListId, cursor};
use crate::gateway::routes::billing::{Held, held};
use crate::gateway::routes::notifications::InboxItem;
use crate::gateway::{Call, List, PageQuery, Reply};
use crate::kernel::{Entity, EntityId, Error, Timestamp, codec};

/// Rows read at once, and pages read at most: bounds what one export costs. `truncated` says when they did not suffice.
/// The audit log has no index by person: an export holds what one search of it finds, and says where to go on.
const PAGE: usize = 256;
const MAX_PAGES: usize = 64;
/// Where the list of audit entries goes on.
pub(super) const ENTRIES: &str = "/v1/me/audit-entries";

/// Everything held about a person.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Export {
    #[schema(value_type = String, format = DateTime)]
    generated_at: Timestamp,
    #[schema(value_type = Object)]
    profile: Value,
    #[schema(value_type = Vec<Object>)]
    sessions: Vec<Value>,
    /// Without their secrets, which are not held.
    #[schema(value_type = Vec<Object>)]
    api_keys: Vec<Value>,
    #[schema(value_type = Vec<Object>)]
    devices: Vec<Value>,
    #[schema(value_type = Object)]
    preferences: Value,
    inbox: Vec<InboxItem>,
    billing: Held,
    /// Every decision, oldest first.
    #[schema(value_type = Vec<Object>)]
    consents: Vec<Value>,
    /// Entries of the audit log by me or about me, newest first: those that one search found.
    audit_entries: Vec<AuditEntry>,
    /// Where `GET /v1/me/audit-entries` goes on with them; null when these are all.
    audit_next_cursor: Option<String>,
    /// Sections that are longer than an export may be; the rest is at their own endpoints.
    truncated: Vec<&'static str>,
}

pub(super) async fn export(call: Call<()>) -> Result<Reply, Error> {
    let user_id = call.user_id()?.to_owned();
    let mut truncated = Vec::new();
    let (audit_entries, audit_next_cursor) = audit_entries(&call, &user_id).await?;
    truncated.extend(audit_next_cursor.is_some().then_some("audit_entries"));
    let export = Export {
        generated_at: call.services.clock.now(),
        profile: profile(&call, &user_id).await?,
        sessions: sessions(&call, &user_id).await?,
        api_keys: api_keys(&call, &user_id, &mut truncated).await?,
        devices: devices(&call, &user_id).await?,
        preferences: preferences(&call, &user_id).await?,
        inbox: inbox(&call, &user_id, &mut truncated).await?,
        billing: held(&call, &user_id).await?,
        consents: consents(&call, &user_id, &mut truncated).await?,
        audit_entries,
        audit_next_cursor,
        truncated,
    };
    let disposition = "attachment; filename=\"export.json\"";
    Ok(Reply::ok(&export).header("content-disposition", disposition).header("cache-control", "no-store"))
}

async fn profile(call: &Call<()>, user_id: &str) -> Result<Value, Error> {
    let reply = call.services.router.ask::<User>(&user::id(user_id), user::Command::GetUser, &call.origin).await?;
    let user::Reply::User(view) = reply else { return Err(Error::internal()) };
    Ok(json!({
        "id": view.id,
        "email": view.email,
        "display_name": view.display_name,
        "locale": view.locale,
        "time_zone": view.time_zone,
        "roles": view.roles,
        "status": view.status.as_str(),
        "totp_enabled": view.totp_enabled,
        "recovery_codes_left": view.recovery_codes_left,
        "created_at": view.created_at,
        "updated_at": view.updated_at,
    }))
}

async fn sessions(call: &Call<()>, user_id: &str) -> Result<Vec<Value>, Error> {
    let sessions = call.services.identity.sessions(user_id, &call.origin).await?;
    let view = |session: &crate::actors::identity::session::SessionView| {
        json!({
            "id": session.id,
            "user_agent": session.client.user_agent,
            "source": session.client.source,
            "methods": session.methods.iter().map(|method| method.amr()).collect::<Vec<_>>(),
            "created_at": session.created_at,
            "last_used_at": session.last_used_at,
            "expires_at": session.expires_at,
        })
    };
    Ok(sessions.iter().map(view).collect())
}

async fn api_keys(call: &Call<()>, user_id: &str, truncated: &mut Vec<&'static str>) -> Result<Vec<Value>, Error> {
    let keys = call.services.identity.api_keys(user_id, None, PAGE).await?;
    truncated.extend((keys.len() == PAGE).then_some("api_keys"));
    let view = |(_, key): &(Vec<u8>, KeyView)| {
        json!({
            "id": key.id,
            "name": key.grant.name,
            "scopes": key.grant.scopes,
            "created_at": key.created_at,
            "expires_at": key.grant.expires_at,
        })
    };
    Ok(keys.iter().map(view).collect())
}

async fn devices(call: &Call<()>, user_id: &str) -> Result<Vec<Value>, Error> {
    let id = EntityId::new(Devices::KIND, user_id);
    let reply = call.services.router.ask::<Devices>(&id, devices::Command::List, &call.origin).await?;
    let devices::Reply::Devices(devices) = reply else { return Err(Error::internal()) };
    let view = |device: &devices::Device| {
        let (kind, address) = match &device.address {
            Address::WebPush(subscription) => ("web_push", subscription.endpoint.as_str()),
            Address::Sms { number } => ("sms", number.as_str()),
        };
        json!({
            "id": device.id,
            "name": device.name,
            "kind": kind,
            "address": address,
            "verified": device.verified,
            "created_at": device.created_at,
        })
    };
    Ok(devices.iter().map(view).collect())
}

async fn preferences(call: &Call<()>, user_id: &str) -> Result<Value, Error> {
    let id = EntityId::new(Preferences::KIND, user_id);
    let reply = call.services.router.ask::<Preferences>(&id, preferences::Command::Get, &call.origin).await?;
    let preferences::Reply::Settings { settings, consent_at, .. } = reply else { return Err(Error::internal()) };
    let rule = |rule: &preferences::Rule| json!({ "category": rule.category, "channel": rule.channel, "enabled": rule.enabled });
    Ok(json!({
        "rules": settings.rules.iter().map(rule).collect::<Vec<_>>(),
        "quiet_hours": settings.quiet_hours,
        "time_zone": settings.time_zone,
        "promotional_consent": settings.promotional_consent,
        "promotional_consent_at": consent_at,
    }))
}

/// Rows of a table in order, up to the bound; whether there are more.
async fn rows(call: &Call<()>, id: &EntityId, table: &str) -> Result<(Vec<Vec<u8>>, bool), Error> {
    let (mut values, mut after) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page = Page { after, limit: PAGE, reverse: false };
        let found = call.services.router.rows(id, table, page).await?;
        let full = found.len() == PAGE;
        after = found.last().map(|(key, _)| key.clone());
        values.extend(found.into_iter().map(|(_, value)| value));
        if !full {
            return Ok((values, false));
        }
    }
    Ok((values, true))
}

async fn inbox(call: &Call<()>, user_id: &str, truncated: &mut Vec<&'static str>) -> Result<Vec<InboxItem>, Error> {
    let id = EntityId::new(Inbox::KIND, user_id);
    let (rows, more) = rows(call, &id, ITEMS).await?;
    truncated.extend(more.then_some("inbox"));
    let marks = inbox::Command::GetMarks { after: 0, limit: inbox::HISTORY };
    let inbox::Reply::Marks { from, read_at, .. } = call.services.router.ask::<Inbox>(&id, marks, &call.origin).await?
    else {
        return Err(Error::internal());
    };
    let read_at = |offset: u64| {
        let place = offset.checked_sub(from).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| read_at.get(place)).copied().flatten()
    };
    let item = |bytes: &Vec<u8>| {
        let item: inbox::Item = codec::decode(bytes).map_err(|_| Error::internal())?;
        let read_at = read_at(item.offset);
        Ok(InboxItem::new(item, read_at))
    };
    rows.iter().map(item).collect()
}

async fn consents(call: &Call<()>, user_id: &str, truncated: &mut Vec<&'static str>) -> Result<Vec<Value>, Error> {
    let id = consents_id(user_id);
    debug_assert_eq!(id.kind(), Consents::KIND);
    let (rows, more) = rows(call, &id, HISTORY).await?;
    truncated.extend(more.then_some("consents"));
    let change = |bytes: &Vec<u8>| {
        let change: consents::Change = codec::decode(bytes).map_err(|_| Error::internal())?;
        Ok(json!({ "purpose": change.purpose, "granted": change.granted, "at": change.at }))
    };
    rows.iter().map(change).collect()
}

/// What one search finds: it looks at a bounded number of entries.
async fn audit_entries(call: &Call<()>, user_id: &str) -> Result<(Vec<AuditEntry>, Option<String>), Error> {
    let filter = Filter { about: Some(user_id.to_owned()), ..Filter::default() };
    let found = search(&call.services.compliance.audit, &filter, None, PAGE).await?;
    let list = ListId::of(ENTRIES, "", Some(user_id));
    Ok((found.entries, found.cursor.map(|key| cursor(list, &key))))
}

pub(super) async fn my_audit_entries(call: Call<()>) -> Result<Reply, Error> {
    let page: PageQuery = call.query()?;
    let filter = Filter { about: Some(call.user_id()?.to_owned()), ..Filter::default() };
    let (limit, after) = (page.limit()?, page.after(call.list())?);
    let found = search(&call.services.compliance.audit, &filter, after.as_deref(), limit).await?;
    Ok(Reply::ok(&List { items: found.entries, next_cursor: found.cursor.map(|key| cursor(call.list(), &key)) }))
}
