//! Faults that types cannot see: ranges, and values that only make sense together.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::layers::Fault;
use super::{
    ClockMode, MailTransport, PaymentProcessor, Route, Settings, SmsTransport, VERIFICATION_TOKEN_SECONDS_MAX,
};

/// What `cluster.heartbeat_ms` counts in.
pub const HEARTBEAT_STEP_MS: u64 = 100;

const MINUTE_MS: u64 = 60_000;
const DAY_SECONDS: i64 = 86_400;

/// Every fault of a configuration whose types are right.
pub(super) fn faults(settings: &Settings) -> Vec<Fault> {
    let mut faults = Vec::new();
    node(settings, &mut faults);
    admin(settings, &mut faults);
    gateway(settings, &mut faults);
    runtime(settings, &mut faults);
    identity(settings, &mut faults);
    billing(settings, &mut faults);
    providers(settings, &mut faults);
    faults
}

fn range<T: PartialOrd + Display>(faults: &mut Vec<Fault>, path: &str, value: T, allowed: RangeInclusive<T>) {
    if !allowed.contains(&value) {
        let detail = format!("expected {} to {}, got {value}", allowed.start(), allowed.end());
        faults.push(Fault::new(path, detail));
    }
}

fn expect(faults: &mut Vec<Fault>, holds: bool, path: &str, detail: &str) {
    if !holds {
        faults.push(Fault::new(path, detail));
    }
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    schemes.iter().any(|scheme| {
        let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
    })
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn node(settings: &Settings, faults: &mut Vec<Fault>) {
    let (node, cluster) = (&settings.node, &settings.cluster);
    range(faults, "node.id", node.id, 1..=u64::from(u32::MAX));
    expect(faults, !node.data_dir.as_os_str().is_empty(), "node.data_dir", "expected a directory, got nothing");
    expect(faults, !node.zone.is_empty(), "node.zone", "expected a name, got nothing");
    range(faults, "cluster.shards", cluster.shards, 1..=1024);
    range(faults, "cluster.heartbeat_ms", cluster.heartbeat_ms, HEARTBEAT_STEP_MS..=MINUTE_MS);
    let steps = cluster.heartbeat_ms.is_multiple_of(HEARTBEAT_STEP_MS);
    expect(faults, steps, "cluster.heartbeat_ms", "expected a multiple of 100");
    range(faults, "cluster.election_ms", cluster.election_ms, 20..=10 * MINUTE_MS);
    let apart = cluster.election_ms >= cluster.heartbeat_ms.saturating_mul(2);
    expect(faults, apart, "cluster.election_ms", "expected at least twice cluster.heartbeat_ms");
    let local = !cluster.plain_text || cluster.listen.ip().is_loopback();
    expect(faults, local, "cluster.plain_text", "expected false, unless cluster.listen is a loopback address");
    range(faults, "cluster.snapshot_bytes_per_second", cluster.snapshot_bytes_per_second, 1 << 16..=1 << 40);
    for (index, address) in cluster.join.iter().enumerate() {
        let path = format!("cluster.join[{index}]");
        expect(faults, is_host_port(address), &path, &format!("expected HOST:PORT, got \"{address}\""));
    }
    let filed = !cluster.token_file.is_empty();
    let detail = "expected members to join: a node with a token file never forms a cluster unasked";
    expect(faults, !filed || !cluster.join.is_empty(), "cluster.join", detail);
    let once = !filed || cluster.token.expose().is_empty();
    expect(faults, once, "cluster.token_file", "expected cluster.token or cluster.token_file, not both");
    let mut addresses = vec![
        ("gateway.listen", settings.gateway.listen),
        ("admin.listen", settings.admin.listen),
        ("cluster.listen", cluster.listen),
    ];
    addresses.extend(settings.telemetry.listen.map(|address| ("telemetry.listen", address)));
    for (index, (path, address)) in addresses.iter().enumerate() {
        let taken = addresses[..index].iter().find(|(_, other)| other == address && address.port() != 0);
        if let Some((other, _)) = taken {
            faults.push(Fault::new(path, format!("expected an address of its own, {address} is also {other}")));
        }
    }
}

/// Away from loopback a token alone does not open the admin listener.
fn admin(settings: &Settings, faults: &mut Vec<Fault>) {
    let (listen, tls) = (settings.admin.listen, &settings.admin.tls);
    let files = [("cert_file", &tls.cert_file), ("key_file", &tls.key_file), ("client_ca_file", &tls.client_ca_file)];
    let required = !listen.ip().is_loopback();
    if !required && files.iter().all(|(_, file)| file.is_empty()) {
        return;
    }
    for (name, _) in files.iter().filter(|(_, file)| file.is_empty()) {
        let why = if required {
            format!("admin.listen {listen} is not a loopback address")
        } else {
            "mutual TLS needs cert_file, key_file and client_ca_file".to_owned()
        };
        faults.push(Fault::new(&format!("admin.tls.{name}"), format!("expected a PEM file: {why}")));
    }
}

fn gateway(settings: &Settings, faults: &mut Vec<Fault>) {
    let gateway = &settings.gateway;
    let url = is_url(&gateway.public_url, &["http", "https"]);
    expect(faults, url, "gateway.public_url", "expected http://HOST or https://HOST");
    range(faults, "gateway.max_connections", gateway.max_connections, 1..=10_000_000);
    range(faults, "gateway.max_connections_per_address", gateway.max_connections_per_address, 1..=10_000_000);
    range(faults, "gateway.max_in_flight", gateway.max_in_flight, 1..=1_000_000);
    range(faults, "gateway.max_body_bytes", gateway.max_body_bytes, 1024..=1 << 30);
    range(faults, "gateway.max_header_bytes", gateway.max_header_bytes, 8192..=1 << 20);
    for (path, value) in [
        ("gateway.header_timeout_ms", gateway.header_timeout_ms),
        ("gateway.body_timeout_ms", gateway.body_timeout_ms),
        ("gateway.request_timeout_ms", gateway.request_timeout_ms),
        ("gateway.idle_timeout_ms", gateway.idle_timeout_ms),
        ("gateway.drain_timeout_ms", gateway.drain_timeout_ms),
        ("gateway.websocket.ping_interval_ms", gateway.websocket.ping_interval_ms),
        ("gateway.websocket.pong_timeout_ms", gateway.websocket.pong_timeout_ms),
        ("gateway.websocket.connect_timeout_ms", gateway.websocket.connect_timeout_ms),
    ] {
        range(faults, path, value, 100..=60 * MINUTE_MS);
    }
    range(faults, "gateway.websocket.max_connections", gateway.websocket.max_connections, 1..=10_000_000);
    range(faults, "gateway.websocket.max_message_bytes", gateway.websocket.max_message_bytes, 1024..=1 << 26);
    range(faults, "gateway.websocket.max_queue_bytes", gateway.websocket.max_queue_bytes, 4096..=1 << 30);
    let apart = gateway.websocket.pong_timeout_ms < gateway.websocket.ping_interval_ms;
    let detail = "expected less than gateway.websocket.ping_interval_ms: each ping gives the pong its time anew";
    expect(faults, apart, "gateway.websocket.pong_timeout_ms", detail);
    let pair = gateway.tls.cert_file.is_empty() == gateway.tls.key_file.is_empty();
    expect(faults, pair, "gateway.tls.key_file", "expected both gateway.tls.cert_file and key_file, or neither");
    routes(settings, faults);
}

fn routes(settings: &Settings, faults: &mut Vec<Fault>) {
    let mut names = std::collections::BTreeSet::new();
    for (index, route) in settings.gateway.routes.iter().enumerate() {
        let at = |key: &str| format!("gateway.routes[{index}].{key}");
        expect(faults, names.insert(&route.name), &at("name"), "expected a name of its own");
        faults.extend(route_faults(route).into_iter().map(|(key, detail)| Fault::new(&at(key), detail)));
    }
}

/// What is wrong with a route: members and what was expected of them.
#[must_use]
pub fn route_faults(route: &Route) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, key, detail: &str| {
        if !holds {
            faults.push((key, detail.to_owned()));
        }
    };
    let letters = route.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b));
    let name = letters && (1..=64).contains(&route.name.len());
    expect(name, "name", "expected 1 to 64 small letters, digits, -, _ or .");
    let matches = route.prefix.starts_with('/') || (route.prefix.is_empty() && !route.host.is_empty());
    expect(matches, "prefix", "expected a path that starts with /, or a host");
    let own = ["/v1", "/oauth2", "/.well-known"].iter().any(|own| route.prefix.starts_with(own));
    expect(!own || !route.host.is_empty(), "prefix", "expected a prefix that is not the gateway's own");
    expect(!route.upstreams.is_empty(), "upstreams", "expected at least one URL");
    for upstream in &route.upstreams {
        let url = is_url(upstream, &["http", "https"]);
        expect(url, "upstreams", &format!("expected http://HOST[:PORT], got \"{upstream}\""));
    }
    let access = matches!(route.access.as_str(), "public" | "user") || route.access.contains(':');
    expect(access, "access", "expected \"public\", \"user\" or a permission such as \"users:read\"");
    let timeout = (10..=60 * MINUTE_MS).contains(&route.timeout_ms);
    expect(timeout, "timeout_ms", &format!("expected 10 to {}, got {}", 60 * MINUTE_MS, route.timeout_ms));
    expect(route.retries <= 5, "retries", &format!("expected 0 to 5, got {}", route.retries));
    let health = route.health_path.is_empty() || route.health_path.starts_with('/');
    expect(health, "health_path", "expected a path that starts with /");
    faults
}

