//! The state of preferences and its two pure functions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Policy, Reply, Rule, Settings};
use super::quiet;
use crate::actors::notifications::delivery::{Category, Channel};
use crate::kernel::id::is_type_id;
use crate::kernel::{Context, Decision, Entity, EntityId, Error, ErrorCode, Timestamp};

/// Category × channel, quiet hours and consent of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Preferences {
    settings: Settings,
    consent_at: Option<Timestamp>,
    secret: Option<[u8; 32]>,
    version: u64,
}

/// What holds where a person has set nothing: mail and inbox; push where a device is registered; SMS, which costs money,
/// only when a sender asks for it.
fn default_rule(category: Category, channel: Channel) -> bool {
    match channel {
        Channel::InApp => true,
        Channel::Email => true,
        Channel::Push => category != Category::Promotional,
        Channel::Sms => false,
        Channel::Webhook => true,
    }
}

/// Security messages reach these whatever is set.
fn locked(category: Category, channel: Channel) -> bool {
    category == Category::Security && matches!(channel, Channel::InApp | Channel::Email)
}

impl Settings {
    /// Whether this cell is on.
    #[must_use]
    pub fn enabled(&self, category: Category, channel: Channel) -> bool {
        let rule = self.rules.iter().find(|rule| rule.category == category && rule.channel == channel);
        let wanted = rule.map_or_else(|| default_rule(category, channel), |rule| rule.enabled);
        locked(category, channel) || (wanted && (category != Category::Promotional || self.promotional_consent))
    }

    /// Whether the person turned this cell off.
    fn muted(&self, category: Category, channel: Channel) -> bool {
        let rule = self.rules.iter().find(|rule| rule.category == category && rule.channel == channel);
        !locked(category, channel) && rule.is_some_and(|rule| !rule.enabled)
    }

    fn set(&mut self, category: Category, channel: Channel, enabled: bool) {
        self.rules.retain(|rule| !(rule.category == category && rule.channel == channel));
        self.rules.push(Rule { category, channel, enabled });
    }

    fn check(&self) -> Result<(), Error> {
        for rule in &self.rules {
            let pointer = format!("/categories/{}/{}", rule.category.as_str(), rule.channel.as_str());
            if locked(rule.category, rule.channel) && !rule.enabled {
                return Err(Error::invalid(&pointer, "Security messages cannot be muted here."));
            }
            if rule.category == Category::Promotional && rule.enabled && !self.promotional_consent {
                return Err(Error::invalid(&pointer, "Promotional messages need promotional_consent."));
            }
        }
        if self.rules.len() > Category::ALL.len() * Channel::ALL.len() {
            return Err(Error::invalid("/categories", "There are more rules than cells."));
        }
        match &self.time_zone {
            Some(zone) if !quiet::is_time_zone(zone) => {
                Err(Error::invalid("/quiet_hours/time_zone", "Expected an IANA time zone, such as Europe/Berlin."))
            }
            _ => Ok(()),
        }
    }
}

/// The person, category and proof of a token from an unsubscribe link.
#[must_use]
pub fn parse_token(token: &str) -> Option<(String, Category, String)> {
    let mut parts = token.splitn(3, '.');
    let (user_id, category, proof) = (parts.next()?, parts.next()?, parts.next()?);
    let category = category.parse().ok()?;
    is_type_id("usr", user_id).then(|| (user_id.to_owned(), category, proof.to_owned()))
}

fn proof(secret: &[u8; 32], category: Category) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, category.as_str().as_bytes()))
}

impl Preferences {
    fn genuine(&self, category: Category, proof: &str) -> bool {
        let (Some(secret), Ok(given)) = (&self.secret, URL_SAFE_NO_PAD.decode(proof)) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hmac::verify(&key, category.as_str().as_bytes(), &given).is_ok()
    }

