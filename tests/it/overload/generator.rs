//! A load of HTTP requests: closed (so many at a time) or open (so many a second, whatever comes back). The bench
//! `edge` takes it in, too: it knows nothing but an address.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Without an answer for so long, a connection is given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Makes the bytes of the request with this number.
pub type Call = Arc<dyn Fn(usize) -> String + Send + Sync>;

/// What came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Successes in time.
    pub good: u64,
    /// Successes after the client had stopped waiting: taken, and of no use to it.
    pub tardy: u64,
    /// 503 and 429 that say when to come back.
    pub refused: u64,
    /// No answer, or no connection was free to ask.
    pub unanswered: u64,
    /// Anything else.
    pub wrong: u64,
    /// The status of one of those.
    pub odd: u16,
}

#[derive(Default)]
struct Counts {
    good: AtomicU64,
    tardy: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    wrong: AtomicU64,
    odd: AtomicU16,
}

impl Counts {
    fn count(&self, answer: Option<Answer>, in_time: bool) {
        let counter = match answer {
            Some(Answer { status: 200..=299, .. }) if in_time => &self.good,
            Some(Answer { status: 200..=299, .. }) => &self.tardy,
            Some(Answer { status: 429 | 503, retry_after: true }) => &self.refused,
            Some(Answer { status, .. }) => {
                self.odd.store(status, Ordering::Relaxed);
                &self.wrong
            }
            None => &self.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn figures(&self) -> Figures {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            good: of(&self.good),
            tardy: of(&self.tardy),
            refused: of(&self.refused),
            unanswered: of(&self.unanswered),
            wrong: of(&self.wrong),
            odd: self.odd.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    retry_after: bool,
}

/// A request with a JSON body.
pub fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> String {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: node\r\n{token}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One kept-alive connection.
struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream, buffer: Vec::with_capacity(4096) })
    }

    /// Asks and reads the whole answer; connects again where the node closed.
    async fn ask(&mut self, request: &str) -> Option<Answer> {
        let answer = timeout(GIVE_UP, self.exchange(request)).await.ok().flatten();
        if answer.is_none()
            && let Ok(fresh) = Self::open(self.address).await
        {
            *self = fresh;
        }
        answer
    }

    async fn exchange(&mut self, request: &str) -> Option<Answer> {
        self.stream.write_all(request.as_bytes()).await.ok()?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end + 2]).ok()?;
            let status = head.get(9..12)?.parse().ok()?;
            let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length?.parse().ok()?;
            let answer = Answer { status, retry_after: head.contains("\r\nretry-after: ") };
            while self.buffer.len() < end + 4 + length {
                if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                    return None;
                }
            }
            return Some(answer);
        }
    }
}

/// Connections that ask one sort of thing.
pub struct Load {
    call: Call,
    free: Arc<Mutex<Vec<Connection>>>,
    next: AtomicUsize,
}

impl Load {
    pub async fn open(address: SocketAddr, call: Call, connections: usize) -> Self {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(Connection::open(address).await.expect("a connection"));
        }
        Self { call, free: Arc::new(Mutex::new(open)), next: AtomicUsize::new(0) }
    }

    fn request(&self) -> String {
        (self.call)(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// So many at a time for that long.
    pub async fn closed(&self, concurrency: usize, span: Duration) -> Figures {
        let counts = Counts::default();
        let until = Instant::now() + span;
        let asking = (0..concurrency).map(|_| async {
            let mut connection = take(&self.free).expect("a free connection");
            while Instant::now() < until {
                counts.count(connection.ask(&self.request()).await, true);
            }
            give_back(&self.free, connection);
        });
        join_all(asking).await;
        counts.figures()
    }

    /// So many a second for that long, each of no use after `patience`. A request for which no connection is free then
    /// is unanswered, too: its client would wait in line.
    pub async fn at_rate(&self, rate: u64, span: Duration, patience: Duration) -> Figures {
        let counts = Arc::new(Counts::default());
        let mut pace = interval(Duration::from_millis(2));
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (started, mut sent) = (Instant::now(), 0_u64);
        let mut tasks = JoinSet::new();
        while started.elapsed() < span {
            pace.tick().await;
            let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let due = elapsed * rate / 1_000_000;
            while sent < due {
                let Some(mut connection) = take(&self.free) else { break };
                sent += 1;
                let (request, counts, free) = (self.request(), Arc::clone(&counts), Arc::clone(&self.free));
                tasks.spawn(async move {
                    let asked = Instant::now();
                    // The answer is waited for, so that the connection stays usable; late is late all the same.
                    let answer = connection.ask(&request).await;
                    counts.count(answer, asked.elapsed() <= patience);
                    give_back(&free, connection);
                });
            }
            counts.unanswered.fetch_add(due.saturating_sub(sent), Ordering::Relaxed);
            sent = sent.max(due);
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
        counts.figures()
    }
}

fn take(free: &Mutex<Vec<Connection>>) -> Option<Connection> {
    free.lock().expect("nobody panics meanwhile").pop()
}

fn give_back(free: &Mutex<Vec<Connection>>, connection: Connection) {
    free.lock().expect("nobody panics meanwhile").push(connection);
}

/// Shakes hands for a WebSocket; `Err` is the refusal.
pub async fn upgrade(address: SocketAddr) -> Result<TcpStream, String> {
    let broken = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(broken)?;
    let shake = "GET /connection/websocket HTTP/1.1\r\nhost: node\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(shake.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.map_err(broken)?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.1 101") { Ok(stream) } else { Err(head) }
}
