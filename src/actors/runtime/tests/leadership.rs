//! Two nodes with replicas of the same shards: what is asked of one is done on the other that leads, hand-over stops the
//! old leader before the new one begins, and neither commits or calls outside its term.

use super::*;
use crate::actors::runtime::background::Background;
use crate::actors::runtime::log::LogError;
use crate::actors::runtime::outbox::delivery::{Attempt, Courier};
use crate::actors::runtime::remote::{Remote, RemoteError, RemoteHandler};
use crate::actors::runtime::shard::Undelivered;
use crate::kernel::{AuditRecord, Op};

/// Calls straight into the handlers of other nodes; counts, and loses replies on demand.
#[derive(Default)]
struct Wire {
    nodes: Mutex<HashMap<u64, Arc<dyn RemoteHandler>>>,
    calls: AtomicUsize,
    lose_replies: AtomicUsize,
}

struct End(Arc<Wire>, u64);

#[async_trait]
impl Remote for End {
    async fn call(
        &self,
        node: u64,
        shard: ShardId,
        request: Vec<u8>,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<u8>, RemoteError> {
        let handler = self.0.nodes.lock().expect("not poisoned").get(&node).cloned();
        let handler = handler.ok_or(RemoteError::Unreachable { node })?;
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let reply = handler.handle(self.1, shard, request, deadline).await?;
        let lose = self.0.lose_replies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lose.is_ok() { Err(RemoteError::Lost { node }) } else { Ok(reply) }
    }
}

struct Nodes<const N: usize> {
    nodes: [World; N],
    wire: Arc<Wire>,
    provider: Arc<Scripted>,
}

type Pair = Nodes<2>;

impl<const N: usize> Nodes<N> {
    /// Node 1 leads every shard.
    async fn new() -> Self {
        let states: Vec<Arc<ShardState>> =
            (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
        let (wire, provider) = (Arc::new(Wire::default()), Arc::new(Scripted::default()));
        let mut nodes = Vec::new();
        for node in 1..=N as u64 {
            let logs: Vec<Arc<MemoryLog>> = states.iter().map(|state| MemoryLog::over(Arc::clone(state))).collect();
            let leading = (node == 1).then_some(1);
            logs.iter().for_each(|log| log.lead(leading, Some(1)));
            let options =
                RuntimeOptions { retry_ms: (1, 5), restart_ms: (0, 0), park_after: 3, ..RuntimeOptions::default() };
            let provider = Arc::clone(&provider) as Arc<dyn Provider>;
            let world = World::on(logs, provider, options, None).await;
            world.runtime.router.connect(node, Arc::new(End(Arc::clone(&wire), node)));
            world.runtime.router.set_peers((1..=N as u64).collect());
            wire.nodes.lock().expect("not poisoned").insert(node, world.runtime.handler());
            nodes.push(world);
        }
        let Ok(nodes) = <[World; N]>::try_from(nodes) else { unreachable!("so many") };
        Self { nodes, wire, provider }
    }

    /// Node 2 leads every shard from now on.
    fn hand_over(&self) {
        self.nodes[0].logs.iter().for_each(|log| log.lead(None, Some(2)));
        self.nodes[1].logs.iter().for_each(|log| log.lead(Some(2), Some(2)));
    }
}

#[tokio::test]
async fn any_node_answers_for_shards_that_another_leads() {
    let pair = Pair::new().await;
    let [one, two] = &pair.nodes;
    assert_eq!(two.ask("a", Command::Add(2)).await.expect("is accepted").0, 2);
    assert_eq!(one.ask("a", Command::Add(3)).await.expect("is accepted").0, 5);
    assert_eq!(two.ask("a", Command::Add(-1)).await.expect_err("the entity's refusal").code, ErrorCode::Invalid);
    two.ask("secret-1", Command::Note("here".to_owned())).await.expect("is accepted");
    let router = &two.runtime.router;
    let page = || Page { limit: 10, ..Page::default() };
    let rows = router.rows(&EntityId::new("tally", "secret-1"), "notes", page()).await.expect("opens");
    assert_eq!(rows, [(b"here".to_vec(), b"here".to_vec())]);
    let found = router.scan(Scope::All, "tallies", b"", page()).await.expect("scans");
    assert_eq!(found, [(b"a".to_vec(), b"1".to_vec())]);
    let record = AuditRecord {
        at: Timestamp::ZERO,
        actor: "system".into(),
        action: "tested".into(),
        target: "a".into(),
        outcome: "ok".into(),
        source: String::new(),
        request_id: String::new(),
    };
    let id = EntityId::new("tally", "a");
    router.audit(&id, vec![record]).await.expect("is written");
    let head = router.read_audit(router.shard_of(&id), &crate::actors::runtime::audit::Query::Head).await;
    assert!(matches!(head, Ok(crate::actors::runtime::audit::Answer::Head { size: 1, .. })), "{head:?}");
    assert_eq!(router.stored_subject(&id).await.expect("answers"), Some(None));
    let called = pair.wire.calls.load(Ordering::SeqCst);
    assert_eq!(one.ask("a", Command::Get).await.expect("answers").0, 5);
    assert_eq!(pair.wire.calls.load(Ordering::SeqCst), called, "a leader asks nobody");
}

#[tokio::test]
async fn any_of_three_nodes_puts_a_parked_entity_back_into_service() {
    let three = Nodes::<3>::new().await;
    let id = EntityId::new("tally", "poison");
    for world in &three.nodes {
        while world.ask("poison", Command::Crash).await.expect_err("it crashes").code != ErrorCode::Parked {}
        assert_eq!(world.runtime.router.unpark(&id).await, Ok(true));
        assert_eq!(world.ask("poison", Command::Get).await.expect("is back").0, 0);
        assert_eq!(world.runtime.router.unpark(&id).await, Ok(false), "it is back already");
    }
    three.wire.lose_replies.store(1, Ordering::SeqCst);
    let lost = three.nodes[2].runtime.router.unpark(&id).await.expect_err("nobody knows whether it was parked");
    assert!(lost.detail.contains("not known"), "{lost}");
}

/// Who led, and whose replica is gone, is told by a node that has not heard of it that it leads itself.
#[tokio::test]
async fn a_hint_back_to_who_asks_is_not_remembered() {
    let three = Nodes::<3>::new().await;
    let [one, two, three] = &three.nodes;
    one.ask("a", Command::Add(1)).await.expect("is accepted");
    one.logs.iter().for_each(|log| log.lead(None, None));
    two.logs.iter().for_each(|log| log.lead(None, Some(1)));
    three.logs.iter().for_each(|log| log.lead(Some(2), Some(3)));
    for round in 2..5 {
        assert_eq!(one.ask("a", Command::Add(1)).await.expect("is accepted").0, round);
    }
}

#[tokio::test]
async fn after_a_hand_over_the_old_leader_asks_the_new_one() {
    let pair = Pair::new().await;
    let [one, two] = &pair.nodes;
    one.ask("a", Command::Add(1)).await.expect("is accepted");
    pair.hand_over();
    assert_eq!(one.ask("a", Command::Add(10)).await.expect("is accepted").0, 11);
    assert_eq!(two.ask("a", Command::Get).await.expect("answers").0, 11);
    let led = || [one, two].map(|world| world.runtime.router.led().len());
    let handed_over = async {
        while led() != [0, 3] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), handed_over).await.expect("each shard is led once");
    // A stale hint costs a hop and no more.
    pair.nodes[0].logs.iter().for_each(|log| log.lead(None, Some(1)));
    two.logs.iter().for_each(|log| log.lead(None, None));
    let waiting = two.ask("a", Command::Add(100));
    let lead = async {
        tokio::task::yield_now().await;
        one.logs.iter().for_each(|log| log.lead(Some(3), Some(1)));
    };
    let (asked, ()) = tokio::join!(waiting, lead);
    assert_eq!(asked.expect("waits for the leader").0, 111);
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_only_under_a_key() {
    let pair = Pair::new().await;
    let two = &pair.nodes[1];
    pair.wire.lose_replies.store(1, Ordering::SeqCst);
    let error = two.ask("a", Command::Add(1)).await.expect_err("nobody knows");
    assert!(error.code == ErrorCode::Unavailable && error.detail.contains("not known"), "{error}");
    pair.wire.lose_replies.store(1, Ordering::SeqCst);
    let (id, origin) = (EntityId::new("tally", "a"), user(Some([7; 32])));
    let reply = two.runtime.router.ask::<Tally>(&id, Command::Add(1), &origin).await.expect("is asked again");
    assert_eq!(reply.0, 2, "it took effect once");
    assert_eq!(two.ask("a", Command::Get).await.expect("answers").0, 2);
}

#[tokio::test]
async fn timers_and_messages_go_on_at_the_new_leader_alone() {
    let pair = Pair::new().await;
    let [one, two] = &pair.nodes;
    let due = Timestamp::from_millis(2_000_000);
    one.ask("bell", Command::RingAt(due)).await.expect("is accepted");
    pair.hand_over();
    one.ask("b", Command::Forward { to: "c".to_owned(), amount: 4 }).await.expect("is accepted");
    one.runtime.clock.set(due);
    two.runtime.clock.set(due);
    assert_eq!(two.log_of("bell", 1).await.len(), 1);
    assert_eq!(two.log_of("b", 1).await, ["told"]);
    assert_eq!(one.ask("c", Command::Get).await.expect("answers").0, 4);
    one.ask("d", Command::Call("hi".to_owned())).await.expect("is accepted");
    assert_eq!(two.log_of("d", 1).await.len(), 1);
    assert_eq!(pair.provider.calls.load(Ordering::SeqCst), 1, "one of the two called");
}

#[tokio::test]
async fn a_deposed_leader_neither_commits_nor_reads_nor_calls() {
    let logs: Vec<Arc<MemoryLog>> = (0..3).map(|shard| MemoryLog::start(ShardId(shard))).collect();
    let kinds = Kinds::new(&[Kind::of::<Tally>()], 2);
    let clock = Arc::new(NodeClock::virtual_at(Timestamp::from_millis(1_000_000)));
    let options = RuntimeOptions::default();
    let parts = logs.iter().map(|log| Arc::clone(log) as Arc<dyn ShardLog>).collect();
    let runtime = Runtime::start(RuntimeParts { logs: parts, kinds, clock, providers: Vec::new(), options });
    let runtime = runtime.await.expect("starts");
    runtime.set_sealer(Arc::new(MemoryKeys::default()));
    let id = EntityId::new("tally", "a");
    runtime.router.ask::<Tally>(&id, Command::Call("hi".to_owned()), &user(None)).await.expect("is accepted");
    let replica = runtime.router.replica(runtime.router.shard_of(&id)).expect("is here");
    let shard = replica.shard().expect("is led");
    let log = &logs[usize::from(replica.id().0)];
    // As after a pause longer than the lease: the rest of the node has not noticed yet.
    log.lead(None, Some(2));
    let work = crate::actors::runtime::message::Work::Command(
        crate::kernel::codec::encode(&Command::Add(1)).expect("encodes"),
    );
    let written = shard.deliver(&id, &work, &user(None), None).await;
    assert_eq!(written.err(), Some(Undelivered::Moved));
    let work =
        crate::actors::runtime::message::Work::Command(crate::kernel::codec::encode(&Command::Get).expect("encodes"));
    let read = shard.deliver(&id, &work, &user(None), None).await;
    assert_eq!(read.err(), Some(Undelivered::Moved));
    let proposed = shard.parts.propose(Op::Outbox(Vec::new())).expect("is queued").await.expect("answers");
    assert!(matches!(proposed, Err(LogError::NotLeader { leader: Some(2) })), "{proposed:?}");
    let provider = Arc::new(Scripted { idempotent: true, ..Scripted::default() });
    let providers = [(ProviderKind::Sms, Arc::clone(&provider) as Arc<dyn Provider>)].into();
    let number = replica.state().outbox(0, 1).expect("reads")[0].number;
    let attempt = Courier::new(Arc::clone(&shard), runtime.router.clone(), providers).deliver(number, 0).await;
    assert!(matches!(attempt, Attempt::Later(_)), "{attempt:?}");
    assert_eq!(provider.calls.load(Ordering::SeqCst), 0, "a call starts under a valid lease only");
}

/// Reaches nobody, and notes how many waited at the node that asked.
struct Unreachable(Arc<Background>, Mutex<Vec<usize>>);

#[async_trait]
impl Remote for Unreachable {
    async fn call(
        &self,
        node: u64,
        _shard: ShardId,
        _request: Vec<u8>,
        _deadline: tokio::time::Instant,
    ) -> Result<Vec<u8>, RemoteError> {
        self.1.lock().expect("not poisoned").push(self.0.waiting());
        Err(RemoteError::Unreachable { node })
    }
}

#[tokio::test]
async fn who_is_asked_for_at_another_node_is_waited_for_here_too() {
    let states = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect::<Vec<_>>();
    let logs: Vec<_> = states.iter().map(|state| MemoryLog::over(Arc::clone(state))).collect();
    logs.iter().for_each(|log| log.lead(None, Some(2)));
    let options = RuntimeOptions { deadline_ms: 200, ..RuntimeOptions::default() };
    let world = World::on(logs, Arc::new(Scripted::default()), options, None).await;
    let background = Arc::clone(world.runtime.router.background());
    let remote = Arc::new(Unreachable(Arc::clone(&background), Mutex::default()));
    world.runtime.router.connect(1, Arc::clone(&remote) as Arc<dyn Remote>);
    world.ask("a", Command::Get).await.expect_err("node 2 cannot be reached");
    let seen = remote.1.lock().expect("not poisoned").clone();
    assert!(!seen.is_empty() && seen.iter().all(|waiting| *waiting == 1), "{seen:?}");
    assert_eq!(background.waiting(), 0);
}
