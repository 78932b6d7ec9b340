//! Requests over kept-alive connections, each sending its next as soon as it has the answer to the one before.
//!
//! One thread, so that on two cores the server has at least one for itself. Every answer must be 200.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::process::cpu;
use crate::support::rate;

pub const CONNECTIONS: usize = 64;
/// Not counted: connections open, caches fill.
const WARM_UP: Duration = Duration::from_millis(300);

/// What is asked, by one connection after the other in turn.
pub struct Target {
    pub address: SocketAddr,
    /// The server's, for its processor time.
    pub pid: u32,
    pub requests: Vec<Vec<u8>>,
}

/// What came of it.
#[derive(Clone, Copy)]
pub struct Load {
    pub per_second: f64,
    /// Processor time of the server for one request.
    pub cpu: Duration,
}

impl Target {
    pub fn get(address: SocketAddr, pid: u32, path: &str, tokens: &[String]) -> Self {
        let request = |authorization: String| {
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: bench\r\naccept: */*\r\n{authorization}\r\n")
        };
        let requests: Vec<String> = if tokens.is_empty() {
            vec![request(String::new())]
        } else {
            tokens.iter().map(|token| request(format!("authorization: Bearer {token}\r\n"))).collect()
        };
        Self { address, pid, requests: requests.into_iter().map(String::into_bytes).collect() }
    }

    /// Loads the server for `turn`.
    pub fn saturate(&self, turn: Duration) -> Load {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let began = Instant::now() + WARM_UP;
            let ends = began + turn;
            let clients = (0..CONNECTIONS).map(|number| {
                let request = self.requests[number % self.requests.len()].clone();
                tokio::spawn(client(self.address, request, began, ends))
            });
            let clients: Vec<_> = clients.collect();
            tokio::time::sleep_until(began.into()).await;
            let before = cpu(Some(self.pid));
            let mut answered = 0;
            for client in clients {
                answered += client.await.expect("every request is answered");
            }
            let spent = cpu(Some(self.pid)).saturating_sub(before);
            #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^32 requests")]
            let cpu = spent / (answered.max(1) as u32);
            Load { per_second: rate(answered, turn), cpu }
        })
    }
}

/// How many answers came between `began` and `ends`.
async fn client(address: SocketAddr, request: Vec<u8>, began: Instant, ends: Instant) -> u64 {
    let mut connection = Connection::open(address).await;
    let mut answered = 0;
    loop {
        connection.ask(&request).await;
        let now = Instant::now();
        if now >= ends {
            return answered;
        }
        answered += u64::from(now >= began);
    }
}

/// A kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: BytesMut::with_capacity(8192) }
    }

    /// Sends a request and reads its whole answer, which must be a success with a length.
    pub async fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).await.expect("sent");
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the server closed: {}", String::from_utf8_lossy(&self.buffer));
            if self.is_whole() {
                return &self.buffer;
            }
        }
    }

    fn is_whole(&self) -> bool {
        let Some(head) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
        let text = std::str::from_utf8(&self.buffer[..head]).expect("a head is ASCII");
        assert!(text.starts_with("HTTP/1.1 20"), "{text}");
        let length = text.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        self.buffer.len() >= head + 4 + length
    }
}
