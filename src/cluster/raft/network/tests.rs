//! Three replicas of one shard over links in one process.

use std::collections::BTreeSet;
use std::path::PathBuf;

use openraft::async_runtime::WatchReceiver;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, ChangeMembers, Config};
use tokio::time::{Instant, timeout};

use super::*;
use crate::cluster::link::testing::{Proxy, Site, Way, introduce, until_within};
use crate::cluster::raft::GroupSettings;
use crate::cluster::raft::membership;
use crate::cluster::raft::running::config;
use crate::kernel::{Batch, Change, EntityId, Op, OpOutcome, Timestamp};
use crate::storage::state::{StateOptions, StateStore, StoreOptions};
use crate::storage::types::{LeaderId, LogId, ShardCommand};
use crate::storage::wal::{Wal, WalOptions};

const SHARD: ShardId = ShardId(1);
/// Several elections long.
const DEADLINE: Duration = Duration::from_secs(90);

async fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(DEADLINE, what, holds).await;
}

struct Node {
    link: Link,
    network: Network,
    raft: Raft,
    machine: ShardMachine,
    _wal: Wal,
}

impl Node {
    async fn start(site: &Site, node: u64, rate: u64) -> Self {
        let link = site.link(node).await;
        let network = Network::over(link.clone(), rate);
        let dir: PathBuf = site.dir.path().join(node.to_string());
        let (wal, _) = Wal::open(&dir.join("wal"), WalOptions::default()).unwrap();
        let shard = StateOptions { overlay_bytes: 4 << 20, ..StateOptions::default() };
        let store = StateStore::open(&dir, StoreOptions { shard, ..StoreOptions::default() }).unwrap();
        let machine = ShardMachine::new(&dir, Arc::clone(&store), store.shard(SHARD).unwrap(), 1).unwrap();
        // Far above what a busy machine can hold a task up, so that nobody is deposed but by the test.
        let settings = GroupSettings { heartbeat_ms: 500, election_ms: 5000, ..GroupSettings::default() };
        let config: Arc<Config> = Arc::new(config(&settings).validate().unwrap());
        let raft = Raft::new(node, config, network.of(SHARD), wal.group(SHARD.0), machine.clone()).await.unwrap();
        network.register(SHARD, raft.clone(), machine.clone(), Voting::default());
        Self { link, network, raft, machine, _wal: wal }
    }

    fn applied(&self) -> u64 {
        self.machine.state().applied().borrow().applied_index
    }

    fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }
}

fn op(name: &str, expected: u64, bytes: usize) -> Op {
    // Incompressible enough, and another value for each.
    let value = (0..bytes).map(|at| (at as u64).wrapping_mul(0x9e37_79b9).wrapping_add(expected) as u8).collect();
    Op::Batch(Box::new(Batch {
        entity: EntityId::new("thing", name),
        expected,
        at: Timestamp::ZERO,
        subject: None,
        dedupe: None,
        reply: Vec::new(),
        events: vec![expected.to_be_bytes().to_vec()],
        snapshot: None,
        purge: false,
        outbox: Vec::new(),
        settles: Vec::new(),
        fired: Vec::new(),
        changes: vec![Change::Row { table: "t".into(), key: expected.to_be_bytes().to_vec(), value: Some(value) }],
        audit: Vec::new(),
    }))
}

async fn write(node: &Node, op: Op) {
    let written = timeout(DEADLINE, node.raft.client_write(ShardCommand { ops: vec![op] })).await.expect("in time");
    assert_eq!(written.unwrap().data.outcomes, [OpOutcome::Applied]);
}

/// Writes wherever the leader is by now: on a busy machine it may have changed again.
async fn write_to_leader(nodes: &[&Node], op: Op) {
    let began = Instant::now();
    loop {
        for node in nodes.iter().filter(|node| node.leader() == Some(node.link.node())) {
            let written =
                timeout(Duration::from_secs(5), node.raft.client_write(ShardCommand { ops: vec![op.clone()] }));
            if let Ok(Ok(written)) = written.await {
                // Another outcome says that an attempt before this one did commit.
                assert!(matches!(written.data.outcomes[..], [OpOutcome::Applied | OpOutcome::SequenceConflict { .. }]));
                return;
            }
        }
        assert!(began.elapsed() < DEADLINE, "nobody leads");
        tokio::task::yield_now().await;
    }
}

