//! Ten thousand clients in this process, and one publication after the other to all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use futures::StreamExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::raw::{PUBLISH, Raw};
use crate::support::node::{Node, Person, until};
use crate::support::process::cpu;
use crate::support::{Goal, Run, rate};

const TOPIC: &str = "topic:bench";
const WITHIN: Duration = Duration::from_secs(60);
/// Handshakes under way at once.
const OPENING: usize = 64;
/// Bytes of what is published.
const TEXT_BYTES: usize = 128;

/// Sockets that count what they receive.
pub struct Crowd {
    /// One thread: the other core is the server's.
    runtime: Option<Runtime>,
    received: Arc<AtomicU64>,
    connected: SocketAddr,
    sockets: usize,
}

impl Crowd {
    /// Sockets that speak the protocol, each subscribed to the topic.
    pub fn of_the_node(node: &Node, people: &[Person], sockets: usize) -> Self {
        let tokens: Vec<String> = people.iter().map(|person| person.token.clone()).collect();
        Self::open(node.gateway, sockets, move |number| Some(tokens[number % tokens.len()].clone()))
    }

    /// Sockets that only listen.
    pub fn of_raw(address: SocketAddr, sockets: usize) -> Self {
        Self::open(address, sockets, |_| None)
    }

    fn open(address: SocketAddr, sockets: usize, token: impl Fn(usize) -> Option<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let received = Arc::<AtomicU64>::default();
        let opened = futures::stream::iter(0..sockets).map(|number| Socket::open(address, token(number), true));
        let opened: Vec<Socket> = runtime.block_on(opened.buffer_unordered(OPENING).collect());
        for socket in opened {
            runtime.spawn(socket.listen(Arc::clone(&received)));
        }
        Self { runtime: Some(runtime), received, connected: address, sockets }
    }

    /// Publishes again and again for `turn`, each time waiting until everybody has it; deliveries for each second of
    /// the server's processor time.
    fn publish(&self, pid: u32, turn: Duration, mut publish: impl FnMut()) -> f64 {
        let (began, before, already) = (Instant::now(), cpu(Some(pid)), self.received.load(Ordering::Relaxed));
        let mut delivered = 0;
        while began.elapsed() < turn {
            publish();
            delivered += self.sockets as u64;
            until(Instant::now() + WITHIN, "everybody has it", || {
                (self.received.load(Ordering::Relaxed) - already >= delivered).then_some(())
            });
        }
        assert_eq!(self.received.load(Ordering::Relaxed) - already, delivered, "everybody has it once");
        rate(delivered, cpu(Some(pid)).saturating_sub(before))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn run(run: &Run, ours: (&Node, &Crowd, &Person), raw: (&Raw, &Crowd)) {
    let ((node, crowd, person), (raw, theirs)) = (ours, raw);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let text = "x".repeat(TEXT_BYTES);
    let mut publisher = runtime.block_on(Socket::open(crowd.connected, Some(person.token.clone()), false));
    let command = json!({ "id": 9, "publish": { "channel": TOPIC, "data": { "text": text } } }).to_string();
    let mut listener = runtime.block_on(TcpStream::connect(theirs.connected)).expect("a connection");
    let push = json!({ "push": { "channel": TOPIC, "pub": { "data": { "text": text }, "offset": 1000 } } }).to_string();
    let mut framed = vec![PUBLISH];
    framed.extend_from_slice(&frame(push.as_bytes(), None));
    let measured = run.pairs(
        || crowd.publish(node.pid(), run.turn(), || runtime.block_on(publisher.ask(&command))),
        || theirs.publish(raw.pid(), run.turn(), || runtime.block_on(listener.write_all(&framed)).expect("sent")),
    );
    measured.print("fan-out to 10k / send loop, each CPU-second", Goal::Ratio(0.5));
}

/// A connection that may speak the protocol (Centrifuge v2 over WebSocket) or only receive its frames.
struct Socket {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Socket {
    /// Connects; with a token shakes hands, says who it is, and follows the topic if `follows`.
    async fn open(address: SocketAddr, token: Option<String>, follows: bool) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let mut socket = Self { stream, buffer: BytesMut::new() };
        let Some(token) = token else { return socket };
        let request = format!(
            "GET /connection/websocket HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.stream.write_all(request.as_bytes()).await.expect("sent");
        let head = loop {
            socket.more().await;
            if let Some(end) = socket.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break socket.buffer.split_to(end + 4);
            }
        };
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        socket.ask(&json!({ "id": 1, "connect": { "token": token } }).to_string()).await;
        if follows {
            socket.ask(&json!({ "id": 2, "subscribe": { "channel": TOPIC } }).to_string()).await;
        }
        socket
    }

    async fn more(&mut self) {
        self.buffer.reserve(512);
        let read = self.stream.read_buf(&mut self.buffer).await.expect("the connection holds");
        assert!(read > 0, "the server closed");
    }

    /// Sends a command and waits for its answer, which must be no refusal.
    async fn ask(&mut self, command: &str) {
        self.stream.write_all(&frame(command.as_bytes(), Some([0; 4]))).await.expect("sent");
        let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
        let asked = json(command.as_bytes());
        loop {
            let frame = self.next().await;
            let answer = frame[..].split(|byte| *byte == b'\n').map(json).find(|reply| reply["id"] == asked["id"]);
            if let Some(answer) = answer {
                assert!(answer["error"].is_null(), "{answer}");
                return;
            }
        }
    }

    /// The next frame's content; pings are answered on the way.
    async fn next(&mut self) -> BytesMut {
        loop {
            let Some(whole) = take_frame(&mut self.buffer) else {
                self.more().await;
                continue;
            };
            if &whole[..] != b"{}" {
                return whole;
            }
            self.stream.write_all(&frame(b"{}", Some([0; 4]))).await.expect("sent");
        }
    }

    async fn listen(mut self, received: Arc<AtomicU64>) {
        loop {
            let frame = self.next().await;
            let lines = frame[..].split(|byte| *byte == b'\n');
            let publications = lines.filter(|line| line.starts_with(b"{\"push\""));
            received.fetch_add(publications.count() as u64, Ordering::Relaxed);
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
        }
    }
}

/// A text frame (RFC 6455 §5.2), masked with a key that changes nothing when it comes from a client.
fn frame(text: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let length = u16::try_from(text.len()).expect("short");
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(short @ ..126) => frame.push(masked | short),
        _ => {
            frame.push(masked | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(mask.as_ref().map_or(&[], |mask| &mask[..]));
    frame.extend_from_slice(text);
    frame
}

/// Takes a server's whole frame off the buffer.
fn take_frame(buffer: &mut BytesMut) -> Option<BytesMut> {
    let (head, length) = match *buffer.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*buffer.get(2)?, *buffer.get(3)?]))),
        length => (2, usize::from(length)),
    };
    if buffer.len() < head + length {
        return None;
    }
    assert_eq!(buffer[0], 0x81, "a text frame");
    buffer.advance(head);
    Some(buffer.split_to(length))
}
