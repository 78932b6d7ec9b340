//! Templates: embedded defaults, overrides, locale fallback and rendering. Pure functions of their arguments.
//!
//! A template file is a few header lines (`Subject:`, `Short:`, `Url:`), an empty line, and the text of the mail, all
//! minijinja. `Short` is what the inbox, push and SMS show. The HTML part is made from the text by one layout, so that
//! the two can never say different things. Undefined values render as nothing.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::providers::PUBLIC_URL;

mod embedded;

/// The language of last resort.
pub const DEFAULT_LOCALE: &str = "en";

/// Instructions one rendering may take; an override that loops is refused.
const FUEL: u64 = 50_000;

const LAYOUT: &str = include_str!("templates/layout.html");
/// Its ending has values escaped.
const LAYOUT_NAME: &str = "layout.html";

/// Templates that go by mail alone: they carry a token, or their receiver has no account.
const EMAIL_ONLY: &[&str] = &["verify_email", "known_address", "password_reset", "erasure_done"];

/// A template before rendering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub subject: String,
    pub short: String,
    /// A path below the public URL or an absolute URL; may be empty.
    pub url: String,
    pub text: String,
}

/// A rendered notification. `text` and `html` may contain [`PUBLIC_URL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub subject: String,
    pub short: String,
    pub url: Option<String>,
    pub text: String,
    pub html: String,
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the header needs a Subject line, then an empty line, then the text")]
    Header,
    #[error("the template does not render: {0}")]
    Render(String),
}

/// Names of the embedded templates.
pub fn names() -> impl Iterator<Item = &'static str> {
    embedded::TEMPLATES.iter().filter(|(_, locale, _)| *locale == DEFAULT_LOCALE).map(|(name, _, _)| *name)
}

#[must_use]
pub fn email_only(name: &str) -> bool {
    EMAIL_ONLY.contains(&name)
}

/// The embedded template of exactly this locale.
#[must_use]
pub fn default_source(name: &str, locale: &str) -> Option<Source> {
    let (_, _, text) = embedded::TEMPLATES.iter().find(|(n, l, _)| *n == name && *l == locale)?;
    Some(parse(text).expect("embedded templates parse; a test renders each"))
}

/// The best template for a locale: the locale, its language, then the default language; an override before the
/// embedded one of the same locale.
#[must_use]
pub fn resolve(name: &str, locale: &str, overrides: &[(String, Source)]) -> Option<Source> {
    let locale = locale.replace('_', "-");
    let language = locale.split('-').next().unwrap_or_default();
    [locale.as_str(), language, DEFAULT_LOCALE].into_iter().find_map(|candidate| {
        let given = overrides.iter().find(|(l, _)| l.eq_ignore_ascii_case(candidate)).map(|(_, source)| source.clone());
        given.or_else(|| default_source(name, &candidate.to_ascii_lowercase()))
    })
}

/// # Errors
/// [`TemplateError::Header`] when there is no subject or no text.
pub fn parse(text: &str) -> Result<Source, TemplateError> {
    let text = text.replace("\r\n", "\n");
    let (header, body) = text.split_once("\n\n").ok_or(TemplateError::Header)?;
    let mut source = Source { subject: String::new(), short: String::new(), url: String::new(), text: body.to_owned() };
    for line in header.lines() {
        let (name, value) = line.split_once(':').ok_or(TemplateError::Header)?;
        let value = value.trim().to_owned();
        match name {
            "Subject" => source.subject = value,
            "Short" => source.short = value,
            "Url" => source.url = value,
            _ => return Err(TemplateError::Header),
        }
    }
    if source.subject.is_empty() || source.text.trim().is_empty() {
        return Err(TemplateError::Header);
    }
    if source.short.is_empty() {
        source.short.clone_from(&source.subject);
    }
    Ok(source)
}

/// All but the unreserved characters of RFC 3986 §2.3, which need no encoding and stay readable in a link.
const RESERVED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment
        .set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
    environment
        .add_filter("urlencode", |text: String| percent_encoding::utf8_percent_encode(&text, RESERVED).to_string());
    environment.add_global("public_url", PUBLIC_URL);
    environment.add_template(LAYOUT_NAME, LAYOUT).expect("the layout parses; a test renders it");
    environment
});

/// Renders with `data`; the mail's HTML part is made from its text part.
///
/// # Errors
/// [`TemplateError::Render`] for a syntax error or a template that takes too long.
pub fn render(source: &Source, data: &BTreeMap<&str, &str>) -> Result<Rendered, TemplateError> {
    let values = Value::from_pairs(data.iter().map(|(name, value)| (*name, *value)));
    let part = |name: &str, text: &str| {
        ENVIRONMENT
            .render_named_str(name, text, values.clone())
            .map_err(|error| TemplateError::Render(format!("{name}: {error}")))
    };
    let subject = one_line(&part("subject", &source.subject)?);
    let short = one_line(&part("short", &source.short)?);
    let url = one_line(&part("url", &source.url)?);
    let text = part("text", &source.text)?;
    let html = to_html(&subject, &text)?;
    Ok(Rendered { subject, short, url: Some(url).filter(|url| !url.is_empty()), text, html })
}

