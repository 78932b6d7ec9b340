//! Alert rules and dashboard: valid to promtool, firing when they should, and about metrics that a node really has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::file;
use super::queries::{Query, queries};
use crate::cluster::Cluster;
use crate::http::Client;
use crate::mail::Maildir;
use crate::node::{Node, Plan, free_port, loopback};
use crate::peers::installed;
use crate::person::Person;

/// Metrics that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 1] = ["up"];
/// Labels that it adds, beside those of the node.
const LABELS_OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// The documents of a YAML file, as JSON.
pub async fn yaml(path: &Path) -> Vec<Value> {
    let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = Command::new(installed("venv/bin/python"));
    python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = python.spawn().expect("Python");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(&std::fs::read(path).expect("a file")).await.expect("it reads");
    drop(stdin);
    let ended = child.wait_with_output().await.expect("it ends");
    assert!(ended.status.success(), "{} is YAML", path.display());
    serde_json::from_slice(&ended.stdout).expect("JSON")
}

async fn promtool(arguments: &[&str]) -> String {
    promtool_reads(arguments, "").await
}

/// What promtool says about `input`; it must be content.
async fn promtool_reads(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(installed("prometheus/usr/bin/promtool"));
    command.args(arguments).current_dir(file("deploy/prometheus")).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool");
    let mut stdin = child.stdin.take().expect("its input");
    // Who checks a file may be gone before it has read this.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().await.expect("promtool");
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "promtool {arguments:?}: {said}");
    said
}

async fn rules() -> Vec<Value> {
    let documents = yaml(&file("deploy/prometheus/alerts.yml")).await;
    let groups = documents[0]["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_lead_to_their_runbooks() {
    promtool(&["check", "rules", "--lint-fatal", "alerts.yml"]).await;
    promtool(&["check", "config", "scrape.yml"]).await;
    promtool(&["test", "rules", "alerts_test.yml"]).await;
    let tests = std::fs::read_to_string(file("deploy/prometheus/alerts_test.yml")).expect("the tests");
    let handbook = std::fs::read_to_string(file("docs/operations.md")).expect("the handbook");
    let mut runbooks: BTreeSet<&str> = handbook.lines().filter_map(|line| line.strip_prefix("### Construct")).collect();
    for rule in rules().await {
        let name = rule["alert"].as_str().expect("a name");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is tested");
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap_or("none")), "{name}");
        let short = name.strip_prefix("Construct").expect("our alerts say whose they are");
        assert!(runbooks.remove(short), "{name} has a runbook of its own");
        let runbook = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], Value::String(runbook), "{name}");
        assert!(rule["annotations"]["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{name}");
    }
    assert!(runbooks.is_empty(), "runbooks without an alert: {runbooks:?}");
}

/// A metric as a node prints it: its type, and the labels of its samples.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

fn read_metrics(text: &str, known: &mut BTreeMap<String, Metric>) {
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').expect("a name and a type");
            known.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let base = base.filter(|base| known.contains_key(*base)).unwrap_or(name);
            let labels = line.split_once('{').map(|(_, rest)| rest.rsplit_once('}').expect("closed labels").0);
            let names = labels.into_iter().flat_map(|labels| labels.split("\",")).map(|label| label.split_once('='));
            let names: Vec<_> = names.map(|pair| pair.expect("a label").0.to_owned()).collect();
            known.get_mut(base).expect("a type before the samples").labels.extend(names);
        }
    }
}

/// Everything that nodes print which worked a little: two of a cluster, and one with certificates and a listener of its
/// own for scrapers.
async fn printed() -> BTreeMap<String, Metric> {
    let mut known = BTreeMap::new();
    let cluster = Cluster::start(2).await;
    let mailbox = Maildir::of(cluster.outside());
    Person::sign_up(&cluster.nodes[1], &mailbox, "ada@example.com", "consumer").await;
    for node in &cluster.nodes {
        let metrics = node.operator().get("/metrics").await;
        metrics.expect(200);
        // Names, types, units, and that each has its help.
        let said = promtool_reads(&["check", "metrics"], &metrics.text).await;
        assert_eq!(said, "");
        read_metrics(&metrics.text, &mut known);
    }
    let (node, telemetry) = secured().await;
    let metrics = telemetry.get("/metrics").await;
    read_metrics(&metrics.text, &mut known);
    drop(node);
    known
}