fn runtime(settings: &Settings, faults: &mut Vec<Fault>) {
    let (storage, actors) = (&settings.storage, &settings.actors);
    range(faults, "storage.wal_segment_bytes", storage.wal_segment_bytes, 1 << 20..=1 << 30);
    range(faults, "storage.flush_interval_ms", storage.flush_interval_ms, 10..=MINUTE_MS);
    range(faults, "storage.overlay_max_bytes", storage.overlay_max_bytes, 1 << 20..=1 << 36);
    range(faults, "storage.cache_bytes", storage.cache_bytes, 1 << 20..=1 << 40);
    range(faults, "storage.compact_min_bytes", storage.compact_min_bytes, 1..=1 << 50);
    range(faults, "storage.min_free_bytes", storage.min_free_bytes, 0..=1 << 50);
    range(faults, "storage.snapshot_interval_seconds", storage.snapshot_interval_seconds, 1..=7 * 86_400);
    range(faults, "storage.snapshots_kept", storage.snapshots_kept, 1..=100);
    range(faults, "actors.idle_after_ms", actors.idle_after_ms, 100..=24 * 60 * MINUTE_MS);
    range(faults, "actors.memory_budget_bytes", actors.memory_budget_bytes, 1 << 20..=1 << 40);
    range(faults, "actors.mailbox_max", actors.mailbox_max, 1..=1 << 20);
    range(faults, "actors.shard_queue_max", actors.shard_queue_max, 1..=1 << 24);
    range(faults, "actors.command_max_bytes", actors.command_max_bytes, 4096..=1 << 26);
    range(faults, "actors.command_timeout_ms", actors.command_timeout_ms, 100..=10 * MINUTE_MS);
    range(faults, "actors.restart_min_ms", actors.restart_min_ms, 1..=MINUTE_MS);
    let restart = actors.restart_min_ms..=60 * MINUTE_MS;
    range(faults, "actors.restart_max_ms", actors.restart_max_ms, restart);
    range(faults, "actors.park_after", actors.park_after, 1..=1000);
    range(faults, "actors.outbox_in_flight", actors.outbox_in_flight, 1..=1 << 16);
    range(faults, "actors.outbox_max", actors.outbox_max, 1..=1 << 40);
    range(faults, "actors.outbox_retry_min_ms", actors.outbox_retry_min_ms, 1..=60 * MINUTE_MS);
    let retry = actors.outbox_retry_min_ms..=24 * 60 * MINUTE_MS;
    range(faults, "actors.outbox_retry_max_ms", actors.outbox_retry_max_ms, retry);
    range(faults, "actors.dedupe_keep_hours", actors.dedupe_keep_hours, 1..=24 * 365);
    let limits = &settings.limits;
    for (name, limit) in [
        ("auth", limits.auth),
        ("account", limits.account),
        ("public", limits.public),
        ("read", limits.read),
        ("write", limits.write),
        ("money", limits.money),
    ] {
        range(faults, &format!("limits.{name}.per_minute"), limit.per_minute, 1..=100_000_000);
        range(faults, &format!("limits.{name}.burst"), limit.burst, 1..=100_000_000);
    }
    let endpoint = &settings.telemetry.otlp_endpoint;
    let collector = endpoint.is_empty() || is_url(endpoint, &["http", "https"]);
    expect(faults, collector, "telemetry.otlp_endpoint", "expected http://HOST:PORT, or nothing");
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&settings.telemetry.log_level) {
        let detail = format!("expected directives such as \"info,construct=debug\": {error}");
        faults.push(Fault::new("telemetry.log_level", detail));
    }
}

