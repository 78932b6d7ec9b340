//! Signing in: password, second factor, and the list of sessions.
//!
//! A wrong password, an unknown, unverified, suspended or locked account are one answer. Failures in a row lock: see
//! `Failures`. A challenge takes five answers.

use super::effects::{with_effects, with_events};
use super::protocol::{Event, OneTimeToken, Reply, SecondFactor, SignIn, Status};
use super::state::User;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::{Client, Ended, Method};
use crate::actors::identity::totp::recovery_code_hash;
use crate::kernel::{Context, Decision, Error, ErrorCode};

const CHALLENGE_ANSWERS: u32 = 5;

impl User {
    pub(super) fn credential(&self, context: &Context) -> Reply {
        let usable = self.status == Status::Active && !self.failed_passwords.locked_at(context.now);
        let password = if usable { self.password.clone() } else { None };
        Reply::Credential { password, version: self.credential_version }
    }

    pub(super) fn sign_in(&self, context: &Context, attempt: &SignIn) -> Decision<Self> {
        let id = context.id.key();
        if matches!(self.status, Status::Absent | Status::Erased) {
            return Decision::reply(Reply::Rejected);
        }
        if self.status != Status::Active || self.failed_passwords.locked_at(context.now) {
            return Decision::reply(Reply::Rejected).audit(context, "user.sign_in", id, "denied");
        }
        if attempt.credential_version != self.credential_version {
            return Decision::reply(Reply::CredentialChanged);
        }
        if !attempt.password_matches {
            return Decision::reply(Reply::Rejected).event(Event::SignInFailed { at: context.now }).audit(
                context,
                "user.sign_in",
                id,
                "failed",
            );
        }
        if self.totp.is_some() {
            let expires_at = context.now.plus_seconds(attempt.challenge_seconds);
            let challenge = OneTimeToken { hash: attempt.challenge, expires_at };
            return Decision::reply(Reply::Challenged { expires_at })
                .event(Event::ChallengeOpened { challenge })
                .audit(context, "user.mfa_challenged", id, "ok");
        }
        self.sign_in_done(context, Vec::new(), vec![Method::Password], &attempt.client)
    }

    fn sign_in_done(
        &self,
        context: &Context,
        before: Vec<Event>,
        methods: Vec<Method>,
        client: &Client,
    ) -> Decision<Self> {
        let (signed_in, events, effects) = self.open_session(context, before, methods, client);
        let session_id = signed_in.session_id.clone();
        let decision = Decision::reply(Reply::SignedIn(Box::new(signed_in)))
            .audit(context, "user.sign_in", context.id.key(), "ok")
            .audit(context, "session.started", &session_id, "ok");
        with_effects(with_events(decision, events), effects)
    }

    pub(super) fn answer_challenge(
        &self,
        context: &Context,
        challenge: TokenHash,
        factor: SecondFactor,
        code: &str,
        client: &Client,
    ) -> Result<Decision<Self>, Error> {
        let open = self.challenges.iter().find(|open| open.token.hash == challenge);
        let usable = open.is_some_and(|open| {
            open.token.expires_at > context.now && open.failed < CHALLENGE_ANSWERS && self.status == Status::Active
        });
        if !usable {
            return Ok(Decision::reply(Reply::Rejected).audit(context, "user.mfa", context.id.key(), "denied"));
        }
        self.check_codes_unlocked(context)?;
        let Some((event, method)) = self.accept_code(context, factor, code) else {
            return Ok(self.wrong_code(context, Some(challenge)));
        };
        let before = vec![Event::ChallengePassed { challenge }, event];
        let decision = self.sign_in_done(context, before, vec![Method::Password, method], client);
        Ok(decision.audit(context, "user.mfa", context.id.key(), "ok"))
    }

    /// What accepting the code does; `None` when it is wrong or was used.
    pub(super) fn accept_code(&self, context: &Context, factor: SecondFactor, code: &str) -> Option<(Event, Method)> {
        match factor {
            SecondFactor::Totp => {
                let totp = self.totp.as_ref()?;
                let step = totp.secret.matched_step(code, context.now).filter(|step| *step > totp.last_step)?;
                Some((Event::TotpStepUsed { step }, Method::Totp))
            }
            SecondFactor::RecoveryCode => {
                let hash = recovery_code_hash(context.id.key(), code);
                let known = self.recovery_codes.contains(&hash);
                known.then_some((Event::RecoveryCodeUsed { code: hash }, Method::RecoveryCode))
            }
        }
    }

    pub(super) fn wrong_code(&self, context: &Context, challenge: Option<TokenHash>) -> Decision<Self> {
        Decision::reply(Reply::Rejected).event(Event::SecondFactorFailed { challenge, at: context.now }).audit(
            context,
            "user.mfa",
            context.id.key(),
            "failed",
        )
    }

    pub(super) fn check_codes_unlocked(&self, context: &Context) -> Result<(), Error> {
        if !self.failed_codes.locked_at(context.now) {
            return Ok(());
        }
        let wait = self.failed_codes.locked_until.millis_since(context.now) / 1000 + 1;
        let seconds = u32::try_from(wait).unwrap_or(1);
        Err(Error::new(ErrorCode::RateLimited, "Too many wrong codes; wait before the next one.").retry_after(seconds))
    }

    pub(super) fn session_ended(&self, session_id: String) -> Decision<Self> {
        let decision = Decision::reply(Reply::Done);
        if self.sessions.contains(&session_id) {
            return decision.event(Event::SessionClosed { session_id });
        }
        decision
    }

    pub(super) fn sign_out_everywhere(&self, context: &Context) -> Decision<Self> {
        let (ended, effects) = self.end_sessions(context, None, Ended::SignedOutEverywhere);
        if ended.is_empty() && self.challenges.is_empty() {
            return Decision::reply(Reply::Sessions(ended));
        }
        let decision = Decision::reply(Reply::Sessions(ended)).event(Event::SignedOutEverywhere { keep: None }).audit(
            context,
            "user.signed_out_everywhere",
            context.id.key(),
            "ok",
        );
        with_effects(decision, effects)
    }
}
