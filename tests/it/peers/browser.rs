//! Chromium, driven over its DevTools protocol: a page is opened, looked at, and acted on as a person would.

use std::process::Stdio;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const WITHIN: Duration = Duration::from_secs(60);
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=900,700",
];

/// A browser with one page.
pub struct Browser {
    stream: WebSocketStream<TcpStream>,
    next_id: u64,
    _child: Child,
    _profile: TempDir,
}

impl Browser {
    /// A fresh profile whose person reads `language`.
    pub async fn start(language: &str) -> Self {
        let profile = TempDir::new().expect("a directory");
        let mut command = Command::new("chromium");
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--accept-lang={language}")).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().expect("Debian's chromium is installed by scripts/test");
        let address = devtools(&profile).await;
        let pages = crate::http::plain().get(format!("http://{address}/json/list")).send().await.expect("an answer");
        let pages: Vec<Value> = pages.json().await.expect("pages");
        let page = pages.iter().find(|page| page["type"] == "page").expect("a page");
        let url = page["webSocketDebuggerUrl"].as_str().expect("an address").to_owned();
        let stream = TcpStream::connect(&address).await.expect("a connection");
        let (stream, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
        Self { stream, next_id: 0, _child: child, _profile: profile }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let command = json!({ "id": id, "method": method, "params": params }).to_string();
        self.stream.send(Message::text(command)).await.expect("sent");
        let answered = async {
            loop {
                let message = self.stream.next().await.expect("chromium lives").expect("a frame");
                let Ok(text) = message.to_text() else { continue };
                let frame: Value = serde_json::from_str(text).unwrap_or_default();
                if frame["id"] == id {
                    return frame;
                }
            }
        };
        let frame = tokio::time::timeout(WITHIN, answered).await.unwrap_or_else(|_| panic!("{method}: no answer"));
        assert!(frame["error"].is_null(), "{method}: {frame}");
        frame["result"].clone()
    }

    /// Opens an address and waits until its page is whole.
    pub async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The text a person sees.
    pub async fn text(&mut self) -> String {
        self.value("document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression holds.
    pub async fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + WITHIN;
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        while self.value(expression).await != json!(true) {
            poll.tick().await;
            if Instant::now() > deadline {
                panic!("{expression} does not come to hold; the page: {}", self.text().await);
            }
        }
    }

    /// Types into what has the focus.
    pub async fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key in what has the focus.
    pub async fn press(&mut self, key: &str, code: u32, text: &str) {
        let event =
            |kind: &str| json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", event("keyDown")).await;
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }))
            .await;
    }

    /// Keeps a picture of the page where `CONSTRUCT_TEST_PICTURES` says, for whoever wants to look at it.
    pub async fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("CONSTRUCT_TEST_PICTURES") else { return };
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let bytes = shot["data"].as_str().expect("a picture");
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, bytes).expect("base64");
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), bytes).expect("written");
    }
}

/// Where the browser takes commands: it writes that into its profile once it does.
async fn devtools(profile: &TempDir) -> String {
    let file = profile.path().join("DevToolsActivePort");
    let deadline = Instant::now() + WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    loop {
        poll.tick().await;
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(port) = text.lines().next().filter(|_| text.lines().count() > 1) {
            return format!("127.0.0.1:{port}");
        }
        assert!(Instant::now() < deadline, "chromium does not start within {WITHIN:?}");
    }
}
