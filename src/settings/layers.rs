//! The layers of the configuration, how they are merged, and how a fault finds its way back to where it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::EMBEDDED;

const ENV_PREFIX: &str = "CONSTRUCT__";

/// What is laid over the embedded defaults.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Keys (`node.id`) set by flags, with the flag's name and text.
    pub flags: Vec<Flag>,
}

/// A setting given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    pub name: &'static str,
    pub key: &'static str,
    pub value: String,
}

impl Layers {
    /// The layers of this process: `file` and its environment.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        Self { file, environment, flags: Vec::new() }
    }

    /// Sets `key` as the flag `name` does.
    #[must_use]
    pub fn flag(mut self, name: &'static str, key: &'static str, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.flags.push(Flag { name, key, value });
        }
        self
    }
}

/// One key that cannot stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path such as `gateway.listen`.
    pub path: String,
    /// What is wrong and what was expected.
    pub detail: String,
    /// The file, environment variable or flag that set it.
    pub origin: Option<String>,
}

impl Fault {
    pub(super) fn new(path: &str, detail: impl Into<String>) -> Self {
        Self { path: path.to_owned(), detail: detail.into(), origin: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.detail)?;
        match &self.origin {
            Some(origin) => write!(f, " (set by {origin})"),
            None => Ok(()),
        }
    }
}

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {} is not TOML: {detail}", path.display())]
    NotToml { path: PathBuf, detail: String },
    #[error("the configuration is not valid:{}", list(.0))]
    Invalid(Vec<Fault>),
}

fn list(faults: &[Fault]) -> String {
    match faults {
        [fault] => format!(" {fault}"),
        faults => faults.iter().map(|fault| format!("\n  {fault}")).collect(),
    }
}

/// All layers in one tree, each value with its origin.
pub(super) struct Merged {
    tree: Value,
}

pub(super) fn merge(layers: &Layers) -> Result<Merged, SettingsError> {
    let defaults = defaults();
    let mut builder = Config::builder().add_source(File::from_str(EMBEDDED, FileFormat::Toml));
    if let Some(path) = &layers.file {
        builder = builder.add_source(FileLayer::read(path.clone())?);
    }
    let environment = layers.environment.iter().filter_map(|(name, text)| {
        let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
        Some((key, text.as_str(), format!("environment variable {name}")))
    });
    let flags =
        layers.flags.iter().map(|flag| (flag.key.to_owned(), flag.value.as_str(), format!("flag {}", flag.name)));
    for texts in [environment.collect::<Vec<_>>(), flags.collect()] {
        builder = builder.add_source(TextLayer::read(&defaults, texts)?);
    }
    let merged = builder.build().map_err(|e| SettingsError::Invalid(vec![Fault::new("(root)", e.to_string())]))?;
    Ok(Merged { tree: merged.cache })
}

fn defaults() -> toml::Table {
    EMBEDDED.parse().expect("the embedded configuration is TOML; a test reads it")
}

impl Merged {
    /// Reads the tree into a type; the first fault ends it.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, SettingsError> {
        serde_path_to_error::deserialize(self.json()).map_err(|error| {
            let path = error.path().to_string();
            let detail = error.into_inner().to_string();
            let detail = detail.replace("invalid socket address syntax", "expected IP:PORT, such as 127.0.0.1:8080");
            let detail = detail.replace("expected u32", "expected a number from 0 to 4294967295");
            // serde reports an unknown key at its parent; the key itself is what the reader looks for.
            let unknown = detail.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            let path = match (unknown, path.as_str()) {
                (Some(key), ".") => key.to_owned(),
                (Some(key), parent) if !parent.ends_with(&format!(".{key}")) && parent != key => {
                    format!("{parent}.{key}")
                }
                (_, path) => path.to_owned(),
            };
            self.located(vec![Fault::new(&path, detail)])
        })
    }

    /// Adds to each fault where its value was written.
    pub(super) fn located(&self, mut faults: Vec<Fault>) -> SettingsError {
        for fault in &mut faults {
            fault.origin = self.origin(&fault.path);
        }
        SettingsError::Invalid(faults)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        to_json(&self.tree)
    }

    fn origin(&self, path: &str) -> Option<String> {
        let mut value = &self.tree;
        for segment in path.split(['.', '[']).map(|s| s.trim_end_matches(']')) {
            value = match &value.kind {
                ValueKind::Table(table) => table.get(segment)?,
                ValueKind::Array(items) => items.get(segment.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        value.origin().map(str::to_owned)
    }
}

fn to_json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(b) => Json::Bool(*b),
        ValueKind::I64(n) => Json::from(*n),
        ValueKind::U64(n) => Json::from(*n),
        ValueKind::I128(n) => i64::try_from(*n).map_or(Json::Null, Json::from),
        ValueKind::U128(n) => u64::try_from(*n).map_or(Json::Null, Json::from),
        ValueKind::Float(n) => Json::from(*n),
        ValueKind::String(text) => Json::String(text.clone()),
        ValueKind::Table(table) => Json::Object(table.iter().map(|(k, v)| (k.clone(), to_json(v))).collect()),
        ValueKind::Array(items) => Json::Array(items.iter().map(to_json).collect()),
    }
}

