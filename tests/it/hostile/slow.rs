//! Clients that take their time: silent, dripping heads and bodies, not reading.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::interval;

use super::{ENDED_WITHIN, Siege, drain, hasty};

/// Sends a byte now and then until the other side has had enough; what it said at last.
async fn drip(mut stream: TcpStream, first: String, then: &'static str) -> String {
    let (mut reader, mut writer) = stream.split();
    let dripping = async {
        let mut pace = interval(Duration::from_millis(100));
        let mut sent = writer.write_all(first.as_bytes()).await;
        while sent.is_ok() {
            pace.tick().await;
            sent = writer.write_all(then.as_bytes()).await;
        }
        std::future::pending::<()>().await
    };
    let mut answer = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer);
    let ended = async {
        tokio::select! {
            _ = reading => {}
            () = dripping => {}
        }
    };
    tokio::time::timeout(ENDED_WITHIN, ended).await.expect("the node ends a drip");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_dripping_clients_are_cut_off_and_take_nobodys_place() {
    // Far fewer places than there are slow clients: none of them may hold one.
    let siege = Siege::lay(hasty().set("gateway.max_in_flight", "20")).await;
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let mut silent = siege.connect().await;
        slow.spawn(async move { String::from_utf8_lossy(&drain(&mut silent).await).into_owned() });
        let head = "GET /livez HTTP/1.1\r\nhost: x\r\nx-drip: ".to_owned();
        slow.spawn(drip(siege.connect().await, head, "x"));
        slow.spawn(drip(siege.connect().await, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_owned(), ""));
        let body = "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        slow.spawn(drip(siege.connect().await, format!("{body}content-length: 1000\r\n\r\n{{"), " "));
        slow.spawn(drip(siege.connect().await, format!("{body}transfer-encoding: chunked\r\n\r\n"), "1\r\n \r\n"));
    }
    let mut answers = Vec::new();
    while let Some(answer) = slow.join_next().await {
        answers.push(answer.expect("a slow client"));
    }
    let late = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 400") && answer.contains("took too long"));
    assert_eq!(late.count(), 300, "every dripped body is told");
    assert_eq!(answers.iter().filter(|answer| answer.is_empty()).count(), 450, "the others are just closed");
    siege.lift(128).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_are_cut_off() {
    let siege = Siege::lay(hasty()).await;
    let ask = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
    let mut deaf = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut stream = siege.connect().await;
        let ask = ask.clone();
        deaf.spawn(async move {
            // Asks on and on and reads nothing: at some point the node closes, which a write notices.
            let mut pace = interval(Duration::from_millis(100));
            while stream.write_all(ask.as_bytes()).await.is_ok() {
                pace.tick().await;
            }
        });
    }
    let all = async { while deaf.join_next().await.is_some() {} };
    tokio::time::timeout(ENDED_WITHIN, all).await.expect("the node closes what does not read");
    siege.lift(128).await;
}
