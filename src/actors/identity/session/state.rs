//! The session's state machine.

use serde::{Deserialize, Serialize};

use super::protocol::{Client, Command, Ended, Event, Method, Reply, SessionView, Start};
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::user::{self, User};
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Error, Timestamp};

/// However often it is refreshed, a session ends after this long.
const LIFETIME_DAYS: i64 = 180;
/// An ended session is remembered so long, so that a late start or a spent token finds it ended.
const TOMBSTONE_DAYS: i64 = 2;

const EXPIRE_TIMER: &str = "expire";
const FORGET_TIMER: &str = "forget";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    user_id: String,
    phase: Phase,
    roles: Vec<String>,
    methods: Vec<Method>,
    client: Client,
    refresh: Option<TokenHash>,
    idle_seconds: i64,
    created_at: Timestamp,
    last_used_at: Timestamp,
    authenticated_at: Timestamp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    #[default]
    Absent,
    Active,
    Ended(Ended),
}

impl Entity for Session {
    const KIND: &'static str = "session";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Start(start) => self.start(context, start),
            Command::GetSession => Ok(Decision::reply(Reply::Session(self.view(context)))),
            Command::Refresh { presented, next, client } => Ok(self.refresh(context, presented, next, client)),
            Command::Reauthenticate { methods } if self.phase == Phase::Active => {
                let event = Event::Reauthenticated { methods, at: context.now };
                Ok(Decision::reply(Reply::Done).event(event).audit(
                    context,
                    "session.reauthenticated",
                    context.id.key(),
                    "ok",
                ))
            }
            Command::Reauthenticate { .. } => Err(Error::not_found("session")),
            Command::SetRoles { roles } if self.phase == Phase::Active && self.roles != roles => {
                Ok(Decision::reply(Reply::Done).event(Event::RolesSet { roles }))
            }
            Command::SetRoles { .. } => Ok(Decision::reply(Reply::Done)),
            Command::Revoke { user_id, reason } => Ok(self.revoke(context, user_id, reason)),
            Command::Expire if self.phase == Phase::Active => {
                Ok(self.revoke(context, self.user_id.clone(), Ended::Expired))
            }
            Command::Forget if matches!(self.phase, Phase::Ended(_)) => {
                Ok(Decision::reply(Reply::Done).event(Event::Forgotten { user_id: self.user_id.clone() }).purge())
            }
            Command::Expire | Command::Forget => Ok(Decision::reply(Reply::Done)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Started { start, at } => {
                *self = Self {
                    user_id: start.user_id.clone(),
                    phase: Phase::Active,
                    roles: start.roles.clone(),
                    methods: start.methods.clone(),
                    client: start.client.clone(),
                    refresh: Some(start.refresh),
                    idle_seconds: start.idle_seconds,
                    created_at: *at,
                    last_used_at: *at,
                    authenticated_at: *at,
                };
            }
            Event::Refreshed { next, client, at } => {
                self.refresh = Some(*next);
                self.client = client.clone();
                self.last_used_at = *at;
            }
            Event::Reauthenticated { methods, at } => {
                self.authenticated_at = *at;
                for method in methods {
                    if !self.methods.contains(method) {
                        self.methods.push(*method);
                    }
                }
            }
            Event::RolesSet { roles } => self.roles.clone_from(roles),
            Event::Revoked { user_id, reason, at } => {
                self.user_id.clone_from(user_id);
                self.phase = Phase::Ended(*reason);
                self.refresh = None;
                self.last_used_at = *at;
            }
            // Who it was of stays, so that whatever is left is still sealed under that person's key.
            Event::Forgotten { user_id } => *self = Self { user_id: user_id.clone(), ..Self::default() },
        }
    }

    fn subject(&self, _id: &EntityId) -> Option<String> {
        (!self.user_id.is_empty()).then(|| self.user_id.clone())
    }

    fn on_timer(name: &str) -> Option<Command> {
        match name {
            EXPIRE_TIMER => Some(Command::Expire),
            FORGET_TIMER => Some(Command::Forget),
            _ => None,
        }
    }
}

impl Session {
    fn start(&self, context: &Context, start: Start) -> Result<Decision<Self>, Error> {
        match self.phase {
            Phase::Absent => {}
            Phase::Active if self.refresh == Some(start.refresh) && self.user_id == start.user_id => {
                return Ok(Decision::reply(Reply::Session(self.view(context))));
            }
            Phase::Active => return Err(Error::conflict("The session has already started.")),
            Phase::Ended(_) => return Err(Error::unauthenticated("The session was ended before it began.")),
        }
        let event = Event::Started { start, at: context.now };
        let mut after = self.clone();
        after.apply(&event);
        let reply = Reply::Session(after.view(context));
        Ok(Decision::reply(reply).event(event).timer(EXPIRE_TIMER, after.expires_at()))
    }

    fn refresh(&self, context: &Context, presented: TokenHash, next: TokenHash, client: Client) -> Decision<Self> {
        if self.phase != Phase::Active || self.expires_at() <= context.now {
            return Decision::reply(Reply::Refused);
        }
        if self.refresh != Some(presented) {
            let mut decision = self.revoke(context, self.user_id.clone(), Ended::TokenReuse);
            decision.reply = Reply::Refused;
            return decision;
        }
        let event = Event::Refreshed { next, client, at: context.now };
        let mut after = self.clone();
        after.apply(&event);
        let Some(view) = after.view(context) else { return Decision::reply(Reply::Refused) };
        Decision::reply(Reply::Refreshed(view)).event(event).timer(EXPIRE_TIMER, after.expires_at())
    }

    fn revoke(&self, context: &Context, user_id: String, reason: Ended) -> Decision<Self> {
        if matches!(self.phase, Phase::Ended(_)) || (self.phase == Phase::Active && self.user_id != user_id) {
            return Decision::reply(Reply::Done);
        }
        let ended = user::Command::SessionEnded { session_id: context.id.key().to_owned() };
        let (action, outcome) = match reason {
            Ended::TokenReuse => ("session.refresh_token_reused", "denied"),
            Ended::Expired => ("session.expired", "ok"),
            _ => ("session.revoked", "ok"),
        };
        Decision::reply(Reply::Done)
            .effect(Effect::tell::<User>(user::id(&user_id), &ended, ""))
            .event(Event::Revoked { user_id, reason, at: context.now })
            .clear_timer(EXPIRE_TIMER)
            .timer(FORGET_TIMER, context.now.plus_days(TOMBSTONE_DAYS))
            .audit(context, action, context.id.key(), outcome)
    }

    fn expires_at(&self) -> Timestamp {
        let idle = self.last_used_at.plus_seconds(self.idle_seconds);
        idle.min(self.created_at.plus_days(LIFETIME_DAYS))
    }

    fn view(&self, context: &Context) -> Option<SessionView> {
        let ended = match self.phase {
            Phase::Absent => return None,
            Phase::Active if self.expires_at() <= context.now => Some(Ended::Expired),
            Phase::Active => None,
            Phase::Ended(reason) => Some(reason),
        };
        Some(SessionView {
            id: context.id.key().to_owned(),
            user_id: self.user_id.clone(),
            roles: self.roles.clone(),
            methods: self.methods.clone(),
            client: self.client.clone(),
            created_at: self.created_at,
            last_used_at: self.last_used_at,
            authenticated_at: self.authenticated_at,
            expires_at: self.expires_at(),
            ended,
        })
    }
}
