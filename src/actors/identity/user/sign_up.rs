//! Signing up and proving the address.
//!
//! Every sign-up for an unproven address waits on its own with its own password and its own link; the link that is
//! opened decides which one becomes the account. So nobody can plant a password under an address they do not own.

use super::effects::{mail, mails_exhausted, tell_claim, with_effects, with_events};
use super::protocol::{Event, OneTimeToken, PendingSignUp, Reply, SignUp, Status};
use super::state::{MAILS_AN_HOUR, User};
use crate::actors::identity::email_claim;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::{Client, Ended, Method};
use crate::kernel::{Context, Decision, Error, Outcome};

pub(super) const LAPSE_TIMER: &str = "lapse";
pub(super) const CLAIM_TAG: &str = "claim";

impl User {
    pub(super) fn sign_up(&self, context: &Context, sign_up: SignUp) -> Decision<Self> {
        let id = context.id.key();
        if matches!(self.status, Status::Erased) || mails_exhausted(&self.sign_up_mails, MAILS_AN_HOUR, context.now) {
            return Decision::reply(Reply::Done).audit(context, "user.sign_up", id, "denied");
        }
        if matches!(self.status, Status::Active | Status::Suspended) {
            return Decision::reply(Reply::Done)
                .event(Event::KnownAddressNoted { at: context.now })
                .effect(mail(context, &self.email, "known_address", &[("locale", &self.locale)]))
                .audit(context, "user.sign_up", id, "denied");
        }
        let expires_at = context.now.plus_seconds(sign_up.token_seconds);
        let name = sign_up.display_name.clone().unwrap_or_default();
        let token = sign_up.token.expose();
        let data = [("token", token.as_str()), ("locale", &sign_up.locale), ("display_name", &name)];
        let effect = mail(context, &sign_up.email, "verify_email", &data);
        let pending = Box::new(PendingSignUp {
            token: OneTimeToken { hash: TokenHash::of(token), expires_at },
            email: sign_up.email,
            claim: sign_up.claim,
            password: sign_up.password,
            role: sign_up.role,
            display_name: sign_up.display_name,
            locale: sign_up.locale,
            time_zone: sign_up.time_zone,
        });
        Decision::reply(Reply::Done)
            .event(Event::SignUpRequested { pending, at: context.now })
            .effect(effect)
            .timer(LAPSE_TIMER, expires_at)
            .index(super::INDEX, id.as_bytes(), Vec::new())
            .audit(context, "user.sign_up", id, "ok")
    }

    pub(super) fn verify(&self, context: &Context, token: TokenHash, client: &Client) -> Result<Decision<Self>, Error> {
        let good = |pending: &PendingSignUp| pending.token.hash == token && pending.token.expires_at > context.now;
        let Some(pending) = self.pending.iter().find(|pending| good(pending)) else {
            return Err(Error::invalid("/token", "is not a verification token, or was used, or has expired"));
        };
        let id = context.id.key();
        let confirm = email_claim::Command::Confirm { user_id: id.to_owned() };
        let effect = tell_claim(&pending.claim, &confirm, CLAIM_TAG);
        let verified = vec![Event::Verified { token, at: context.now }];
        let (signed_in, events, effects) = self.open_session(context, verified, vec![Method::EmailLink], client);
        let session_id = signed_in.session_id.clone();
        let decision = Decision::reply(Reply::SignedIn(Box::new(signed_in)))
            .effect(effect)
            .clear_timer(LAPSE_TIMER)
            .audit(context, "user.verified", id, "ok")
            .audit(context, "session.started", &session_id, "ok");
        Ok(with_effects(with_events(decision, events), effects))
    }

    /// Nobody proved the address in time: as if nobody had signed up.
    pub(super) fn lapse_sign_up(&self, context: &Context) -> Decision<Self> {
        let waiting = self.pending.iter().any(|pending| pending.token.expires_at > context.now);
        if self.status != Status::Unverified || waiting {
            return Decision::reply(Reply::Done);
        }
        let id = context.id.key();
        let release = email_claim::Command::Release { user_id: id.to_owned() };
        Decision::reply(Reply::Done)
            .event(Event::SignUpLapsed)
            .effect(tell_claim(&self.claim, &release, ""))
            .unindex(super::INDEX, id.as_bytes())
            .audit(context, "user.sign_up_lapsed", id, "ok")
            .purge()
    }

    /// A claim can only be lost when the address went to somebody else after this sign-up lapsed; the account that
    /// does not own its address is taken out of service.
    pub(super) fn claim_settled(&self, context: &Context, outcome: &Outcome) -> Decision<Self> {
        let decision = Decision::reply(Reply::Done);
        match outcome {
            Outcome::Refused(_) if self.status == Status::Active => {
                let (_, effects) = self.end_sessions(context, None, Ended::AccountSuspended);
                let decision = decision
                    .event(Event::ClaimLost { at: context.now })
                    .event(Event::SignedOutEverywhere { keep: None })
                    .audit(context, "user.address_lost", context.id.key(), "failed");
                with_effects(decision, effects)
            }
            _ => decision,
        }
    }
}
