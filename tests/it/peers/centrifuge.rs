//! The npm `centrifuge` client, unmodified, driven over JSON lines by `tests/peers/centrifuge_client.mjs`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

use super::npm;
use crate::socket::Listener;

const WITHIN: Duration = Duration::from_secs(60);

pub struct Centrifuge {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// Every event so far.
    events: Vec<Value>,
    publications: Vec<Value>,
    looked_at: usize,
    _child: Child,
}

impl Centrifuge {
    /// Connects with an access token and waits until the server-side subscription stands.
    pub async fn open(address: SocketAddr, token: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/centrifuge_client.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(npm()).arg(format!("ws://{address}/connection/websocket")).arg(token);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("node runs");
        let stdin = child.stdin.take().expect("a pipe");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut client =
            Self { stdin, lines, events: Vec::new(), publications: Vec::new(), looked_at: 0, _child: child };
        client.event("connected").await;
        client.event("subscribed").await;
        client
    }

    /// Reads the next event.
    async fn next(&mut self, deadline: Instant) -> Value {
        let line = timeout_at(deadline, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no event in time; so far {:#?}", self.events));
        let line = line.expect("a readable pipe").unwrap_or_else(|| panic!("the client ended: {:#?}", self.events));
        let event: Value = serde_json::from_str(&line).expect("JSON lines");
        if event["event"] == "publication" {
            self.publications.push(event.clone());
        }
        self.events.push(event.clone());
        event
    }

    /// Waits for the next event of a kind; one that came already counts.
    pub async fn event(&mut self, kind: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == kind && event["seen"].is_null()) {
            self.events[at]["seen"] = json!(true);
            return self.events[at].clone();
        }
        let deadline = Instant::now() + WITHIN;
        loop {
            let event = self.next(deadline).await;
            if event["event"] == kind {
                self.events.last_mut().expect("just pushed")["seen"] = json!(true);
                return event;
            }
        }
    }

    pub async fn command(&mut self, command: Value) {
        let line = format!("{command}\n");
        self.stdin.write_all(line.as_bytes()).await.expect("the client reads");
    }
}

impl Listener for Centrifuge {
    async fn hear(&mut self, words: &str) -> Value {
        let deadline = Instant::now() + WITHIN;
        loop {
            while self.looked_at < self.publications.len() {
                let publication = &self.publications[self.looked_at];
                self.looked_at += 1;
                if publication["data"].to_string().to_lowercase().contains(words) {
                    return publication.clone();
                }
            }
            self.next(deadline).await;
        }
    }

    async fn heard(&mut self) -> Vec<Value> {
        self.rpc("countUnread", json!({})).await;
        self.publications.clone()
    }

    async fn closed(&mut self) -> u64 {
        let event = self.event("disconnected").await;
        event["code"].as_u64().expect("a code")
    }

    async fn renew(&mut self, token: &str) {
        self.command(json!({ "do": "token", "token": token })).await;
    }

    async fn rpc(&mut self, method: &str, data: Value) -> Value {
        self.command(json!({ "do": "rpc", "method": method, "data": data })).await;
        self.event("rpc").await
    }
}
