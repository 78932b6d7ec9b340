//! Which channels a notification takes, and with what text: a pure function of what was asked and found out.

use std::collections::BTreeMap;

use super::effects;
use super::protocol::{Attempt, AttemptState, Category, Channel, Contact, SendRequest};
use crate::actors::notifications::devices::{Address, Device};
use crate::actors::notifications::inbox::NewItem;
use crate::actors::notifications::preferences::Policy;
use crate::actors::notifications::templates::{self, Rendered, Source};
use crate::kernel::{Effect, ProviderKind, Timestamp};
use crate::providers::email::EmailRequest;
use crate::providers::push::{MAX_PAYLOAD_BYTES, PushRequest, Urgency};
use crate::providers::sms::SmsRequest;

/// The longest text message, in characters: ten segments.
const MAX_SMS_CHARS: usize = 1530;

/// Everything a plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub id: &'a str,
    pub request: &'a SendRequest,
    /// `None`: there is no such person.
    pub contact: Option<&'a Contact>,
    pub policy: Option<&'a Policy>,
    pub devices: &'a [Device],
    pub overrides: &'a [(String, Source)],
    pub now: Timestamp,
}

/// What to do, and what to write into the journal about it.
#[derive(Debug, Default)]
pub struct Plan {
    pub attempts: Vec<Attempt>,
    pub effects: Vec<Effect>,
    /// When deferred attempts are to be made.
    pub resume_at: Option<Timestamp>,
}

/// Decides every channel.
#[must_use]
pub fn plan(inputs: Inputs<'_>) -> Plan {
    let channels = wanted(inputs.request);
    let mut plan = Plan::default();
    let rendered = render(inputs);
    let quiet_until = quiet_until(inputs);
    for channel in channels {
        let refusal = match &rendered {
            Err(why) => Some(why.as_str()),
            Ok(_) => refusal(inputs, channel),
        };
        if let Some(why) = refusal {
            plan.attempts.push(attempt(inputs, channel, "", AttemptState::Skipped, why));
            continue;
        }
        let Ok(rendered) = &rendered else { continue };
        let calls = calls(inputs, channel, rendered);
        if calls.is_empty() {
            plan.attempts.push(attempt(inputs, channel, "", AttemptState::Skipped, no_target(channel)));
        }
        let deferred = quiet_until.filter(|_| waits_for_quiet_hours(inputs.request.category, channel));
        for (target, effect) in calls {
            let state = if deferred.is_some() { AttemptState::Deferred } else { AttemptState::Pending };
            plan.attempts.push(attempt(inputs, channel, &target, state, ""));
            match deferred {
                Some(until) => plan.resume_at = Some(until),
                None => plan.effects.push(effect),
            }
        }
    }
    plan
}

/// Decides again about attempts that waited: those that are not to be made any more, as skipped, and the effects of the
/// others, unless they wait on.
#[must_use]
pub fn resume(inputs: Inputs<'_>, waiting: &[&Attempt]) -> Plan {
    let rendered = render(inputs);
    let quiet_until = quiet_until(inputs);
    let mut plan = Plan::default();
    for Attempt { channel, target, .. } in waiting {
        let effect = match (&rendered, refusal(inputs, *channel)) {
            (Err(why), _) => Err(why.as_str()),
            (_, Some(why)) => Err(why),
            (Ok(rendered), None) => {
                let found = calls(inputs, *channel, rendered).into_iter().find(|(to, _)| to == target);
                found.map(|(_, effect)| effect).ok_or(no_target(*channel))
            }
        };
        match effect {
            Err(why) => plan.attempts.push(attempt(inputs, *channel, target, AttemptState::Skipped, why)),
            Ok(effect) => plan.effects.push(effect),
        }
    }
    // Of one category, what interrupts waits together.
    if !plan.effects.is_empty() {
        plan.resume_at = quiet_until;
    }
    plan
}

fn attempt(inputs: Inputs<'_>, channel: Channel, target: &str, state: AttemptState, detail: &str) -> Attempt {
    let (target, detail) = (target.to_owned(), detail.to_owned());
    Attempt { channel, target, state, at: inputs.now, detail, reference: String::new() }
}

fn wanted(request: &SendRequest) -> Vec<Channel> {
    if request.address.is_some() || (request.content.is_none() && templates::email_only(&request.template)) {
        return vec![Channel::Email];
    }
    let given = request.channels.clone().filter(|channels| !channels.is_empty());
    let mut channels = given.unwrap_or_else(|| vec![Channel::InApp, Channel::Email, Channel::Sms, Channel::Push]);
    channels.sort_unstable();
    channels.dedup();
    channels
}

/// Why a channel is not used, if it is not.
fn refusal(inputs: Inputs<'_>, channel: Channel) -> Option<&'static str> {
    if inputs.request.address.is_some() {
        return None;
    }
    if inputs.contact.is_none() {
        return Some("there is no such person");
    }
    let policy = inputs.policy?;
    if !policy.consent {
        return Some("no consent to promotional messages");
    }
    let asked = inputs.request.channels.as_ref().is_some_and(|channels| channels.contains(&channel));
    let muted = if asked { policy.muted.contains(&channel) } else { !policy.channels.contains(&channel) };
    muted.then_some("muted by preferences")
}

fn no_target(channel: Channel) -> &'static str {
    match channel {
        Channel::InApp => "no inbox",
        Channel::Email => "no e-mail address",
        Channel::Sms => "no verified number",
        Channel::Push => "no registered device",
        Channel::Webhook => "no webhook endpoint",
    }
}

