//! Streams between two nodes of one process, and what strangers and broken peers can do to them: nothing to others.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::hello::Hello;
use super::testing::*;
use super::*;

async fn refused(result: Result<Wire, LinkError>) -> String {
    accept::chain(&result.err().expect("refused"))
}

#[tokio::test]
async fn frames_of_any_size_up_to_the_limit_pass_both_ways() {
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    introduce(&[&one, &two]);
    echo(&two, Lane::Raft);
    let mut wire = one.open(2, Lane::Raft).await.unwrap();
    assert_eq!((wire.node, wire.incarnation), (2, two.incarnation()));
    for size in [1, 4096, 300_000, 5 << 20] {
        let frame: Vec<u8> = (0..size).map(|at| at as u8).collect();
        assert_eq!(round_trip(&mut wire, &frame).await.unwrap(), frame, "{size}");
    }
    assert!(matches!(wire.sender.send(vec![0; 33 << 20]).await, Err(StreamError::TooLarge { .. })));
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn only_members_with_a_certificate_of_the_cluster_are_let_in() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let (one, two, three) = (site.link(1).await, site.link(2).await, site.link(3).await);
    introduce(&[&one, &two]);
    echo(&one, Lane::Raft);
    let to_one = BTreeMap::from([(1, one.address().to_string())]);

    // A certificate of the cluster, but no member.
    three.set_members(to_one.clone()).unwrap();
    assert!(refused(three.open(1, Lane::Raft).await).await.contains("not a member"));
    // Another authority, the same names.
    let foreign = elsewhere.link(2).await;
    foreign.set_members(to_one.clone()).unwrap();
    assert!(refused(foreign.open(1, Lane::Raft).await).await.contains("invalid peer certificate"));
    // The certificate of node 3 under the name of node 2.
    let posing = Identity { node: 2, ..site.identity(3) };
    let posing = Link::bind(&site.dir.path().join("3"), settings(), &posing).await.unwrap();
    posing.set_members(to_one.clone()).unwrap();
    assert!(refused(posing.open(1, Lane::Raft).await).await.contains("not of the node"));
    // Without any encryption.
    let plain = LinkSettings { plain_text: true, ..settings() };
    let plain = site.link_with(2, plain).await;
    plain.set_members(to_one).unwrap();
    assert!(plain.open(1, Lane::Raft).await.is_err());
    // Whoever answers at the address of another node is not taken for it.
    two.set_members(BTreeMap::from([(2, String::new()), (3, one.address().to_string())])).unwrap();
    assert!(refused(two.open(3, Lane::Raft).await).await.contains("not valid for name"));

    introduce(&[&one, &two]);
    let mut wire = two.open(1, Lane::Raft).await.unwrap();
    assert_eq!(round_trip(&mut wire, b"x").await.unwrap(), b"x");
    // Removed: the stream it has is closed, and it gets no other.
    one.set_members(BTreeMap::from([(1, one.address().to_string())])).unwrap();
    timeout(DEADLINE, wire.sender.closed().cancelled()).await.unwrap();
    assert!(refused(two.open(1, Lane::Raft).await).await.contains("not a member"));
}

#[tokio::test]
async fn plain_text_works_between_nodes_that_both_ask_for_it_and_never_for_joining() {
    let site = Site::new();
    let plain = LinkSettings { plain_text: true, ..settings() };
    let (one, two) = (site.link_with(1, plain.clone()).await, site.link_with(2, plain).await);
    introduce(&[&one, &two]);
    echo(&two, Lane::Entity);
    let mut wire = one.open(2, Lane::Entity).await.unwrap();
    assert_eq!(round_trip(&mut wire, b"plain").await.unwrap(), b"plain");
    let mut stream: Io = Box::new(TcpStream::connect(two.address()).await.unwrap());
    let hello = Hello {
        wire: hello::spoken(0),
        lane: Lane::Join,
        cluster: CLUSTER,
        from: 3,
        to: 0,
        incarnation: 0,
        build: String::new(),
    };
    stream::write_one(&mut stream, &hello.encode().unwrap()).await.unwrap();
    let answer = hello::Answer::decode(&stream::read_one(&mut stream, 4096).await.unwrap()).unwrap();
    assert_eq!(answer, hello::Answer::Refused(Rejection::Certificate));
}

