//! More WebSockets than there are places, and followers who do not take what is published.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{generator, started};
use crate::node::{Node, Plan};
use crate::socket::{Listener, Socket};

const WITHIN: Duration = Duration::from_secs(60);

/// Waits until the node holds so many WebSockets.
async fn until_open(node: &Node, wanted: &str) {
    let deadline = Instant::now() + WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    loop {
        poll.tick().await;
        let metrics = node.operator().get("/metrics").await.text;
        let now = metrics.lines().find_map(|line| line.strip_prefix("construct_websocket_connections "));
        if now.is_some_and(|count| count.trim() == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?} sockets are open, not {wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_beyond_the_bound_hear_so_and_places_come_back() {
    let (node, person) = started(Plan::sandbox().set("gateway.websocket.max_connections", "20")).await;
    for round in 0..3 {
        let mut listener = Socket::open(node.gateway, person.api.token()).await;
        let mut open = Vec::new();
        let mut refused = 0;
        for _ in 0..60 {
            match generator::upgrade(node.gateway).await {
                Ok(stream) => open.push(stream),
                Err(answer) => {
                    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"), "{answer}");
                    refused += 1;
                }
            }
        }
        assert_eq!((open.len(), refused), (19, 41), "round {round}");
        // Who has a place is served, over the socket and beside it.
        assert_eq!(listener.rpc("getMe", json!({})).await["rpc"]["data"]["id"], person.id.as_str());
        person.api.get("/v1/me").await.expect(200);
        drop((open, listener));
        until_open(&node, "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_takes_nothing_is_ended_and_the_others_get_everything() {
    const PUBLICATIONS: u64 = 600;
    let (node, person) = started(Plan::sandbox().set("gateway.websocket.max_queue_bytes", "65536")).await;
    let topic = "topic:slow";
    let mut quick = Vec::new();
    for _ in 0..3 {
        let mut socket = Socket::open(node.gateway, person.api.token()).await;
        socket.call("subscribe", json!({ "channel": topic })).await;
        quick.push(socket);
    }
    let mut slow = follow_and_stop_reading(&node, person.api.token(), topic).await;
    until_open(&node, "4").await;
    let before = node.resident();
    let filler = "x".repeat(16_000);
    let mut publisher = Socket::open(node.gateway, person.api.token()).await;
    for number in 0..PUBLICATIONS {
        // A connection may not command as fast as this for long.
        if number % 50 == 49 {
            publisher = Socket::open(node.gateway, person.api.token()).await;
        }
        let data = json!({ "number": number, "filler": filler });
        let sent = publisher.call("publish", json!({ "channel": topic, "data": data })).await;
        assert!(sent["publish"].is_object(), "{sent}");
        for socket in &mut quick {
            let heard = socket.hear(&format!("\"number\":{number}}}")).await;
            assert_eq!(heard["data"]["number"], number);
        }
    }
    // Its connection was ended by the node; the three and the publisher still have theirs.
    until_open(&node, "4").await;
    let grown = node.resident().saturating_sub(before) >> 20;
    assert!(grown <= 64, "memory grew by {grown} MiB");
    for socket in &mut quick {
        let numbers: Vec<Value> = socket.heard().await.iter().map(|heard| heard["data"]["number"].clone()).collect();
        assert_eq!(numbers, (0..PUBLICATIONS).map(Value::from).collect::<Vec<_>>());
    }
    // What was on the way to it is still there, and then its connection is over.
    let mut taken = 0;
    while let Some(Ok(message)) = timeout(WITHIN, slow.next()).await.expect("the end of the connection") {
        taken += u64::from(message.is_text());
    }
    println!("the slow follower could still read {taken} messages of {PUBLICATIONS}");
    assert!(taken < PUBLICATIONS, "it was ended before it had everything");
    // It may follow again.
    let mut back = Socket::open(node.gateway, person.api.token()).await;
    let again = back.call("subscribe", json!({ "channel": topic })).await;
    assert!(again["subscribe"].is_object(), "{again}");
}

/// A follower with little room in the kernel, which reads nothing once it follows.
async fn follow_and_stop_reading(node: &Node, token: &str, topic: &str) -> WebSocketStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("a small buffer");
    let stream = socket.connect(node.gateway).await.expect("a connection");
    let url = format!("ws://{}/connection/websocket", node.gateway);
    let (mut stream, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
    for command in
        [json!({ "id": 1, "connect": { "token": token } }), json!({ "id": 2, "subscribe": { "channel": topic } })]
    {
        stream.send(Message::text(command.to_string())).await.expect("sent");
        let reply = timeout(WITHIN, stream.next()).await.expect("a reply in time").expect("open").expect("a message");
        assert!(!reply.to_text().expect("text").contains("error"), "{reply}");
    }
    stream
}
