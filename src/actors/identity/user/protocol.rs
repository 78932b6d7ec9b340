//! What can be asked of a user, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::{Client, Method};
use crate::actors::identity::totp::TotpSecret;
use crate::kernel::{Outcome, Secret, Timestamp};

/// How far an account is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    #[default]
    Absent,
    /// Signed up; the address is not proven yet.
    Unverified,
    Active,
    /// Taken out of service by an administrator.
    Suspended,
    Erased,
}

impl Status {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unverified => "unverified",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Erased => "erased",
        }
    }
}

/// A sign-up for this user's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignUp {
    pub email: String,
    /// The key of the address's `email_claim`.
    pub claim: String,
    /// The password's PHC string.
    pub password: Secret<String>,
    pub role: String,
    pub display_name: Option<String>,
    pub locale: String,
    pub time_zone: String,
    /// What the mailed link carries, and how long it is good.
    pub token: Secret<String>,
    pub token_seconds: i64,
}

/// A password checked by the caller against the credential of that version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    pub password_matches: bool,
    pub credential_version: u64,
    /// The challenge to open when a second factor is due.
    pub challenge: TokenHash,
    pub challenge_seconds: i64,
    pub client: Client,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordResetRequest {
    /// What the mailed link carries, and how long it is good.
    pub token: Secret<String>,
    pub token_seconds: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecondFactor {
    Totp,
    RecoveryCode,
}

/// Members that are `None` stay as they are; an inner `None` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfilePatch {
    pub display_name: Option<Option<String>>,
    pub locale: Option<String>,
    pub time_zone: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    SignUp(Box<SignUp>),
    /// Proves the address with a mailed token and signs in.
    Verify {
        token: TokenHash,
        client: Client,
    },
    /// The timer: no link of an unverified sign-up is good any more.
    LapseSignUp,
    /// How the confirmation of the address's claim ended.
    ClaimSettled(Outcome),
    GetUser,
    /// How to reach the person; the notification service asks.
    GetContact,
    /// What a password is checked against.
    GetCredential,
    SignIn(SignIn),
    AnswerChallenge {
        challenge: TokenHash,
        factor: SecondFactor,
        code: String,
        client: Client,
    },
    /// A session of this user is over.
    SessionEnded {
        session_id: String,
    },
    GetSessions,
    SignOutEverywhere,
    /// Changes the profile, if it is still at `version` when one is given.
    UpdateProfile {
        patch: ProfilePatch,
        version: Option<u64>,
    },
    /// Sets a new password; the caller has checked the old one or a recent sign-in. Ends every session but `keep`.
    ChangePassword {
        password: Secret<String>,
        keep: Option<String>,
    },
    /// A password or code given to prove oneself again was wrong.
    NoteFailedProof,
    RequestPasswordReset(PasswordResetRequest),
    ResetPassword {
        token: TokenHash,
        password: Secret<String>,
    },
    BeginTotp,
    ConfirmTotp {
        code: String,
    },
    RemoveTotp,
    ReplaceRecoveryCodes,
    /// Uses up a code of the second factor to prove oneself again.
    ProveSecondFactor {
        factor: SecondFactor,
        code: String,
    },
    SetRoles {
        roles: Vec<String>,
        version: Option<u64>,
    },
    SetStatus {
        status: Status,
        version: Option<u64>,
    },
    /// Forgets everything about the person; before their data key is destroyed.
    Erase,
}

/// A hashed one-time token and its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeToken {
    pub hash: TokenHash,
    pub expires_at: Timestamp,
}

/// A sign-up that waits for its link to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSignUp {
    pub token: OneTimeToken,
    pub email: String,
    pub claim: String,
    pub password: Secret<String>,
    pub role: String,
    pub display_name: Option<String>,
    pub locale: String,
    pub time_zone: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    SignUpRequested { pending: Box<PendingSignUp>, at: Timestamp },
    KnownAddressNoted { at: Timestamp },
    Verified { token: TokenHash, at: Timestamp },
    SignUpLapsed,
    ClaimLost { at: Timestamp },
    SignInFailed { at: Timestamp },
    ChallengeOpened { challenge: OneTimeToken },
    SecondFactorFailed { challenge: Option<TokenHash>, at: Timestamp },
    ChallengePassed { challenge: TokenHash },
    TotpStepUsed { step: u64 },
    RecoveryCodeUsed { code: TokenHash },
    SessionOpened { session_id: String, device: TokenHash, at: Timestamp },
    SessionClosed { session_id: String },
    SignedOutEverywhere { keep: Option<String> },
    ProfileUpdated { patch: ProfilePatch, at: Timestamp },
    PasswordChanged { password: Secret<String>, at: Timestamp },
    PasswordResetRequested { token: OneTimeToken, at: Timestamp },
    TotpBegun { secret: TotpSecret, at: Timestamp },
    TotpConfirmed { step: u64, recovery_codes: Vec<TokenHash>, at: Timestamp },
    TotpRemoved { at: Timestamp },
    RecoveryCodesReplaced { codes: Vec<TokenHash>, at: Timestamp },
    RolesSet { roles: Vec<String>, at: Timestamp },
    StatusSet { status: Status, at: Timestamp },
    Erased,
}

/// A user as they and administrators see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    pub id: String,
    pub email: String,
    pub display_name: Option<String>,
    pub locale: String,
    pub time_zone: String,
    pub roles: Vec<String>,
    pub status: Status,
    pub totp_enabled: bool,
    pub recovery_codes_left: usize,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// For `ETag` and `If-Match`.
    pub version: u64,
}

/// A person who proved who they are; the session is listed and waits to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    pub session_id: String,
    pub methods: Vec<Method>,
    pub user: UserView,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    User(UserView),
    Contact {
        email: Option<String>,
        display_name: Option<String>,
        locale: String,
        time_zone: String,
    },
    /// `None`: there is nothing to check against, and no sign-in can succeed.
    Credential {
        password: Option<Secret<String>>,
        version: u64,
    },
    /// Wrong password, no such account, not verified, suspended or locked: one answer for all.
    Rejected,
    SignedIn(Box<SignedIn>),
    /// The password was right; a second factor is due until then.
    Challenged {
        expires_at: Timestamp,
    },
    /// The password was changed while it was checked: check again.
    CredentialChanged,
    /// Ids of the open sessions, oldest first. For commands that end sessions: those that were ended.
    Sessions(Vec<String>),
    TotpSecret(TotpSecret),
    /// Shown once.
    RecoveryCodes(Vec<String>),
}
