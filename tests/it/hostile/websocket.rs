//! Frames that no client of the protocol sends (RFC 6455), after an honest handshake.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ENDED_WITHIN, Siege, drain, hasty};
use crate::socket::{Listener, Socket};

const FIN: u8 = 0x80;
const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

/// A masked frame; the mask is zero, which masks nothing and is allowed.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    match u16::try_from(payload.len()) {
        Ok(short @ 0..=125) => bytes.push(0x80 | short.to_be_bytes()[1]),
        Ok(medium) => {
            bytes.push(0x80 | 126);
            bytes.extend(medium.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

async fn open(siege: &Siege) -> TcpStream {
    let mut stream = siege.connect().await;
    let shake = "GET /connection/websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(shake.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

async fn connected(siege: &Siege) -> TcpStream {
    let mut stream = open(siege).await;
    let connect = json!({ "id": 1, "connect": { "token": siege.who.api.token() } }).to_string();
    stream.write_all(&frame(FIN | TEXT, connect.as_bytes())).await.expect("written");
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.expect("a reply");
    assert_eq!(answer[0], FIN | TEXT);
    stream
}

/// The code of the close frame among what the node said, if it closed with one.
fn close_code(bytes: &[u8]) -> Option<u16> {
    let at = bytes.windows(2).rposition(|pair| pair[0] == 0x88 && (2..126).contains(&pair[1]))?;
    Some(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_or_no_command_ends_the_connection() {
    let siege = Siege::lay(hasty()).await;
    let text = |text: &str| frame(FIN | TEXT, text.as_bytes());
    let deep = format!(r#"{{"id":2,"rpc":{{"method":"getMe","data":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("an oversize frame", frame(FIN | TEXT, &vec![b' '; 70_000])),
        ("a frame that says it is endless", vec![FIN | TEXT, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255]),
        ("an unmasked frame", vec![FIN | TEXT, 2, b'{', b'}']),
        ("a reserved bit", frame(0x40 | FIN | TEXT, b"{}")),
        ("a reserved opcode", frame(FIN | 3, b"{}")),
        ("a continuation of nothing", frame(FIN | CONTINUE, b"{}")),
        ("a message within a message", [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat()),
        ("a fragmented ping", frame(PING, b"")),
        ("a giant ping", frame(FIN | PING, &[0; 126])),
        ("a binary message", frame(FIN | BINARY, b"{}")),
        ("invalid UTF-8", frame(FIN | TEXT, b"{\"id\":2,\"rpc\":\xff}")),
        ("a lone surrogate", text(r#"{"id":2,"rpc":{"method":"\ud800"}}"#)),
        ("deep JSON", text(&deep)),
        ("a command twice", text(r#"{"id":2,"ping":{},"ping":{}}"#)),
        ("an id that is none", text(r#"{"id":-1,"ping":{}}"#)),
        ("an id beyond 32 bits", text(r#"{"id":4294967296,"ping":{}}"#)),
        ("a number beyond all", text(r#"{"id":1e400,"ping":{}}"#)),
        ("an offset beyond 64 bits", text(r#"{"id":2,"subscribe":{"channel":"a","offset":18446744073709551616}}"#)),
        ("a pong nobody asked for", text("{}")),
        ("no command", text("nonsense")),
    ];
    for (what, bytes) in table {
        let mut stream = connected(&siege).await;
        stream.write_all(&bytes).await.expect("written");
        drain(&mut stream).await;
        println!("{what}: ended");
    }
    let mut listener = Socket::open(siege.node.gateway, siege.who.api.token()).await;
    assert_eq!(listener.rpc("getMe", json!({})).await["rpc"]["data"]["id"], siege.who.id.as_str());
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_fragments_pings_and_commands_are_bounded() {
    let siege = Siege::lay(
        hasty().set("gateway.websocket.ping_interval_ms", "2000").set("gateway.websocket.pong_timeout_ms", "1000"),
    )
    .await;
    let fragment = frame(CONTINUE, &[b' '; 1000]);
    let empty = frame(CONTINUE, b"").repeat(200);
    let ping = frame(FIN | PING, b"x").repeat(200);
    let command = frame(FIN | TEXT, br#"{"id":2,"ping":{}}"#).repeat(50);
    for (what, first, then) in [
        ("fragments", frame(TEXT, b"{"), fragment),
        ("empty fragments", frame(TEXT, b"{"), empty),
        ("pings", Vec::new(), ping),
        ("commands", Vec::new(), command),
    ] {
        let (mut reader, mut writer) = connected(&siege).await.into_split();
        let writing = async {
            let mut sent = writer.write_all(&first).await;
            while sent.is_ok() {
                sent = writer.write_all(&then).await;
            }
        };
        let mut answer = Vec::new();
        let reading = reader.read_to_end(&mut answer);
        let both = async { tokio::join!(writing, reading) };
        let _ = timeout(ENDED_WITHIN, both).await.unwrap_or_else(|_| panic!("the node ends a flood of {what}"));
        println!("{what}: {:?}", close_code(&answer));
    }
    siege.lift(64).await;
}
