//! What consents are told, what they record and what they answer. Persisted: enums grow only at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kernel::{Outcome, Timestamp};

/// What personal data would be used for beyond what the service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Messages that advertise.
    PromotionalMessages,
    /// How the product is used, by person.
    UsageAnalytics,
    /// Handing data to partners of the platform.
    PartnerSharing,
}

impl Purpose {
    pub const ALL: [Purpose; 3] = [Self::PromotionalMessages, Self::UsageAnalytics, Self::PartnerSharing];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PromotionalMessages => "promotional_messages",
            Self::UsageAnalytics => "usage_analytics",
            Self::PartnerSharing => "partner_sharing",
        }
    }
}

/// A choice for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub purpose: Purpose,
    pub granted: bool,
}

/// The choice that holds, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub granted: bool,
    pub at: Timestamp,
}

/// One row of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub purpose: Purpose,
    pub granted: bool,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// Sets these purposes; others stay. `expected` is the version the caller saw.
    Put {
        choices: Vec<Choice>,
        expected: Option<u64>,
    },
    /// How telling the notification service about promotional messages ended.
    Told(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Changed { change: Change },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Purposes that are not there were never decided. `version` counts changes.
    Consents {
        given: BTreeMap<Purpose, Given>,
        version: u64,
    },
    Done,
}
