//! What can be asked of a delivery, what it remembers and what it answers. Persisted: enums grow only at the end.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::actors::notifications::devices::Device;
use crate::actors::notifications::preferences::Policy;
use crate::actors::notifications::templates::Source;
use crate::kernel::Timestamp;

/// Why a notification is sent; preferences are kept by category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Sign-ins, credentials, verification: cannot be muted.
    Security,
    /// What the person did just now caused it.
    Transactional,
    Billing,
    Product,
    /// Needs consent; every mail carries a one-click unsubscribe.
    Promotional,
}

impl Category {
    pub const ALL: [Category; 5] =
        [Self::Security, Self::Transactional, Self::Billing, Self::Product, Self::Promotional];

    /// Whether it is sent in number, and can wait for what somebody did.
    #[must_use]
    pub const fn is_bulk(self) -> bool {
        matches!(self, Self::Product | Self::Promotional)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Security => "security",
            Self::Transactional => "transactional",
            Self::Billing => "billing",
            Self::Product => "product",
            Self::Promotional => "promotional",
        }
    }
}

impl FromStr for Category {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|category| category.as_str() == text).ok_or(UnknownName)
    }
}

/// The way a notification reaches a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    InApp,
    Email,
    Sms,
    Push,
    Webhook,
}

impl Channel {
    pub const ALL: [Channel; 5] = [Self::InApp, Self::Email, Self::Sms, Self::Push, Self::Webhook];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InApp => "in_app",
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Push => "push",
            Self::Webhook => "webhook",
        }
    }
}

impl FromStr for Channel {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == text).ok_or(UnknownName)
    }
}

/// The text names no category or channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such category or channel")]
pub struct UnknownName;

/// Text given by the sender instead of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub title: String,
    pub body: String,
    /// Absolute `https` URL or a path below the public URL.
    pub url: Option<String>,
}

/// One notification to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRequest {
    /// The receiving person; their key seals everything about this delivery. Empty only with `address`.
    pub user_id: String,
    /// An e-mail address that overrides the profile's. Then only e-mail is used and neither the profile nor the
    /// preferences are asked: for mails that verify an address or that must not wait for a profile.
    pub address: Option<String>,
    pub category: Category,
    /// A template name; ignored when there is `content`.
    pub template: String,
    /// What the template shows. `locale` and `display_name` here override the profile's.
    pub data: Vec<(String, String)>,
    pub content: Option<Content>,
    /// Only these channels; `None`: whatever template and preferences say.
    pub channels: Option<Vec<Channel>>,
    /// Push: a newer notification with the same key replaces an undelivered older one (RFC 8030 Topic).
    pub collapse_key: Option<String>,
    pub not_before: Option<Timestamp>,
}

impl SendRequest {
    /// A notification from a template to a person, on the channels their preferences allow.
    #[must_use]
    pub fn template(user_id: &str, category: Category, template: &str, data: &[(&str, &str)]) -> Self {
        Self {
            user_id: user_id.to_owned(),
            address: None,
            category,
            template: template.to_owned(),
            data: data.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            content: None,
            channels: None,
            collapse_key: None,
            not_before: None,
        }
    }

    /// The same by mail only, to this address instead of the profile's.
    #[must_use]
    pub fn to_address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.data.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// How to reach a person, from their profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Contact {
    pub email: Option<String>,
    pub display_name: Option<String>,
    /// BCP 47; empty: the default language.
    pub locale: String,
    /// IANA name; empty: UTC.
    pub time_zone: String,
}

/// How far an attempt on one channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Waits for the end of quiet hours.
    Deferred,
    /// Handed to the outbox; the outcome is not in yet.
    Pending,
    Sent,
    /// The other side refused for good.
    Failed,
    /// Whether it was sent is not known; it is not sent again.
    Unknown,
    /// Nothing to send on this channel, and why.
    Skipped,
}

/// One channel of one notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub channel: Channel,
    /// A device id, or empty where a channel has one target.
    pub target: String,
    pub state: AttemptState,
    pub at: Timestamp,
    /// Why it failed, was skipped or is unknown; never personal data.
    pub detail: String,
    /// What the other side calls it: a Message-ID, a message SID, an inbox offset.
    pub reference: String,
}

/// The state of a whole notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Does not exist.
    #[default]
    Absent,
    /// Waits for its time.
    Scheduled,
    /// Accepted; channels are being decided or attempted.
    Sending,
    /// Every attempt ended and at least one was sent.
    Sent,
    /// Every attempt ended, none was sent, and at least one failed or is unknown.
    Failed,
    /// The person's preferences or missing addresses left no channel.
    Suppressed,
    /// The journal was dropped after its retention time.
    Expired,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Send(SendRequest),
    /// An answer to one of the questions asked after `Send`.
    Gathered(Gathered),
    /// How an attempt ended.
    Attempted(AttemptOutcome),
    /// The timer: the time of a scheduled notification has come.
    Start,
    /// The timer: quiet hours are over.
    Resume,
    /// The timer: the retention time is over.
    Expire,
    GetReport,
}

/// What was found out about the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gathered {
    /// `None`: there is no such person (any more).
    Contact(Option<Contact>),
    Policy(Policy),
    Devices(Vec<Device>),
    /// Overrides of the template, by locale.
    Overrides(Vec<(String, Source)>),
}

/// The final outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptOutcome {
    pub channel: Channel,
    pub target: String,
    pub state: AttemptState,
    pub detail: String,
    pub reference: String,
    /// The target does not exist any more and must not be used again.
    pub gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// `subject`: the receiver, or the delivery itself for a receiver without an account.
    Accepted {
        subject: String,
        request: SendRequest,
        at: Timestamp,
    },
    Started {
        at: Timestamp,
    },
    Gathered(Gathered),
    Planned {
        attempts: Vec<Attempt>,
    },
    Attempted {
        outcome: AttemptOutcome,
        at: Timestamp,
    },
    /// What waited is attempted.
    Resumed {
        at: Timestamp,
    },
    Expired {
        subject: String,
        at: Timestamp,
    },
    /// Before what waited is attempted, everything about the receiver is asked again.
    Reconsidered,
    /// Of what waited, this is given up: skipped, each with the reason.
    Dropped {
        attempts: Vec<Attempt>,
    },
}

/// Everything about a notification except its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub id: String,
    pub user_id: String,
    pub category: Category,
    pub template: String,
    pub status: Status,
    pub accepted_at: Timestamp,
    pub attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Accepted { status: Status },
    Report(Report),
    Done,
}
