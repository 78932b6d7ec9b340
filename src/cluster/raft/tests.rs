//! Groups of one voter: order, bounds, restarts, kills and damage.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::actors::runtime::log::{LogError, ShardLog};
use crate::kernel::{
    AuditRecord, Batch, Change, EntityId, Op, OpOutcome, OutboxRecord, OutboxState, Target, Timestamp,
};
use crate::storage::state::{StateOptions, StoreOptions};
use crate::storage::wal::WalOptions;

pub(super) const DATA: ShardId = ShardId(1);

pub(super) async fn start(dir: &Path, settings: GroupSettings) -> Result<Groups, RaftGroupError> {
    let (wal, _) = Wal::open(&dir.join("wal"), WalOptions { segment_bytes: 4 << 20, ..WalOptions::default() }).unwrap();
    let options = StoreOptions {
        cache_bytes: 16 << 20,
        flush_every: Duration::from_millis(40),
        compact_min_bytes: 1 << 20,
        shard: StateOptions { overlay_bytes: 4 << 20, ..StateOptions::default() },
    };
    let store = StateStore::open(dir, options)?;
    Groups::start(dir, wal, store, settings, Network::alone()).await
}

pub(super) fn settings() -> GroupSettings {
    GroupSettings { shards: 1, ..GroupSettings::default() }
}

fn id(name: &str) -> EntityId {
    EntityId::new("thing", name)
}

/// A batch with one of everything, so that all counters of the shard grow together.
pub(super) fn op(name: &str, expected: u64) -> Op {
    let record = OutboxRecord {
        number: 0,
        source: id(name),
        sequence: expected + 1,
        position: 0,
        target: Target::Entity(id("other")),
        tag: String::new(),
        payload: vec![3; 100],
        subject: None,
        traceparent: None,
        state: OutboxState::Waiting { attempts: 0, not_before: Timestamp::ZERO },
    };
    let audit = AuditRecord {
        at: Timestamp::ZERO,
        actor: "system".into(),
        action: "tested".into(),
        target: name.into(),
        outcome: "ok".into(),
        source: String::new(),
        request_id: String::new(),
    };
    let row = Change::Row { table: "t".into(), key: expected.to_be_bytes().to_vec(), value: Some(vec![5; 200]) };
    let due = Timestamp::from_millis(i64::try_from(expected).unwrap());
    Op::Batch(Box::new(Batch {
        entity: id(name),
        expected,
        at: Timestamp::ZERO,
        subject: None,
        dedupe: None,
        reply: Vec::new(),
        events: vec![expected.to_be_bytes().to_vec()],
        snapshot: (expected % 16 == 15).then(|| expected.to_be_bytes().to_vec()),
        purge: false,
        outbox: vec![record],
        settles: Vec::new(),
        fired: Vec::new(),
        changes: vec![row, Change::Timer { name: "next".into(), due: Some(due) }],
        audit: vec![audit],
    }))
}

/// Everything in the shard tells the same story: nothing is applied in part, nothing twice. Answers the sequences.
pub(super) fn consistent(group: &ShardGroup, names: &[String]) -> BTreeMap<String, u64> {
    let state = group.state();
    let mut sequences = BTreeMap::new();
    for name in names {
        let Some(entity) = state.entity(&id(name)).unwrap() else { continue };
        let from = entity.snapshot.as_ref().map_or(0, |(sequence, _)| *sequence);
        let tail: Vec<_> = entity.tail.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(tail, (from + 1..=entity.sequence).collect::<Vec<_>>());
        let rows = state.rows(&id(name), "t", None, usize::MAX, false).unwrap();
        let keys: Vec<_> = rows.iter().map(|(key, _)| u64::from_be_bytes(key[..].try_into().unwrap())).collect();
        assert_eq!(keys, (0..entity.sequence).collect::<Vec<_>>());
        sequences.insert(name.clone(), entity.sequence);
    }
    let total: u64 = sequences.values().sum();
    let counts = state.counts();
    assert_eq!((counts.outbox_pending, counts.audit_size, state.feed_head()), (total, total, total));
    assert_eq!((counts.entities, counts.timers), (sequences.len() as u64, sequences.len() as u64));
    let timers = state.timers_due(Timestamp::MAX, usize::MAX).unwrap();
    let due: BTreeMap<_, _> = timers.into_iter().map(|timer| (timer.entity.key().to_owned(), timer.due)).collect();
    for (name, sequence) in &sequences {
        assert_eq!(due[name].as_millis(), i64::try_from(sequence - 1).unwrap());
    }
    sequences
}

