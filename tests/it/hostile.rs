//! Clients that mean harm, over raw sockets, while an honest one is served all along: refused with the right status,
//! nothing panics, memory stays flat, and the honest client notices nothing.

mod framing;
mod h2;
mod slow;
mod tls;
mod values;
mod websocket;

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::Person;

/// How long an honest request may take on a busy machine; far more than it does.
const SERVED_WITHIN: Duration = Duration::from_secs(15);
/// How long the node may take to end what it must end.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// A node with short deadlines and an honest client that is served until it says so. `who` is what the attacks know of
/// that client.
struct Siege<P = Person> {
    node: Node,
    who: P,
    resident: u64,
    stop: watch::Sender<bool>,
    honest: JoinHandle<u64>,
}

impl Siege {
    async fn lay(plan: Plan) -> Self {
        let node = plan.start().await;
        let person = Person::sign_up(&node, &Maildir::of(&node.data()), "honest@example.org", "developer").await;
        Self::around(node, person.clone(), |stopped| serve_honest(person, stopped))
    }
}

impl<P> Siege<P> {
    fn around<F>(node: Node, who: P, serve: impl FnOnce(watch::Receiver<bool>) -> F) -> Self
    where
        F: Future<Output = u64> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let honest = tokio::spawn(serve(stopped));
        let resident = node.resident();
        Self { node, who, resident, stop, honest }
    }

    /// Ends it: the honest client was served, nothing panicked, and the memory is near what it was.
    async fn lift(self, may_grow_mib: u64) {
        self.stop.send(true).expect("the honest client runs");
        let served = self.honest.await.expect("the honest client was served to the end");
        assert!(served >= 3, "{served} honest requests");
        let grown = self.node.resident().saturating_sub(self.resident) >> 20;
        assert!(grown <= may_grow_mib, "memory grew by {grown} MiB");
        let log = self.node.whole_log();
        assert!(!log.contains("panicked"), "something panicked:\n{}", self.node.log());
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.node.gateway).await.expect("a connection")
    }

    /// Sends the bytes and reads until the node closes.
    async fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        // The node may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        drain(&mut stream).await
    }

    /// The status codes of all answers to the bytes, until the node closes.
    async fn statuses(&self, bytes: &[u8]) -> Vec<u16> {
        let answer = self.exchange(bytes).await;
        let text = String::from_utf8_lossy(&answer);
        let heads = text.split("HTTP/1.").skip(1).filter_map(|head| head.get(2..5)?.parse().ok());
        heads.collect()
    }
}

/// Everything until the other side closes; a reset is the end, too.
async fn drain(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let reading = timeout(ENDED_WITHIN, stream.read_to_end(&mut answer)).await;
    drop(reading.expect("the node closes within its deadlines"));
    answer
}

/// Reads, changes and health, one after the other; every answer must be right and in time.
async fn serve_honest(person: Person, mut stopped: watch::Receiver<bool>) -> u64 {
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut served = 0;
    while !*stopped.borrow_and_update() || served < 3 {
        pace.tick().await;
        let started = Instant::now();
        let name = format!("Honest {served}");
        person.api.get("/livez").await.expect(200);
        let patch = json!({ "display_name": name });
        let changed = person.api.send(reqwest::Method::PATCH, "/v1/me", None, Some(&patch)).await;
        assert_eq!(changed.expect(200)["display_name"], name);
        assert_eq!(person.api.get("/v1/me").await.expect(200)["display_name"], name);
        let took = started.elapsed();
        assert!(took < SERVED_WITHIN, "three honest requests took {took:?}");
        served += 1;
    }
    served
}

/// The node with deadlines short enough for a test.
fn hasty() -> Plan {
    Plan::sandbox()
        .set("gateway.header_timeout_ms", "1000")
        .set("gateway.body_timeout_ms", "2000")
        .set("gateway.idle_timeout_ms", "3000")
        .set("gateway.websocket.connect_timeout_ms", "1000")
}
