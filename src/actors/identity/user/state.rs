//! The user's state: how events fold into it, and which file decides each command.

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, OneTimeToken, PendingSignUp, ProfilePatch, Reply, Status, UserView};
use super::sign_up;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::totp::TotpSecret;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, Outcome, Secret, Timestamp};

/// Bounds of the lists an account keeps.
pub(super) const MAX_PENDING_SIGN_UPS: usize = 3;
pub(super) const MAX_RESET_TOKENS: usize = 3;
pub(super) const MAX_CHALLENGES: usize = 4;
pub(super) const MAX_SESSIONS: usize = 50;
const MAX_DEVICES: usize = 32;
/// Mails of one kind that anybody can cause without signing in, within an hour.
pub(super) const MAILS_AN_HOUR: usize = 5;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub(super) status: Status,
    pub(super) email: String,
    pub(super) claim: String,
    pub(super) display_name: Option<String>,
    pub(super) locale: String,
    pub(super) time_zone: String,
    pub(super) roles: Vec<String>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) version: u64,
    pub(super) password: Option<Secret<String>>,
    pub(super) credential_version: u64,
    pub(super) pending: Vec<PendingSignUp>,
    pub(super) reset_tokens: Vec<OneTimeToken>,
    pub(super) challenges: Vec<Challenge>,
    pub(super) failed_passwords: Failures,
    pub(super) failed_codes: Failures,
    pub(super) totp: Option<Authenticator>,
    pub(super) totp_pending: Option<TotpSecret>,
    pub(super) recovery_codes: Vec<TokenHash>,
    /// Open sessions, oldest first.
    pub(super) sessions: Vec<String>,
    pub(super) devices: Vec<TokenHash>,
    pub(super) sign_up_mails: Vec<Timestamp>,
    pub(super) reset_mails: Vec<Timestamp>,
}

/// A confirmed authenticator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Authenticator {
    pub secret: TotpSecret,
    /// Codes of this step and before are used up.
    pub last_step: u64,
}

/// A second factor that is awaited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Challenge {
    pub token: OneTimeToken,
    pub failed: u32,
}

/// Consecutive failures, and how long they lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failures {
    pub count: u32,
    pub locked_until: Timestamp,
}

impl Failures {
    /// From the fifth failure in a row: 30 seconds, doubling up to 15 minutes.
    fn count(&mut self, at: Timestamp) {
        self.count = self.count.saturating_add(1);
        if let Some(over) = self.count.checked_sub(5) {
            let seconds = 30i64.saturating_mul(1 << over.min(5)).min(900);
            self.locked_until = at.plus_seconds(seconds);
        }
    }

    pub fn locked_at(&self, now: Timestamp) -> bool {
        now < self.locked_until
    }
}