fn identity(settings: &Settings, faults: &mut Vec<Fault>) {
    let identity = &settings.identity;
    expect(faults, is_url(&identity.issuer, &["http", "https"]), "identity.issuer", "expected a URL");
    for (path, value) in [
        ("identity.access_token_seconds", identity.access_token_seconds),
        ("identity.reset_token_seconds", identity.reset_token_seconds),
        ("identity.mfa_challenge_seconds", identity.mfa_challenge_seconds),
        ("identity.step_up_seconds", identity.step_up_seconds),
    ] {
        range(faults, path, value, 1..=30 * DAY_SECONDS);
    }
    let verification = 1..=VERIFICATION_TOKEN_SECONDS_MAX;
    range(faults, "identity.verification_token_seconds", identity.verification_token_seconds, verification);
    let refresh = identity.access_token_seconds..=3650 * DAY_SECONDS;
    range(faults, "identity.refresh_token_seconds", identity.refresh_token_seconds, refresh);
    range(faults, "identity.password_min_length", identity.password_min_length, 8..=64);
    range(faults, "identity.password_min_score", identity.password_min_score, 0..=4);
    range(faults, "identity.hash_concurrency", identity.hash_concurrency, 1..=256);
    range(faults, "identity.hash_queue_max", identity.hash_queue_max, 1..=65_536);
    range(faults, "identity.hash_wait_ms", identity.hash_wait_ms, 10..=MINUTE_MS);
    let issuer = !identity.totp_issuer.is_empty() && !identity.totp_issuer.contains(':');
    expect(faults, issuer, "identity.totp_issuer", "expected a name without a colon");
}

