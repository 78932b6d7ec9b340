//! Notification preferences of the caller.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::notifications::delivery::{Category, Channel};
use crate::actors::notifications::preferences::{self, Preferences, QuietHours, Rule, Settings};
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::{Entity as _, EntityId, Error, Timestamp};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/notification-preferences", "getNotificationPreferences")
            .summary("What I want to hear, on which channel, and when not")
            .tag("notifications")
            .response::<PreferencesView>(200, "The preferences; every cell of category × channel")
            .handle(get),
        Endpoint::put("/v1/notification-preferences", "putNotificationPreferences")
            .summary("Replace my preferences; cells that are left out are as the product has them")
            .description("`security` reaches inbox and mailbox whatever is set; `promotional` needs consent.")
            .tag("notifications")
            .body::<PreferencesInput>()
            .response::<PreferencesView>(200, "The preferences after it")
            .problem(412)
            .problem(422)
            .handle(put),
    ]
}

/// A daily window in which nothing that can wait interrupts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QuietHoursView {
    /// `HH:MM`, inclusive.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    start: String,
    /// `HH:MM`, exclusive; before `start`: on the next day.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    end: String,
    /// IANA name; the profile's when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "time-zone")]
    time_zone: Option<String>,
}

type Matrix = BTreeMap<String, BTreeMap<String, bool>>;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PreferencesInput {
    /// Category → channel → whether.
    #[serde(default)]
    categories: Matrix,
    #[serde(default)]
    quiet_hours: Option<QuietHoursView>,
    /// Consent to promotional messages; recorded with its time.
    #[serde(default)]
    promotional_consent: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct PreferencesView {
    categories: Matrix,
    quiet_hours: Option<QuietHoursView>,
    promotional_consent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    consented_at: Option<Timestamp>,
}

fn view(settings: &Settings, consented_at: Option<Timestamp>) -> PreferencesView {
    let row = |category| {
        let cells = Channel::ALL.into_iter();
        cells.map(|channel| (channel.as_str().to_owned(), settings.enabled(category, channel))).collect()
    };
    let quiet_hours = settings.quiet_hours.map(|hours| QuietHoursView {
        start: hours.start(),
        end: hours.end(),
        time_zone: settings.time_zone.clone(),
    });
    PreferencesView {
        categories: Category::ALL.into_iter().map(|c| (c.as_str().to_owned(), row(c))).collect(),
        quiet_hours,
        promotional_consent: settings.promotional_consent,
        consented_at,
    }
}

fn settings(input: PreferencesInput) -> Result<Settings, Error> {
    let mut rules = Vec::new();
    for (category_name, channels) in &input.categories {
        let category: Category = category_name
            .parse()
            .map_err(|_| Error::invalid(&format!("/categories/{category_name}"), "There is no such category."))?;
        for (channel_name, enabled) in channels {
            let pointer = format!("/categories/{category_name}/{channel_name}");
            let channel: Channel =
                channel_name.parse().map_err(|_| Error::invalid(&pointer, "There is no such channel."))?;
            rules.push(Rule { category, channel, enabled: *enabled });
        }
    }
    // What was read can be written back: without consent no promotional cell is on, and none need be named.
    rules.retain(|rule| rule.category != Category::Promotional || rule.enabled || input.promotional_consent);
    let quiet_hours = match &input.quiet_hours {
        None => None,
        Some(hours) => Some(QuietHours::parse(&hours.start, &hours.end).ok_or_else(|| {
            Error::invalid("/quiet_hours", "Expected two different times of day such as 22:00 and 07:00.")
        })?),
    };
    let time_zone = input.quiet_hours.and_then(|hours| hours.time_zone);
    Ok(Settings { rules, quiet_hours, time_zone, promotional_consent: input.promotional_consent })
}

async fn ask<B>(call: &Call<B>, command: preferences::Command) -> Result<Reply, Error> {
    let id = EntityId::new(Preferences::KIND, call.user_id()?);
    match call.services.router.ask::<Preferences>(&id, command, &call.origin).await? {
        preferences::Reply::Settings { settings, version, consent_at } => {
            Ok(Reply::ok(&view(&settings, consent_at)).etag(version))
        }
        _ => Err(Error::internal()),
    }
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    ask(&call, preferences::Command::Get).await
}

async fn put(mut call: Call<PreferencesInput>) -> Result<Reply, Error> {
    let expected = call.expected_version()?;
    let empty = PreferencesInput { categories: Matrix::new(), quiet_hours: None, promotional_consent: false };
    let settings = settings(std::mem::replace(&mut call.body, empty))?;
    ask(&call, preferences::Command::Put { settings, expected }).await
}
