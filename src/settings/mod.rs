//! The configuration of a node: every key of `config/default.toml`, typed.
//!
//! Layers, the later wins: embedded default < `--config` file < `CONSTRUCT__SECTION__KEY` environment < flags.
//! A value is never guessed: an unknown key, a wrong type or an impossible combination is refused with its path, where
//! it was written and what was expected. Deliberately absent: reloading; a changed setting takes effect at start.

mod check;
mod layers;
mod node;
mod print;
mod services;
#[cfg(test)]
mod tests;

use serde::Deserialize;

pub use check::{HEARTBEAT_STEP_MS, route_faults};
pub use layers::{Layers, SettingsError};
pub use node::{
    Actors, Admin, AdminTls, Audit, ClockMode, Cluster, Gateway, Limit, Limits, LogFormat, Node, Route, Storage,
    Telemetry, Tls, WebSocket,
};
pub use services::{
    Audience, Billing, Dkim, Dunning, DunningEnd, Identity, Interval, Mail, MailTransport, PaymentProcessor, Payments,
    PlanSeed, PriceSeed, Push, Sms, SmsTransport, Stripe, Twilio, VERIFICATION_TOKEN_SECONDS_MAX,
};

/// `config/default.toml`, the lowest layer.
pub const EMBEDDED: &str = include_str!("../../config/default.toml");

/// The effective configuration. Field docs are in `config/default.toml`, which holds every key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub clock: ClockMode,
    pub node: Node,
    pub cluster: Cluster,
    pub gateway: Gateway,
    pub admin: Admin,
    pub storage: Storage,
    pub actors: Actors,
    pub identity: Identity,
    pub billing: Billing,
    pub plans: Vec<PlanSeed>,
    pub mail: Mail,
    pub sms: Sms,
    pub push: Push,
    pub payments: Payments,
    pub limits: Limits,
    pub audit: Audit,
    pub telemetry: Telemetry,
}

impl Settings {
    /// Merges the layers, reads them into types and checks them as a whole.
    ///
    /// # Errors
    /// [`SettingsError`] names each key at fault and what was expected there.
    pub fn load(layers: &Layers) -> Result<Self, SettingsError> {
        let merged = layers::merge(layers)?;
        let mut settings: Settings = merged.read()?;
        settings.fill();
        let faults = check::faults(&settings);
        if faults.is_empty() { Ok(settings) } else { Err(merged.located(faults)) }
    }

    /// The embedded defaults alone.
    #[must_use]
    pub fn embedded() -> Self {
        Self::load(&Layers::default()).expect("the embedded configuration is valid; a test reads it")
    }

    /// The effective configuration as TOML, with secrets redacted.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn print(layers: &Layers) -> Result<String, SettingsError> {
        Self::load(layers)?;
        Ok(print::redacted(&layers::merge(layers)?))
    }

    /// Completes values that default to others.
    fn fill(&mut self) {
        if self.node.sandbox_dir.as_os_str().is_empty() {
            self.node.sandbox_dir.clone_from(&self.node.data_dir);
        }
        if self.cluster.address.is_empty() {
            self.cluster.address = self.cluster.listen.to_string();
        }
        if self.gateway.public_url.is_empty() {
            let scheme = if self.gateway.tls.cert_file.is_empty() { "http" } else { "https" };
            self.gateway.public_url = format!("{scheme}://{}", self.gateway.listen);
        }
        while self.gateway.public_url.ends_with('/') {
            self.gateway.public_url.pop();
        }
        if self.identity.issuer.is_empty() {
            self.identity.issuer.clone_from(&self.gateway.public_url);
        }
        if self.audit.origin.is_empty() {
            let (_, rest) = self.gateway.public_url.split_once("://").unwrap_or(("", &self.gateway.public_url));
            self.audit.origin = rest.to_owned();
        }
    }
}