/// A configuration file, remembered with its name.
#[derive(Debug, Clone)]
struct FileLayer {
    name: String,
    table: toml::Table,
}

impl FileLayer {
    fn read(path: PathBuf) -> Result<Self, SettingsError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(SettingsError::Unreadable { path, source }),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => Ok(Self { name: path.display().to_string(), table }),
            Err(error) => {
                let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
                let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
                Err(SettingsError::NotToml { path, detail: format!("{line}{}", error.message()) })
            }
        }
    }
}

impl Source for FileLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let origin = format!("file {}", self.name);
        Ok(self.table.iter().map(|(key, value)| (key.clone(), from_toml(&origin, value))).collect())
    }
}

/// Settings given as text, typed after the default at the same key.
#[derive(Debug, Clone)]
struct TextLayer(BTreeMap<String, Value>);

impl TextLayer {
    fn read(defaults: &toml::Table, texts: Vec<(String, &str, String)>) -> Result<Self, SettingsError> {
        let mut values = BTreeMap::new();
        let mut faults = Vec::new();
        for (key, text, origin) in texts {
            let Some(default) = lookup(defaults, &key) else {
                let detail = format!("unknown key{}", nearby(defaults, &key));
                faults.push(Fault { path: key, detail, origin: Some(origin) });
                continue;
            };
            match typed(default, text) {
                Ok(value) => drop(values.insert(key, from_toml(&origin, &value))),
                Err(detail) => faults.push(Fault { path: key, detail, origin: Some(origin) }),
            }
        }
        if faults.is_empty() { Ok(Self(values)) } else { Err(SettingsError::Invalid(faults)) }
    }
}

impl Source for TextLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// Reads `text` as the type that `default` has.
fn typed(default: &toml::Value, text: &str) -> Result<toml::Value, String> {
    match default {
        toml::Value::Integer(_) => text
            .trim()
            .replace('_', "")
            .parse()
            .map(toml::Value::Integer)
            .map_err(|_| format!("expected an integer, got \"{text}\"")),
        toml::Value::Boolean(_) => {
            text.trim().parse().map(toml::Value::Boolean).map_err(|_| format!("expected true or false, got \"{text}\""))
        }
        toml::Value::Array(_) if text.trim_start().starts_with('[') => inline(text),
        toml::Value::Array(items) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let numbers = matches!(items.first(), Some(toml::Value::Integer(_)));
            let item = |part: &str| match part.parse() {
                Ok(number) if numbers => Ok(toml::Value::Integer(number)),
                _ if numbers => Err(format!("expected integers separated by commas, got \"{part}\"")),
                _ => Ok(toml::Value::String(part.to_owned())),
            };
            parts.map(item).collect::<Result<_, _>>().map(toml::Value::Array)
        }
        toml::Value::Table(_) => inline(text),
        _ => Ok(toml::Value::String(text.to_owned())),
    }
}

fn inline(text: &str) -> Result<toml::Value, String> {
    let table: toml::Table = format!("value = {text}").parse().map_err(|e| format!("expected TOML: {e}"))?;
    table.get("value").cloned().ok_or_else(|| "expected TOML".to_owned())
}

fn lookup<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((head, rest)) => lookup(table.get(head)?.as_table()?, rest),
    }
}

/// What stands beside an unknown key.
fn nearby(defaults: &toml::Table, key: &str) -> String {
    let parent = key.rsplit_once('.').and_then(|(parent, _)| lookup(defaults, parent)?.as_table());
    let names: Vec<_> = parent.unwrap_or(defaults).keys().map(|name| format!("`{name}`")).collect();
    format!(", expected one of {}", names.join(", "))
}

fn from_toml(origin: &str, value: &toml::Value) -> Value {
    let kind = match value {
        toml::Value::String(text) => ValueKind::String(text.clone()),
        toml::Value::Integer(n) => ValueKind::I64(*n),
        toml::Value::Float(n) => ValueKind::Float(*n),
        toml::Value::Boolean(b) => ValueKind::Boolean(*b),
        toml::Value::Datetime(at) => ValueKind::String(at.to_string()),
        toml::Value::Array(items) => ValueKind::Array(items.iter().map(|v| from_toml(origin, v)).collect()),
        toml::Value::Table(table) => {
            ValueKind::Table(table.iter().map(|(k, v)| (k.clone(), from_toml(origin, v))).collect())
        }
    };
    Value::new(Some(&origin.to_owned()), kind)
}