/// Free text in the shape of a template.
#[must_use]
pub fn plain(title: &str, body: &str, url: Option<&str>) -> Rendered {
    let mut text = body.trim_end().to_owned();
    if let Some(url) = url {
        let base = if url.starts_with('/') { PUBLIC_URL } else { "" };
        text.push_str(&format!("\n\n{base}{url}"));
    }
    text.push('\n');
    let subject = one_line(title);
    let html = to_html(&subject, &text).unwrap_or_default();
    Rendered { subject, short: body.to_owned(), url: url.map(str::to_owned), text, html }
}

fn to_html(subject: &str, text: &str) -> Result<String, TemplateError> {
    let is_link =
        |line: &str| line.starts_with(PUBLIC_URL) || line.starts_with("https://") || line.starts_with("http://");
    let line = |text: &str| Value::from_pairs([("text", Value::from(text)), ("link", Value::from(is_link(text)))]);
    let paragraphs: Value = text
        .split("\n\n")
        .filter(|paragraph| !paragraph.trim().is_empty())
        .map(|paragraph| paragraph.trim().lines().map(line).collect::<Value>())
        .collect();
    ENVIRONMENT
        .get_template(LAYOUT_NAME)
        .and_then(|layout| layout.render(context! { subject => subject, paragraphs => paragraphs }))
        .map_err(|error| TemplateError::Render(format!("layout: {error}")))
}

/// Header fields must not be broken by what a value contains.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("display_name", "Ada <b>"),
            ("token", "t/1"),
            ("total", "19.99 USD"),
            ("number", "A\r\nBcc: x"),
        ])
    }

    #[test]
    fn every_embedded_template_renders_in_every_locale_with_and_without_data() {
        for (name, locale, _) in embedded::TEMPLATES {
            let source = default_source(name, locale).expect("embedded");
            for data in [data(), BTreeMap::new()] {
                let rendered = render(&source, &data).unwrap_or_else(|error| panic!("{name} {locale}: {error}"));
                assert!(!rendered.subject.is_empty() && !rendered.short.is_empty(), "{name} {locale}");
                assert!(!rendered.text.contains("{{") && !rendered.html.contains("<b>"), "{name} {locale}");
            }
        }
        assert_eq!(names().count() * 2, embedded::TEMPLATES.len());
    }

    #[test]
    fn what_callers_and_clients_lean_on_is_in_the_texts() {
        let of = |name| render(&resolve(name, "", &[]).expect("a template"), &data()).expect("rendered");
        assert!(of("receipt").subject.contains("receipt") && of("payment_failed").subject.contains("payment"));
        assert_eq!(of("receipt").subject, "Your receipt A Bcc: x");
        assert_eq!(of("receipt").short, "We received 19.99 USD. Thank you.");
        for name in ["verify_email", "password_reset"] {
            assert!(of(name).text.contains("?token=t%2F1\n"), "{name}");
            assert!(email_only(name));
        }
    }

    #[test]
    fn the_html_part_says_what_the_text_says() {
        let rendered = plain("Hi & bye", "One\ntwo\n\n<three>", Some("/x"));
        assert_eq!(rendered.text, format!("One\ntwo\n\n<three>\n\n{PUBLIC_URL}/x\n"));
        assert!(
            rendered.html.contains("One<br>two</p>") && rendered.html.contains("&lt;three&gt;"),
            "{}",
            rendered.html
        );
        assert!(rendered.html.contains("<a href=\"%PUBLIC_URL%&#x2f;x\">"), "{}", rendered.html);
    }

    #[test]
    fn a_locale_falls_back_to_its_language_and_then_to_the_default() {
        let subject = |locale| resolve("mfa_enabled", locale, &[]).expect("a template").subject;
        assert_eq!(subject("de_CH"), "Anmeldung in zwei Schritten ist aktiv");
        assert_eq!(subject("fr"), "Two-step sign-in is on");
        assert_eq!(resolve("nothing", "en", &[]), None);
        assert_eq!(parse("no header"), Err(TemplateError::Header));
    }

    #[test]
    fn any_bytes_as_a_template() {
        let seeds: Vec<&[u8]> = embedded::TEMPLATES.iter().take(3).map(|(_, _, text)| text.as_bytes()).collect();
        let more: [&[u8]; 2] = [
            b"Subject: {{ number }}\nShort: {% for i in range(9) %}{{ i }}{% endfor %}\n\n{{ display_name|urlencode }}",
            b"Subject: x\n\n{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        ];
        let seeds: Vec<&[u8]> = seeds.into_iter().chain(more).collect();
        crate::kernel::fuzz_tests::fuzz_costly("template", &seeds, |bytes| {
            let source = match parse(&String::from_utf8_lossy(bytes)) {
                Ok(source) => source,
                Err(error) => return error.to_string(),
            };
            match render(&source, &data()) {
                Ok(rendered) => {
                    for line in [&rendered.subject, &rendered.short].into_iter().chain(&rendered.url) {
                        assert!(!line.contains(char::is_control), "{line:?} breaks a header");
                    }
                    format!("rendered {}", rendered.url.is_some())
                }
                Err(error) => error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(60).collect(),
            }
        });
    }
}