fn billing(settings: &Settings, faults: &mut Vec<Fault>) {
    let billing = &settings.billing;
    let series = &billing.invoice_series;
    let series =
        (1..=16).contains(&series.len()) && series.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    expect(faults, series, "billing.invoice_series", "expected 1 to 16 capitals or digits");
    range(faults, "billing.tax_basis_points", billing.tax_basis_points, 0..=10_000);
    range(faults, "billing.trial_ending_notice_days", billing.trial_ending_notice_days, 0..=60);
    let days = &billing.dunning.retry_after_days;
    let ascending = days.windows(2).all(|pair| pair[0] < pair[1]) && days.first() != Some(&0) && days.len() <= 16;
    expect(
        faults,
        ascending,
        "billing.dunning.retry_after_days",
        "expected at most 16 ascending days, each at least 1",
    );
    let mut keys = std::collections::BTreeSet::new();
    for (index, plan) in settings.plans.iter().enumerate() {
        let at = |key: &str| format!("plans[{index}].{key}");
        let key = plan.key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let key = key && !plan.key.is_empty() && keys.insert(&plan.key);
        expect(faults, key, &at("key"), "expected a key of its own of small letters, digits and _");
        expect(faults, !plan.name.trim().is_empty(), &at("name"), "expected a name");
        expect(faults, !plan.prices.is_empty(), &at("prices"), "expected at least one price");
        range(faults, &at("trial_days"), plan.trial_days, 0..=730);
        let mut offers = std::collections::HashSet::new();
        for (number, price) in plan.prices.iter().enumerate() {
            let at = |key: &str| format!("plans[{index}].prices[{number}].{key}");
            range(faults, &at("interval_count"), price.interval_count, 1..=36);
            range(faults, &at("unit_price.amount"), price.unit_price.amount, 0..=1_000_000_000_000);
            let money = price.unit_price.currency.is_money();
            expect(faults, money, &at("unit_price.currency"), "expected a currency that people pay in");
            let new = offers.insert((price.interval, price.interval_count, price.unit_price.currency));
            expect(faults, new, &at("interval"), "expected one price for each interval and currency");
        }
    }
}

