//! Templates: the embedded ones, and overrides by name and locale.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::notifications::template_book::{self, Entry, TemplateBook};
use crate::actors::notifications::templates::{Source, default_source};
use crate::gateway::{Access, Call, Endpoint, Reply};
use crate::kernel::{Error, Timestamp};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/templates/{name}/{locale}", "getTemplate")
            .summary("A template: the override, or the one in the product")
            .tag("notifications")
            .access(Access::Permission("templates:read"))
            .response::<TemplateView>(200, "The template")
            .problem(404)
            .handle(get),
        Endpoint::put("/v1/templates/{name}/{locale}", "putTemplate")
            .summary("Override a template in one locale")
            .description("Texts are Jinja; the HTML part of a mail is made from its text.")
            .tag("notifications")
            .access(Access::Permission("templates:write"))
            .body::<TemplateInput>()
            .response::<TemplateView>(200, "The template")
            .problem(412)
            .problem(422)
            .handle(put),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TemplateInput {
    #[schema(min_length = 1, max_length = 500)]
    subject: String,
    /// What inbox, push and SMS show; the subject when it is left out.
    #[schema(max_length = 1000)]
    short: Option<String>,
    /// A path below the public URL, or an https URL.
    #[schema(max_length = 2048)]
    url: Option<String>,
    #[schema(min_length = 1, max_length = 32768)]
    text: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct TemplateView {
    name: String,
    locale: String,
    subject: String,
    short: String,
    url: String,
    text: String,
    /// Whether it is an override.
    overridden: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    changed_at: Option<Timestamp>,
}

fn view<B>(call: &Call<B>, source: Source, changed_at: Option<Timestamp>) -> TemplateView {
    let (name, locale) = (call.param("name").to_owned(), call.param("locale").to_owned());
    let Source { subject, short, url, text } = source;
    TemplateView { name, locale, subject, short, url, text, overridden: changed_at.is_some(), changed_at }
}

async fn ask<B>(call: &Call<B>, command: template_book::Command) -> Result<Option<Entry>, Error> {
    match call.services.router.ask::<TemplateBook>(&template_book::book(), command, &call.origin).await? {
        template_book::Reply::Entry(entry) => Ok(entry),
        template_book::Reply::Locales(_) => Err(Error::internal()),
    }
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    let (name, locale) = (call.param("name").to_owned(), call.param("locale").to_owned());
    let shipped = default_source(&name, &locale.to_ascii_lowercase());
    match ask(&call, template_book::Command::Get { name, locale }).await? {
        Some(entry) => Ok(Reply::ok(&view(&call, entry.source, Some(entry.changed_at))).etag(entry.version)),
        None => {
            let source = shipped.ok_or_else(|| Error::not_found("template"))?;
            Ok(Reply::ok(&view(&call, source, None)).etag(0))
        }
    }
}

async fn put(call: Call<TemplateInput>) -> Result<Reply, Error> {
    let expected = call.expected_version()?;
    let (name, locale) = (call.param("name").to_owned(), call.param("locale").to_owned());
    let TemplateInput { subject, short, url, text } = &call.body;
    let source = Source {
        subject: subject.clone(),
        short: short.clone().filter(|short| !short.is_empty()).unwrap_or_else(|| subject.clone()),
        url: url.clone().unwrap_or_default(),
        text: text.clone(),
    };
    let command = template_book::Command::Put { name, locale, source, expected };
    let entry = ask(&call, command).await?.ok_or_else(Error::internal)?;
    Ok(Reply::ok(&view(&call, entry.source, Some(entry.changed_at))).etag(entry.version))
}
