//! What is reported, recorded and answered. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::kernel::{ShardId, Timestamp};

/// An act that detections look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// A sign-in with a wrong password or an unknown address.
    SignInFailed,
    /// A wrong code of the second factor.
    SecondFactorFailed,
    /// A spent refresh token was shown again.
    RefreshTokenReused,
    /// Roles of a user, or permissions of a role, were changed.
    PrivilegeChanged,
}

impl Act {
    /// The act an audit entry records, if it is one of these.
    #[must_use]
    pub fn of(action: &str, outcome: &str) -> Option<Self> {
        match (action, outcome) {
            ("user.sign_in", "denied" | "failed") => Some(Self::SignInFailed),
            ("user.mfa", "denied" | "failed") => Some(Self::SecondFactorFailed),
            ("session.refresh_token_reused", _) => Some(Self::RefreshTokenReused),
            ("user.roles_changed" | "role.changed", "ok") => Some(Self::PrivilegeChanged),
            _ => None,
        }
    }
}

/// One audit entry of interest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub act: Act,
    pub at: Timestamp,
    pub actor: String,
    pub target: String,
    /// Keyed pseudonym of the network address; empty for acts of the system.
    pub source: String,
    pub shard: ShardId,
    pub index: u64,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detection {
    /// One source fails to sign in to many accounts.
    CredentialStuffing,
    /// Many failed sign-ins to one account.
    PasswordGuessing,
    /// Many wrong codes for one account.
    SecondFactorGuessing,
    RefreshTokenReuse,
    PrivilegeChange,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// `alt_…`
    pub id: String,
    pub detection: Detection,
    /// Whom it is about: a source's pseudonym, a user, a session or a role.
    pub subject: String,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Acts that count towards it.
    pub acts: u64,
    /// The audit entry that raised it.
    pub shard: ShardId,
    pub index: u64,
    pub acknowledged: Option<(String, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Up to where each log was reported.
    GetOffsets,
    /// Acts of a shard's log from entry `from` (which must be where the last report ended) up to `upto`.
    Report {
        shard: ShardId,
        from: u64,
        upto: u64,
        seen: Vec<Seen>,
    },
    /// Newest first.
    List,
    Acknowledge {
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Reported {
        shard: ShardId,
        upto: u64,
        seen: Vec<Seen>,
    },
    Raised {
        alert: Alert,
    },
    /// One more act of an alert that is open.
    Grown {
        id: String,
        at: Timestamp,
    },
    Acknowledged {
        id: String,
        by: String,
        at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Offsets(Vec<(ShardId, u64)>),
    Alerts(Vec<Alert>),
    Alert(Alert),
    Done,
}