impl Entity for User {
    const KIND: &'static str = "user";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::SignUp(sign_up) => Ok(self.sign_up(context, *sign_up)),
            Command::Verify { token, client } => self.verify(context, token, &client),
            Command::LapseSignUp => Ok(self.lapse_sign_up(context)),
            Command::ClaimSettled(outcome) => Ok(self.claim_settled(context, &outcome)),
            Command::GetUser => self.existing().map(|user| Decision::reply(Reply::User(user.view(context)))),
            Command::GetContact => self.contact(),
            Command::GetCredential => Ok(Decision::reply(self.credential(context))),
            Command::SignIn(attempt) => Ok(self.sign_in(context, &attempt)),
            Command::AnswerChallenge { challenge, factor, code, client } => {
                self.answer_challenge(context, challenge, factor, &code, &client)
            }
            Command::SessionEnded { session_id } => Ok(self.session_ended(session_id)),
            Command::GetSessions => Ok(Decision::reply(Reply::Sessions(self.sessions.clone()))),
            Command::SignOutEverywhere => Ok(self.sign_out_everywhere(context)),
            Command::UpdateProfile { patch, version } => self.update_profile(context, patch, version),
            Command::ChangePassword { password, keep } => self.change_password(context, password, keep),
            Command::NoteFailedProof => self.note_failed_proof(context),
            Command::RequestPasswordReset(request) => Ok(self.request_password_reset(context, &request)),
            Command::ResetPassword { token, password } => self.reset_password(context, token, password),
            Command::BeginTotp => self.begin_totp(context),
            Command::ConfirmTotp { code } => self.confirm_totp(context, &code),
            Command::RemoveTotp => self.remove_totp(context),
            Command::ReplaceRecoveryCodes => self.replace_recovery_codes(context),
            Command::ProveSecondFactor { factor, code } => self.prove_second_factor(context, factor, &code),
            Command::SetRoles { roles, version } => self.set_roles(context, roles, version),
            Command::SetStatus { status, version } => self.set_status(context, status, version),
            Command::Erase => Ok(self.erase(context)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::SignUpRequested { pending, at } => self.add_pending(pending, *at),
            Event::KnownAddressNoted { at } => remember(&mut self.sign_up_mails, *at, MAILS_AN_HOUR),
            Event::Verified { token, at } => self.activate(*token, *at),
            Event::SignUpLapsed => *self = Self::default(),
            Event::ClaimLost { at } => self.touch(*at).status = Status::Suspended,
            Event::SignInFailed { at } => self.failed_passwords.count(*at),
            Event::ChallengeOpened { challenge } => {
                self.failed_passwords = Failures::default();
                remember(&mut self.challenges, Challenge { token: challenge.clone(), failed: 0 }, MAX_CHALLENGES);
            }
            Event::SecondFactorFailed { challenge, at } => self.count_failed_code(*challenge, *at),
            Event::ChallengePassed { challenge } => {
                self.challenges.retain(|open| open.token.hash != *challenge);
            }
            Event::TotpStepUsed { step } => {
                self.failed_codes = Failures::default();
                if let Some(totp) = &mut self.totp {
                    totp.last_step = *step;
                }
            }
            Event::RecoveryCodeUsed { code } => {
                self.failed_codes = Failures::default();
                self.recovery_codes.retain(|known| known != code);
            }
            Event::SessionOpened { session_id, device, at: _ } => {
                self.failed_passwords = Failures::default();
                remember(&mut self.sessions, session_id.clone(), MAX_SESSIONS);
                self.devices.retain(|known| known != device);
                remember(&mut self.devices, *device, MAX_DEVICES);
            }
            Event::SessionClosed { session_id } => self.sessions.retain(|open| open != session_id),
            Event::SignedOutEverywhere { keep } => {
                self.sessions.retain(|open| Some(open) == keep.as_ref());
                self.challenges.clear();
            }
            Event::ProfileUpdated { patch, at } => self.touch(*at).patch(patch),
            Event::PasswordChanged { password, at } => {
                self.touch(*at).password = Some(password.clone());
                self.credential_version += 1;
                self.failed_passwords = Failures::default();
                self.reset_tokens.clear();
                self.challenges.clear();
            }
            Event::PasswordResetRequested { token, at } => {
                remember(&mut self.reset_mails, *at, MAILS_AN_HOUR);
                remember(&mut self.reset_tokens, token.clone(), MAX_RESET_TOKENS);
            }
            Event::TotpBegun { secret, at: _ } => self.totp_pending = Some(secret.clone()),
            Event::TotpConfirmed { step, recovery_codes, at } => {
                let pending = self.totp_pending.take();
                let user = self.touch(*at);
                user.totp = pending.map(|secret| Authenticator { secret, last_step: *step });
                user.recovery_codes.clone_from(recovery_codes);
            }
            Event::TotpRemoved { at } => {
                let user = self.touch(*at);
                user.totp = None;
                user.recovery_codes.clear();
                user.challenges.clear();
            }
            Event::RecoveryCodesReplaced { codes, at } => self.touch(*at).recovery_codes.clone_from(codes),
            Event::RolesSet { roles, at } => self.touch(*at).roles.clone_from(roles),
            Event::StatusSet { status, at } => self.touch(*at).status = *status,
            Event::Erased => *self = Self { status: Status::Erased, ..Self::default() },
        }
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }

    fn on_timer(name: &str) -> Option<Command> {
        (name == sign_up::LAPSE_TIMER).then_some(Command::LapseSignUp)
    }

    fn on_outcome(tag: &str, outcome: Outcome) -> Option<Command> {
        (tag == sign_up::CLAIM_TAG).then_some(Command::ClaimSettled(outcome))
    }
}