fn providers(settings: &Settings, faults: &mut Vec<Fault>) {
    let (mail, sms, payments) = (&settings.mail, &settings.sms, &settings.payments);
    let smtp = is_url(mail.smtp_url.expose(), &["smtp", "smtps"]);
    let needed = mail.transport == MailTransport::Smtp || !mail.smtp_url.expose().is_empty();
    expect(faults, smtp || !needed, "mail.smtp_url", "expected smtp://HOST[:PORT] or smtps://HOST[:PORT]");
    expect(faults, mail.from.contains('@'), "mail.from", "expected an address such as \"Name <name@example.com>\"");
    range(faults, "mail.timeout_ms", mail.timeout_ms, 100..=10 * MINUTE_MS);
    let dkim = [&mail.dkim.domain, &mail.dkim.selector, &mail.dkim.key_file];
    let whole = dkim.iter().all(|part| part.is_empty()) || dkim.iter().all(|part| !part.is_empty());
    expect(faults, whole, "mail.dkim", "expected domain, selector and key_file, or none of them");
    range(faults, "sms.timeout_ms", sms.timeout_ms, 100..=10 * MINUTE_MS);
    if sms.transport == SmsTransport::Twilio {
        expect(faults, is_url(&sms.twilio.api_base, &["http", "https"]), "sms.twilio.api_base", "expected a URL");
        expect(faults, !sms.twilio.account_sid.is_empty(), "sms.twilio.account_sid", "expected the account's SID");
        let token = !sms.twilio.auth_token.expose().is_empty();
        expect(faults, token, "sms.twilio.auth_token", "expected the account's auth token");
        expect(faults, !sms.from.is_empty(), "sms.from", "expected a number such as +15550100");
    }
    let subject = settings.push.subject.starts_with("mailto:") || is_url(&settings.push.subject, &["https"]);
    expect(faults, subject, "push.subject", "expected a mailto: or https: URL");
    range(faults, "push.ttl_seconds", settings.push.ttl_seconds, 0..=2_419_200);
    range(faults, "push.timeout_ms", settings.push.timeout_ms, 100..=10 * MINUTE_MS);
    range(faults, "payments.timeout_ms", payments.timeout_ms, 100..=10 * MINUTE_MS);
    let secret_key = payments.stripe.secret_key.expose();
    if payments.processor == PaymentProcessor::Stripe {
        let base = is_url(&payments.stripe.api_base, &["http", "https"]);
        expect(faults, base, "payments.stripe.api_base", "expected a URL");
        expect(faults, !secret_key.is_empty(), "payments.stripe.secret_key", "expected the account's secret key");
        let webhook = !payments.stripe.webhook_secret.expose().is_empty();
        let expected = "expected the signing secret of the webhook: a challenge that was answered is reported there";
        expect(faults, webhook, "payments.stripe.webhook_secret", expected);
    }
    let live = settings.clock == ClockMode::Virtual && secret_key.starts_with("sk_live");
    expect(
        faults,
        !live,
        "clock",
        "expected \"system\": a virtual clock would charge real cards for time that never passed",
    );
}
