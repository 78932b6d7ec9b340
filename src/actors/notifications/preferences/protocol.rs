//! Commands, events and replies of preferences. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use super::QuietHours;
use crate::actors::notifications::delivery::{Category, Channel};
use crate::kernel::Timestamp;

/// One cell of category × channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub category: Category,
    pub channel: Channel,
    pub enabled: bool,
}

/// Everything a person can set. What no rule says is as the product has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Settings {
    pub rules: Vec<Rule>,
    pub quiet_hours: Option<QuietHours>,
    /// IANA name; `None`: the profile's.
    pub time_zone: Option<String>,
    pub promotional_consent: bool,
}

/// What a delivery of one category needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub channels: Vec<Channel>,
    /// Those the person turned off; others that are not in `channels` may be used when a sender asks for them.
    pub muted: Vec<Channel>,
    pub quiet_hours: Option<QuietHours>,
    pub time_zone: Option<String>,
    /// Consent where the category needs it; `true` where it needs none.
    pub consent: bool,
    /// Goes behind `/u/`; empty where unsubscribing is not possible.
    pub unsubscribe_token: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// Replaces the settings; `expected` is the version the caller saw.
    Put {
        settings: Settings,
        expected: Option<u64>,
    },
    /// Asked by deliveries.
    GetPolicy {
        category: Category,
    },
    /// The holder of a mail's unsubscribe link asks to get no more of its kind.
    Unsubscribe {
        category: Category,
        proof: String,
    },
    /// Consent to promotional messages was given or withdrawn elsewhere (the compliance service's consents).
    RecordConsent {
        granted: bool,
    },
    /// Whether an unsubscribe link is genuine, without acting on it.
    CheckProof {
        category: Category,
        proof: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Made when first needed: what unsubscribe proofs are derived from.
    SecretMade {
        secret: [u8; 32],
    },
    SettingsPut {
        settings: Settings,
        at: Timestamp,
    },
    Unsubscribed {
        category: Category,
        at: Timestamp,
    },
    ConsentRecorded {
        granted: bool,
        at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Settings { settings: Settings, version: u64, consent_at: Option<Timestamp> },
    Policy(Policy),
    Done,
}