impl User {
    /// The account, unless there is none (any more).
    pub(super) fn existing(&self) -> Result<&Self, Error> {
        match self.status {
            Status::Absent | Status::Erased => Err(Error::not_found("user")),
            Status::Unverified | Status::Active | Status::Suspended => Ok(self),
        }
    }

    /// The account, if its person may act.
    pub(super) fn active(&self) -> Result<&Self, Error> {
        match self.existing()?.status {
            Status::Active => Ok(self),
            _ => Err(Error::forbidden("The account is not active.")),
        }
    }

    pub(super) fn view(&self, context: &Context) -> UserView {
        UserView {
            id: context.id.key().to_owned(),
            email: self.email.clone(),
            display_name: self.display_name.clone(),
            locale: self.locale.clone(),
            time_zone: self.time_zone.clone(),
            roles: self.roles.clone(),
            status: self.status,
            totp_enabled: self.totp.is_some(),
            recovery_codes_left: self.recovery_codes.len(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            version: self.version,
        }
    }

    /// The view after these events.
    pub(super) fn view_after(&self, context: &Context, events: &[Event]) -> UserView {
        let mut after = self.clone();
        for event in events {
            after.apply(event);
        }
        after.view(context)
    }

    fn touch(&mut self, at: Timestamp) -> &mut Self {
        self.version += 1;
        self.updated_at = at;
        self
    }

    fn patch(&mut self, patch: &ProfilePatch) {
        if let Some(display_name) = &patch.display_name {
            self.display_name.clone_from(display_name);
        }
        if let Some(locale) = &patch.locale {
            self.locale.clone_from(locale);
        }
        if let Some(time_zone) = &patch.time_zone {
            self.time_zone.clone_from(time_zone);
        }
    }

    fn add_pending(&mut self, pending: &PendingSignUp, at: Timestamp) {
        if self.status == Status::Absent {
            self.status = Status::Unverified;
            self.created_at = at;
        }
        self.touch(at);
        self.email.clone_from(&pending.email);
        self.claim.clone_from(&pending.claim);
        self.display_name.clone_from(&pending.display_name);
        self.locale.clone_from(&pending.locale);
        self.time_zone.clone_from(&pending.time_zone);
        self.roles = vec![pending.role.clone()];
        remember(&mut self.sign_up_mails, at, MAILS_AN_HOUR);
        remember(&mut self.pending, pending.clone(), MAX_PENDING_SIGN_UPS);
    }

    fn activate(&mut self, token: TokenHash, at: Timestamp) {
        let chosen = self.pending.iter().position(|pending| pending.token.hash == token);
        let Some(pending) = chosen.map(|index| self.pending.swap_remove(index)) else { return };
        self.pending.clear();
        self.touch(at).status = Status::Active;
        self.email = pending.email;
        self.password = Some(pending.password);
        self.credential_version += 1;
        self.roles = vec![pending.role];
        self.display_name = pending.display_name;
        self.locale = pending.locale;
        self.time_zone = pending.time_zone;
    }

    fn count_failed_code(&mut self, challenge: Option<TokenHash>, at: Timestamp) {
        self.failed_codes.count(at);
        if let Some(open) = self.challenges.iter_mut().find(|open| Some(open.token.hash) == challenge) {
            open.failed += 1;
        }
    }
}

/// Appends, forgetting the oldest beyond `limit`.
fn remember<T>(list: &mut Vec<T>, item: T, limit: usize) {
    if list.len() >= limit {
        list.remove(0);
    }
    list.push(item);
}
