//! API keys: making, listing and revoking them, and who holds one.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use futures::future::join_all;

use super::fresh::Fresh;
use super::{Authenticated, Authority, SESSION_MAX_AGE};
use crate::actors::identity::api_key::places::{self, ApiKeyPlaces};
use crate::actors::identity::api_key::{self, ApiKey, Grant, KeyView};
use crate::actors::identity::opaque::{Purpose, TokenHash};
use crate::actors::identity::roles::permission::PERMISSIONS;
use crate::actors::identity::user::Status;
use crate::actors::runtime::{Page, Scope};
use crate::kernel::{Error, ErrorCode, Origin, Principal, Secret, Timestamp, id};

/// Keys of a person that are looked at when a place is taken: all that there are, also of times without a bound.
const LIVING_AT_MOST: usize = 4096;

/// A key, and its person as they are now.
#[derive(Debug, Clone)]
pub(super) struct KeyHolder {
    key: KeyView,
    roles: Vec<String>,
}

/// A request for a new key.
pub struct NewApiKey {
    pub name: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<Timestamp>,
}

impl Authority {
    /// Makes a key; its secret is shown this once.
    ///
    /// # Errors
    /// `invalid` for a scope that is no permission, `forbidden` for one the caller lacks, `conflict` at the bound.
    pub async fn create_api_key(
        &self,
        user_id: &str,
        new: NewApiKey,
        may: impl Fn(&str) -> bool,
        origin: &Origin,
    ) -> Result<(KeyView, Secret<String>), Error> {
        for (index, scope) in new.scopes.iter().enumerate() {
            if !PERMISSIONS.contains(&scope.as_str()) {
                return Err(Error::invalid(&format!("/scopes/{index}"), "is not a permission of this platform"));
            }
            if !may(scope) {
                return Err(Error::forbidden(format!("This needs the permission {scope}, which is to be granted.")));
            }
        }
        let take = places::Command::Take { living: self.api_key_ids(user_id, None, LIVING_AT_MOST).await? };
        let key_id = match self.router.ask::<ApiKeyPlaces>(&places::id(user_id), take, origin).await? {
            places::Reply::Taken { key_id } => key_id,
            places::Reply::Done => return Err(Error::internal()),
        };
        let secret = self.mint.issue(&key_id, Purpose::ApiKey, origin);
        let grant = Grant {
            user_id: user_id.to_owned(),
            name: new.name,
            scopes: new.scopes.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
            secret: TokenHash::of(secret.expose()),
            expires_at: new.expires_at,
        };
        match self.router.ask::<ApiKey>(&api_key::id(&key_id), api_key::Command::Create(grant), origin).await {
            Ok(api_key::Reply::Key(Some(view))) => Ok((view, secret)),
            Ok(_) => Err(Error::internal()),
            Err(error) if !error.code.may_retry() => {
                self.free_place(user_id, &key_id, origin).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Up to `limit` of a person's living keys, oldest first, from after the key with the id `after`; each with its id,
    /// which is where the next page starts.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn api_keys(
        &self,
        user_id: &str,
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, KeyView)>, Error> {
        let (mut keys, mut after) = (Vec::new(), after);
        while keys.len() < limit {
            let wanted = limit - keys.len();
            let ids = self.api_key_ids(user_id, after.as_deref(), wanted).await?;
            for (key_id, view) in ids.iter().zip(join_all(ids.iter().map(|key_id| self.ask_key(key_id))).await) {
                let view = view?.filter(|view| view.grant.user_id == user_id);
                keys.extend(view.map(|view| (key_id.as_bytes().to_vec(), view)));
            }
            if ids.len() < wanted {
                break;
            }
            after = ids.into_iter().next_back().map(String::into_bytes);
        }
        Ok(keys)
    }

    /// Ends a key of this person.
    ///
    /// # Errors
    /// `not_found` when there is none such of this person.
    pub async fn revoke_api_key(&self, user_id: &str, key_id: &str, origin: &Origin) -> Result<(), Error> {
        if !id::is_type_id("key", key_id) {
            return Err(Error::not_found("API key"));
        }
        let command = api_key::Command::Revoke { user_id: user_id.to_owned() };
        let done = self.router.ask::<ApiKey>(&api_key::id(key_id), command, origin).await;
        self.remembered_key(key_id).forget();
        done?;
        // It is told to be freed in any case; whoever makes a key next need not wait for the telling.
        if let Err(error) = self.free_place(user_id, key_id, origin).await {
            tracing::debug!(key_id, %error, "the place of a revoked key is freed later");
        }
        Ok(())
    }

    async fn free_place(&self, user_id: &str, key_id: &str, origin: &Origin) -> Result<(), Error> {
        let free = places::Command::Free { key_id: key_id.to_owned() };
        self.router.ask::<ApiKeyPlaces>(&places::id(user_id), free, origin).await.map(|_| ())
    }

    /// Who holds this API key, by what was true at most [`SESSION_MAX_AGE`] ago.
    pub(super) async fn key_holder(&self, text: &str) -> Result<Authenticated, Error> {
        let refused = || Error::unauthenticated("The API key is not known, or is over.");
        let token = self.mint.recognize(text, "key", Purpose::ApiKey).ok_or_else(refused)?;
        let known = self.remembered_key(&token.owner);
        let holder = known.get_or(|| self.ask_holder(&token.owner)).await?.ok_or_else(refused)?;
        let grant = holder.key.grant;
        if grant.secret != token.hash || grant.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(refused());
        }
        let held = self.permissions_of(&holder.roles).await?;
        let permissions = held.iter().filter(|permission| grant.scopes.contains(permission)).cloned().collect();
        // Roles stay behind: what a key may is said by its scopes, and by nothing that a role implies elsewhere.
        let principal = Principal::User { id: grant.user_id, session: None, roles: Vec::new() };
        Ok(Authenticated { principal, permissions, expires_at: grant.expires_at.unwrap_or(Timestamp::MAX) })
    }

    async fn ask_holder(&self, key_id: &str) -> Result<Option<KeyHolder>, Error> {
        let Some(key) = self.ask_key(key_id).await? else { return Ok(None) };
        match self.user(&key.grant.user_id, &Origin::system("api key")).await {
            Ok(user) if user.status == Status::Active => Ok(Some(KeyHolder { key, roles: user.roles })),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask_key(&self, key_id: &str) -> Result<Option<KeyView>, Error> {
        let origin = Origin::system("api key");
        match self.router.ask::<ApiKey>(&api_key::id(key_id), api_key::Command::GetKey, &origin).await {
            Ok(api_key::Reply::Key(view)) => Ok(view),
            Ok(api_key::Reply::Done) => Err(Error::internal()),
            Err(error) if error.code == ErrorCode::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn api_key_ids(&self, user_id: &str, after: Option<&[u8]>, limit: usize) -> Result<Vec<String>, Error> {
        let prefix = api_key::index_prefix(user_id);
        let scope = Scope::ShardOf(api_key::id(user_id));
        let after = after.map(|after| [prefix.as_bytes(), after].concat());
        let page = Page { after, limit, reverse: false };
        let entries = self.router.scan(scope, api_key::INDEX, prefix.as_bytes(), page).await?;
        let ids = entries.iter().filter_map(|(key, _)| key.strip_prefix(prefix.as_bytes()));
        Ok(ids.map(|key_id| String::from_utf8_lossy(key_id).into_owned()).collect())
    }

    fn remembered_key(&self, key_id: &str) -> Arc<Fresh<Option<KeyHolder>>> {
        let mut keys = self.api_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = keys.get(key_id) {
            return known;
        }
        let fresh = Arc::new(Fresh::new(SESSION_MAX_AGE));
        keys.insert(key_id.to_owned(), Arc::clone(&fresh));
        fresh
    }
}
