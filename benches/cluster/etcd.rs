//! etcd with three members on this machine, and callers that put values over gRPC.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::support::callers::RECORD_BYTES;
use super::support::node::{free_port, until};
use super::support::rate;

const MEMBERS: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(30);

pub struct Etcd {
    members: Vec<Child>,
    clients: Vec<SocketAddr>,
    _data: TempDir,
}

impl Etcd {
    /// # Panics
    /// When no etcd was named: a comparison that is left out is not to look like one that was made.
    pub fn start(place: &Path) -> Self {
        let program = std::env::var_os("CONSTRUCT_BENCH_ETCD").expect("CONSTRUCT_BENCH_ETCD names the etcd binary");
        let data = tempfile::tempdir_in(place).expect("a directory");
        let peers: Vec<SocketAddr> = (0..MEMBERS).map(|_| free_port()).collect();
        let clients: Vec<SocketAddr> = (0..MEMBERS).map(|_| free_port()).collect();
        let named = peers.iter().enumerate().map(|(number, peer)| format!("m{number}=http://{peer}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let start = |number: usize| {
            let (peer, client) = (format!("http://{}", peers[number]), format!("http://{}", clients[number]));
            let mut command = Command::new(&program);
            command.arg("--name").arg(format!("m{number}"));
            command.arg("--data-dir").arg(data.path().join(number.to_string()));
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--initial-cluster", &cluster, "--log-level", "error"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd starts")
        };
        let members = (0..MEMBERS).map(start).collect();
        let etcd = Self { members, clients, _data: data };
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        until(Instant::now() + READY_WITHIN, "etcd answers", || {
            tokio.block_on(async {
                let mut connection = connect(etcd.clients[0]).await?;
                put(&mut connection, 0).await
            })
        });
        etcd
    }

    /// Puts a second of so many callers, each with a key of its own and its share of a few connections to each member.
    pub fn puts(&self, tokio: &Runtime, callers: usize, turn: Duration) -> f64 {
        /// Calls that share a connection.
        const SHARED: usize = 64;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        tokio.block_on(async {
            let mut connections = Vec::new();
            for number in 0..callers.div_ceil(SHARED).max(MEMBERS) {
                connections.push(connect(self.clients[number % MEMBERS]).await.expect("connected"));
            }
            let began = Instant::now();
            let mut calls = Vec::new();
            for caller in 0..callers {
                let mut connection = connections[caller % connections.len()].clone();
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                calls.push(tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        put(&mut connection, caller).await.expect("durable");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
            tokio::time::sleep(turn).await;
            stop.store(true, Ordering::Relaxed);
            for call in calls {
                call.await.expect("no panic");
            }
            rate(done.load(Ordering::Relaxed), began.elapsed())
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> Option<Connection> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let io = TokioIo::new(stream);
    let (connection, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
    tokio::spawn(driver);
    Some(connection)
}

/// `etcdserverpb.KV/Put` of [`RECORD_BYTES`] (etcd 3.4, `rpc.proto`); `None` when it was refused.
async fn put(connection: &mut Connection, key: usize) -> Option<()> {
    let (key, value) = (format!("{key:08}"), vec![0x5a; RECORD_BYTES]);
    // Field 1 is the key, field 2 the value, both bytes; lengths are varints.
    let mut message = vec![0x0a, u8::try_from(key.len()).expect("short")];
    message.extend_from_slice(key.as_bytes());
    message.push(0x12);
    let length = u16::try_from(value.len()).expect("short");
    message.extend_from_slice(&[(length & 0x7f) as u8 | 0x80, u8::try_from(length >> 7).expect("two bytes")]);
    message.extend_from_slice(&value);
    // A gRPC frame: not compressed, and its length.
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    body.extend_from_slice(&message);
    let request = http::Request::post("http://etcd/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    connection.ready().await.ok()?;
    let answer = connection.send_request(request).await.ok()?;
    let answer = answer.into_body().collect().await.ok()?;
    let status = answer.trailers()?.get("grpc-status")?;
    (status == "0").then_some(())
}
