//! The listener under clients that misbehave, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{App, Bounds, Server, TlsFiles};
use crate::gateway::reply::{Reply, problem};
use crate::gateway::request::{BodyBudget, Request, read_body};
use crate::settings::Tls;

/// Echoes bodies of up to 1000 bytes; `/wait` answers when told to.
#[derive(Default)]
struct Echo {
    arrived: Notify,
    go_on: Notify,
}

#[async_trait]
impl App for Echo {
    async fn serve(&self, request: Request) -> Reply {
        if request.head.path == "/wait" {
            self.arrived.notify_one();
            self.go_on.notified().await;
        }
        let budget = BodyBudget::new(1000);
        match read_body(&request.head, request.body, 1000, Duration::from_millis(200), &budget).await.map(|b| b.bytes) {
            Ok(body) if body.is_empty() => Reply::bytes(200, "text/plain", request.head.path.clone()),
            Ok(body) => Reply::bytes(200, "text/plain", body),
            Err(error) => problem(&error, "test"),
        }
    }
}

struct Running {
    address: SocketAddr,
    app: Arc<Echo>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn bounds() -> Bounds {
    Bounds {
        max_connections: 100,
        max_connections_per_address: 100,
        max_header_bytes: 8192,
        max_streams: 10,
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(400),
        write_timeout: Duration::from_millis(400),
        drain_timeout: Duration::from_secs(5),
    }
}

async fn start(bounds: Bounds, tls: Option<TlsFiles<'_>>) -> Running {
    let app = Arc::new(Echo::default());
    let address = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(address, bounds, tls, app.clone()).await.expect("a listener");
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let task = tokio::spawn(server.run(shutdown.clone()));
    Running { address, app, shutdown, task }
}

impl Running {
    async fn connect(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(bytes.as_bytes()).await.expect("written");
        stream
    }

    /// Sends the bytes and reads until the server closes.
    async fn exchange(&self, bytes: &str) -> String {
        text(&mut self.connect(bytes).await).await
    }
}

async fn text(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer));
    // A reset after the answer counts as the end, too.
    drop(reading.await.expect("the server closes within its deadlines"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let server = start(bounds(), None).await;
    for started in ["", "G", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        assert_eq!(server.exchange(started).await.find("200 OK"), None, "{started}");
    }
    let mut second = server.connect("GET /one HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut head = [0; 12];
    second.read_exact(&mut head).await.expect("a first answer");
    second.write_all(b"GET /two HT").await.expect("written");
    assert!(!text(&mut second).await.contains("/two"));
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_answers() {
    let server = start(bounds(), None).await;
    let answer = server.exchange("GET /one HTTP/1.1\r\nhost: x\r\n\r\nGET /two HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.ends_with("/two"), "{answer}");
}

#[tokio::test]
async fn bodies_are_bounded_in_time_and_size() {
    let server = start(bounds(), None).await;
    let drip = server.exchange("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n1").await;
    assert!(drip.starts_with("HTTP/1.1 400") && drip.contains("took too long"), "{drip}");
    let announced = server.exchange("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n").await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let chunked = format!("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    assert!(server.exchange(&chunked).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn connect_and_huge_heads_are_refused_and_the_listener_lives_on() {
    let server = start(bounds(), None).await;
    let connect = server.exchange("CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 405"), "{connect}");
    let options = server.exchange("OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(options.starts_with("HTTP/1.1 405"), "{options}");
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx-huge: {}\r\n\r\n", "x".repeat(20_000));
    assert!(server.exchange(&huge).await.starts_with("HTTP/1.1 431"));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert!(server.exchange(&many).await.starts_with("HTTP/1.1 431"));
    let fine = server.exchange("GET /fine HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(fine.ends_with("/fine"), "{fine}");
}

#[tokio::test]
async fn connections_beyond_the_bound_hear_503() {
    for bounds in [Bounds { max_connections: 1, ..bounds() }, Bounds { max_connections_per_address: 1, ..bounds() }] {
        let server = start(bounds, None).await;
        let first = server.connect("GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        server.app.arrived.notified().await;
        let second = server.exchange("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(second.starts_with("HTTP/1.1 503") && second.contains("retry-after: 1"), "{second}");
        server.app.go_on.notify_one();
        let mut first = first;
        assert!(text(&mut first).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn http2_is_spoken() {
    let server = start(bounds(), None).await;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let uri: http::Uri = format!("http://{}/h2", server.address).parse().expect("a URI");
    let (one, two) = tokio::join!(client.get(uri.clone()), client.get(uri));
    for response in [one, two] {
        let response = response.expect("an answer");
        assert_eq!(response.version(), http::Version::HTTP_2);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, "/h2");
    }
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_then_ends() {
    let server = start(bounds(), None).await;
    let mut waiting = server.connect("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.app.arrived.notified().await;
    server.shutdown.cancel();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished());
    server.app.go_on.notify_one();
    let answer = text(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    server.task.await.expect("the listener ends");
}

#[tokio::test]
async fn shutdown_cuts_off_what_does_not_finish() {
    let server = start(Bounds { drain_timeout: Duration::from_millis(100), ..bounds() }, None).await;
    let mut waiting = server.connect("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.app.arrived.notified().await;
    server.shutdown.cancel();
    server.task.await.expect("the listener ends");
    assert_eq!(text(&mut waiting).await, "");
}

#[tokio::test]
async fn tls_is_spoken_when_configured() {
    let file = |name: &str| format!("{}/src/gateway/server/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    let tls = Tls { cert_file: file("cert.pem"), key_file: file("key.pem") };
    let server = start(bounds(), TlsFiles::of(&tls)).await;
    let certificate = std::fs::read(file("cert.pem")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let certificate = rustls_pki_types::pem::PemObject::from_pem_slice(&certificate).expect("PEM");
    roots.add(certificate).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(server.address).await.expect("a connection");
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    stream.write_all(b"GET /tls HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.ends_with("/tls"), "{answer}");
    let plain = server.exchange("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!plain.contains("HTTP/1.1 200"), "{plain}");
    let missing = Tls { cert_file: file("cert.pem"), key_file: file("none.pem") };
    let app = Arc::new(Echo::default());
    let refused = Server::bind("127.0.0.1:0".parse().expect("an address"), bounds(), TlsFiles::of(&missing), app).await;
    assert!(refused.err().is_some_and(|error| error.to_string().contains("none.pem")));
}
