//! What strangers can do to the listener for other nodes of a real node: nothing that its clients or its memory feel.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use construct::cluster::entities::{EntityLane, HandlerCell};
use construct::cluster::link::{Identity, Link, LinkSettings};
use construct::providers::keys::FileKeys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::node::{Node, Plan, free_port, loopback};

const WITHIN: Duration = Duration::from_secs(60);
/// Growth of resident memory that a flood may leave behind.
const GROWTH_BYTES: u64 = 24 << 20;

/// A connection from one of many addresses.
async fn connect(from: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::new(127, 254, 254, from), 0).into()).expect("bound");
    socket.connect(to).await.ok()
}

/// What the series of a metric that begin like this add up to.
async fn counted(node: &Node, series: &str) -> f64 {
    let metrics = node.operator().get("/metrics").await;
    let lines = metrics.text.lines().filter(|line| line.starts_with(series));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

async fn at_least(node: &Node, series: &str, count: f64) {
    let began = Instant::now();
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    while counted(node, series).await < count {
        assert!(began.elapsed() < WITHIN, "{series} is below {count}\n{}", node.log());
        poll.tick().await;
    }
}

#[tokio::test]
async fn silent_and_babbling_connections_are_ended_and_cost_nothing_that_lasts() {
    let node = Plan::sandbox().start().await;
    let before = node.resident();
    for _ in 0..3 {
        let mut silent = Vec::new();
        for number in 0..400u16 {
            let from = u8::try_from(1 + number % 20).expect("small");
            silent.extend(connect(from, node.cluster).await);
        }
        let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[22, 3, 1, 0x40, 0, 1], &[0; 16]];
        for (number, bytes) in garbage.iter().cycle().take(40).enumerate() {
            let from = u8::try_from(100 + number).expect("small");
            let Some(mut stream) = connect(from, node.cluster).await else { continue };
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
        // The node answers its clients meanwhile.
        assert_eq!(node.api().get("/readyz").await.status, 200);
        for stream in &mut silent {
            let ended = timeout(WITHIN, stream.read(&mut [0])).await.expect("a silent connection ends");
            assert!(matches!(ended, Ok(0) | Err(_)), "nothing is said to a stranger");
        }
    }
    // 256 at once were heard to their deadline, the others not at all.
    at_least(&node, r#"construct_link_refused_total{reason="deadline"}"#, 256.0).await;
    at_least(&node, r#"construct_link_refused_total{reason="handshakes"}"#, 100.0).await;
    let after = node.resident();
    assert!(after < before + GROWTH_BYTES, "resident memory grew from {before} to {after}");
}

/// A link with the keys and under the cluster id of `keys`, which believes that the node is a member.
async fn intruder(directory: &Path, keys: &FileKeys, cluster: [u8; 16], node: &Node) -> (Link, EntityLane) {
    let identity = Identity::open(directory, 7, cluster, keys).expect("a certificate");
    let listen = free_port(loopback());
    let link = Link::bind(directory, LinkSettings::listening(listen), &identity).await.expect("bound");
    // The entity lane dials whoever has the higher id.
    link.set_members(BTreeMap::from([(7, listen.to_string()), (9, node.cluster.to_string())])).expect("kept");
    let lane = EntityLane::start(link.clone(), HandlerCell::default(), "cookie").await.expect("a lane");
    (link, lane)
}

#[tokio::test]
async fn a_node_of_another_cluster_or_of_none_gets_no_stream() {
    let node = Plan::sandbox().set("node.id", "9").start().await;
    let formed = std::fs::read_to_string(node.data().join("cluster.json")).expect("formed");
    let formed: serde_json::Value = serde_json::from_str(&formed).expect("JSON");
    let mut cluster = [0; 16];
    hex::decode_to_slice(formed["cluster"].as_str().expect("an id"), &mut cluster).expect("hexadecimal");

    // Another authority under the same names.
    let (foreign, theirs) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let keys = FileKeys::open(theirs.path()).expect("keys");
    let (link, _lane) = intruder(foreign.path(), &keys, cluster, &node).await;
    at_least(&node, r#"construct_link_refused_total{reason="stream"}"#, 3.0).await;
    assert!(!link.is_connected(9));
    link.shutdown().await;

    // The cluster's own keys, stolen, but no member.
    let (stolen, thief) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    for file in ["root.key", "keyset"] {
        std::fs::copy(node.data().join(file), stolen.path().join(file)).expect("copied");
    }
    let keys = FileKeys::open(stolen.path()).expect("keys");
    let (link, _lane) = intruder(thief.path(), &keys, cluster, &node).await;
    at_least(&node, r#"construct_link_refused_total{reason="not_member"}"#, 3.0).await;
    link.shutdown().await;
    assert_eq!(node.api().get("/readyz").await.status, 200);
}
