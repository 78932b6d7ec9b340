//! Sections about the node itself: place, listeners, storage, actors, limits, telemetry.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::kernel::Secret;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockMode {
    System,
    Virtual,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub id: u64,
    pub data_dir: PathBuf,
    /// Filled from `data_dir` when empty.
    pub sandbox_dir: PathBuf,
    pub zone: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub listen: SocketAddr,
    /// Filled from `listen` when empty.
    pub address: String,
    pub shards: u16,
    /// One address may be written without brackets.
    #[serde(deserialize_with = "one_or_many")]
    pub join: Vec<String>,
    pub token: Secret<String>,
    /// Where `token` comes to be; empty: it does not.
    pub token_file: String,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub plain_text: bool,
    pub snapshot_bytes_per_second: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    pub listen: SocketAddr,
    /// Without a slash at the end. Filled from `listen` when empty.
    pub public_url: String,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_in_flight: usize,
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub drain_timeout_ms: u64,
    pub trusted_proxies: Vec<String>,
    pub cors_origins: Vec<String>,
    pub routes: Vec<Route>,
    pub tls: Tls,
    pub websocket: WebSocket,
}

/// An upstream service behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub name: String,
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub host: String,
    pub upstreams: Vec<String>,
    /// `public`, `user`, or a permission.
    #[serde(default = "Route::default_access")]
    pub access: String,
    #[serde(default)]
    pub strip_prefix: bool,
    #[serde(default = "Route::default_timeout_ms")]
    pub timeout_ms: u64,
    #[serde(default = "Route::default_retries")]
    pub retries: u32,
    #[serde(default)]
    pub health_path: String,
    #[serde(default)]
    pub websocket: bool,
}

impl Route {
    fn default_access() -> String {
        "user".to_owned()
    }

    const fn default_timeout_ms() -> u64 {
        15_000
    }

    const fn default_retries() -> u32 {
        1
    }
}

/// PEM files of the listener's certificate; both empty means plain HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert_file: String,
    pub key_file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSocket {
    pub max_connections: usize,
    pub max_message_bytes: usize,
    pub max_queue_bytes: usize,
    pub ping_interval_ms: u64,
    pub pong_timeout_ms: u64,
    pub connect_timeout_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub listen: SocketAddr,
    pub tls: AdminTls,
}

impl Admin {
    /// Where it is reached, once it is bound to `address`.
    #[must_use]
    pub fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.cert_file.is_empty() { "http" } else { "https" };
        format!("{scheme}://{address}")
    }
}

/// PEM files: the admin listener's certificate, and the authority of the client certificates it admits. All or none;
/// required away from loopback.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    pub cert_file: String,
    pub key_file: String,
    pub client_ca_file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    pub wal_segment_bytes: u64,
    pub flush_interval_ms: u64,
    pub overlay_max_bytes: u64,
    pub cache_bytes: u64,
    pub compact_min_bytes: u64,
    pub snapshot_interval_seconds: u64,
    pub min_free_bytes: u64,
    pub snapshots_kept: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actors {
    pub idle_after_ms: u64,
    pub memory_budget_bytes: u64,
    pub mailbox_max: usize,
    pub shard_queue_max: usize,
    pub command_max_bytes: usize,
    pub command_timeout_ms: u64,
    pub restart_min_ms: u64,
    pub restart_max_ms: u64,
    pub park_after: u32,
    pub outbox_in_flight: usize,
    pub outbox_max: u64,
    pub outbox_retry_min_ms: u64,
    pub outbox_retry_max_ms: u64,
    pub dedupe_keep_hours: u64,
}

/// Per caller: a sustained rate and a burst (GCRA).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub per_minute: u32,
    pub burst: u32,
}

/// One limit for each class of endpoints.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub auth: Limit,
    pub account: Limit,
    pub public: Limit,
    pub read: Limit,
    pub write: Limit,
    pub money: Limit,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub origin: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    #[serde(deserialize_with = "address_or_nothing")]
    pub listen: Option<SocketAddr>,
    pub log_format: LogFormat,
    pub log_level: String,
    pub otlp_endpoint: String,
}

fn address_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bad = |_| serde::de::Error::custom(format!("expected IP:PORT or nothing, got \"{text}\""));
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(bad) }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;
    impl<'de> serde::de::Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("HOST:PORT or a list of them")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}
