use std::io::Write;

use super::*;

fn with_file(text: &str) -> Layers {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a written file");
    let (_, path) = file.keep().expect("a kept file");
    Layers { file: Some(path), ..Layers::default() }
}

fn with_env(pairs: &[(&str, &str)]) -> Layers {
    let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Layers { environment, ..Layers::default() }
}

fn refusal(layers: &Layers) -> String {
    match Settings::load(layers) {
        Ok(_) => String::from("accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_embedded_configuration_is_a_whole_node() {
    let settings = Settings::embedded();
    assert_eq!(settings.gateway.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.gateway.public_url, "http://127.0.0.1:8080");
    assert_eq!(settings.identity.issuer, settings.gateway.public_url);
    assert_eq!(settings.cluster.shards, 8);
    let count = |audience| settings.plans.iter().filter(|plan| plan.audience == audience).count();
    assert_eq!((count(Audience::User), count(Audience::Provider)), (3, 2));
}

#[test]
fn later_layers_win() {
    let mut layers = with_file("clock = \"virtual\"\n[node]\nid = 2\nzone = \"a\"\n[gateway]\nmax_connections = 5\n");
    layers.environment = vec![("CONSTRUCT__NODE__ID".into(), "3".into()), ("CONSTRUCT__NODE__ZONE".into(), "b".into())];
    let layers = layers.flag("--node-id", "node.id", Some("4".into()));
    let settings = Settings::load(&layers).expect("valid layers");
    assert_eq!((settings.node.id, settings.node.zone.as_str()), (4, "b"));
    assert_eq!((settings.clock, settings.gateway.max_connections), (ClockMode::Virtual, 5));
    assert_eq!(settings.gateway.max_body_bytes, 1 << 20, "untouched keys keep their defaults");
}

#[test]
fn the_environment_sets_numbers_lists_texts_and_tables() {
    let settings = Settings::load(&with_env(&[
        ("CONSTRUCT__CLOCK", "virtual"),
        ("CONSTRUCT__CLUSTER__JOIN", "10.0.0.1:8082, node-2:8082"),
        ("CONSTRUCT__CLUSTER__TOKEN", "007"),
        ("CONSTRUCT__GATEWAY__MAX_CONNECTIONS", "20_000"),
        ("CONSTRUCT__BILLING__DUNNING__RETRY_AFTER_DAYS", "2,4"),
        ("CONSTRUCT__SMS__FROM", "+15550100"),
        ("CONSTRUCT__LIMITS__AUTH__BURST", "7"),
        ("CONSTRUCT__GATEWAY__ROUTES", r#"[{name = "a", prefix = "/a/", upstreams = ["http://127.0.0.1:9"]}]"#),
        ("CONSTRUCT_OTHER", "not ours"),
        ("PATH", "/bin"),
    ]))
    .expect("a valid environment");
    assert_eq!(settings.cluster.join, ["10.0.0.1:8082", "node-2:8082"]);
    assert_eq!(settings.cluster.token.expose(), "007");
    assert_eq!(settings.gateway.max_connections, 20_000);
    assert_eq!(settings.billing.dunning.retry_after_days, [2, 4]);
    assert_eq!(settings.sms.from, "+15550100");
    assert_eq!(settings.limits.auth.burst, 7);
    assert_eq!((settings.gateway.routes[0].name.as_str(), settings.gateway.routes[0].timeout_ms), ("a", 15_000));
}

#[test]
fn one_address_to_join_needs_no_brackets() {
    let settings = Settings::load(&with_file("[cluster]\njoin = \"10.0.0.1:8082\"\n")).expect("valid");
    assert_eq!(settings.cluster.join, ["10.0.0.1:8082"]);
}

#[test]
fn a_wrong_file_is_refused_with_path_and_expectation() {
    for (text, expected) in [
        ("[gateway]\nlisten = \"nowhere\"\n", "gateway.listen: expected IP:PORT, such as 127.0.0.1:8080"),
        ("[gateway]\nlistn = \"127.0.0.1:1\"\n", "gateway.listn: unknown field `listn`, expected one of `listen`"),
        ("[gatway]\n", "gatway: unknown field `gatway`, expected one of `clock`, `node`"),
        ("clock = \"atomic\"\n", "clock: unknown variant `atomic`, expected `system` or `virtual`"),
        ("[node]\nid = \"one\"\n", "node.id: invalid type: string \"one\", expected u64"),
        ("[node]\nid = \"1\"\n", "node.id: invalid type: string \"1\", expected u64"),
        ("[node]\nid = 1.5\n", "node.id: invalid type: floating point `1.5`, expected u64"),
        ("[node]\nid = -1\n", "node.id: invalid value: integer `-1`, expected u64"),
        ("[node]\nid = 0\n", "node.id: expected 1 to 4294967295, got 0"),
        ("node = 3\n", "node: invalid type: integer `3`, expected struct Node"),
        ("[cluster]\nshards = 0\n", "cluster.shards: expected 1 to 1024, got 0"),
        ("[cluster]\njoin = [\"10.0.0.1\"]\n", "cluster.join[0]: expected HOST:PORT, got \"10.0.0.1\""),
        ("[cluster]\nheartbeat_ms = 500\n", "cluster.election_ms: expected at least twice cluster.heartbeat_ms"),
        ("[cluster]\nheartbeat_ms = 150\n", "cluster.heartbeat_ms: expected a multiple of 100"),
        (
            "[admin]\nlisten = \"0.0.0.0:8081\"\n",
            "admin.tls.cert_file: expected a PEM file: admin.listen 0.0.0.0:8081 is not a loopback address",
        ),
        (
            "[admin]\nlisten = \"[::]:8081\"\n[admin.tls]\ncert_file = \"a\"\nkey_file = \"b\"\n",
            "admin.tls.client_ca_file: expected a PEM file: admin.listen [::]:8081 is not",
        ),
        ("[admin.tls]\nclient_ca_file = \"a\"\n", "admin.tls.key_file: expected a PEM file: mutual TLS needs"),
        ("[admin]\nlisten = \"127.0.0.1:8080\"\n", "admin.listen: expected an address of its own"),
        ("[telemetry]\nlisten = \"9090\"\n", "telemetry.listen: expected IP:PORT or nothing, got \"9090\""),
        ("[telemetry]\nlisten = \"127.0.0.1:8080\"\n", "telemetry.listen: expected an address of its own"),
        ("[cluster]\ntoken_file = \"t\"\n", "cluster.join: expected members to join: a node with a token file"),
        (
            "[cluster]\njoin = \"a:1\"\ntoken = \"t\"\ntoken_file = \"t\"\n",
            "cluster.token_file: expected cluster.token or cluster.token_file, not both",
        ),
        (
            "[identity]\nverification_token_seconds = 2592001\n",
            "identity.verification_token_seconds: expected 1 to 2592000, got 2592001",
        ),
        ("[mail]\ntransport = \"smtp\"\n", "mail.smtp_url: expected smtp://HOST"),
        ("[mail]\ntransport = \"pigeon\"\n", "mail.transport: unknown variant `pigeon`, expected `maildir` or `smtp`"),
        ("[sms]\ntransport = \"twilio\"\n", "sms.twilio.account_sid: expected the account's SID"),
        ("[payments]\nprocessor = \"stripe\"\n", "payments.stripe.secret_key: expected the account's secret key"),
        (
            "[payments]\nprocessor = \"stripe\"\nstripe.secret_key = \"sk_test_1\"\n",
            "payments.stripe.webhook_secret: expected the signing secret of the webhook",
        ),
        ("[billing]\ncurrency = \"usd\"\n", "billing.currency: expected an ISO 4217 currency code"),
        (
            "[billing.dunning]\nretry_after_days = [3, 1]\n",
            "billing.dunning.retry_after_days: expected at most 16 ascending",
        ),
        ("[limits.auth]\nper_minute = 0\n", "limits.auth.per_minute: expected 1 to"),
        ("[limits.robots]\nburst = 1\n", "limits.robots: unknown field `robots`, expected one of `auth`"),
        ("[gateway.tls]\ncert_file = \"a.pem\"\n", "gateway.tls.key_file: expected both"),
        ("[telemetry]\nlog_level = \"construct=loud\"\n", "telemetry.log_level: expected directives such as"),
        ("[[gateway.routes]]\nname = \"a\"\n", "gateway.routes[0]: missing field `upstreams`"),
        (
            "[[gateway.routes]]\nname = \"a\"\nprefix = \"/v1/x\"\nupstreams = [\"http://h\"]\n",
            "gateway.routes[0].prefix: expected a prefix that is not the gateway's own",
        ),
        (
            "[[plans]]\nkey = \"A\"\nname = \"a\"\naudience = \"user\"\ntier = 1\ntrial_days = 0\nentitlements = []\nprices = []\n",
            "plans[0].key: expected a key of its own",
        ),
    ] {
        let layers = with_file(text);
        let refusal = refusal(&layers);
        assert!(refusal.contains(expected), "for {text:?} expected {expected:?} in: {refusal}");
    }
}

#[test]
fn a_wrong_environment_names_the_variable() {
    for (name, value, expected) in [
        ("CONSTRUCT__NODE__ID", "one", "node.id: expected an integer, got \"one\""),
        ("CONSTRUCT__NODE__IDD", "1", "node.idd: unknown key, expected one of `data_dir`, `id`, `sandbox_dir`, `zone`"),
        ("CONSTRUCT__NOD__ID", "1", "nod.id: unknown key, expected one of"),
        ("CONSTRUCT__BILLING__DUNNING__RETRY_AFTER_DAYS", "1,x", "retry_after_days: expected integers separated"),
        ("CONSTRUCT__GATEWAY__LISTEN", "8080", "gateway.listen: expected IP:PORT, such as 127.0.0.1:8080"),
        ("CONSTRUCT__GATEWAY__ROUTES", "[", "gateway.routes: expected TOML"),
    ] {
        let refusal = refusal(&with_env(&[(name, value)]));
        assert!(refusal.contains(expected), "for {name}={value} expected {expected:?} in: {refusal}");
        assert!(refusal.contains(&format!("set by environment variable {name}")), "{refusal}");
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let layers = Layers { file: Some("/nowhere/construct.toml".into()), ..Layers::default() };
    assert!(refusal(&layers).contains("cannot read the configuration file /nowhere/construct.toml"));
    assert!(refusal(&with_file("= 1")).contains("is not TOML"));
}

#[test]
fn a_virtual_clock_is_refused_with_a_live_key() {
    let layers = with_file("clock = \"virtual\"\n[payments.stripe]\nsecret_key = \"sk_live_1\"\n");
    assert!(refusal(&layers).contains("clock: expected \"system\""));
}

#[test]
fn printing_is_complete_readable_again_and_without_secrets() {
    let marked: Vec<_> = print::SECRETS
        .iter()
        .map(|path| format!("CONSTRUCT__{}", path.to_uppercase().replace('.', "__")))
        .map(|name| (name, "smtp://user:hunter2@host".to_owned()))
        .collect();
    let layers = Layers { environment: marked, ..Layers::default() };
    let text = Settings::print(&layers).expect("a valid configuration");
    assert!(!text.contains("hunter2"), "{text}");
    let debug = format!("{:?}", Settings::load(&layers).expect("valid"));
    assert!(!debug.contains("hunter2"), "{debug}");
    let printed: toml::Table = text.parse().expect("TOML");
    let embedded: toml::Table = EMBEDDED.parse().expect("TOML");
    assert_eq!(printed.keys().collect::<Vec<_>>(), embedded.keys().collect::<Vec<_>>());
}

/// A `Secret` field that `config print` would show: every text key is marked in turn and must be seen in `Debug`, unless
/// it is listed as a secret.
#[test]
fn every_secret_field_is_listed_as_one() {
    fn keys(prefix: &str, table: &toml::Table, found: &mut Vec<String>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(table) => keys(&path, table, found),
                toml::Value::String(_) => found.push(path),
                _ => {}
            }
        }
    }
    let mut paths = Vec::new();
    keys("", &EMBEDDED.parse().expect("TOML"), &mut paths);
    let mut hidden = Vec::new();
    for path in paths {
        let name = format!("CONSTRUCT__{}", path.to_uppercase().replace('.', "__"));
        let Ok(merged) = layers::merge(&with_env(&[(&name, "https://marked")])) else { continue };
        let Ok(settings) = merged.read::<Settings>() else { continue };
        if !format!("{settings:?}").contains("https://marked") {
            hidden.push(path);
        }
    }
    assert_eq!(hidden, print::SECRETS);
}

#[test]
fn any_bytes_as_a_file_or_an_environment() {
    let seeds: [&[u8]; 4] = [
        include_bytes!("../../config/default.toml"),
        b"clock = \"virtual\"\n[node]\nid = 2\n[gateway]\nmax_connections = 5\n",
        b"[[gateway.routes]]\nname = \"a\"\nprefix = \"/a/\"\nupstreams = [\"http://127.0.0.1:9\"]\n",
        b"[{name = \"a\", prefix = \"/a/\", upstreams = [\"x\"]}]",
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.toml");
    crate::kernel::fuzz_tests::fuzz_costly("settings", &seeds, |bytes| {
        std::fs::write(&path, bytes).expect("writable");
        let text = String::from_utf8_lossy(bytes).into_owned();
        let file = Layers { file: Some(path.clone()), ..Layers::default() };
        let way = |layers: &Layers| match Settings::load(layers) {
            Ok(settings) => format!("loaded {}", settings.gateway.routes.len()),
            Err(error) => {
                error.to_string().lines().take(2).map(|line| line.chars().take(40).collect::<String>()).collect()
            }
        };
        let names = ["CONSTRUCT__GATEWAY__ROUTES", "CONSTRUCT__NODE__ID", "CONSTRUCT__CLUSTER__JOIN"];
        let ways: Vec<String> = names.iter().map(|name| way(&with_env(&[(*name, text.as_str())]))).collect();
        format!("{} {ways:?}", way(&file))
    });
}
