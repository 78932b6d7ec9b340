//! Signing in with a password and a second factor, and exchanging refresh tokens.
//!
//! A wrong password, an unknown, unverified, suspended or locked account are one answer after one time: the hash is
//! computed in every case and refusals leave at paced times.

use super::{Authority, pace};
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::email_claim::{self, EmailClaim};
use crate::actors::identity::opaque::{OpaqueToken, Purpose, TokenHash};
use crate::actors::identity::session::{self, Client, Session, SessionView, Start};
use crate::actors::identity::user::{self, SecondFactor, SignIn, SignedIn, User, UserView};
use crate::kernel::{AuditRecord, Error, ErrorCode, Origin, Secret, Timestamp};

/// How often a beginning session takes over roles that change meanwhile.
const ROLES_TRIES: usize = 5;

/// Tokens of a session, with the account they are of when it was just proven.
#[derive(Debug, Clone)]
pub struct IssuedTokens {
    pub access_token: Secret<String>,
    pub refresh_token: Secret<String>,
    pub expires_in: i64,
    pub session_id: String,
    pub user: Option<UserView>,
}

/// What a right password leads to.
#[derive(Debug, Clone)]
pub enum SignInOutcome {
    SignedIn(Box<IssuedTokens>),
    /// A second factor is due until then.
    Challenged {
        challenge: Secret<String>,
        expires_at: Timestamp,
    },
}

fn wrong_credentials() -> Error {
    Error::unauthenticated("The e-mail address or the password is wrong.")
}

impl Authority {
    /// Signs in with a password.
    ///
    /// # Errors
    /// `unauthenticated`, the same whatever was wrong; `overloaded`, `unavailable`.
    pub async fn sign_in(
        &self,
        email: &str,
        password: Secret<String>,
        client: Client,
        origin: &Origin,
    ) -> Result<SignInOutcome, Error> {
        let started = tokio::time::Instant::now();
        let outcome = self.try_sign_in(email, password, client, origin).await;
        if outcome.is_err() {
            pace(started).await;
        }
        outcome
    }

    async fn try_sign_in(
        &self,
        email: &str,
        password: Secret<String>,
        client: Client,
        origin: &Origin,
    ) -> Result<SignInOutcome, Error> {
        let Ok(email) = EmailAddress::parse(email) else {
            self.passwords.verify(password, None).await?;
            return Err(wrong_credentials());
        };
        let claim = email.claim_key(&self.index_key);
        let Some(user_id) = self.owner_of(&claim, origin).await? else {
            self.passwords.verify(password, None).await?;
            self.audit_unknown(&claim, "user.sign_in", origin).await?;
            return Err(wrong_credentials());
        };
        let id = user::id(&user_id);
        // A password that is changed while it is checked is checked once more against the new one.
        for _ in 0..2 {
            let reply = self.router.ask::<User>(&id, user::Command::GetCredential, origin).await?;
            let user::Reply::Credential { password: phc, version } = reply else { return Err(Error::internal()) };
            let matches = self.passwords.verify(password.clone(), phc).await?;
            let challenge = self.mint.issue(&user_id, Purpose::MfaChallenge, origin);
            let attempt = SignIn {
                password_matches: matches,
                credential_version: version,
                challenge: TokenHash::of(challenge.expose()),
                challenge_seconds: self.options.challenge_seconds,
                client: client.clone(),
            };
            match self.router.ask::<User>(&id, user::Command::SignIn(attempt), origin).await? {
                user::Reply::CredentialChanged => {}
                user::Reply::Challenged { expires_at } => {
                    return Ok(SignInOutcome::Challenged { challenge, expires_at });
                }
                user::Reply::SignedIn(signed_in) => {
                    let tokens = self.start_session(*signed_in, client, origin).await?;
                    return Ok(SignInOutcome::SignedIn(Box::new(tokens)));
                }
                _ => return Err(wrong_credentials()),
            }
        }
        Err(wrong_credentials())
    }

    /// Answers a challenge with a code.
    ///
    /// # Errors
    /// `unauthenticated` when the challenge or the code is not good; `rate_limited` after too many wrong codes.
    pub async fn answer_challenge(
        &self,
        challenge: &str,
        factor: SecondFactor,
        code: &str,
        client: Client,
        origin: &Origin,
    ) -> Result<IssuedTokens, Error> {
        let refused = || Error::unauthenticated("The code is wrong, or the challenge is over.");
        let token = self.mint.recognize(challenge, "usr", Purpose::MfaChallenge).ok_or_else(refused)?;
        let command = user::Command::AnswerChallenge {
            challenge: token.hash,
            factor,
            code: code.to_owned(),
            client: client.clone(),
        };
        match self.router.ask::<User>(&user::id(&token.owner), command, origin).await? {
            user::Reply::SignedIn(signed_in) => self.start_session(*signed_in, client, origin).await,
            _ => Err(refused()),
        }
    }

