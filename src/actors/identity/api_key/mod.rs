//! `api_key/<key_id>`: a long-lived secret with which a program acts for its person. Lives on the person's slot.
//!
//! Invariants: only a hash of the secret is kept, and it is shown once; a key never may more than its person may at
//! the moment of use, and of permissions only those among its scopes; a revoked or expired key never comes back.
//! How many there may be is held by [`places`]. Whether the person is still active is asked at use (see `authority`). Sealed under the person's key.

pub mod places;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::places::ApiKeyPlaces;
use super::opaque::TokenHash;
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Error, Timestamp};

/// The shard-wide index of living keys: `<user id>/<key id>`, values empty.
pub const INDEX: &str = "api_keys";
const EXPIRE_TIMER: &str = "expire";

/// The entity of a key id.
#[must_use]
pub fn id(key_id: &str) -> EntityId {
    EntityId::new(ApiKey::KIND, key_id)
}

/// The start of a person's entries in [`INDEX`].
#[must_use]
pub fn index_prefix(user_id: &str) -> String {
    format!("{user_id}/")
}

/// What a key is made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub user_id: String,
    pub name: String,
    pub scopes: Vec<String>,
    pub secret: TokenHash,
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Create(Grant),
    GetKey,
    Revoke {
        user_id: String,
    },
    /// The timer.
    Expire,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Created { grant: Grant, at: Timestamp },
    Revoked { user_id: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    pub id: String,
    pub grant: Grant,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// `None`: there never was such a key, or it is over.
    Key(Option<KeyView>),
    Done,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    user_id: String,
    revoked: bool,
    grant: Option<Grant>,
    created_at: Timestamp,
}

impl ApiKey {
    fn view(&self, context: &Context) -> Option<KeyView> {
        let grant = self.grant.clone()?;
        let over = grant.expires_at.is_some_and(|at| at <= context.now);
        (!over).then(|| KeyView { id: context.id.key().to_owned(), grant, created_at: self.created_at })
    }

    fn create(&self, context: &Context, grant: Grant) -> Result<Decision<Self>, Error> {
        match &self.grant {
            Some(known) if *known == grant => return Ok(Decision::reply(Reply::Key(self.view(context)))),
            None if !self.revoked => {}
            _ => return Err(Error::conflict("There was such a key before.")),
        }
        if grant.expires_at.is_some_and(|at| at <= context.now) {
            return Err(Error::invalid("/expires_at", "must be in the future"));
        }
        let entry = format!("{}{}", index_prefix(&grant.user_id), context.id.key());
        let expires_at = grant.expires_at;
        let view = KeyView { id: context.id.key().to_owned(), grant: grant.clone(), created_at: context.now };
        let decision = Decision::reply(Reply::Key(Some(view)))
            .event(Event::Created { grant, at: context.now })
            .index(INDEX, entry, Vec::new())
            .audit(context, "api_key.created", context.id.key(), "ok");
        Ok(match expires_at {
            Some(at) => decision.timer(EXPIRE_TIMER, at),
            None => decision,
        })
    }

    fn end(&self, context: &Context, action: &str) -> Decision<Self> {
        let entry = format!("{}{}", index_prefix(&self.user_id), context.id.key());
        let free = places::Command::Free { key_id: context.id.key().to_owned() };
        Decision::reply(Reply::Done)
            .effect(Effect::tell::<ApiKeyPlaces>(places::id(&self.user_id), &free, ""))
            .event(Event::Revoked { user_id: self.user_id.clone() })
            .unindex(INDEX, entry)
            .clear_timer(EXPIRE_TIMER)
            .audit(context, action, context.id.key(), "ok")
    }
}

impl Entity for ApiKey {
    const KIND: &'static str = "api_key";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Create(grant) => self.create(context, grant),
            Command::GetKey => Ok(Decision::reply(Reply::Key(self.view(context)))),
            Command::Revoke { user_id } if self.grant.is_some() && self.user_id == user_id => {
                Ok(self.end(context, "api_key.revoked"))
            }
            Command::Revoke { .. } => Err(Error::not_found("API key")),
            Command::Expire if self.grant.is_some() && self.view(context).is_none() => {
                Ok(self.end(context, "api_key.expired"))
            }
            Command::Expire => Ok(Decision::reply(Reply::Done)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Created { grant, at } => {
                self.user_id.clone_from(&grant.user_id);
                self.grant = Some(grant.clone());
                self.created_at = *at;
            }
            Event::Revoked { user_id } => {
                *self = Self { user_id: user_id.clone(), revoked: true, ..Self::default() };
            }
        }
    }

    fn subject(&self, _id: &EntityId) -> Option<String> {
        (!self.user_id.is_empty()).then(|| self.user_id.clone())
    }

    fn on_timer(name: &str) -> Option<Command> {
        (name == EXPIRE_TIMER).then_some(Command::Expire)
    }
}
