//! What can be asked of a session, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::actors::identity::opaque::TokenHash;
use crate::kernel::Timestamp;

/// How a person proved who they are (names after RFC 8176).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Method {
    Password,
    Totp,
    RecoveryCode,
    /// A link sent to the address.
    EmailLink,
}

impl Method {
    /// The value in an access token's `amr` claim.
    #[must_use]
    pub const fn amr(self) -> &'static str {
        match self {
            Self::Password => "pwd",
            Self::Totp => "otp",
            Self::RecoveryCode => "kba",
            Self::EmailLink => "email",
        }
    }
}

/// What is known of the program that signed in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its `User-Agent`, cut to 256 characters.
    pub user_agent: String,
    /// A keyed pseudonym of its network address.
    pub source: String,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    SignedOut,
    SignedOutEverywhere,
    /// A spent refresh token was shown again.
    TokenReuse,
    PasswordReset,
    PasswordChanged,
    AccountSuspended,
    AccountErased,
    /// Newer sessions pushed it off the person's list.
    Displaced,
    Expired,
}

impl Ended {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::SignedOutEverywhere => "signed_out_everywhere",
            Self::TokenReuse => "token_reuse",
            Self::PasswordReset => "password_reset",
            Self::PasswordChanged => "password_changed",
            Self::AccountSuspended => "account_suspended",
            Self::AccountErased => "account_erased",
            Self::Displaced => "displaced",
            Self::Expired => "expired",
        }
    }
}

/// What a new session starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub user_id: String,
    pub roles: Vec<String>,
    pub methods: Vec<Method>,
    pub client: Client,
    /// The first refresh token of the family.
    pub refresh: TokenHash,
    /// It ends after this long without a refresh.
    pub idle_seconds: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Start(Start),
    GetSession,
    /// Exchanges the presented refresh token for the next one.
    Refresh {
        presented: TokenHash,
        next: TokenHash,
        client: Client,
    },
    /// The person proved again who they are.
    Reauthenticate {
        methods: Vec<Method>,
    },
    SetRoles {
        roles: Vec<String>,
    },
    Revoke {
        user_id: String,
        reason: Ended,
    },
    /// The timer: idle or lived too long.
    Expire,
    /// The timer: nobody can hold a token of it any more.
    Forget,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Started { start: Start, at: Timestamp },
    Refreshed { next: TokenHash, client: Client, at: Timestamp },
    Reauthenticated { methods: Vec<Method>, at: Timestamp },
    RolesSet { roles: Vec<String> },
    Revoked { user_id: String, reason: Ended, at: Timestamp },
    Forgotten { user_id: String },
}

/// A session as its owner and the gateway see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    pub id: String,
    pub user_id: String,
    pub roles: Vec<String>,
    pub methods: Vec<Method>,
    pub client: Client,
    pub created_at: Timestamp,
    pub last_used_at: Timestamp,
    /// When the person last proved who they are.
    pub authenticated_at: Timestamp,
    /// It ends then unless it is refreshed before.
    pub expires_at: Timestamp,
    pub ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// `None`: there never was such a session, or it is long over.
    Session(Option<SessionView>),
    Refreshed(SessionView),
    /// The refresh token was spent before, or the session is over; nothing was exchanged.
    Refused,
    Done,
}
