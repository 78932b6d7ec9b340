//! A client of the Centrifuge protocol (v2, JSON), small and of the tests' own; the npm client plays in `peers`.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const WITHIN: Duration = Duration::from_secs(30);

/// Listens to one person's inbox. Both clients of the tests are this.
pub trait Listener {
    /// Waits for the next publication whose JSON text contains `words`, whatever the case.
    async fn hear(&mut self, words: &str) -> Value;
    /// Everything published so far, in order of arrival.
    async fn heard(&mut self) -> Vec<Value>;
    /// Waits until the other side has closed for good, and says with which code.
    async fn closed(&mut self) -> u64;
    /// Goes on with a fresh access token, after the old one expired; nothing published in between is missed.
    async fn renew(&mut self, token: &str);
    /// Calls an operation over the socket.
    async fn rpc(&mut self, method: &str, data: Value) -> Value;
}

pub struct Socket {
    address: SocketAddr,
    stream: WebSocketStream<TcpStream>,
    next_id: u64,
    /// The answer to `connect`: client id, server-side subscriptions.
    pub connected: Value,
    publications: Vec<Value>,
    /// How many publications `hear` has looked at.
    looked_at: usize,
    close_code: Option<u64>,
}

impl Socket {
    /// Connects with an access token.
    pub async fn open(address: SocketAddr, token: &str) -> Self {
        Self::open_with(address, json!({ "token": token, "name": "tests" })).await.expect("connected")
    }

    /// Connects with a whole `connect` request. `Err` is the server's error reply or close code.
    pub async fn open_with(address: SocketAddr, request: Value) -> Result<Self, Value> {
        Self::try_open_with(address, request).await.expect("a WebSocket")
    }

    /// As [`Socket::open_with`]; `None` when nobody is there.
    pub async fn try_open_with(address: SocketAddr, request: Value) -> Option<Result<Self, Value>> {
        let stream = TcpStream::connect(address).await.ok()?;
        let url = format!("ws://{address}/connection/websocket");
        let (stream, _) = tokio_tungstenite::client_async(url, stream).await.ok()?;
        let mut socket = Self {
            address,
            stream,
            next_id: 0,
            connected: Value::Null,
            publications: Vec::new(),
            looked_at: 0,
            close_code: None,
        };
        let reply = socket.call("connect", request).await;
        if reply["connect"].is_null() {
            return Some(Err(reply));
        }
        socket.connected = reply["connect"].clone();
        let recovered: Vec<Value> = socket.connected["subs"]
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(_, sub)| sub["publications"].as_array().cloned().unwrap_or_default())
            .collect();
        socket.publications.extend(recovered);
        Some(Ok(socket))
    }

    /// Everything published so far, without a round trip.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub fn publications(&self) -> &[Value] {
        &self.publications
    }

    /// Where the one server-side subscription stood when it was made.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub fn offset(&self) -> u64 {
        let subs = self.connected["subs"].as_object().into_iter().flatten();
        subs.filter_map(|(_, sub)| sub["offset"].as_u64()).next().unwrap_or(0)
    }

    /// Waits for the next frame; false when the socket is closed.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub async fn goes_on(&mut self) -> bool {
        self.next().await.is_some()
    }

    /// As [`Listener::renew`]; false when the node is gone or does not let it in.
    pub async fn try_renew(&mut self, token: &str) -> bool {
        let request = json!({ "token": token, "name": "tests", "subs": self.positions() });
        let Some(Ok(renewed)) = Self::try_open_with(self.address, request).await else { return false };
        for sub in renewed.connected["subs"].as_object().into_iter().flatten().map(|(_, sub)| sub) {
            assert_eq!(sub["recovered"], true, "{sub}");
        }
        self.stream = renewed.stream;
        self.connected = renewed.connected;
        self.publications.extend(renewed.publications);
        self.close_code = None;
        true
    }

    /// Connects to another node the next time.
    pub fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
    }

    /// Sends a command and waits for its reply; a close in between answers `{"closed": code}`.
    pub async fn call(&mut self, kind: &str, body: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let command = json!({ "id": id, kind: body }).to_string();
        if self.stream.send(Message::text(command)).await.is_err() {
            return json!({ "closed": self.closed().await });
        }
        let deadline = Instant::now() + WITHIN;
        loop {
            let Some(replies) = timeout_at(deadline, self.next()).await.expect("a reply in time") else {
                return json!({ "closed": self.close_code });
            };
            if let Some(reply) = replies.into_iter().find(|reply| reply["id"] == id) {
                return reply;
            }
        }
    }

    /// The replies of the next frame, pushes kept and pings answered; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Value>> {
        let text = match self.stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                self.close_code = Some(frame.map_or(0, |frame| u64::from(u16::from(frame.code))));
                return None;
            }
            Some(Ok(_)) => return Some(Vec::new()),
            Some(Err(_)) | None => {
                self.close_code.get_or_insert(0);
                return None;
            }
        };
        let mut replies = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let message: Value = serde_json::from_str(line).expect("JSON from the server");
            if message == json!({}) {
                // The server's ping; the answer is the same.
                let _ = self.stream.send(Message::text("{}")).await;
            } else if message["id"].is_u64() {
                replies.push(message);
            } else if let Some(publication) = message.pointer("/push/pub") {
                self.publications.push(publication.clone());
            }
        }
        Some(replies)
    }

    /// Where each server-side subscription stands: what a client says to recover what it missed.
    fn positions(&self) -> Value {
        let subs = self.connected["subs"].as_object().cloned().unwrap_or_default();
        let position = |(channel, sub): (String, Value)| {
            let last = self.publications.iter().filter_map(|publication| publication["offset"].as_u64()).max();
            let offset = last.or_else(|| sub["offset"].as_u64()).unwrap_or(0);
            (channel, json!({ "recover": true, "epoch": sub["epoch"], "offset": offset }))
        };
        subs.into_iter().map(position).collect()
    }
}

impl Listener for Socket {
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
            let next = timeout_at(deadline, self.next()).await;
            let next =
                next.unwrap_or_else(|_| panic!("nothing about {words:?} was published: {:#?}", self.publications));
            assert!(next.is_some(), "closed with {:?} before {words:?}: {:#?}", self.close_code, self.publications);
        }
    }

    async fn heard(&mut self) -> Vec<Value> {
        // A round trip: what the server had sent before is here after it.
        self.call("rpc", json!({ "method": "countUnread", "data": {} })).await;
        self.publications.clone()
    }

    async fn closed(&mut self) -> u64 {
        while self.close_code.is_none() {
            timeout(WITHIN, self.next()).await.expect("the server closes");
        }
        self.close_code.unwrap_or(0)
    }

    async fn renew(&mut self, token: &str) {
        assert!(self.try_renew(token).await, "connected again");
    }

    async fn rpc(&mut self, method: &str, data: Value) -> Value {
        self.call("rpc", json!({ "method": method, "data": data })).await
    }
}