async fn secured() -> (Node, Client) {
    let pem = |name: &str| file(&format!("src/gateway/server/testdata/{name}.pem")).display().to_string();
    let address = free_port(loopback()).to_string();
    let plan = Plan::sandbox().set("telemetry.listen", &address).set("admin.tls.cert_file", &pem("cert"));
    let plan = plan.set("admin.tls.key_file", &pem("key")).set("admin.tls.client_ca_file", &pem("admin-ca"));
    (plan.start().await, Client::new(format!("http://{address}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_dashboard_speak_of_metrics_that_nodes_have() {
    let known = printed().await;
    let mut all: Vec<(String, Query)> = Vec::new();
    for rule in rules().await {
        let found = queries(rule["expr"].as_str().expect("an expression"));
        all.extend(found.into_iter().map(|query| (rule["alert"].to_string(), query)));
    }
    let dashboard = std::fs::read_to_string(file("deploy/grafana/construct.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut panels = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(panels.insert(panel["id"].as_u64()), "a panel's id is its own: {panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let found = queries(target["expr"].as_str().expect("an expression"));
            assert!(!found.is_empty(), "{target} asks for something");
            all.extend(found.into_iter().map(|query| (panel["title"].to_string(), query)));
        }
    }
    let mut wrong = Vec::new();
    for (place, query) in &all {
        wrong.extend(faults(query, &known).map(|fault| format!("{place}: {}: {fault}", query.metric)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all.len() > 90, "all were looked at: {}", all.len());
}

fn faults<'a>(query: &'a Query, known: &'a BTreeMap<String, Metric>) -> Box<dyn Iterator<Item = String> + 'a> {
    if OF_PROMETHEUS.contains(&query.metric.as_str()) {
        return Box::new(std::iter::empty());
    }
    let of = |name: &str, kind: &str| known.get(name).filter(|metric| metric.kind == kind);
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| query.metric.strip_suffix(end));
    let counted = part.and_then(|base| of(base, "histogram")).or_else(|| of(&query.metric, "counter"));
    let Some(metric) = counted.or_else(|| of(&query.metric, "gauge")) else {
        return Box::new(std::iter::once("no node prints it".to_owned()));
    };
    let misread = (query.as_counter != counted.is_some()).then(|| {
        format!("it is a {}, and read as a {}", metric.kind, if query.as_counter { "counter" } else { "gauge" })
    });
    let labels = query
        .labels
        .iter()
        .filter(move |label| !metric.labels.contains(*label) && !LABELS_OF_PROMETHEUS.contains(&label.as_str()));
    Box::new(misread.into_iter().chain(labels.map(|label| format!("it has no label {label}"))))
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapers_and_probes_have_a_listener_that_opens_nothing_else() {
    let (node, telemetry) = secured().await;
    let metrics = telemetry.get("/metrics").await;
    metrics.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let ends = "construct_tls_valid_until_seconds{file=\"";
    let line = metrics.text.lines().find(|line| line.starts_with(ends)).expect("the certificate's end");
    // Of the certificate in the sources: 29 October 2126.
    assert!(line.ends_with(" 4948968860"), "{line}");
    telemetry.get("/livez").await.expect(200);
    telemetry.get("/readyz").await.expect(200);
    let token = std::fs::read_to_string(node.data().join("admin-token")).expect("a token");
    let operator = telemetry.with_token(token.trim());
    for path in ["/admin/v1/cluster", "/v1/plans", "/v1/users", "/docs", "/openapi.json"] {
        operator.get(path).await.expect(404);
    }
}
