//! Setting up, confirming, using and removing the second factor.

use super::effects::notify;
use super::protocol::{Event, Reply, SecondFactor};
use super::state::User;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::totp::{TotpSecret, recovery_code_hash, recovery_codes};
use crate::kernel::{Context, Decision, Error};

impl User {
    /// A new secret to scan; it counts only once a code of it is confirmed.
    pub(super) fn begin_totp(&self, context: &Context) -> Result<Decision<Self>, Error> {
        if self.active()?.totp.is_some() {
            return Err(Error::conflict("An authenticator is set up already; remove it first."));
        }
        let secret = TotpSecret::new(&context.random("totp"));
        let event = Event::TotpBegun { secret: secret.clone(), at: context.now };
        let decision = Decision::reply(Reply::TotpSecret(secret)).event(event);
        Ok(decision.audit(context, "user.totp_begun", context.id.key(), "ok"))
    }

    pub(super) fn confirm_totp(&self, context: &Context, code: &str) -> Result<Decision<Self>, Error> {
        self.active()?;
        let Some(secret) = &self.totp_pending else {
            return Err(Error::conflict("No authenticator is being set up."));
        };
        self.check_codes_unlocked(context)?;
        let Some(step) = secret.matched_step(code, context.now) else { return Ok(self.wrong_code(context, None)) };
        let (codes, hashes) = fresh_codes(context);
        let event = Event::TotpConfirmed { step, recovery_codes: hashes, at: context.now };
        Ok(Decision::reply(Reply::RecoveryCodes(codes))
            .event(event)
            .effect(notify(context, "mfa_enabled", &[("at", &context.now.to_string())]))
            .audit(context, "user.totp_enabled", context.id.key(), "ok"))
    }

    pub(super) fn remove_totp(&self, context: &Context) -> Result<Decision<Self>, Error> {
        if self.active()?.totp.is_none() {
            return Err(Error::not_found("authenticator"));
        }
        Ok(Decision::reply(Reply::Done)
            .event(Event::TotpRemoved { at: context.now })
            .effect(notify(context, "mfa_disabled", &[("at", &context.now.to_string())]))
            .audit(context, "user.totp_removed", context.id.key(), "ok"))
    }

    pub(super) fn replace_recovery_codes(&self, context: &Context) -> Result<Decision<Self>, Error> {
        if self.active()?.totp.is_none() {
            return Err(Error::conflict("Recovery codes need an authenticator; set one up first."));
        }
        let (codes, hashes) = fresh_codes(context);
        let event = Event::RecoveryCodesReplaced { codes: hashes, at: context.now };
        let decision = Decision::reply(Reply::RecoveryCodes(codes)).event(event).effect(notify(
            context,
            "recovery_codes_replaced",
            &[("at", &context.now.to_string())],
        ));
        Ok(decision.audit(context, "user.recovery_codes_replaced", context.id.key(), "ok"))
    }

    pub(super) fn prove_second_factor(
        &self,
        context: &Context,
        factor: SecondFactor,
        code: &str,
    ) -> Result<Decision<Self>, Error> {
        self.active()?;
        self.check_codes_unlocked(context)?;
        let Some((event, _)) = self.accept_code(context, factor, code) else {
            return Ok(self.wrong_code(context, None));
        };
        Ok(Decision::reply(Reply::Done).event(event).audit(context, "user.mfa", context.id.key(), "ok"))
    }
}

fn fresh_codes(context: &Context) -> (Vec<String>, Vec<TokenHash>) {
    let codes = recovery_codes(&context.random("recovery codes"));
    let hashes = codes.iter().map(|code| recovery_code_hash(context.id.key(), code)).collect();
    (codes, hashes)
}