#[tokio::test]
async fn a_node_below_the_level_of_the_cluster_is_refused() {
    let site = Site::new();
    let plain = LinkSettings { plain_text: true, ..settings() };
    let (one, two) = (site.link_with(1, plain.clone()).await, site.link_with(2, plain).await);
    introduce(&[&one, &two]);
    echo(&two, Lane::Entity);
    let hello = Hello {
        wire: (2, 2),
        lane: Lane::Entity,
        cluster: CLUSTER,
        from: 1,
        to: 2,
        incarnation: 7,
        build: "0.0.9".to_owned(),
    };
    let say = async || {
        let mut stream: Io = Box::new(TcpStream::connect(two.address()).await.unwrap());
        stream::write_one(&mut stream, &hello.encode().unwrap()).await.unwrap();
        hello::Answer::decode(&stream::read_one(&mut stream, 4096).await.unwrap()).unwrap()
    };
    assert!(matches!(say().await, hello::Answer::Welcome { wire: 2, .. }));
    let seen = || two.peers().into_iter().find(|peer| peer.node == 1).and_then(|peer| peer.wire);
    assert_eq!(seen(), Some(2));
    two.set_level(NEWEST);
    assert_eq!(say().await, hello::Answer::Refused(Rejection::Wire { oldest: NEWEST, newest: NEWEST }));
    // The same node as a newer process.
    let mut wire = one.open(2, Lane::Entity).await.unwrap();
    assert_eq!(round_trip(&mut wire, b"new").await.unwrap(), b"new");
    assert_eq!(seen(), Some(NEWEST));
}

#[tokio::test]
async fn silent_connections_are_bounded_and_end_while_members_come_and_go() {
    let site = Site::new();
    let brief = LinkSettings { handshake: Duration::from_secs(2), handshakes: (40, 8), ..settings() };
    let (one, two) = (site.link_with(1, brief).await, site.link(2).await);
    introduce(&[&one, &two]);
    echo(&one, Lane::Raft);
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..30 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(one.address()).await.unwrap());
    }
    // Beyond eight of one address they are closed at once; the others when their time is over.
    let mut closed_at_once = 0;
    for stream in &mut silent {
        let ended = timeout(DEADLINE, stream.read(&mut [0])).await.expect("it ends");
        assert!(matches!(ended, Ok(0) | Err(_)));
        closed_at_once += usize::from(began.elapsed() < Duration::from_secs(1));
    }
    // The first eight are read first, and they last as long as a handshake may.
    assert_eq!(closed_at_once, 0);
    assert!(began.elapsed() < DEADLINE);
    let mut wire = two.open(1, Lane::Raft).await.unwrap();
    assert_eq!(round_trip(&mut wire, b"x").await.unwrap(), b"x");
}

#[tokio::test]
async fn an_oversized_or_unreadable_message_ends_its_stream_alone() {
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    introduce(&[&one, &two]);
    echo(&one, Lane::Raft);
    echo(&one, Lane::Entity);
    let mut bystander = two.open(1, Lane::Raft).await.unwrap();
    let mut wire = two.open(1, Lane::Entity).await.unwrap();
    // Within what the sender may queue, above what the receiver takes.
    wire.sender.send(vec![1; 300 << 10]).await.unwrap();
    assert!(timeout(DEADLINE, wire.receiver.next()).await.unwrap().is_err());
    assert_eq!(round_trip(&mut bystander, b"x").await.unwrap(), b"x");

    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[22, 3, 1, 0xff, 0xff, 1]] {
        let mut stream = TcpStream::connect(one.address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    }
    assert_eq!(round_trip(&mut bystander, b"y").await.unwrap(), b"y");
}

#[tokio::test]
async fn a_peer_that_never_reads_costs_its_window_and_then_its_stream() {
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    introduce(&[&one, &two]);
    let mut incoming = one.incoming(Lane::Snapshot);
    echo(&one, Lane::Raft);
    let mut bystander = two.open(1, Lane::Raft).await.unwrap();
    // Sends its heartbeats all the while, but reads nothing.
    let deaf = two.open(1, Lane::Snapshot).await.unwrap();
    let wire = timeout(DEADLINE, incoming.recv()).await.unwrap().unwrap();
    let mut queued = 0usize;
    let sending = async {
        while wire.sender.send(vec![5; 512 << 10]).await.is_ok() {
            queued += 512 << 10;
        }
    };
    timeout(DEADLINE, sending).await.expect("it ends");
    // The window and what the system buffers, not more.
    assert!(queued < 32 << 20, "{queued}");
    assert_eq!(round_trip(&mut bystander, b"x").await.unwrap(), b"x");
    drop(deaf);
}