fn waits_for_quiet_hours(category: Category, channel: Channel) -> bool {
    let interrupts = matches!(channel, Channel::Sms | Channel::Push);
    match category {
        Category::Security | Category::Transactional => false,
        Category::Billing | Category::Product => interrupts,
        Category::Promotional => interrupts || channel == Channel::Email,
    }
}

fn quiet_until(inputs: Inputs<'_>) -> Option<Timestamp> {
    let policy = inputs.policy?;
    let zone = policy.time_zone.as_deref().or(inputs.contact.map(|contact| contact.time_zone.as_str()));
    policy.quiet_hours?.end_after(inputs.now, zone.unwrap_or("UTC"))
}

fn render(inputs: Inputs<'_>) -> Result<Rendered, String> {
    let request = inputs.request;
    if let Some(content) = &request.content {
        return Ok(templates::plain(&content.title, &content.body, content.url.as_deref()));
    }
    let profile = inputs.contact.map_or("", |contact| contact.locale.as_str());
    let locale = request.value("locale").unwrap_or(profile);
    let source = templates::resolve(&request.template, locale, inputs.overrides)
        .ok_or_else(|| "there is no such template".to_owned())?;
    let mut data: BTreeMap<&str, &str> = BTreeMap::new();
    if let Some(name) = inputs.contact.and_then(|contact| contact.display_name.as_deref()) {
        data.insert("display_name", name);
    }
    data.extend(request.data.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    templates::render(&source, &data).map_err(|error| error.to_string())
}

/// One effect for each target of a channel, with the target's name in the journal.
fn calls(inputs: Inputs<'_>, channel: Channel, rendered: &Rendered) -> Vec<(String, Effect)> {
    match channel {
        Channel::InApp if !inputs.request.user_id.is_empty() => {
            vec![(String::new(), effects::append(&inputs.request.user_id, item(inputs, rendered)))]
        }
        Channel::Email => email(inputs, rendered).into_iter().map(|effect| (String::new(), effect)).collect(),
        Channel::Sms => numbers(inputs).map(|(id, number)| sms(id, number, rendered)).collect(),
        Channel::Push => inputs.devices.iter().filter_map(|device| push(inputs, device, rendered)).collect(),
        Channel::InApp | Channel::Webhook => Vec::new(),
    }
}

fn item(inputs: Inputs<'_>, rendered: &Rendered) -> NewItem {
    NewItem {
        id: inputs.id.to_owned(),
        category: inputs.request.category,
        title: rendered.subject.clone(),
        body: rendered.short.clone(),
        url: rendered.url.clone(),
    }
}

fn email(inputs: Inputs<'_>, rendered: &Rendered) -> Option<Effect> {
    let profile = inputs.contact.and_then(|contact| contact.email.clone());
    let to = inputs.request.address.clone().or(profile)?;
    let token = inputs.policy.map_or("", |policy| policy.unsubscribe_token.as_str());
    let offers = matches!(inputs.request.category, Category::Promotional | Category::Product) && !token.is_empty();
    let request = EmailRequest {
        to,
        to_name: inputs.contact.and_then(|contact| contact.display_name.clone()),
        subject: rendered.subject.clone(),
        text: rendered.text.clone(),
        html: Some(rendered.html.clone()),
        unsubscribe: offers.then(|| format!("/u/{token}")),
    };
    Some(Effect::call(ProviderKind::Email, &request, Channel::Email.as_str()))
}

fn numbers<'a>(inputs: Inputs<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    inputs.devices.iter().filter(|device| device.verified).filter_map(|device| match &device.address {
        Address::Sms { number } => Some((device.id.as_str(), number.as_str())),
        Address::WebPush(_) => None,
    })
}

fn sms(id: &str, number: &str, rendered: &Rendered) -> (String, Effect) {
    let body = if rendered.short == rendered.subject {
        rendered.short.clone()
    } else {
        format!("{}: {}", rendered.subject, rendered.short)
    };
    let request = SmsRequest { to: number.to_owned(), body: body.chars().take(MAX_SMS_CHARS).collect() };
    (id.to_owned(), Effect::call(ProviderKind::Sms, &request, &format!("sms:{id}")))
}

fn push(inputs: Inputs<'_>, device: &Device, rendered: &Rendered) -> Option<(String, Effect)> {
    let Address::WebPush(subscription) = &device.address else { return None };
    let high = matches!(inputs.request.category, Category::Security | Category::Transactional);
    let request = PushRequest {
        subscription: subscription.clone(),
        payload: payload(inputs, rendered),
        ttl_seconds: None,
        urgency: if high { Urgency::High } else { Urgency::Normal },
        topic: inputs.request.collapse_key.clone(),
    };
    Some((device.id.clone(), Effect::call(ProviderKind::Push, &request, &format!("push:{}", device.id))))
}

/// The JSON a service worker gets; the body is cut until it fits one encrypted record.
fn payload(inputs: Inputs<'_>, rendered: &Rendered) -> Vec<u8> {
    let mut body: String = rendered.short.clone();
    loop {
        let json = serde_json::json!({
            "id": inputs.id,
            "category": inputs.request.category,
            "title": rendered.subject,
            "body": body,
            "url": rendered.url,
        });
        let bytes = json.to_string().into_bytes();
        if bytes.len() <= MAX_PAYLOAD_BYTES || body.is_empty() {
            return bytes;
        }
        let keep = body.chars().count() * 3 / 4;
        body = body.chars().take(keep).collect();
    }
}