pub(super) fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("e{number:03}")).collect()
}

/// The term in which this node leads.
fn term(group: &ShardGroup) -> u64 {
    group.leadership().borrow().leading.expect("leads")
}

pub(super) async fn committed(group: &ShardGroup, op: Op) -> OpOutcome {
    group.propose(term(group), op).unwrap().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_commit_in_order_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let groups = start(dir.path(), settings()).await.unwrap();
    let group = Arc::clone(groups.shard(DATA).unwrap());
    let names = names(1000);
    let mut asked = Vec::new();
    for sequence in 0..3 {
        // Without waiting for the one before: what is queued in order commits in order.
        asked.extend(names.iter().map(|name| group.propose(term(&group), op(name, sequence)).unwrap()));
    }
    for outcome in asked {
        assert_eq!(outcome.await.unwrap().unwrap(), OpOutcome::Applied);
    }
    group.read_barrier(term(&group)).await.unwrap();
    let before = consistent(&group, &names);
    assert!(before.len() == 1000 && before.values().all(|sequence| *sequence == 3));
    let applied = group.status().applied;
    assert!(applied < 1000, "{applied} entries for 3000 operations that were queued together");
    let status = group.status();
    assert_eq!((status.leader, status.queued, status.replicas.len()), (Some(1), 0, 1));
    let past = group.propose(term(&group) - 1, op("e000", 3)).unwrap().await.unwrap();
    assert!(matches!(past, Err(LogError::NotLeader { .. })), "what another term decided never commits: {past:?}");
    assert!(group.read_barrier(term(&group) - 1).await.is_err(), "nor is it read");
    groups.shutdown().await.unwrap();
    assert!(matches!(group.propose(1, op("late", 0)), Err(LogError::Stopped)));
    drop((groups, group));

    let began = Instant::now();
    let groups = start(dir.path(), settings()).await.unwrap();
    println!("restarted in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let group = groups.shard(DATA).unwrap();
    assert_eq!(consistent(group, &names), before);
    group.read_barrier(term(group)).await.unwrap();
    assert_eq!(committed(group, op("e000", 3)).await, OpOutcome::Applied);
    groups.shutdown().await.unwrap();
    drop(groups);
}

#[tokio::test]
async fn who_had_an_earlier_life_does_not_lead_because_its_log_begins_with_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let groups = start(dir.path(), settings()).await.unwrap();
    assert!(groups.shard(DATA).unwrap().leadership().borrow().leading.is_some());
    groups.shutdown().await.unwrap();
    drop(groups);
    // As the log of a member that was sent as much of it before it ended.
    let again = GroupSettings { founder: false, key: Some([1; 32]), ..settings() };
    let groups = start(dir.path(), again).await.unwrap();
    assert_eq!(groups.shard(DATA).unwrap().leadership().borrow().leading, None);
    groups.shutdown().await.unwrap();
    drop(groups);
}

