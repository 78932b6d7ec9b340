//! Durable appends to the write-ahead log against the disk's own limit, measured in the same run.
//!
//! Raw is a plain file: one `write` for as many 512-byte records as there are callers, one `fdatasync`, and again.
//! Ours is the same number of callers over sixteen groups, each waiting for its append before the next. Run with
//! `cargo bench --bench wal`; a directory on the disk to be measured may be given as the argument.

use std::fs::OpenOptions;
use std::io::Write;
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
use tokio::sync::Mutex;

const RECORD_BYTES: usize = 512;
const GROUPS: u16 = 16;
const RUN: Duration = Duration::from_secs(3);
/// Callers, and the least share of the raw limit that is good enough.
const CASES: [(usize, f64); 3] = [(1, 0.5), (64, 0.5), (1024, 0.25)];

fn main() {
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_else(|| ".".to_owned());
    println!("{:<24} | {:>9} | {:>9} | {:>5} | {:>4}", "name", "ours/s", "raw/s", "ratio", "goal");
    let mut missed = false;
    for (callers, goal) in CASES {
        let raw = raw(Path::new(&place), callers);
        let ours = ours(Path::new(&place), callers);
        let ratio = ours / raw;
        missed |= ratio < goal;
        println!("{:<24} | {ours:>9.0} | {raw:>9.0} | {ratio:>5.2} | {goal:>4.2}", format!("wal append x{callers}"));
    }
    if missed {
        println!("below the goal");
    }
}

fn raw(place: &Path, callers: usize) -> f64 {
    let dir = tempfile::tempdir_in(place).expect("a directory");
    let path = dir.path().join("raw");
    let mut file = OpenOptions::new().create_new(true).append(true).open(path).expect("a file");
    let batch = vec![0x5a; RECORD_BYTES * callers];
    let began = Instant::now();
    let mut records = 0u64;
    while began.elapsed() < RUN {
        file.write_all(&batch).expect("written");
        file.sync_data().expect("synced");
        records += callers as u64;
    }
    rate(records, began.elapsed())
}

/// A group's log, with the index of its next entry.
struct Appender {
    log: GroupLog,
    next: u64,
}

fn ours(place: &Path, callers: usize) -> f64 {
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
        tokio::time::sleep(RUN).await;
        stop.store(true, Ordering::Relaxed);
        for call in calls {
            call.await.expect("no panic");
        }
    });
    rate(done.load(Ordering::Relaxed), began.elapsed())
}

async fn call(group: Arc<Mutex<Appender>>, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let (sender, durable) = TypeConfig::oneshot();
        {
            let mut appender = group.lock().await;
            let (entry, purge) = (entry(appender.next), appender.next.checked_sub(20_000));
            appender.next += 1;
            appender.log.append([entry], IOFlushed::signal(sender)).await.expect("accepted");
            if let Some(index) = purge.filter(|index| index % 10_000 == 0) {
                appender.log.purge(log_id(index)).await.expect("accepted");
            }
        }
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

fn rate(records: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 records")]
    let records = records as f64;
    records / took.as_secs_f64()
}
