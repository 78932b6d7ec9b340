//! Overrides of templates, by name and locale: `templates/book`, on the meta shard. No personal data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::templates::{self, Source};
use crate::kernel::{Context, Decision, Entity, EntityId, Error, ErrorCode, Timestamp};

const MAX_TEMPLATES: usize = 500;
const MAX_BYTES: usize = 32 * 1024;

/// One override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub source: Source,
    pub version: u64,
    pub changed_at: Timestamp,
}

/// All overrides of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TemplateBook {
    entries: BTreeMap<(String, String), Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Put {
        name: String,
        locale: String,
        source: Source,
        expected: Option<u64>,
    },
    Get {
        name: String,
        locale: String,
    },
    /// Every locale of one name; asked by deliveries.
    ListLocales {
        name: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    TemplatePut { name: String, locale: String, entry: Entry },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Entry(Option<Entry>),
    Locales(Vec<(String, Source)>),
}

/// The one entity of this kind.
#[must_use]
pub fn book() -> EntityId {
    EntityId::new(TemplateBook::KIND, "book")
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_locale(locale: &str) -> bool {
    (2..=35).contains(&locale.len()) && locale.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check(name: &str, locale: &str, source: &Source) -> Result<(), Error> {
    if !is_name(name) {
        return Err(Error::invalid("/name", "Expected 1 to 64 of a-z, 0-9 and _."));
    }
    if !is_locale(locale) {
        return Err(Error::invalid("/locale", "Expected a BCP 47 tag, such as en or de-AT."));
    }
    if source.subject.trim().is_empty() {
        return Err(Error::invalid("/subject", "A subject is needed."));
    }
    if source.text.trim().is_empty() || source.text.len() > MAX_BYTES {
        return Err(Error::invalid("/text", format!("Expected 1 to {MAX_BYTES} bytes.")));
    }
    if source.subject.len() > 500 || source.short.len() > 1000 || source.url.len() > 2048 {
        return Err(Error::invalid("/subject", "A header of the template is too long."));
    }
    templates::render(source, &BTreeMap::new()).map(drop).map_err(|error| Error::invalid("/text", error.to_string()))
}

impl Entity for TemplateBook {
    const KIND: &'static str = "templates";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Get { name, locale } => {
                Ok(Decision::reply(Reply::Entry(self.entries.get(&(name, locale.to_ascii_lowercase())).cloned())))
            }
            Command::ListLocales { name } => {
                let locales = self.entries.iter().filter(|((n, _), _)| *n == name);
                let locales = locales.map(|((_, locale), entry)| (locale.clone(), entry.source.clone())).collect();
                Ok(Decision::reply(Reply::Locales(locales)))
            }
            Command::Put { name, locale, source, expected } => {
                check(&name, &locale, &source)?;
                let key = (name.clone(), locale.to_ascii_lowercase());
                let known = self.entries.get(&key);
                let version = known.map_or(0, |entry| entry.version);
                if expected.is_some_and(|expected| expected != version) {
                    return Err(Error::new(ErrorCode::PreconditionFailed, "The template was changed meanwhile."));
                }
                if known.is_none() && self.entries.len() >= MAX_TEMPLATES {
                    return Err(Error::conflict(format!("There are already {MAX_TEMPLATES} overrides.")));
                }
                if let Some(known) = known.filter(|known| known.source == source) {
                    return Ok(Decision::reply(Reply::Entry(Some(known.clone()))));
                }
                let entry = Entry { source, version: version + 1, changed_at: context.now };
                let target = format!("{}/{}", key.0, key.1);
                Ok(Decision::reply(Reply::Entry(Some(entry.clone())))
                    .event(Event::TemplatePut { name: key.0, locale: key.1, entry })
                    .audit(context, "template.changed", &target, "ok"))
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::TemplatePut { name, locale, entry } = event;
        self.entries.insert((name.clone(), locale.clone()), entry.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;

    fn put(text: &str, expected: Option<u64>) -> Command {
        let source = Source { subject: "Hi".into(), short: "Hi".into(), url: String::new(), text: text.into() };
        Command::Put { name: "receipt".into(), locale: "fr".into(), source, expected }
    }

    #[test]
    fn an_override_is_checked_versioned_and_found_by_name() {
        let mut given = Given::<TemplateBook>::new("book");
        given.when(put("Bonjour {{ display_name }}", None)).expect("put");
        assert!(given.when(put("Bonjour {{ display_name }}", None)).expect("repeat").is_query());
        assert_eq!(given.when(put("Salut", Some(0))).expect_err("stale").code, ErrorCode::PreconditionFailed);
        for bad in ["{{ broken", "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", " "] {
            assert_eq!(given.when(put(bad, None)).expect_err("refused").code, ErrorCode::Invalid, "{bad}");
        }
        let reply = given.when(Command::ListLocales { name: "receipt".into() }).expect("listed").reply;
        let Reply::Locales(locales) = reply else { panic!("locales") };
        assert_eq!(templates::resolve("receipt", "fr-CA", &locales).map(|s| s.subject), Some("Hi".into()));
        assert!(templates::resolve("receipt", "it", &locales).is_some_and(|s| s.subject.starts_with("Your receipt")));
    }
}
