//! Sections about the services: identity, billing, plans, and the providers of mail, SMS, push and payments.

use serde::Deserialize;

use crate::kernel::{Currency, Money, Secret};

/// The longest life of a link that proves an address: a claim of the address lapses only after that.
pub const VERIFICATION_TOKEN_SECONDS_MAX: i64 = 30 * 86_400;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Filled from `gateway.public_url` when empty.
    pub issuer: String,
    pub access_token_seconds: i64,
    pub refresh_token_seconds: i64,
    pub verification_token_seconds: i64,
    pub reset_token_seconds: i64,
    pub mfa_challenge_seconds: i64,
    pub step_up_seconds: i64,
    pub password_min_length: usize,
    pub password_min_score: u8,
    pub hash_concurrency: usize,
    pub hash_queue_max: usize,
    pub hash_wait_ms: u64,
    pub totp_issuer: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    pub currency: Currency,
    pub invoice_series: String,
    pub tax_basis_points: u32,
    pub seller_name: String,
    pub seller_address: String,
    pub trial_ending_notice_days: u32,
    pub dunning: Dunning,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dunning {
    /// Days after the first declined attempt, ascending.
    pub retry_after_days: Vec<u32>,
    pub then: DunningEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DunningEnd {
    Cancel,
    Pause,
}

/// A plan that a new cluster starts with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSeed {
    pub key: String,
    pub name: String,
    pub audience: Audience,
    /// Orders the plans of an audience: a higher tier is an upgrade.
    pub tier: u32,
    pub trial_days: u32,
    pub entitlements: Vec<String>,
    pub prices: Vec<PriceSeed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    User,
    Provider,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSeed {
    pub interval: Interval,
    pub interval_count: u32,
    pub unit_price: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    Month,
    Year,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTransport {
    Maildir,
    Smtp,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    pub transport: MailTransport,
    /// May carry a password.
    pub smtp_url: Secret<String>,
    pub from: String,
    pub timeout_ms: u64,
    pub dkim: Dkim,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dkim {
    pub domain: String,
    pub selector: String,
    pub key_file: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmsTransport {
    File,
    Twilio,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sms {
    pub transport: SmsTransport,
    pub from: String,
    pub timeout_ms: u64,
    pub twilio: Twilio,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Twilio {
    pub api_base: String,
    pub account_sid: String,
    pub auth_token: Secret<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    pub subject: String,
    pub ttl_seconds: u32,
    pub timeout_ms: u64,
    pub allow_private_endpoints: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentProcessor {
    Sandbox,
    Stripe,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payments {
    pub processor: PaymentProcessor,
    pub timeout_ms: u64,
    pub stripe: Stripe,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stripe {
    pub api_base: String,
    pub secret_key: Secret<String>,
    pub webhook_secret: Secret<String>,
}