    /// Exchanges a refresh token for new tokens. A spent one ends its session.
    ///
    /// # Errors
    /// `unauthenticated`: sign in again.
    pub async fn refresh(&self, text: &str, client: Client, origin: &Origin) -> Result<IssuedTokens, Error> {
        let refused = || Error::unauthenticated("The refresh token is not good (any more); sign in again.");
        let OpaqueToken { owner: session_id, hash: presented } =
            self.mint.recognize(text, "ses", Purpose::Refresh).ok_or_else(refused)?;
        if self.is_of_before(&session_id) {
            return Err(refused());
        }
        let next = self.mint.issue(&session_id, Purpose::Refresh, origin);
        let command = session::Command::Refresh { presented, next: TokenHash::of(next.expose()), client };
        match self.router.ask::<Session>(&session::id(&session_id), command, origin).await? {
            session::Reply::Refreshed(view) => self.tokens_of(&view, next, None).await,
            _ => {
                self.forget_session(&session_id);
                Err(refused())
            }
        }
    }

    /// Starts the session that a sign-in listed, and issues its tokens. Roles that were changed in between were told to
    /// a session that had not begun, so the user is asked once more before any token leaves.
    pub(super) async fn start_session(
        &self,
        signed_in: SignedIn,
        client: Client,
        origin: &Origin,
    ) -> Result<IssuedTokens, Error> {
        let SignedIn { session_id, methods, user } = signed_in;
        let refresh = self.mint.issue(&session_id, Purpose::Refresh, origin);
        let start = Start {
            user_id: user.id.clone(),
            roles: user.roles.clone(),
            methods,
            client,
            refresh: TokenHash::of(refresh.expose()),
            idle_seconds: self.options.session_idle_seconds,
        };
        let id = session::id(&session_id);
        match self.router.ask::<Session>(&id, session::Command::Start(start), origin).await? {
            session::Reply::Session(Some(view)) => {
                let (view, user) = self.with_roles_of_now(view, origin).await?;
                self.tokens_of(&view, refresh, Some(user)).await
            }
            _ => Err(Error::internal()),
        }
    }

    /// The session that has begun, once it has the roles that its user has. Roles that change later are told to it.
    async fn with_roles_of_now(
        &self,
        mut session: SessionView,
        origin: &Origin,
    ) -> Result<(SessionView, UserView), Error> {
        // What is asked more than once here must not be answered from memory.
        let origin = Origin { idempotency: None, ..origin.clone() };
        for _ in 0..ROLES_TRIES {
            let user = match self.user(&session.user_id, &origin).await {
                Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Gone) => {
                    return Err(wrong_credentials());
                }
                user => user?,
            };
            if session.roles == user.roles {
                return Ok((session, user));
            }
            session.roles.clone_from(&user.roles);
            let command = session::Command::SetRoles { roles: user.roles };
            self.router.ask::<Session>(&session::id(&session.id), command, &origin).await?;
        }
        Err(Error::unavailable("The roles of this account are being changed."))
    }

    async fn tokens_of(
        &self,
        session: &SessionView,
        refresh_token: Secret<String>,
        user: Option<UserView>,
    ) -> Result<IssuedTokens, Error> {
        let expires_in = self.options.access_token_seconds;
        let access_token = self.key_set().await?.issue(session, self.clock.now(), expires_in);
        Ok(IssuedTokens { access_token, refresh_token, expires_in, session_id: session.id.clone(), user })
    }

    /// Whose address it is, proven or not.
    pub(super) async fn owner_of(&self, claim: &str, origin: &Origin) -> Result<Option<String>, Error> {
        let command = email_claim::Command::GetOwner;
        match self.router.ask::<EmailClaim>(&email_claim::id(claim), command, origin).await? {
            email_claim::Reply::Owner(owner) => Ok(owner.map(|owner| owner.user_id)),
            email_claim::Reply::Done => Err(Error::internal()),
        }
    }

    /// An entry about an address that nobody has; its keyed hash stands for it.
    pub(super) async fn audit_unknown(&self, claim: &str, action: &str, origin: &Origin) -> Result<(), Error> {
        let id = email_claim::id(claim);
        let record = AuditRecord {
            at: self.clock.now(),
            actor: origin.principal.audit_name().to_owned(),
            action: action.to_owned(),
            target: format!("email_claim:{}", claim.get(..16).unwrap_or(claim)),
            outcome: "failed".to_owned(),
            source: origin.source.clone(),
            request_id: origin.request_id.clone(),
        };
        self.router.audit(&id, vec![record]).await
    }
}
