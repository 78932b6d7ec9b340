//! What a user's decisions tell others: mails, notifications, their sessions, their address's claim.

use super::protocol::{Event, SignedIn};
use super::state::{MAX_SESSIONS, User};
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::{self, Client, Ended, Method, Session};
use crate::actors::identity::{email_claim, email_claim::EmailClaim};
use crate::actors::notifications::delivery::{self, Category, Delivery, SendRequest};
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Timestamp};

/// A mail to the address itself, whether or not it is proven.
pub(super) fn mail(context: &Context, address: &str, template: &str, data: &[(&str, &str)]) -> Effect {
    send(context, SendRequest::template(context.id.key(), Category::Security, template, data).to_address(address))
}

/// A security notification to the person, on every channel they have.
pub(super) fn notify(context: &Context, template: &str, data: &[(&str, &str)]) -> Effect {
    send(context, SendRequest::template(context.id.key(), Category::Security, template, data))
}

fn send(context: &Context, request: SendRequest) -> Effect {
    let id = EntityId::new(Delivery::KIND, &context.new_id("ntf", &request.template));
    Effect::tell::<Delivery>(id, &delivery::Command::Send(request), "")
}

pub(super) fn tell_claim(claim: &str, command: &email_claim::Command, tag: &str) -> Effect {
    Effect::tell::<EmailClaim>(email_claim::id(claim), command, tag)
}

pub(super) fn tell_session(session_id: &str, command: &session::Command) -> Effect {
    Effect::tell::<Session>(session::id(session_id), command, "")
}

pub(super) fn revoke(context: &Context, session_id: &str, reason: Ended) -> Effect {
    tell_session(session_id, &session::Command::Revoke { user_id: context.id.key().to_owned(), reason })
}

/// The program and place a sign-in comes from, so that a new one can be announced.
fn device(client: &Client) -> TokenHash {
    TokenHash::of(&format!("device\0{}\0{}", client.user_agent, client.source))
}

/// How long ago mails of a kind were sent decides whether one more may be.
pub(super) fn mails_exhausted(sent: &[Timestamp], limit: usize, now: Timestamp) -> bool {
    sent.len() >= limit && sent.iter().all(|at| now.millis_since(*at) < 3_600_000)
}

impl User {
    /// Lists a new session and announces it when the device is new. `before`: events that come first.
    pub(super) fn open_session(
        &self,
        context: &Context,
        before: Vec<Event>,
        methods: Vec<Method>,
        client: &Client,
    ) -> (SignedIn, Vec<Event>, Vec<Effect>) {
        let session_id = context.new_id("ses", "session");
        let device = device(client);
        let mut effects = Vec::new();
        if let Some(oldest) = self.sessions.first().filter(|_| self.sessions.len() >= MAX_SESSIONS) {
            effects.push(revoke(context, oldest, Ended::Displaced));
        }
        if !self.devices.is_empty() && !self.devices.contains(&device) {
            let at = context.now.to_string();
            effects.push(notify(context, "new_sign_in", &[("at", &at), ("device", &client.user_agent)]));
        }
        let mut events = before;
        events.push(Event::SessionOpened { session_id: session_id.clone(), device, at: context.now });
        let user = self.view_after(context, &events);
        (SignedIn { session_id, methods, user }, events, effects)
    }

    /// Ends every open session but `keep`; the ids of those ended, and what tells them.
    pub(super) fn end_sessions(
        &self,
        context: &Context,
        keep: Option<&str>,
        reason: Ended,
    ) -> (Vec<String>, Vec<Effect>) {
        let ended: Vec<String> = self.sessions.iter().filter(|id| Some(id.as_str()) != keep).cloned().collect();
        let effects = ended.iter().map(|id| revoke(context, id, reason)).collect();
        (ended, effects)
    }
}

/// Several effects at once.
pub(super) fn with_effects(mut decision: Decision<User>, effects: Vec<Effect>) -> Decision<User> {
    decision.effects.extend(effects);
    decision
}

/// Several events at once.
pub(super) fn with_events(mut decision: Decision<User>, events: Vec<Event>) -> Decision<User> {
    decision.events.extend(events);
    decision
}

/// Asked of a session by its user when roles change.
pub(super) fn set_roles(session_id: &str, roles: &[String]) -> Effect {
    tell_session(session_id, &session::Command::SetRoles { roles: roles.to_vec() })
}
