//! The OpenAPI documents against the node: schemathesis makes requests that fit them and requests that do not, as each
//! role, and judges every answer with all of its checks; spectral reads the documents as a linter does.
//!
//! Without settings it is short: a few requests for each operation as one role of each listener. With
//! `CONSTRUCT_SCHEMATHESIS_EXAMPLES` (requests for each operation and phase) it asks as every role and walks through the
//! bounds of every parameter and member, which takes minutes. `CONSTRUCT_SCHEMATHESIS_SEED` repeats a run.

use std::path::Path;

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{installed, npm};
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::{self, Person};

/// What ends the session that asks; these get a person of their own.
const ENDING: [&str; 4] = ["signOut", "signOutEverywhere", "revokeSession", "eraseMe"];
const SHORT: u64 = 3;
/// The short run has the same requests every time.
const SEED: u64 = 20_260_101;
/// It is Python that takes the time, so there is one for each core.
const AT_A_TIME: usize = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

async fn start() -> Node {
    // Whoever just signed in may do everything for a day: what needs a fresh proof is reached too.
    Plan::sandbox().set("identity.step_up_seconds", "86400").set("identity.access_token_seconds", "86400").start().await
}

/// One run of schemathesis: who asks where, and what.
struct Run {
    what: String,
    base: String,
    token: String,
    /// Ids that exist, by the path of their collection.
    known: Value,
    only: Option<&'static str>,
    /// Examples, coverage (bounds of everything), fuzzing, stateful.
    phases: &'static str,
}

/// Somebody with this role who has one of everything.
async fn asker(node: &Node, role: &'static str, phases: &'static str) -> Run {
    let mailbox = Maildir::of(&node.data());
    let (signs_up_as, email) = match role {
        "administrator" => ("developer", "administrator@example.org".to_owned()),
        _ => (role, format!("{role}@example.org")),
    };
    let mut person = Person::sign_up(node, &mailbox, &email, signs_up_as).await;
    let known = belongings(node, &person).await;
    if role != signs_up_as {
        let path = format!("/v1/users/{}", person.id);
        let roles = json!({ "roles": [role] });
        node.operator_api().send(reqwest::Method::PATCH, &path, None, Some(&roles)).await.expect(200);
        person = person.sign_in(node).await;
    }
    let token = person.api.token().to_owned();
    Run { what: role.to_owned(), base: format!("http://{}", node.gateway), token, known, only: None, phases }
}

async fn belongings(node: &Node, person: &Person) -> Value {
    let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
    let plan = id(&person::plan(&person.api, "Builder").await);
    let (mut cards, mut subscriptions) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        cards.push(person.add_card("pm_card_visa").await);
        subscriptions.push(id(&person.subscribe(&plan, &cards[0]).await));
    }
    let device =
        person.api.post("/v1/devices", &json!({ "kind": "sms", "number": "+14155550100" })).await.text_at("/id");
    let invoices: Vec<String> = person.invoices().await.iter().map(id).collect();
    let content = json!({ "title": "Hello", "body": "How are the robots?" });
    let message = json!({ "to": { "user_id": person.id }, "category": "product", "content": content });
    let sent = node.operator_api().post("/v1/notifications", &message).await.text_at("/id");
    json!({
        "/v1/plans": [plan],
        "/v1/payment-methods": cards,
        "/v1/subscriptions": subscriptions,
        "/v1/devices": [device],
        "/v1/invoices": invoices,
        "/v1/notifications": [sent],
    })
}

/// Somebody whose session this operation ends.
async fn leaver(node: &Node, operation: &'static str) -> Run {
    let email = format!("{}@example.org", operation.to_lowercase());
    let person = Person::sign_up(node, &Maildir::of(&node.data()), &email, "consumer").await;
    let token = person.api.token().to_owned();
    let (base, known) = (format!("http://{}", node.gateway), json!({}));
    Run { what: operation.to_owned(), base, token, known, only: Some(operation), phases: "examples,fuzzing" }
}

