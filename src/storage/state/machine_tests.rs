//! The state machine with the write-ahead log under openraft's own suite, and its snapshots.

use std::time::Duration;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftTypeConfig, StorageError};

use super::snapshot::Snapshots;
use super::*;
use crate::kernel::{Batch, Op, ShardId};
use crate::storage::types::TypeConfig;
use crate::storage::wal::{GroupLog, Wal, WalOptions};

struct Stores;

fn store(dir: &std::path::Path) -> (Arc<StateStore>, ShardMachine) {
    let options =
        StoreOptions { cache_bytes: 8 << 20, flush_every: Duration::from_secs(3600), ..StoreOptions::default() };
    let store = StateStore::open(dir, options).unwrap();
    let state = store.shard(ShardId(3)).unwrap();
    (Arc::clone(&store), ShardMachine::new(dir, store, state, 2).unwrap())
}

impl StoreBuilder<TypeConfig, GroupLog, ShardMachine, tempfile::TempDir> for Stores {
    async fn build(&self) -> Result<(tempfile::TempDir, GroupLog, ShardMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions { segment_bytes: 1 << 20, ..WalOptions::default() };
        let (wal, _) = Wal::open(&dir.path().join("wal"), options).unwrap();
        let (_, machine) = store(dir.path());
        Ok((dir, wal.group(3), machine))
    }
}

#[test]
fn openraft_suite_passes_on_the_log_and_the_state() {
    type Runtime = <TypeConfig as RaftTypeConfig>::AsyncRuntime;
    <Runtime as openraft::AsyncRuntime>::run(Suite::test_all(Stores)).unwrap();
}

fn fill(state: &ShardState, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        let rows = vec![crate::kernel::Change::Row {
            table: "t".into(),
            key: index.to_be_bytes().to_vec(),
            value: Some(vec![9; if index % 50 == 0 { 300_000 } else { 3000 }]),
        }];
        let batch = Batch { changes: rows, ..tests::batch("a", index - 1) };
        state.apply(index, &[Op::Batch(Box::new(batch))]).unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_rebuilds_the_state_elsewhere_and_after_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (first, mut machine) = store(dir.path());
    for round in 0..3u64 {
        fill(machine.state(), round * 200 + 1..=round * 200 + 200);
        let built = machine.build_snapshot().await.unwrap();
        assert_eq!(built.meta.last_log_id.map(|id| id.index), Some(round * 200 + 200));
    }
    fill(machine.state(), 601..=610);
    let count = std::fs::read_dir(dir.path().join("snapshots/3")).unwrap().count();
    assert_eq!(count, 2, "only as many as are to be kept");
    let before = crash_tests::dump(machine.state()).unwrap();

    let other = tempfile::tempdir().unwrap();
    let (_other, mut replica) = store(other.path());
    fill(replica.state(), 1..=5);
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    replica.install_snapshot(&current.meta, current.snapshot).await.unwrap();
    assert_eq!(replica.applied_state().await.unwrap().0.map(|id| id.index), Some(600));
    fill(replica.state(), 601..=610);
    assert_eq!(crash_tests::dump(replica.state()).unwrap(), before);
    assert_eq!(replica.get_current_snapshot().await.unwrap().unwrap().meta, current.meta);

    first.close().unwrap();
    drop((first, machine));
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (_again, mut machine) = store(dir.path());
    assert_eq!(machine.applied_state().await.unwrap().0, None);
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    machine.install_snapshot(&current.meta, current.snapshot).await.unwrap();
    fill(machine.state(), 601..=610);
    assert_eq!(crash_tests::dump(machine.state()).unwrap(), before);
}

#[tokio::test]
async fn a_snapshot_that_waits_while_the_state_is_emptied_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, machine) = store(dir.path());
    fill(machine.state(), 1..=20);
    assert!(machine.write_snapshot().await.unwrap());
    fill(machine.state(), 21..=30);
    let turn = machine.turn().await;
    let first = async {
        tokio::task::yield_now().await;
        drop(turn);
    };
    let (emptied, written, ()) = tokio::join!(machine.empty(), machine.write_snapshot(), first);
    emptied.unwrap();
    assert!(machine.is_empty() && !written.unwrap());
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots/3")).unwrap().count(), 0);
}

#[test]
fn a_damaged_snapshot_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, machine) = store(dir.path());
    fill(machine.state(), 1..=100);
    let snapshots = Snapshots::at(dir.path().join("here"), 2).unwrap();
    let older = snapshots.write(&store, machine.state()).unwrap();
    fill(machine.state(), 101..=200);
    let newer = snapshots.write(&store, machine.state()).unwrap();
    let before = crash_tests::dump(machine.state()).unwrap();
    let whole = std::fs::read(&newer.path).unwrap();
    for at in [whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&newer.path, damaged).unwrap();
        assert!(snapshots.install(&store, machine.state(), &newer).is_err());
        assert_eq!(crash_tests::dump(machine.state()).unwrap(), before);
    }
    std::fs::write(&newer.path, &whole[..10]).unwrap();
    assert_eq!(snapshots.newest().unwrap().unwrap().path, older.path);
}
