//! Changing and resetting the password. A reset keeps the second factor and ends every session.

use super::effects::{mail, mails_exhausted, notify, with_effects};
use super::protocol::{Event, OneTimeToken, PasswordResetRequest, Reply, Status};
use super::state::{MAILS_AN_HOUR, User};
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::Ended;
use crate::kernel::{Context, Decision, Error, ErrorCode, Secret};

impl User {
    pub(super) fn change_password(
        &self,
        context: &Context,
        password: Secret<String>,
        keep: Option<String>,
    ) -> Result<Decision<Self>, Error> {
        self.active()?;
        // The new password was hashed meanwhile: a reset that ended this session goes before.
        if keep.as_ref().is_some_and(|keep| !self.sessions.contains(keep)) {
            return Err(Error::unauthenticated("The session has ended."));
        }
        let (ended, effects) = self.end_sessions(context, keep.as_deref(), Ended::PasswordChanged);
        let decision = Decision::reply(Reply::Sessions(ended))
            .event(Event::PasswordChanged { password, at: context.now })
            .event(Event::SignedOutEverywhere { keep })
            .effect(notify(context, "password_changed", &[("at", &context.now.to_string())]))
            .audit(context, "user.password_changed", context.id.key(), "ok");
        Ok(with_effects(decision, effects))
    }

    /// Counts towards the lock, so that a stolen session cannot try out passwords.
    pub(super) fn note_failed_proof(&self, context: &Context) -> Result<Decision<Self>, Error> {
        if self.active()?.failed_passwords.locked_at(context.now) {
            return Err(Error::new(ErrorCode::RateLimited, "Too many wrong passwords; wait before the next one.")
                .retry_after(60));
        }
        Ok(Decision::reply(Reply::Rejected).event(Event::SignInFailed { at: context.now }).audit(
            context,
            "user.step_up",
            context.id.key(),
            "failed",
        ))
    }

    pub(super) fn request_password_reset(&self, context: &Context, request: &PasswordResetRequest) -> Decision<Self> {
        let id = context.id.key();
        if self.status != Status::Active || mails_exhausted(&self.reset_mails, MAILS_AN_HOUR, context.now) {
            return Decision::reply(Reply::Done).audit(context, "user.password_reset_requested", id, "denied");
        }
        let text = request.token.expose();
        let expires_at = context.now.plus_seconds(request.token_seconds);
        let token = OneTimeToken { hash: TokenHash::of(text), expires_at };
        let data = [("token", text.as_str()), ("locale", &self.locale)];
        Decision::reply(Reply::Done)
            .event(Event::PasswordResetRequested { token, at: context.now })
            .effect(mail(context, &self.email, "password_reset", &data))
            .audit(context, "user.password_reset_requested", id, "ok")
    }

    pub(super) fn reset_password(
        &self,
        context: &Context,
        token: TokenHash,
        password: Secret<String>,
    ) -> Result<Decision<Self>, Error> {
        let good = |known: &OneTimeToken| known.hash == token && known.expires_at > context.now;
        if self.status != Status::Active || !self.reset_tokens.iter().any(good) {
            return Err(Error::invalid("/token", "is not a password reset token, or was used, or has expired"));
        }
        let (ended, effects) = self.end_sessions(context, None, Ended::PasswordReset);
        let decision = Decision::reply(Reply::Sessions(ended))
            .event(Event::PasswordChanged { password, at: context.now })
            .event(Event::SignedOutEverywhere { keep: None })
            .effect(notify(context, "password_changed", &[("at", &context.now.to_string())]))
            .audit(context, "user.password_reset", context.id.key(), "ok");
        Ok(with_effects(decision, effects))
    }
}