#[tokio::test]
async fn a_full_queue_and_a_huge_operation_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let groups = start(dir.path(), GroupSettings { queue_ops: 8, ..settings() }).await.unwrap();
    let group = groups.shard(DATA).unwrap();
    // On one thread nobody takes from the queue until this task waits.
    let asked: Vec<_> = (0..20).map(|sequence| group.propose(term(group), op("a", sequence))).collect();
    let accepted: Vec<_> = asked.into_iter().filter_map(Result::ok).collect();
    assert_eq!(accepted.len(), 8);
    assert!(matches!(group.propose(term(group), op("b", 0)), Err(LogError::Overloaded)));
    for outcome in accepted {
        assert_eq!(outcome.await.unwrap().unwrap(), OpOutcome::Applied);
    }
    let Op::Batch(mut batch) = op("c", 0) else { unreachable!("a batch") };
    batch.snapshot = Some(vec![0; 9 << 20]);
    assert!(matches!(group.propose(term(group), Op::Batch(batch)), Err(LogError::TooLarge { .. })));
    let Op::Batch(mut batch) = op("c", 0) else { unreachable!("a batch") };
    batch.snapshot = Some(vec![0; 7 << 20]);
    assert_eq!(committed(group, Op::Batch(batch)).await, OpOutcome::Applied);
    groups.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_state_is_rebuilt_from_a_snapshot_and_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let names = names(10);
    let groups = start(dir.path(), settings()).await.unwrap();
    let group = groups.shard(DATA).unwrap();
    for sequence in 0..40u64 {
        for name in &names {
            assert_eq!(committed(group, op(name, sequence)).await, OpOutcome::Applied);
        }
        if sequence % 10 == 9 && sequence < 35 {
            group.snapshot().await.unwrap();
        }
    }
    groups.shutdown().await.unwrap();
    drop(groups);
    let snapshots = dir.path().join("snapshots/1");
    for damage in 0..3 {
        match damage {
            0 => std::fs::remove_dir_all(dir.path().join("state")).unwrap(),
            1 => {
                let path = dir.path().join("state/db");
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[40..4000].fill(0x55);
                std::fs::write(&path, bytes).unwrap();
            }
            _ => {
                std::fs::remove_dir_all(dir.path().join("state")).unwrap();
                let newest = std::fs::read_dir(&snapshots).unwrap().map(|file| file.unwrap().path()).max().unwrap();
                let mut bytes = std::fs::read(&newest).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&newest, bytes).unwrap();
            }
        }
        let groups = start(dir.path(), settings()).await.unwrap();
        let sequences = consistent(groups.shard(DATA).unwrap(), &names);
        assert!(sequences.len() == 10 && sequences.values().all(|sequence| *sequence == 40), "damage {damage}");
        groups.shutdown().await.unwrap();
    }
}

const CHILD: &str = "CONSTRUCT_KILL_TEST_DIR";

/// The other side of the kill test: says what it has, then proposes and says what was acknowledged, until killed.
#[test]
fn killed_child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let groups = start(Path::new(&dir), settings()).await.unwrap();
        let group = Arc::clone(groups.shard(DATA).unwrap());
        let names = names(24);
        let have = consistent(&group, &names);
        let say = |line: String| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
        };
        have.iter().for_each(|(name, sequence)| say(format!("@have {name} {sequence}")));
        say("@ready x 0".to_owned());
        let tasks = names.into_iter().map(|name| {
            let (group, mut sequence) = (Arc::clone(&group), have.get(&name).copied().unwrap_or(0));
            tokio::spawn(async move {
                loop {
                    assert_eq!(committed(&group, op(&name, sequence)).await, OpOutcome::Applied);
                    sequence += 1;
                    say(format!("@acked {name} {sequence}"));
                    if sequence % 40 == 0 && name == "e000" {
                        group.snapshot().await.unwrap();
                    }
                }
            })
        });
        futures::future::join_all(tasks.collect::<Vec<_>>()).await;
    });
}

#[test]
fn nothing_acknowledged_is_lost_by_twenty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    let mut random = u64::from(std::process::id()) << 17 | 0x9E37_79B9;
    println!("seed {random}");
    for round in 0..20 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cluster::raft::tests::killed_child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut have: BTreeMap<String, u64> = BTreeMap::new();
        let (mut ready, mut left) = (false, 20 + random % 600);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // Whole lines only count: the last one may have been cut by the kill.
            let Ok(line) = line else { break };
            let Some((_, line)) = line.split_once('@') else { continue };
            let [what, name, number] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let number: u64 = number.parse().unwrap();
            match what {
                "have" => drop(have.insert(name.to_owned(), number)),
                "ready" => {
                    ready = true;
                    for (name, acked) in &acked {
                        let have = have.get(name).copied().unwrap_or(0);
                        assert!(have == *acked || have == acked + 1, "round {round}: {name} has {have}, acked {acked}");
                    }
                    acked.clone_from(&have);
                }
                _ => {
                    acked.insert(name.to_owned(), number);
                    left = left.saturating_sub(1);
                    if left == 0 {
                        // SIGKILL; what it wrote by then is read until the pipe ends.
                        child.kill().unwrap();
                    }
                }
            }
        }
        child.wait().unwrap();
        assert!(ready, "round {round}: the child did not come up");
    }
    println!("{} operations acknowledged", acked.values().sum::<u64>());
}
