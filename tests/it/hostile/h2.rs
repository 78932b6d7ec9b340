//! HTTP/2 frame by frame (RFC 9113): floods that cost the sender little. Here without TLS; `tls` has it over ALPN.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{ENDED_WITHIN, Siege, hasty};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block (RFC 7541) of a request; names and values as literals that are not indexed.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")];
    for (name, value) in pseudo.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A connection, encrypted or not.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub struct Attack {
    pub stream: Box<dyn Duplex>,
}

impl Attack {
    async fn begin(siege: &Siege, settings: &[u8]) -> Self {
        Self::over(Box::new(siege.connect().await), settings).await
    }

    pub async fn over(mut stream: Box<dyn Duplex>, settings: &[u8]) -> Self {
        stream.write_all(PREFACE).await.expect("written");
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.expect("written");
        stream.flush().await.expect("written");
        Self { stream }
    }

    /// Sends the bytes again and again, at most so often, while reading what comes back; whether the node ended it, and
    /// the error code of its GOAWAY.
    pub async fn flood(self, bytes: impl Fn(u32) -> Vec<u8> + Send, times: u32) -> (bool, Option<u32>) {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let mut answer = Vec::new();
        let writing = async {
            for number in 0..times {
                if writer.write_all(&bytes(number)).await.is_err() {
                    break;
                }
            }
            let _ = writer.shutdown().await;
        };
        let reading = reader.read_to_end(&mut answer);
        let both = async { tokio::join!(writing, reading).1.is_ok() };
        let clean = timeout(ENDED_WITHIN, both).await.expect("the node ends a flood");
        (clean, go_away(&answer))
    }
}

/// The error code of the last GOAWAY among the frames.
fn go_away(bytes: &[u8]) -> Option<u32> {
    let last = frames(bytes).filter(|(kind, _)| *kind == GOAWAY).last()?;
    last.1.get(4..8).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes)
}

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A request that is reset as soon as it is made.
pub fn reset(number: u32) -> Vec<u8> {
    let stream = number * 2 + 1;
    let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", "/v1/plans", &[]));
    bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_reset_as_soon_as_they_are_opened_end_the_connection() {
    let siege = Siege::lay(hasty()).await;
    for _ in 0..5 {
        let attack = Attack::begin(&siege, &[]).await;
        let (_, code) = attack.flood(reset, 50_000).await;
        assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_control_frames_are_answered_or_ended_and_never_kept() {
    let siege = Siege::lay(hasty()).await;
    let ping = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let window = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    for bytes in [ping, settings, window] {
        let bytes = bytes.repeat(100);
        // With a reader, and without one: then the answers back up, and the node stops reading.
        Attack::begin(&siege, &[]).await.flood(|_| bytes.clone(), 500).await;
        let mut deaf = Attack::begin(&siege, &[]).await.stream;
        let writing = async { while deaf.write_all(&bytes).await.is_ok() {} };
        timeout(ENDED_WITHIN, writing).await.expect("the node ends what it cannot answer");
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_blocks_without_end_and_frames_out_of_order_are_errors() {
    let siege = Siege::lay(hasty()).await;
    let begin = |settings: &'static [u8]| Attack::begin(&siege, settings);
    let block = request("GET", "/livez", &[]);
    let open = frame(HEADERS, END_STREAM, 1, &block);
    let more = frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(200));
    let endless = |number: u32| if number == 0 { open.clone() } else { more.clone() };
    let (_, code) = begin(&[]).await.flood(endless, 20_000).await;
    assert!(matches!(code, Some(PROTOCOL_ERROR | ENHANCE_YOUR_CALM | FRAME_SIZE_ERROR) | None), "{code:?}");
    let wrong: [(Vec<u8>, u32); 5] = [
        (frame(DATA, 0, 1, b"never opened"), PROTOCOL_ERROR),
        (frame(HEADERS, END_STREAM | END_HEADERS, 2, &block), PROTOCOL_ERROR),
        (frame(HEADERS, END_STREAM | END_HEADERS, 0, &block), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, &block), PROTOCOL_ERROR),
        // RFC 9113 §6.7 names another code; that the connection ends is what counts.
        (frame(PING, 0, 0, &[0; 7]), PROTOCOL_ERROR),
    ];
    for (bytes, expected) in wrong {
        let (_, code) = begin(&[]).await.flood(|_| bytes.clone(), 1).await;
        assert_eq!(code, Some(expected), "{bytes:?}");
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_stays_shut_does_not_keep_answers_for_ever() {
    let siege = Siege::lay(hasty()).await;
    let mut shut = tokio::task::JoinSet::new();
    for _ in 0..20 {
        // SETTINGS_INITIAL_WINDOW_SIZE (4) of 0: headers may come, no byte of a body.
        let mut attack = Attack::begin(&siege, &[0, 4, 0, 0, 0, 0]).await;
        let block = request("GET", "/openapi.json", &[]);
        for stream in (1..100).step_by(2) {
            let opened = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
            attack.stream.write_all(&opened).await.expect("written");
        }
        // Pings keep the connection busy; they must not keep it alive.
        let ping = frame(PING, 0, 0, &[7; 8]);
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(200));
        shut.spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                tokio::select! {
                    _ = pace.tick() => if attack.stream.write_all(&ping).await.is_err() { return },
                    read = attack.stream.read(&mut buffer) => if matches!(read, Ok(0) | Err(_)) { return },
                }
            }
        });
    }
    let all = async { while shut.join_next().await.is_some() {} };
    timeout(ENDED_WITHIN, all).await.expect("the node ends connections that take nothing");
    siege.lift(128).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_differ_and_fields_of_one_hop_are_refused() {
    let siege = Siege::lay(hasty()).await;
    let statuses: [(&[(&str, &str)], &str); 3] = [(&[], "200"), (&[("host", "x")], "200"), (&[("host", "y")], "400")];
    for (fields, expected) in statuses {
        let mut attack = Attack::begin(&siege, &[]).await;
        let block = request("GET", "/livez", fields);
        attack.stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.expect("written");
        let mut answer = Vec::new();
        let headers = loop {
            if let Some((_, headers)) = frames(&answer).find(|(kind, _)| *kind == HEADERS) {
                break headers;
            }
            let read = timeout(ENDED_WITHIN, attack.stream.read_buf(&mut answer)).await.expect("an answer in time");
            assert!(read.is_ok_and(|read| read > 0), "closed without an answer");
        };
        // :status 200 and 400 are entries 8 and 12 of the static table.
        let entry = if expected == "200" { 0x88 } else { 0x8c };
        assert_eq!(headers.first(), Some(&entry), "{fields:?}");
    }
    siege.lift(64).await;
}

pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, Vec<u8>)> + '_ {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some((head[3], payload.to_vec()))
    })
}
