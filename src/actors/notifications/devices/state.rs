//! The state of devices and its two pure functions.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::protocol::{Address, Command, Device, Event, Reply};
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Error, ErrorCode, ProviderKind, Timestamp};
use crate::providers::push::Subscription;
use crate::providers::sms::SmsRequest;

pub const MAX_DEVICES: usize = 20;
const CODE_MINUTES: i64 = 10;
const CODE_ATTEMPTS: u8 = 5;
/// A text message costs money: the next code to any number of the person waits this long.
const CODE_PAUSE_SECONDS: i64 = 60;

/// A code on its way to a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Challenge {
    id: String,
    code: String,
    expires: Timestamp,
    refused: u8,
}

/// The devices of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Devices {
    devices: Vec<Device>,
    challenges: Vec<Challenge>,
    code_sent_at: Option<Timestamp>,
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

fn check(address: &Address) -> Result<(), Error> {
    match address {
        Address::WebPush(Subscription { endpoint, p256dh, auth }) => {
            let scheme = endpoint.starts_with("https://") || endpoint.starts_with("http://");
            if !scheme || endpoint.len() > 2048 || endpoint.chars().any(|c| c.is_control() || c == ' ') {
                return Err(Error::invalid("/endpoint", "Expected the https URL of a push service."));
            }
            let point = decoded(p256dh).filter(|key| key.len() == 65 && key[0] == 4);
            if point.is_none() {
                return Err(Error::invalid("/keys/p256dh", "Expected an uncompressed P-256 point in base64url."));
            }
            match decoded(auth) {
                Some(secret) if secret.len() == 16 => Ok(()),
                _ => Err(Error::invalid("/keys/auth", "Expected 16 bytes in base64url.")),
            }
        }
        Address::Sms { number } => {
            let digits = number.strip_prefix('+').unwrap_or_default();
            let valid = (7..=15).contains(&digits.len())
                && digits.bytes().all(|b| b.is_ascii_digit())
                && !digits.starts_with('0');
            if valid { Ok(()) } else { Err(Error::invalid("/number", "Expected a number such as +14155550100.")) }
        }
    }
}

fn same_target(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::WebPush(a), Address::WebPush(b)) => a.endpoint == b.endpoint,
        (Address::Sms { number: a }, Address::Sms { number: b }) => a == b,
        _ => false,
    }
}

impl Devices {
    fn register(&self, name: String, address: Address, context: &Context) -> Result<Decision<Self>, Error> {
        check(&address)?;
        if name.chars().count() > 100 {
            return Err(Error::invalid("/name", "At most 100 characters."));
        }
        let known = self.devices.iter().find(|device| same_target(&device.address, &address));
        if let Some(known) = known.filter(|known| known.address == address && known.verified) {
            return Ok(Decision::reply(Reply::Device(known.clone())));
        }
        if known.is_none() && self.devices.len() >= MAX_DEVICES {
            return Err(Error::conflict(format!("There are already {MAX_DEVICES} devices; remove one first.")));
        }
        if matches!(address, Address::Sms { .. }) {
            self.check_pause(context)?;
        }
        let id = known.map_or_else(|| context.new_id("dev", "device"), |known| known.id.clone());
        let verified = matches!(address, Address::WebPush(_));
        let device = Device { id: id.clone(), name, address, verified, created_at: context.now };
        let mut decision = Decision::reply(Reply::Device(device.clone()))
            .event(Event::Registered { device: device.clone() })
            .audit(context, "device.registered", &id, "ok");
        if let Address::Sms { number } = device.address {
            let random = context.random("code");
            let code = format!("{:06}", u32::from_be_bytes([random[0], random[1], random[2], random[3]]) % 1_000_000);
            let request = SmsRequest { to: number, body: format!("Your code is {code}.") };
            decision = decision
                .event(Event::CodeSent { id, code, expires: context.now.plus_minutes(CODE_MINUTES) })
                .effect(Effect::call(ProviderKind::Sms, &request, ""));
        }
        Ok(decision)
    }

    fn check_pause(&self, context: &Context) -> Result<(), Error> {
        let next = self.code_sent_at.map(|at| at.plus_seconds(CODE_PAUSE_SECONDS));
        match next.map(|next| next.millis_since(context.now)) {
            Some(left) if left > 0 => {
                let seconds = u32::try_from(left.div_euclid(1000) + 1).unwrap_or(u32::MAX);
                let error = Error::new(ErrorCode::RateLimited, "A code was sent a moment ago; wait for it.");
                Err(error.retry_after(seconds))
            }
            _ => Ok(()),
        }
    }

    fn verify(&self, id: String, code: &str, context: &Context) -> Result<Decision<Self>, Error> {
        let device = self.devices.iter().find(|device| device.id == id).ok_or_else(|| Error::not_found("device"))?;
        if device.verified {
            return Ok(Decision::reply(Reply::Device(device.clone())));
        }
        let challenge = self.challenges.iter().find(|challenge| challenge.id == id);
        let live = challenge.filter(|c| c.expires > context.now && c.refused < CODE_ATTEMPTS);
        let Some(challenge) = live else {
            return Err(Error::new(ErrorCode::Gone, "The code is no longer valid; register the number again."));
        };
        if challenge.code != code {
            let event = Event::CodeRefused { id: id.clone() };
            return Ok(Decision::reply(Reply::WrongCode).event(event).audit(context, "device.verified", &id, "denied"));
        }
        let reply = Reply::Device(Device { verified: true, ..device.clone() });
        Ok(Decision::reply(reply).event(Event::Verified { id: id.clone() }).audit(
            context,
            "device.verified",
            &id,
            "ok",
        ))
    }
}

impl Entity for Devices {
    const KIND: &'static str = "devices";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let known = |id: &str| self.devices.iter().any(|device| device.id == id);
        match command {
            Command::Register { name, address } => self.register(name, address, context),
            Command::Verify { id, code } => self.verify(id, &code, context),
            Command::List => Ok(Decision::reply(Reply::Devices(self.devices.clone()))),
            Command::Remove { id } if !known(&id) => Err(Error::not_found("device")),
            Command::Forget { id } if !known(&id) => Ok(Decision::reply(Reply::Done)),
            Command::Remove { id } => Ok(Decision::reply(Reply::Done).event(Event::Removed { id: id.clone() }).audit(
                context,
                "device.removed",
                &id,
                "ok",
            )),
            Command::Forget { id } => Ok(Decision::reply(Reply::Done).event(Event::Removed { id })),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Registered { device } => {
                self.devices.retain(|known| known.id != device.id);
                self.devices.push(device.clone());
            }
            Event::CodeSent { id, code, expires } => {
                self.code_sent_at = Some(expires.plus_minutes(-CODE_MINUTES));
                self.challenges.retain(|challenge| challenge.id != *id);
                let (id, code) = (id.clone(), code.clone());
                self.challenges.push(Challenge { id, code, expires: *expires, refused: 0 });
            }
            Event::CodeRefused { id } => {
                for challenge in self.challenges.iter_mut().filter(|challenge| challenge.id == *id) {
                    challenge.refused = challenge.refused.saturating_add(1);
                }
            }
            Event::Verified { id } => {
                self.challenges.retain(|challenge| challenge.id != *id);
                for device in self.devices.iter_mut().filter(|device| device.id == *id) {
                    device.verified = true;
                }
            }
            Event::Removed { id } => {
                self.challenges.retain(|challenge| challenge.id != *id);
                self.devices.retain(|device| device.id != *id);
            }
        }
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }
}
