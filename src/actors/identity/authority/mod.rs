//! The identity service as the gateway uses it: who holds this token, and every flow that takes more than one entity.
//!
//! [`Authority::authenticate`] is the one place that turns a bearer token into a [`Principal`]. A token is believed
//! only while its session lives: what a node remembers of a session is at most [`SESSION_MAX_AGE`] old, so a revoked
//! token fails everywhere within a second. Flows are in one file each: `sign_up.rs`, `sign_in.rs`, `sessions.rs`,
//! `api_keys.rs`, `password.rs`, `second_factor.rs`, `users.rs`. Architecture invariant: nothing durable here; a crash between two
//! steps of a flow leaves entities that a repeat of the flow, or a timer, puts right.

mod api_keys;
mod fresh;
mod password;
mod second_factor;
mod sessions;
mod sign_in;
mod sign_up;
#[cfg(test)]
mod tests;
mod users;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use api_keys::NewApiKey;
pub use second_factor::TotpSetUp;
pub use sessions::Proof;
pub use sign_in::{IssuedTokens, SignInOutcome};
pub use sign_up::SignUpRequest;
pub use users::UserPatch;

use self::fresh::{Fresh, Recent};
use super::opaque::{Mint, TokenHash};
use super::passwords::{Passwords, Policy};
use super::roles::permission::{ADMINISTRATOR, PERMISSIONS};
use super::roles::{self, RoleView, Roles};
use super::session::{self, Client, Session, SessionView};
use super::signing_keys::{self, SigningKeys};
use super::tokens::{Claims, Jwk, KeySet, TokenError, new_signing_key};
use crate::actors::runtime::Router;
use crate::kernel::{Clock, Error, ErrorCode, Origin, Principal, Timestamp};
use crate::providers::keys::KeyWrapper;
use crate::settings::Settings;

/// How old a node's knowledge of a session may be.
pub const SESSION_MAX_AGE: Duration = Duration::from_millis(500);
const ROLES_MAX_AGE: Duration = Duration::from_secs(1);
const KEYS_MAX_AGE: Duration = Duration::from_secs(60);
/// How often the keys are asked for again because a token names one that is not known.
const UNKNOWN_KEY_EVERY: Duration = Duration::from_secs(1);
/// Sessions and verified tokens remembered at most.
const SESSIONS_REMEMBERED: usize = 32_768;
const TOKENS_REMEMBERED: usize = 32_768;
const API_KEYS_REMEMBERED: usize = 8192;

/// Sets of roles whose permissions are remembered at most.
const GRANTS_REMEMBERED: usize = 1024;

/// What this node knows of a session: `None` inside when it is over.
type KnownSession = Arc<Fresh<Option<Arc<SessionView>>>>;

/// What a set of roles may do, and by which role table.
type Granted = (Arc<Vec<RoleView>>, Arc<[String]>);

/// Who holds a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    pub principal: Principal,
    /// Sorted names.
    pub permissions: Arc<[String]>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// What the service takes from the configuration.
#[derive(Debug, Clone)]
struct Options {
    issuer: String,
    totp_issuer: String,
    access_token_seconds: i64,
    session_idle_seconds: i64,
    verification_seconds: i64,
    reset_seconds: i64,
    challenge_seconds: i64,
    step_up_seconds: i64,
}

/// The handle of the identity service. One per node.
pub struct Authority {
    router: Router,
    clock: Arc<dyn Clock>,
    keys: Arc<dyn KeyWrapper>,
    options: Options,
    passwords: Passwords,
    mint: Mint,
    index_key: [u8; 32],
    key_set: Fresh<Arc<KeySet>>,
    roles: Fresh<Arc<Vec<RoleView>>>,
    all_permissions: Arc<[String]>,
    granted: Mutex<Recent<Vec<String>, Granted>>,
    sessions: Mutex<Recent<String, KnownSession>>,
    verified: Mutex<Recent<TokenHash, Arc<Claims>>>,
    api_keys: Mutex<Recent<String, Arc<Fresh<Option<api_keys::KeyHolder>>>>>,
}

