//! The log held to its promises: openraft's suite, torn and damaged files, failing disks, a model.

mod crash;
mod failure;
mod fuzz;
mod kill;
mod model;
mod rotation;
mod suite;

use std::path::Path;

use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{EntryPayload, RaftLogReader};

use super::{GroupLog, Mark, Recovered, Wal, WalOptions};
use crate::kernel::{AuditRecord, Op, Timestamp};
use crate::storage::types::{Entry, LeaderId, LogId, ShardCommand};

/// Segments of 4 KiB, so that few entries fill one.
fn small() -> WalOptions {
    WalOptions { segment_bytes: 4 << 10, cache_bytes: 2 << 10, queue_bytes: 64 << 10, read_bytes: 1 << 10 }
}

fn open(dir: &Path, options: WalOptions) -> (Wal, Recovered) {
    Wal::open(dir, options).expect("the log opens")
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

/// An entry that carries `text`.
fn entry(term: u64, index: u64, text: &str) -> Entry {
    let record = AuditRecord {
        at: Timestamp::ZERO,
        actor: text.to_owned(),
        action: String::new(),
        target: String::new(),
        outcome: String::new(),
        source: String::new(),
        request_id: "end".to_owned(),
    };
    let payload = EntryPayload::Normal(ShardCommand { ops: vec![Op::Audit(vec![record])] });
    Entry::new(log_id(term, index), payload)
}

async fn append(log: &mut GroupLog, entries: Vec<Entry>) {
    log.blocking_append(entries).await.expect("the append is durable");
}

async fn all(log: &mut GroupLog) -> Vec<Entry> {
    log.try_get_log_entries(..).await.expect("the log is readable")
}

/// The last purged and the last index.
async fn ends(log: &mut GroupLog) -> (Option<u64>, Option<u64>) {
    let state = log.get_log_state().await.expect("the log is readable");
    (state.last_purged_log_id.map(|id| id.index), state.last_log_id.map(|id| id.index))
}

/// The files of segments, oldest first.
fn segment_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "wal")).collect();
    files.sort();
    files
}