#[tokio::test]
async fn a_held_or_cut_wire_is_noticed_and_comes_back_when_it_heals() {
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    let proxy = Proxy::to(two.address()).await;
    introduce(&[&one, &two]);
    one.set_members(BTreeMap::from([(1, one.address().to_string()), (2, proxy.address.to_string())])).unwrap();
    echo(&two, Lane::Raft);
    let (connected, ended) = (counter(), counter());
    let (kept, ups, downs) = (one.clone(), Arc::clone(&connected), Arc::clone(&ended));
    let keeping = tokio::spawn(async move {
        kept.keep(2, Lane::Raft, |mut wire| {
            let (ups, downs) = (Arc::clone(&ups), Arc::clone(&downs));
            async move {
                assert_eq!(round_trip(&mut wire, b"x").await.unwrap(), b"x");
                ups.fetch_add(1, Ordering::SeqCst);
                let _ = wire.receiver.next().await;
                downs.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
    });
    for (round, way) in [Way::Held, Way::Cut, Way::Held].into_iter().enumerate() {
        until("connected", || connected.load(Ordering::SeqCst) == round + 1).await;
        let began = Instant::now();
        proxy.set(way);
        until("noticed", || ended.load(Ordering::SeqCst) == round + 1).await;
        // Three heartbeats of 200 ms, and what a busy machine adds.
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        proxy.set(Way::Cut);
        proxy.set(Way::Open);
    }
    until("connected again", || connected.load(Ordering::SeqCst) == 4).await;
    // No member any more: the stream to it is closed, and nobody dials it.
    one.set_members(BTreeMap::from([(1, one.address().to_string())])).unwrap();
    timeout(DEADLINE, keeping).await.expect("it ends").unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_restarted_node_is_another_incarnation_and_loses_the_streams_it_had() {
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    introduce(&[&one, &two]);
    let mut incoming = one.incoming(Lane::Snapshot);
    let _first = two.open(1, Lane::Snapshot).await.unwrap();
    let old = timeout(DEADLINE, incoming.recv()).await.unwrap().unwrap();
    // As after a crash that the network did not show: the old process's stream is still there.
    let reborn = site.link(2).await;
    reborn.set_members(one.members()).unwrap();
    let _second = reborn.open(1, Lane::Snapshot).await.unwrap();
    timeout(DEADLINE, old.sender.closed().cancelled()).await.expect("the old stream is closed");
    let seen = one.peers().into_iter().find(|peer| peer.node == 2).unwrap();
    assert_eq!((seen.incarnation, seen.build.as_deref()), (Some(reborn.incarnation()), Some(BUILD)));
}

#[tokio::test]
async fn a_node_id_that_joined_with_another_key_is_refused_both_ways_once_the_members_are_certain() {
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    introduce(&[&one, &two]);
    echo(&one, Lane::Raft);
    let key = NodeKey::open(&site.dir.path().join("2")).unwrap().public_key();
    let key: [u8; 32] = ring::digest::digest(&ring::digest::SHA256, &key).as_ref().try_into().unwrap();
    one.set_keys(BTreeMap::from([(2, key)])).unwrap();
    let mut wire = two.open(1, Lane::Raft).await.unwrap();
    assert_eq!(round_trip(&mut wire, b"x").await.unwrap(), b"x");

    // The data directory of a node that had this id before.
    let old = site.elsewhere("before", 2).await;
    old.set_members(one.members()).unwrap();
    assert!(refused(old.open(1, Lane::Raft).await).await.contains("joined with another key"));
    one.set_members(BTreeMap::from([(1, one.address().to_string()), (2, old.address().to_string())])).unwrap();
    assert!(refused(one.open(2, Lane::Raft).await).await.contains("answers as node 2, with another key"));

    one.doubt_members(true);
    let wire = old.open(1, Lane::Raft).await.unwrap();
    one.doubt_members(false);
    timeout(DEADLINE, wire.sender.closed().cancelled()).await.expect("its stream is closed");
    one.shutdown().await;
    let again = site.link(1).await;
    old.set_members(BTreeMap::from([(1, again.address().to_string())])).unwrap();
    assert!(refused(old.open(1, Lane::Raft).await).await.contains("joined with another key"), "kept");
}

#[tokio::test]
async fn members_are_known_again_after_a_restart() {
    let site = Site::new();
    let one = site.link(1).await;
    assert!(one.members().is_empty());
    let members = BTreeMap::from([(1, "a:1".to_owned()), (2, "b:2".to_owned())]);
    one.set_members(members.clone()).unwrap();
    one.shutdown().await;
    assert_eq!(site.link(1).await.members(), members);
}