impl Authority {
    /// Asks nothing yet; [`Authority::start`] does.
    #[must_use]
    pub fn new(router: Router, clock: Arc<dyn Clock>, keys: Arc<dyn KeyWrapper>, settings: &Settings) -> Self {
        let identity = &settings.identity;
        let options = Options {
            issuer: identity.issuer.clone(),
            totp_issuer: identity.totp_issuer.clone(),
            access_token_seconds: identity.access_token_seconds,
            session_idle_seconds: identity.refresh_token_seconds,
            verification_seconds: identity.verification_token_seconds,
            reset_seconds: identity.reset_token_seconds,
            challenge_seconds: identity.mfa_challenge_seconds,
            step_up_seconds: identity.step_up_seconds,
        };
        let policy = Policy {
            min_chars: identity.password_min_length,
            min_score: identity.password_min_score,
            parallel: identity.hash_concurrency,
            waiting: identity.hash_queue_max,
            patience: Duration::from_millis(identity.hash_wait_ms),
        };
        let passwords = Passwords::new(policy, Arc::clone(router.background()));
        let mint = Mint::new(&keys.derive("identity opaque tokens"));
        let index_key = *keys.derive("identity email index");
        Self {
            router,
            clock,
            keys,
            options,
            passwords,
            mint,
            index_key,
            key_set: Fresh::new(KEYS_MAX_AGE),
            roles: Fresh::new(ROLES_MAX_AGE),
            all_permissions: PERMISSIONS.iter().map(|permission| (*permission).to_owned()).collect(),
            granted: Mutex::new(Recent::new(GRANTS_REMEMBERED)),
            sessions: Mutex::new(Recent::new(SESSIONS_REMEMBERED)),
            verified: Mutex::new(Recent::new(TOKENS_REMEMBERED)),
            api_keys: Mutex::new(Recent::new(API_KEYS_REMEMBERED)),
        }
    }

    /// Makes the first signing key of a cluster, or takes the one there is. Called once shards have leaders.
    ///
    /// # Errors
    /// `unavailable` without the meta shard's leader; `internal` when the key service fails.
    pub async fn start(&self) -> Result<(), Error> {
        self.key_set().await.map(|_| ())
    }

