//! Durable appends to the write-ahead log, against a plain file that is written and synced.
//!
//! Raw is one `write` for as many 512-byte records as there are callers, one `fdatasync`, and again. Ours is the same
//! number of callers over sixteen groups, each waiting for its append before the next.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use construct::kernel::{AuditRecord, Op, Timestamp};
use construct::storage::types::{Entry, LeaderId, LogId, ShardCommand, TypeConfig};
use construct::storage::wal::{GroupLog, Wal, WalOptions};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use tokio::sync::Mutex;

use super::support::callers::{RECORD_BYTES, raw};
use super::support::{Goal, Run, rate};

const GROUPS: u16 = 16;
/// Callers, and the least share of the raw limit.
const CASES: [(usize, f64); 3] = [(1, 0.5), (64, 0.5), (1024, 0.25)];

pub fn run(run: &Run) {
    if !run.wants("log appends/s") {
        return;
    }
    for (callers, goal) in CASES {
        let (ours, raw) = (|| ours(&run.place, callers, run.turn()), || raw(&run.place, callers, run.turn()));
        run.pairs(ours, raw).print(&format!("log appends/s x{callers}"), Goal::Ratio(goal));
    }
}

/// A group's log, with the index of its next entry.
pub struct Appender {
    pub log: GroupLog,
    pub next: u64,
}

/// Appends one entry; yields when it is durable.
pub async fn append(appender: &mut Appender) -> OneshotReceiverOf<TypeConfig, std::io::Result<()>> {
    let (sender, durable) = TypeConfig::oneshot();
    let (entry, purge) = (entry(appender.next), appender.next.checked_sub(20_000));
    appender.next += 1;
    appender.log.append([entry], IOFlushed::signal(sender)).await.expect("accepted");
    if let Some(index) = purge.filter(|index| index % 10_000 == 0) {
        appender.log.purge(log_id(index)).await.expect("accepted");
    }
    durable
}

fn ours(place: &Path, callers: usize, turn: Duration) -> f64 {
    let dir = tempfile::tempdir_in(place).expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (wal, _) = Wal::open(dir.path(), WalOptions::default()).expect("the log opens");
    let groups: Vec<_> =
        (0..GROUPS).map(|group| Arc::new(Mutex::new(Appender { log: wal.group(group), next: 0 }))).collect();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    runtime.block_on(async {
        let calls = (0..callers).map(|caller| {
            let group = Arc::clone(&groups[caller % usize::from(GROUPS)]);
            tokio::spawn(call(group, Arc::clone(&stop), Arc::clone(&done)))
        });
        let calls: Vec<_> = calls.collect();
        tokio::time::sleep(turn).await;
        stop.store(true, Ordering::Relaxed);
        for call in calls {
            call.await.expect("no panic");
        }
    });
    rate(done.load(Ordering::Relaxed), began.elapsed())
}

async fn call(group: Arc<Mutex<Appender>>, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let durable = append(&mut *group.lock().await).await;
        durable.await.expect("an answer").expect("durable");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 1 }, index)
}

fn entry(index: u64) -> Entry {
    let record = AuditRecord {
        at: Timestamp::ZERO,
        actor: "x".repeat(RECORD_BYTES),
        action: String::new(),
        target: String::new(),
        outcome: String::new(),
        source: String::new(),
        request_id: String::new(),
    };
    let payload = EntryPayload::Normal(ShardCommand { ops: vec![Op::Audit(vec![record])] });
    Entry { log_id: log_id(index), payload }
}