    fn policy(&self, user_id: &str, category: Category, secret: &[u8; 32]) -> Policy {
        let channels = Channel::ALL.into_iter().filter(|channel| self.settings.enabled(category, *channel)).collect();
        let muted = Channel::ALL.into_iter().filter(|channel| self.settings.muted(category, *channel)).collect();
        let unsubscribe_token = match category {
            Category::Security | Category::Transactional => String::new(),
            _ => format!("{user_id}.{}.{}", category.as_str(), proof(secret, category)),
        };
        Policy {
            channels,
            muted,
            quiet_hours: self.settings.quiet_hours,
            time_zone: self.settings.time_zone.clone(),
            consent: category != Category::Promotional || self.settings.promotional_consent,
            unsubscribe_token,
        }
    }

    fn view(&self) -> Reply {
        Reply::Settings { settings: self.settings.clone(), version: self.version, consent_at: self.consent_at }
    }

    fn put(&self, settings: Settings, expected: Option<u64>, context: &Context) -> Result<Decision<Self>, Error> {
        if expected.is_some_and(|expected| expected != self.version) {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The preferences were changed meanwhile."));
        }
        settings.check()?;
        if settings == self.settings && self.version > 0 {
            return Ok(Decision::reply(self.view()));
        }
        let consent_changed = settings.promotional_consent != self.settings.promotional_consent;
        let event = Event::SettingsPut { settings: settings.clone(), at: context.now };
        let mut after = self.clone();
        after.apply(&event);
        let mut decision = Decision::reply(after.view()).event(event);
        decision = decision.audit(context, "preferences.changed", context.id.key(), "ok");
        if consent_changed {
            decision = decision.audit(context, consent_action(settings.promotional_consent), context.id.key(), "ok");
        }
        Ok(decision)
    }
}

fn consent_action(granted: bool) -> &'static str {
    if granted { "consent.promotional.granted" } else { "consent.promotional.withdrawn" }
}

impl Entity for Preferences {
    const KIND: &'static str = "preferences";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Get => Ok(Decision::reply(self.view())),
            Command::Put { settings, expected } => self.put(settings, expected, context),
            Command::GetPolicy { category } => match &self.secret {
                Some(secret) => Ok(Decision::reply(Reply::Policy(self.policy(context.id.key(), category, secret)))),
                None => {
                    let secret = context.random("unsubscribe");
                    let policy = self.policy(context.id.key(), category, &secret);
                    Ok(Decision::reply(Reply::Policy(policy)).event(Event::SecretMade { secret }))
                }
            },
            Command::CheckProof { category, proof } if self.genuine(category, &proof) => {
                Ok(Decision::reply(Reply::Done))
            }
            Command::Unsubscribe { category, proof } if self.genuine(category, &proof) => {
                if !self.settings.enabled(category, Channel::Email) {
                    return Ok(Decision::reply(Reply::Done));
                }
                Ok(Decision::reply(Reply::Done).event(Event::Unsubscribed { category, at: context.now }).audit(
                    context,
                    "preferences.unsubscribed",
                    context.id.key(),
                    "ok",
                ))
            }
            Command::CheckProof { .. } | Command::Unsubscribe { .. } => Err(Error::not_found("unsubscribe link")),
            Command::RecordConsent { granted } if granted == self.settings.promotional_consent => {
                Ok(Decision::reply(Reply::Done))
            }
            Command::RecordConsent { granted } => Ok(Decision::reply(Reply::Done)
                .event(Event::ConsentRecorded { granted, at: context.now })
                .audit(context, consent_action(granted), context.id.key(), "ok")),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::SecretMade { secret } => self.secret = Some(*secret),
            Event::SettingsPut { settings, at } => {
                if settings.promotional_consent != self.settings.promotional_consent {
                    self.consent_at = settings.promotional_consent.then_some(*at);
                }
                self.settings = settings.clone();
                self.version += 1;
            }
            Event::Unsubscribed { category, .. } => {
                self.settings.set(*category, Channel::Email, false);
                if *category == Category::Promotional {
                    self.settings.promotional_consent = false;
                    self.settings.rules.retain(|rule| rule.category != Category::Promotional);
                    self.consent_at = None;
                }
                self.version += 1;
            }
            Event::ConsentRecorded { granted, at } => {
                self.settings.promotional_consent = *granted;
                self.settings.rules.retain(|rule| rule.category != Category::Promotional);
                self.consent_at = granted.then_some(*at);
                self.version += 1;
            }
        }
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }
}