    /// Who holds this access token or API key. The administrator token of a data directory is the gateway's own business.
    ///
    /// # Errors
    /// `unauthenticated`; `unavailable` when the session cannot be asked for: then nobody is believed.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, Error> {
        if token.starts_with("key_") {
            return self.key_holder(token).await;
        }
        let claims = self.verify(token).await?;
        let Some(session) = self.live_session(&claims.sid).await?.filter(|session| session.user_id == claims.sub)
        else {
            return Err(Error::unauthenticated("The session is over; sign in again."));
        };
        let permissions = self.permissions_of(&session.roles).await?;
        let (id, roles) = (session.user_id.clone(), session.roles.clone());
        let principal = Principal::User { id, session: Some(session.id.clone()), roles };
        let expires_at = Timestamp::from_millis(claims.exp.saturating_mul(1000));
        Ok(Authenticated { principal, permissions, expires_at })
    }

    /// The session, if it lives; what is answered was true at most [`SESSION_MAX_AGE`] ago. For sockets too, which
    /// ask again while they are open.
    ///
    /// # Errors
    /// `unavailable` when it cannot be asked for.
    pub async fn live_session(&self, session_id: &str) -> Result<Option<Arc<SessionView>>, Error> {
        let known = self.remembered_session(session_id);
        let mut session = known.get_or(|| self.ask_session(session_id)).await?;
        let now = self.clock.now();
        if session.as_ref().is_some_and(|session| session.ended.is_none() && session.expires_at <= now) {
            // It may have been prolonged since it was asked for: only the session itself can say that it ran out.
            known.forget();
            session = known.get_or(|| self.ask_session(session_id)).await?;
        }
        Ok(session.filter(|session| session.ended.is_none() && session.expires_at > now))
    }

    /// What holders of these roles may do, sorted.
    ///
    /// # Errors
    /// `unavailable` when the role table cannot be asked for.
    pub async fn permissions_of(&self, held: &[String]) -> Result<Arc<[String]>, Error> {
        if held.iter().any(|role| role == ADMINISTRATOR) {
            return Ok(Arc::clone(&self.all_permissions));
        }
        let table = self.role_table().await?;
        let mut known = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((by, names)) = known.get(held)
            && Arc::ptr_eq(&by, &table)
        {
            return Ok(names);
        }
        let roles = table.iter().filter(|role| held.contains(&role.name));
        let names: BTreeSet<&String> = roles.flat_map(|role| role.permissions.iter()).collect();
        let names: Arc<[String]> = names.into_iter().cloned().collect();
        known.insert(held.to_vec(), (table, Arc::clone(&names)));
        Ok(names)
    }

    /// Every role as it was at most a second ago.
    ///
    /// # Errors
    /// `unavailable` when the meta shard cannot be asked.
    pub async fn role_table(&self) -> Result<Arc<Vec<RoleView>>, Error> {
        let ask = || async {
            match self.router.ask::<Roles>(&roles::id(), roles::Command::GetRoles, &Origin::system("roles")).await? {
                roles::Reply::Roles(table) => Ok(Arc::new(table)),
                roles::Reply::Role(_) => Err(Error::internal()),
            }
        };
        self.roles.get_or(ask).await
    }

    /// The public keys of the access tokens (RFC 7517).
    ///
    /// # Errors
    /// As [`Authority::start`].
    pub async fn jwks(&self) -> Result<Vec<Jwk>, Error> {
        Ok(self.key_set().await?.jwks())
    }

    /// Signs with a new key from now on; tokens of the old one stay good until they expire.
    ///
    /// # Errors
    /// As [`Authority::start`].
    pub async fn rotate_signing_key(&self, origin: &Origin) -> Result<(), Error> {
        let key = new_signing_key(&*self.keys, self.clock.now()).await.map_err(key_service_failed)?;
        let (id, kid, life_seconds) = (signing_keys::id(), key.kid.clone(), self.options.access_token_seconds);
        let command = signing_keys::Command::RotateKeeping { key, life_seconds };
        let signing_keys::Reply::Keys(stored) = self.router.ask::<SigningKeys>(&id, command, origin).await?;
        self.key_set.forget();
        // Whoever rotates goes on to destroy what wrapped the old key: it must be this one that signs.
        let signs = stored.first().is_some_and(|first| first.kid == kid);
        if signs { Ok(()) } else { Err(Error::unavailable("The signing key was rotated by somebody else meanwhile.")) }
    }

    async fn key_set(&self) -> Result<Arc<KeySet>, Error> {
        let ask = || async {
            let (id, origin) = (signing_keys::id(), Origin::system("signing keys"));
            let signing_keys::Reply::Keys(mut stored) =
                self.router.ask::<SigningKeys>(&id, signing_keys::Command::GetKeys, &origin).await?;
            if stored.is_empty() {
                let key = new_signing_key(&*self.keys, self.clock.now()).await.map_err(key_service_failed)?;
                let signing_keys::Reply::Keys(made) =
                    self.router.ask::<SigningKeys>(&id, signing_keys::Command::EnsureKey(key), &origin).await?;
                stored = made;
            }
            let opened = KeySet::open(&self.options.issuer, stored, &*self.keys).await;
            opened.map(Arc::new).map_err(key_service_failed)
        };
        self.key_set.get_or(ask).await
    }

    async fn verify(&self, token: &str) -> Result<Arc<Claims>, Error> {
        let now = self.clock.now();
        let hash = TokenHash::of(token);
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&hash);
        if let Some(claims) = known {
            claims.check_time(now)?;
            return Ok(claims);
        }
        let claims = match self.key_set().await?.verify(token, now) {
            // Another node may have rotated the key a moment ago. Strangers name keys at will, so this is not asked each time.
            Err(TokenError::UnknownKey) => {
                self.key_set.forget_older(UNKNOWN_KEY_EVERY);
                self.key_set().await?.verify(token, now)?
            }
            result => result?,
        };
        let claims = Arc::new(claims);
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, Arc::clone(&claims));
        Ok(claims)
    }

    fn remembered_session(&self, session_id: &str) -> KnownSession {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sessions.get(session_id) {
            return known;
        }
        let fresh = Arc::new(Fresh::new(SESSION_MAX_AGE));
        sessions.insert(session_id.to_owned(), Arc::clone(&fresh));
        fresh
    }

    /// This node asks again before it believes the session.
    fn forget_session(&self, session_id: &str) {
        self.remembered_session(session_id).forget();
    }

    /// Whether the session began before this cluster did, in another one that it was made from: it may have ended there, or
    /// its refresh token been spent, and nobody here would know.
    fn is_of_before(&self, session_id: &str) -> bool {
        self.router.aftermath().is_some_and(|aftermath| aftermath.may_have_held(session_id))
    }

    async fn ask_session(&self, session_id: &str) -> Result<Option<Arc<SessionView>>, Error> {
        if self.is_of_before(session_id) {
            return Ok(None);
        }
        let origin = Origin::system("session");
        let id = session::id(session_id);
        match self.router.ask::<Session>(&id, session::Command::GetSession, &origin).await {
            Ok(session::Reply::Session(view)) => Ok(view.map(Arc::new)),
            Ok(_) => Err(Error::internal()),
            // Its person was erased and nothing of theirs can be read any more, so nobody holds it.
            Err(error) if error.code == ErrorCode::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A client as sessions remember it.
#[must_use]
pub fn client(user_agent: Option<&str>, origin: &Origin) -> Client {
    let user_agent = user_agent.unwrap_or_default().chars().filter(|c| !c.is_control()).take(256).collect();
    Client { user_agent, source: origin.source.clone() }
}

fn key_service_failed(error: crate::providers::keys::KeyError) -> Error {
    tracing::error!(error = &error as &dyn std::error::Error, "the key service failed for a signing key");
    error.refusal()
}

/// Answers leave at whole multiples of this after their request came in, where the time taken would tell something.
const PACE: Duration = Duration::from_millis(100);

/// Waits for the next multiple of [`PACE`] since `started`.
async fn pace(started: tokio::time::Instant) {
    let steps = u32::try_from(started.elapsed().as_millis() / PACE.as_millis()).unwrap_or(u32::MAX - 1) + 1;
    tokio::time::sleep_until(started + PACE.saturating_mul(steps)).await;
}
