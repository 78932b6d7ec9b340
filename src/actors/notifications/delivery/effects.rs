//! What a delivery asks of others, and how their answers come back as its own commands.

use super::protocol::{AttemptOutcome, AttemptState, Channel, Command, Contact, Gathered, SendRequest};
use crate::actors::identity::user::{self, User};
use crate::actors::notifications::devices::{self, Devices};
use crate::actors::notifications::inbox::{self, Inbox};
use crate::actors::notifications::preferences::{self, Policy, Preferences};
use crate::actors::notifications::template_book::{self, TemplateBook};
use crate::kernel::{Effect, Entity, EntityId, ErrorCode, Outcome, codec};
use crate::providers::{email::EmailReceipt, push::PushReceipt, sms::SmsReceipt};

/// The questions whose answers a plan needs.
pub(super) fn questions(request: &SendRequest) -> Vec<Effect> {
    let mut effects = Vec::new();
    if request.address.is_none() {
        let policy = preferences::Command::GetPolicy { category: request.category };
        let id = |kind| EntityId::new(kind, &request.user_id);
        effects.push(Effect::tell::<User>(user::id(&request.user_id), &user::Command::GetContact, "contact"));
        effects.push(Effect::tell::<Preferences>(id(Preferences::KIND), &policy, "policy"));
        effects.push(Effect::tell::<Devices>(id(Devices::KIND), &devices::Command::List, "devices"));
    }
    if request.content.is_none() {
        let list = template_book::Command::ListLocales { name: request.template.clone() };
        effects.push(Effect::tell::<TemplateBook>(template_book::book(), &list, "overrides"));
    }
    effects
}

/// The command that an outcome stands for.
pub(super) fn command(tag: &str, outcome: Outcome) -> Option<Command> {
    let gathered = match tag {
        "contact" => Gathered::Contact(match done::<user::Reply>(&outcome) {
            Some(user::Reply::Contact { email, display_name, locale, time_zone }) => {
                Some(Contact { email, display_name, locale, time_zone })
            }
            _ => None,
        }),
        "policy" => Gathered::Policy(match done::<preferences::Reply>(&outcome) {
            Some(preferences::Reply::Policy(policy)) => policy,
            _ => unknown_policy(),
        }),
        "devices" => Gathered::Devices(match done::<devices::Reply>(&outcome) {
            Some(devices::Reply::Devices(devices)) => devices,
            _ => Vec::new(),
        }),
        "overrides" => Gathered::Overrides(match done::<template_book::Reply>(&outcome) {
            Some(template_book::Reply::Locales(locales)) => locales,
            _ => Vec::new(),
        }),
        _ => return attempted(tag, outcome).map(Command::Attempted),
    };
    Some(Command::Gathered(gathered))
}

fn done<T: serde::de::DeserializeOwned>(outcome: &Outcome) -> Option<T> {
    match outcome {
        Outcome::Done(bytes) => codec::decode(bytes).ok(),
        Outcome::Refused(_) | Outcome::Unknown(_) => None,
    }
}

/// When preferences cannot be read, only the inbox is used and no consent is assumed.
fn unknown_policy() -> Policy {
    Policy {
        channels: vec![Channel::InApp],
        muted: Channel::ALL.into_iter().filter(|channel| *channel != Channel::InApp).collect(),
        quiet_hours: None,
        time_zone: None,
        consent: false,
        unsubscribe_token: String::new(),
    }
}

fn attempted(tag: &str, outcome: Outcome) -> Option<AttemptOutcome> {
    let (channel, target) = tag.split_once(':').unwrap_or((tag, ""));
    let channel: Channel = channel.parse().ok()?;
    let (state, detail, gone) = match &outcome {
        Outcome::Done(_) => (AttemptState::Sent, String::new(), false),
        Outcome::Refused(error) => (AttemptState::Failed, error.detail.clone(), error.code == ErrorCode::Gone),
        Outcome::Unknown(why) => (AttemptState::Unknown, why.clone(), false),
    };
    let reference = match channel {
        Channel::InApp => match done::<inbox::Reply>(&outcome) {
            Some(inbox::Reply::Appended { offset }) => offset.to_string(),
            _ => String::new(),
        },
        Channel::Email => done::<EmailReceipt>(&outcome).map(|receipt| receipt.message_id).unwrap_or_default(),
        Channel::Sms => done::<SmsReceipt>(&outcome).map(|receipt| receipt.id).unwrap_or_default(),
        Channel::Push => done::<PushReceipt>(&outcome).map(|receipt| receipt.location).unwrap_or_default(),
        Channel::Webhook => String::new(),
    };
    Some(AttemptOutcome { channel, target: target.to_owned(), state, detail, reference, gone })
}

/// Puts an item into the person's inbox.
pub(super) fn append(user_id: &str, item: inbox::NewItem) -> Effect {
    let to = EntityId::new(Inbox::KIND, user_id);
    Effect::tell::<Inbox>(to, &inbox::Command::Append(item), Channel::InApp.as_str())
}

/// Tells the person's devices that one does not exist any more.
pub(super) fn forget(user_id: &str, device: &str) -> Effect {
    let to = EntityId::new(Devices::KIND, user_id);
    Effect::tell::<Devices>(to, &devices::Command::Forget { id: device.to_owned() }, "")
}