async fn add(leader: &Node, node: u64, address: String) {
    let added = timeout(DEADLINE, leader.raft.add_learner(node, BasicNode::new(address), true)).await;
    added.expect("it catches up").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_agree_hand_over_and_outlive_their_leader() {
    let site = Site::new();
    let mut nodes = Vec::new();
    for node in 1..=3 {
        nodes.push(Node::start(&site, node, u64::MAX).await);
    }
    let address = |node: usize| nodes[node].link.address().to_string();
    introduce(&nodes.iter().map(|node| &node.link).collect::<Vec<_>>());
    nodes[0].raft.initialize(BTreeMap::from([(1, BasicNode::new(address(0)))])).await.unwrap();
    until("node 1 leads", || nodes[0].leader() == Some(1) && nodes[0].applied() > 0).await;
    add(&nodes[0], 2, address(1)).await;
    add(&nodes[0], 3, address(2)).await;
    let all = BTreeSet::from([1, 2, 3]);
    timeout(DEADLINE, nodes[0].raft.change_membership(all, false)).await.expect("in time").unwrap();
    // Many at once: they pipeline, and entries are small and large.
    let ops = (0..200u64).map(|n| write(&nodes[0], op(&format!("e{n}"), 0, if n % 50 == 0 { 1 << 20 } else { 100 })));
    futures::future::join_all(ops).await;
    let last = nodes[0].applied();
    until("all applied", || nodes.iter().all(|node| node.applied() == last)).await;
    let counts: Vec<_> = nodes.iter().map(|node| node.machine.state().counts().entities).collect();
    assert_eq!(counts, [200, 200, 200]);

    nodes[0].raft.trigger().transfer_leader(2).await.unwrap();
    until("node 2 leads", || nodes.iter().all(|node| node.leader() == Some(2))).await;
    write_to_leader(&nodes.iter().collect::<Vec<_>>(), op("after", 0, 100)).await;

    // Its streams break and its voice is gone: the others elect one of themselves.
    nodes[1].link.shutdown().await;
    let began = Instant::now();
    until("another leads", || nodes[0].leader().is_some_and(|leader| leader != 2 && nodes[2].leader() == Some(leader)))
        .await;
    println!("another leader after {:?}", began.elapsed());
    write_to_leader(&[&nodes[0], &nodes[2]], op("after", 1, 100)).await;
    until("both applied", || nodes[0].applied() == nodes[2].applied()).await;
    for node in &nodes {
        node.raft.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_the_log_does_not_reach_gets_a_snapshot_which_resumes_where_it_broke() {
    let site = Site::new();
    // 8 MiB at 4 MiB a second.
    let (one, two) = (Node::start(&site, 1, 4 << 20).await, Node::start(&site, 2, 4 << 20).await);
    let proxy = Proxy::to(two.link.address()).await;
    introduce(&[&one.link, &two.link]);
    let address = proxy.address.to_string();
    one.link.set_members(BTreeMap::from([(1, one.link.address().to_string()), (2, address.clone())])).unwrap();
    one.raft.initialize(BTreeMap::from([(1, BasicNode::new(one.link.address().to_string()))])).await.unwrap();
    until("node 1 leads", || one.leader() == Some(1) && one.applied() > 0).await;
    for n in 0..64 {
        write(&one, op("e", n, 128 << 10)).await;
    }
    let upto = one.applied();
    one.raft.trigger().snapshot().await.unwrap();
    until("a snapshot is made", || {
        one.raft.metrics().borrow_watched().snapshot.is_some_and(|snapshot| snapshot.index >= upto)
    })
    .await;
    one.raft.trigger().purge_log(upto).await.unwrap();
    until("the log is purged", || one.raft.metrics().borrow_watched().purged.is_some_and(|at| at.index == upto)).await;

    let adding = {
        let (raft, address) = (one.raft.clone(), address.clone());
        tokio::spawn(async move { raft.add_learner(2, BasicNode::new(address), true).await })
    };
    let arrived = || {
        let directory = two.machine.incoming().unwrap();
        let files = std::fs::read_dir(directory).unwrap().filter_map(Result::ok);
        files.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum::<u64>()
    };
    until("a part has arrived", || arrived() > 2 << 20).await;
    proxy.set(Way::Cut);
    until("it is noticed", || !one.link.is_connected(2)).await;
    let kept = arrived();
    assert!(kept > 2 << 20 && two.applied() == 0, "{kept}");
    proxy.set(Way::Open);
    let mut least = u64::MAX;
    until("it is installed", || {
        let now = arrived();
        if now > 0 {
            least = least.min(now);
        }
        two.applied() >= upto
    })
    .await;
    assert!(least >= kept, "it began again: {least} of {kept}");
    timeout(DEADLINE, adding).await.expect("it catches up").unwrap().unwrap();
    write(&one, op("e", 64, 100)).await;
    until("the log goes on", || two.applied() == one.applied()).await;
    assert_eq!(two.machine.state().counts().entities, 1);
    for node in [one, two] {
        node.raft.shutdown().await.unwrap();
        node.link.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_an_earlier_life_votes_once_its_log_names_it_by_its_key() {
    let site = Site::new();
    let (one, two) = (Node::start(&site, 1, u64::MAX).await, Node::start(&site, 2, u64::MAX).await);
    introduce(&[&one.link, &two.link]);
    let (earlier, own) = ([1; 32], [2; 32]);
    let voting = Voting { own: Some(naming::name_of(&own)), ..Voting::default() };
    two.network.register(SHARD, two.raft.clone(), two.machine.clone(), voting);
    let address = two.link.address().to_string();
    let mut replica = one.network.of(SHARD).new_client(2, &BasicNode::new(naming::named(&address, Some(&own)))).await;
    until("they are connected", || one.link.is_connected(2)).await;
    let option = || RPCOption::new(Duration::from_secs(5));
    let last = LogId::new(LeaderId::new(7, 1).to_committed(), 1000);
    let request = || VoteRequest { vote: Vote::new(7, 1), last_log_id: Some(last), leadership_transfer: false };
    assert!(replica.vote(request(), option()).await.is_err(), "its log is empty");

    one.raft.initialize(BTreeMap::from([(1, BasicNode::new("one"))])).await.unwrap();
    until("node 1 leads", || one.leader() == Some(1) && one.applied() > 0).await;
    add(&one, 2, naming::named(&address, Some(&earlier))).await;
    write(&one, op("a", 0, 100)).await;
    until("it has the log", || two.applied() == one.applied()).await;
    assert!(replica.vote(request(), option()).await.is_err(), "its log names who had the id before");
    assert!(replica.pre_vote(request(), option()).await.is_err());
    let transfer = TransferLeaderRequest::new(Vote::new_committed(7, 1), 2, Some(last));
    assert!(replica.transfer_leader(transfer, option()).await.is_err());

    let renamed = BTreeMap::from([(2, BasicNode::new(naming::named(&address, Some(&own))))]);
    one.raft.change_membership(ChangeMembers::SetNodes(renamed), false).await.unwrap();
    let name = naming::name_of(&own);
    until("its log names it", || naming::means(&two.raft.metrics().borrow_watched(), Some(&name))).await;
    assert!(replica.vote(request(), option()).await.is_ok(), "its log names it");
    for node in [one, two] {
        node.raft.shutdown().await.unwrap();
        node.link.shutdown().await;
    }
}

/// A member that was just taken in may be told to lead before it has spoken to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_spoke_to_a_node_waits_for_the_stream_with_what_is_asked_once() {
    let site = Site::new();
    let (one, two) = (Node::start(&site, 1, u64::MAX).await, Node::start(&site, 2, u64::MAX).await);
    introduce(&[&one.link, &two.link]);
    assert!(!one.link.is_connected(2));
    let mut replica = one.network.of(SHARD).new_client(2, &BasicNode::new(two.link.address().to_string())).await;
    let request = || VoteRequest { vote: Vote::new(1, 1), last_log_id: None, leadership_transfer: false };
    let option = || RPCOption::new(Duration::from_secs(60));
    assert!(replica.vote(request(), option()).await.expect("an answer").vote_granted);
    two.link.shutdown().await;
    until("the stream ends", || !one.link.is_connected(2)).await;
    let short = RPCOption::new(Duration::from_millis(50));
    assert!(matches!(replica.pre_vote(request(), short).await, Err(RPCError::Timeout(_))), "and gives up in time");
    for node in [one, two] {
        node.raft.shutdown().await.unwrap();
        node.link.shutdown().await;
    }
}

/// Node 4 had confirmed entry 20 before it was emptied; node 2 was cut off at 12 and does not know that 4 was ever gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_emptied_votes_for_nobody_who_lacks_what_it_had() {
    let site = Site::new();
    let (two, four) = (Node::start(&site, 2, u64::MAX).await, Node::start(&site, 4, u64::MAX).await);
    introduce(&[&two.link, &four.link]);
    let at = |term, index| LogId::new(LeaderId::new(term, 1).to_committed(), index);
    let voting = Voting { mark: Some(at(3, 20)), ..Voting::default() };
    four.network.register(SHARD, four.raft.clone(), four.machine.clone(), voting.clone());
    let mut replica = two.network.of(SHARD).new_client(4, &BasicNode::new(four.link.address().to_string())).await;
    until("they are connected", || two.link.is_connected(4)).await;
    let option = || RPCOption::new(Duration::from_secs(5));
    let request = |last| VoteRequest { vote: Vote::new(9, 2), last_log_id: Some(last), leadership_transfer: false };
    for lacks in [at(3, 12), at(2, 40)] {
        assert!(replica.pre_vote(request(lacks), option()).await.is_err());
        assert!(replica.vote(request(lacks), option()).await.is_err());
        let named = VoteRequest { leadership_transfer: true, ..request(lacks) };
        assert!(replica.vote(named, option()).await.is_err(), "nor if a leader names it");
    }
    let transfer = || TransferLeaderRequest::new(Vote::new_committed(9, 2), 4, None);
    let refuses = |error: RPCError<TypeConfig>| error.to_string().contains("before it was emptied");
    assert!(replica.transfer_leader(transfer(), option()).await.is_err_and(refuses), "it must not lead yet");
    voting.stands.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!replica.transfer_leader(transfer(), option()).await.is_err_and(refuses), "it has it again");
    assert!(replica.vote(request(at(3, 20)), option()).await.expect("an answer").vote_granted);
    for node in [two, four] {
        node.raft.shutdown().await.unwrap();
        node.link.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_members_is_not_taken_for_decided_before_it_is() {
    let site = Site::new();
    let (one, two) = (Node::start(&site, 1, u64::MAX).await, Node::start(&site, 2, u64::MAX).await);
    introduce(&[&one.link, &two.link]);
    let decided = || membership::decided(&one.raft.metrics().borrow_watched());
    one.raft.initialize(BTreeMap::from([(1, BasicNode::new("one"))])).await.unwrap();
    until("node 1 leads", || one.leader() == Some(1) && one.applied() > 0).await;
    add(&one, 2, two.link.address().to_string()).await;
    timeout(DEADLINE, one.raft.change_membership(BTreeSet::from([1, 2]), false)).await.expect("in time").unwrap();
    until("it is decided", || decided() == BTreeSet::from([(1, true), (2, true)])).await;
    two.link.shutdown().await;
    let raft = one.raft.clone();
    let changing = tokio::spawn(async move { raft.add_learner(3, BasicNode::new("three"), false).await.is_ok() });
    until("the change is begun", || decided().contains(&(3, false))).await;
    let both = [1, 2].map(|node| [(node, true), (node, false)]).concat();
    assert_eq!(decided(), both.into_iter().chain([(3, false)]).collect(), "nobody has agreed to it");
    changing.abort();
    for node in [one, two] {
        node.raft.shutdown().await.unwrap();
        node.link.shutdown().await;
    }
}

/// A leader believes for as long as a lease that no voter it heard has voted for another. A voter that restarts has
/// forgotten whom it promised that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_may_be_bound_by_a_promise_votes_for_nobody() {
    let site = Site::new();
    let (one, two) = (Node::start(&site, 1, u64::MAX).await, Node::start(&site, 2, u64::MAX).await);
    introduce(&[&one.link, &two.link]);
    let mut replica = one.network.of(SHARD).new_client(2, &BasicNode::new(two.link.address().to_string())).await;
    until("they are connected", || one.link.is_connected(2)).await;
    let option = || RPCOption::new(Duration::from_secs(5));
    let request =
        |term, transfer| VoteRequest { vote: Vote::new(term, 1), last_log_id: None, leadership_transfer: transfer };
    let promise = Duration::from_secs(3600);
    let bound = Voting { promised: promise, ..Voting::default() };
    two.network.register(SHARD, two.raft.clone(), two.machine.clone(), bound);
    assert!(replica.pre_vote(request(1, false), option()).await.is_err());
    assert!(replica.vote(request(1, false), option()).await.is_err());
    let named = replica.vote(request(1, true), option()).await.expect("an answer");
    assert!(named.vote_granted, "whom the leader names may be voted for: it makes no use of its lease any more");
    two.network.register(SHARD, two.raft.clone(), two.machine.clone(), Voting::default());
    assert!(replica.vote(request(2, false), option()).await.expect("an answer").vote_granted);
    for node in [one, two] {
        node.raft.shutdown().await.unwrap();
        node.link.shutdown().await;
    }
}