impl Run {
    /// Runs all checks; the output is shown and the test fails when any finds something.
    async fn check(self, examples: u64, seed: u64) {
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/schemathesis");
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(installed("venv/bin/st"));
        command.current_dir(directory.path()).kill_on_drop(true);
        command.env("PYTHONPATH", &hooks).env("PYTHONDONTWRITEBYTECODE", "1").env("SCHEMATHESIS_HOOKS", "hooks");
        command.env("CONSTRUCT_TEST_TOKEN", &self.token).env("CONSTRUCT_TEST_KNOWN", self.known.to_string());
        command.arg("--config-file").arg(hooks.join("schemathesis.toml"));
        command.args(["run", &format!("{}/openapi.json", self.base), "--checks", "all", "--phases", self.phases]);
        command.args(["--seed", &seed.to_string(), "--max-examples", &examples.to_string(), "--no-color"]);
        command.args(["--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "60"]);
        // More threads than one trip over an error of CPython 3.11 (its parser counts the recursion of all of them).
        command.args(["--workers", "1"]);
        match self.only {
            Some(operation) => {
                command.args(["--include-operation-id", operation]);
            }
            None => ENDING.iter().chain(&["connectRealtime"]).for_each(|operation| {
                command.args(["--exclude-operation-id", operation]);
            }),
        }
        let began = tokio::time::Instant::now();
        let output = command.output().await.expect("schemathesis runs");
        let (said, erred) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let again = format!("CONSTRUCT_SCHEMATHESIS_SEED={seed} CONSTRUCT_SCHEMATHESIS_EXAMPLES={examples}");
        assert!(output.status.success(), "as {}, {again}:\n{said}\n{erred}", self.what);
        let tested = said.lines().find(|line| line.contains(" generated,")).unwrap_or_else(|| panic!("{said}"));
        println!("as {}: {} in {:?}, {again}", self.what, tested.trim(), began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_documented_whoever_asks() {
    let node = start().await;
    let long = setting("CONSTRUCT_SCHEMATHESIS_EXAMPLES");
    let examples = long.unwrap_or(SHORT);
    let seed = setting("CONSTRUCT_SCHEMATHESIS_SEED").unwrap_or(SEED);
    let (all, brief) = ("examples,coverage,fuzzing,stateful", "fuzzing,stateful");
    let mut runs = vec![asker(&node, "administrator", if long.is_some() { all } else { brief }).await];
    if long.is_some() {
        for role in ["consumer", "robot_builder", "developer"] {
            runs.push(asker(&node, role, all).await);
        }
    }
    for operation in ENDING {
        runs.push(leaver(&node, operation).await);
    }
    stream::iter(runs).map(|run| run.check(examples, seed)).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await;
    // After the others: an operator moves the clock.
    let (base, token) = (format!("http://{}", node.admin), node.operator().token().to_owned());
    let operator = Run { what: "operator".to_owned(), base, token, known: json!({}), only: None, phases: all };
    operator.check(examples, seed).await;
    let log = node.whole_log();
    assert!(!log.contains("panicked"), "something panicked:\n{}", node.log());
}

/// All of spectral's, but that a WebSocket's success is 101 and not 2xx.
const RULES: &str = r#"
extends: ["spectral:oas"]
overrides:
  - files: ["gateway.json#/paths/~1connection~1websocket"]
    rules: { operation-success-response: off }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn both_documents_pass_the_linter() {
    let node = start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let rules = directory.path().join("rules.yaml");
    std::fs::write(&rules, RULES).expect("written");
    for (what, api) in [("gateway", node.api()), ("admin", node.operator())] {
        let file = directory.path().join(format!("{what}.json"));
        std::fs::write(&file, api.get("/openapi.json").await.text).expect("written");
        let mut command = Command::new("node");
        command.arg(npm().join("node_modules/@stoplight/spectral-cli/dist/index.js")).arg("lint");
        command.args(["--fail-severity", "warn", "--ruleset"]).arg(&rules).arg(&file).kill_on_drop(true);
        let output = command.output().await.expect("spectral runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{what}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        println!("{what}: {}", said.trim());
    }
}
