//! What an erasure is told, what it records and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;

/// How far an erasure is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nobody asked for it.
    #[default]
    Absent,
    /// Others are being told.
    Leaving,
    /// Others were told; what they have to do is on its way.
    Settling,
    /// The account is being told.
    Closing,
    /// The account is gone; its last messages are on their way.
    Destroying,
    /// The key is being destroyed.
    Sealing,
    Completed,
}

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::Completed => "completed",
            Self::Leaving | Self::Settling | Self::Closing | Self::Destroying | Self::Sealing => "in_progress",
        }
    }
}

/// Somebody who is told. The text form is the tag of the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    SignOut,
    Wallet,
    Farewell,
    Account,
    Key,
}

impl Step {
    /// Those told first.
    pub const LEAVING: [Step; 3] = [Self::SignOut, Self::Wallet, Self::Farewell];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignOut => "sign_out",
            Self::Wallet => "wallet",
            Self::Farewell => "farewell",
            Self::Account => "account",
            Self::Key => "key",
        }
    }

    #[must_use]
    pub fn parse(tag: &str) -> Option<Self> {
        let all = [Self::SignOut, Self::Wallet, Self::Farewell, Self::Account, Self::Key];
        all.into_iter().find(|step| step.as_str() == tag)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Begins; repeats are answered with how far it is.
    Begin,
    Get,
    /// Somebody carried out what they were told, or refused (a problem code).
    Told {
        step: Step,
        refused: Option<String>,
    },
    /// Nothing of the person's waits to be delivered.
    Settled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Begun {
        at: Timestamp,
    },
    Told {
        step: Step,
        refused: Option<String>,
    },
    /// From settling to closing, or from destroying to sealing.
    Settled,
    Completed {
        at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Progress { phase: Phase, begun_at: Option<Timestamp>, completed_at: Option<Timestamp> },
}
