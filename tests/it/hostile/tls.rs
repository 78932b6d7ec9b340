//! The same over TLS, and what only TLS makes possible: handshakes that never end, protocols that were not agreed upon.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::h2::{Attack, DATA, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, frame, frames, request, reset};
use super::{ENDED_WITHIN, SERVED_WITHIN, drain, hasty};

fn file(name: &str) -> String {
    format!("{}/src/gateway/server/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file("cert.pem")).expect("a certificate")
}

/// A siege of a node whose gateway speaks TLS.
type Siege = super::Siege<()>;

impl Siege {
    async fn over_tls() -> Self {
        let files = [("gateway.tls.cert_file", file("cert.pem")), ("gateway.tls.key_file", file("key.pem"))];
        let plan = files.iter().fold(hasty(), |plan, (key, path)| plan.set(key, path));
        let mut node = plan.prepare();
        node.spawn();
        let ready = format!("http://{}/readyz", node.admin);
        let plain = crate::http::plain();
        let deadline = Instant::now() + ENDED_WITHIN;
        let mut poll = interval(Duration::from_millis(20));
        while !plain.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200) {
            poll.tick().await;
            assert!(Instant::now() < deadline, "the node is not ready\n{}", node.log());
        }
        let gateway = node.gateway;
        Self::around(node, (), |stopped| serve_honest(gateway, stopped))
    }

    /// Shakes hands, offering these protocols.
    async fn shake(&self, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = versions.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let shaking = TlsConnector::from(Arc::new(config)).connect(name, self.connect().await);
        timeout(ENDED_WITHIN, shaking).await.expect("a handshake in time")
    }

    async fn attack(&self) -> Attack {
        let stream = self.shake(&["h2"]).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Attack::over(Box::new(stream), &[]).await
    }
}

async fn serve_honest(gateway: std::net::SocketAddr, mut stopped: watch::Receiver<bool>) -> u64 {
    crate::http::plain();
    let authority = reqwest::Certificate::from_der(&certificate()).expect("a certificate");
    let builder = reqwest::Client::builder().tls_certs_only([authority]).resolve("localhost", gateway);
    let client = builder.timeout(SERVED_WITHIN).build().expect("a client");
    let mut pace = interval(Duration::from_millis(50));
    let mut served = 0;
    while !*stopped.borrow_and_update() || served < 3 {
        pace.tick().await;
        for path in ["/livez", "/v1/plans"] {
            let url = format!("https://localhost:{}{path}", gateway.port());
            let answer = client.get(url).send().await.expect("an answer in time");
            assert_eq!(answer.status(), 200, "{path}");
        }
        served += 1;
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_do_not_end_and_what_is_no_handshake_are_cut_off() {
    let siege = Siege::over_tls().await;
    let hello = {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.expect("versions").with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a hello");
        bytes
    };
    let mut slow = JoinSet::new();
    for _ in 0..40 {
        let mut silent = siege.connect().await;
        slow.spawn(async move { drain(&mut silent).await });
        let (mut dripping, bytes) = (siege.connect().await, hello.clone());
        slow.spawn(async move {
            let mut pace = interval(Duration::from_millis(100));
            for byte in bytes {
                pace.tick().await;
                if dripping.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
            drain(&mut dripping).await
        });
        // The hello whole, and then nothing: the node has said its part and waits.
        let (mut half, whole) = (siege.connect().await, hello.clone());
        slow.spawn(async move {
            half.write_all(&whole).await.expect("written");
            drain(&mut half).await;
            Vec::new()
        });
    }
    while let Some(said) = slow.join_next().await {
        assert_eq!(said.expect("a slow client"), b"", "nothing is said to who says nothing");
    }
    let mut endless = vec![22, 3, 1, 0xff, 0xff];
    endless.extend([1; 70_000]);
    let mut cut = hello.clone();
    cut.truncate(hello.len() / 2);
    let garbled = [&hello[..9], &[0xff; 60], &hello[69..]].concat();
    let wrong: [(&str, Vec<u8>); 5] = [
        ("plain HTTP", b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("plain HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a record beyond the limit", endless),
        ("a hello that means nothing", garbled),
        ("bytes", vec![0x80; 300]),
    ];
    for (what, bytes) in wrong {
        let mut stream = siege.connect().await;
        let _ = stream.write_all(&bytes).await;
        let said = drain(&mut stream).await;
        assert!(said.is_empty() || said[0] == 21, "{what}: an alert or nothing, not {said:?}");
    }
    let mut gone = siege.connect().await;
    gone.write_all(&cut).await.expect("written");
    drop(gone);
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_nobody_offers_is_refused_and_another_than_agreed_is_no_way_in() {
    let siege = Siege::over_tls().await;
    let refused = siege.shake(&["spdy/1"]).await.expect_err("no common protocol").to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    // h2 agreed upon and HTTP/1.1 spoken, and the other way round: answered as usual or closed, never anything else.
    let mut stream = siege.shake(&["h2"]).await.expect("a handshake");
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    let _ = timeout(ENDED_WITHIN, stream.read_to_end(&mut answer)).await.expect("the end in time");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let stream = siege.shake(&["http/1.1"]).await.expect("a handshake");
    let attack = Attack::over(Box::new(stream), &[]).await;
    let ask = frame(HEADERS, END_HEADERS | super::h2::END_STREAM, 1, &request("GET", "/livez", &[]));
    let (_, code) = attack.flood(|_| ask.clone(), 1).await;
    assert!(matches!(code, None | Some(0)), "{code:?}");
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_and_drips_of_http_2_are_ended_over_tls_too() {
    let siege = Siege::over_tls().await;
    for _ in 0..3 {
        let (_, code) = siege.attack().await.flood(reset, 50_000).await;
        assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
    }
    // A body that drips in a byte a frame, on many streams at once: each is told that it took too long.
    let Attack { stream } = siege.attack().await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let fields = [("content-type", "application/json"), ("content-length", "1000")];
    for stream in (1..40).step_by(2) {
        let block = request("POST", "/v1/sessions", &fields);
        writer.write_all(&frame(HEADERS, END_HEADERS, stream, &block)).await.expect("written");
    }
    writer.flush().await.expect("written");
    let mut pace = interval(Duration::from_millis(100));
    let mut answer = Vec::new();
    let deadline = Instant::now() + ENDED_WITHIN;
    // :status 400 is entry 12 of the static table (RFC 7541).
    let told = |answer: &[u8]| frames(answer).filter(|(kind, block)| *kind == HEADERS && block[0] == 0x8c).count();
    while told(&answer) < 20 {
        assert!(Instant::now() < deadline, "{} of 20 dripped bodies were told", told(&answer));
        tokio::select! {
            _ = pace.tick() => {
                for stream in (1..40).step_by(2) {
                    let _ = writer.write_all(&frame(DATA, 0, stream, b" ")).await;
                }
                let _ = writer.flush().await;
            }
            read = reader.read_buf(&mut answer) => {
                assert!(read.is_ok_and(|read| read > 0), "closed before every dripped body was told");
            }
        }
    }
    siege.lift(64).await;
}
