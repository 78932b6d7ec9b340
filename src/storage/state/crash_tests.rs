//! The state of a shard through flushes, restarts and crashes at every step of a flush, against the model.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::snapshot::Snapshots;
use super::store::Log;
use super::tests::{Model, any_entries, batch, settle_sequences};
use super::*;
use crate::kernel::{Batch, Change, Op, ShardId};

const SHARD: ShardId = ShardId(1);

fn open(dir: &std::path::Path) -> (Arc<StateStore>, Arc<ShardState>) {
    let shard = StateOptions { feed_keep: 4, overlay_bytes: 1 << 20 };
    let options = StoreOptions {
        cache_bytes: 8 << 20,
        flush_every: Duration::from_secs(3600),
        compact_min_bytes: 1 << 40,
        shard,
    };
    let store = StateStore::open(dir, options).unwrap();
    let state = store.shard(SHARD).unwrap();
    (store, state)
}

/// Stops as a killed process would: `steps` of the flush's writes reach sled, nothing after.
fn crash(store: &StateStore, state: &ShardState, steps: usize) {
    store.crash_in(state, steps);
    store.fail();
}

/// A log that does as it is told.
struct Scripted<F> {
    settle: F,
    kept: Arc<AtomicU64>,
}

impl<F: Fn() -> std::io::Result<()> + Send + Sync> Log for Scripted<F> {
    fn settle(&self) -> std::io::Result<()> {
        (self.settle)()
    }

    fn kept_bytes(&self) -> u64 {
        self.kept.load(Ordering::SeqCst)
    }
}

#[test]
fn nothing_is_flushed_that_the_log_may_lose() {
    let dir = tempfile::tempdir().unwrap();
    let (store, state) = open(dir.path());
    let waited = Arc::new(AtomicUsize::new(0));
    let (count, inner) = (Arc::clone(&waited), Arc::clone(&state));
    let settle = move || match count.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(assert_eq!(inner.durable(), None, "the log comes first")),
        _ => Err(std::io::Error::other("the log failed")),
    };
    store.follow(Box::new(Scripted { settle, kept: Arc::default() }));
    state.apply(1, &[Op::Batch(Box::new(batch("a", 0)))]).unwrap();
    store.flush().unwrap();
    assert_eq!(state.durable().map(|at| at.index), Some(1));
    store.flush().unwrap();
    assert_eq!(waited.load(Ordering::SeqCst), 1, "there was nothing to write");
    state.apply(2, &[Op::Batch(Box::new(batch("b", 0)))]).unwrap();
    store.flush().unwrap_err();
    drop((store, state));
    let (_store, state) = open(dir.path());
    assert_eq!(state.position().unwrap().0.map(|at| at.index), Some(1), "what the log did not confirm is not there");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nothing_flushed_is_lost_and_nothing_is_half_there(entries in any_entries()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut state) = open(dir.path());
        let mut history: Vec<(Vec<Op>, Model)> = Vec::new();
        let (mut model, mut flushed) = (Model::default(), 0);
        for (mut ops, event) in entries {
            settle_sequences(&model, &mut ops);
            history.push((ops.clone(), model.clone()));
            let expected = model.entry(&ops);
            prop_assert_eq!(state.apply(model.index, &ops).unwrap(), expected);
            match event {
                0 => {
                    store.flush().unwrap();
                    flushed = model.index;
                    prop_assert_eq!(state.durable().map(|at| at.index), Some(flushed));
                }
                1..=3 => {
                    // 1 stops before the redo file, 2 in the middle of sled's writes, 3 after them.
                    crash(&store, &state, [0, 0, ops.len() + 2, usize::MAX][usize::from(event)]);
                    drop((store, state));
                    (store, state) = open(dir.path());
                    let at = state.position().unwrap().0.map_or(0, |at| at.index);
                    prop_assert!(at >= flushed && at <= model.index);
                    prop_assert!(event == 1 || at == model.index, "a synced round is complete");
                    let from = usize::try_from(at).unwrap();
                    if let Some((_, then)) = history.get(from) { then.check(&state); }
                    for (ops, then) in &history[from..] {
                        let mut then = then.clone();
                        let expected = then.entry(ops);
                        prop_assert_eq!(state.apply(then.index, ops).unwrap(), expected);
                    }
                }
                4 => {
                    store.close().unwrap();
                    drop((store, state));
                    (store, state) = open(dir.path());
                    flushed = model.index;
                }
                // The database is rewritten bit by bit, or to the end, while all goes on.
                5..=7 => {
                    if let Some(done) = store.compact_slice(64) { done.unwrap(); }
                }
                8 => while store.compact_slice(64).transpose().unwrap().is_none() {},
                _ => {}
            }
            model.check(&state);
        }
    }
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _state) = open(dir.path());
    assert!(matches!(StateStore::open(dir.path(), StoreOptions::default()), Err(StateError::Io(_))));
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Everything under its key.
pub(super) fn dump(state: &ShardState) -> Result<Pairs, StateError> {
    let mut all = Vec::new();
    state.read()?.layers.scan(&[], None, false, |key, value| {
        all.push((key.to_vec(), value));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

#[test]
fn a_damaged_database_answers_right_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (store, state) = open(dir.path());
    for index in 1..=300u64 {
        let events = vec![vec![7; usize::try_from(index % 60 * 40).unwrap()]];
        let batch = Batch { events, ..batch("a", index - 1) };
        state.apply(index, &[Op::Batch(Box::new(batch))]).unwrap();
        if index % 50 == 0 {
            store.flush().unwrap();
        }
    }
    store.close().unwrap();
    let before = dump(&state).unwrap();
    drop((store, state));
    let path = dir.path().join("state/db");
    let whole = std::fs::read(&path).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for step in 0..12 {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(copy.path().join("state/blobs")).unwrap();
        for name in ["conf", "redo-0", "redo-1"] {
            std::fs::copy(dir.path().join("state").join(name), copy.path().join("state").join(name)).unwrap();
        }
        let mut bytes = whole.clone();
        bytes[used * step / 12 + 5] ^= 0xff;
        std::fs::write(copy.path().join("state/db"), bytes).unwrap();
        let (store, state) = open(copy.path());
        let empty = state.position().unwrap().0.is_none();
        match dump(&state) {
            Ok(after) => assert!(after == before || empty && after.is_empty(), "step {step}"),
            Err(error) => {
                assert!(matches!(error, StateError::Corrupt { .. } | StateError::Sled(_)), "step {step}: {error}");
                drop((store, state));
                let (store, state) = open(copy.path());
                assert!(store.rebuilding() && state.position().unwrap().0.is_none());
            }
        }
    }
}

#[test]
fn a_copy_follows_what_is_written_while_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (store, state) = open(dir.path());
    let write = |index: u64, key: u8, bytes: Option<usize>| {
        let value = bytes.map(|bytes| vec![key; bytes]);
        let changes = vec![Change::Row { table: "t".into(), key: vec![key], value }];
        let batch = Batch { changes, ..batch("a", index - 1) };
        assert_eq!(state.apply(index, &[Op::Batch(Box::new(batch))]).unwrap(), [OpOutcome::Applied]);
        store.flush().unwrap();
    };
    for key in 0..200u8 {
        write(u64::from(key) + 1, key, Some(1000));
    }
    // Half of the rows are copied; then rows before and after that point change, grow beyond a page, and go.
    assert!((0..100).all(|_| store.compact_slice(1000).is_none()));
    let ways = [Some(10), None, Some(100_000), Some(70_000), None, Some(5)];
    for (index, (key, bytes)) in (201..).zip([3, 5, 8, 150, 160, 199].into_iter().zip(ways)) {
        write(index, key, bytes);
        assert!(store.compact_slice(100).is_none());
    }
    let done = loop {
        if let Some(done) = store.compact_slice(1000) {
            break done.unwrap();
        }
    };
    assert!(done.values >= 198, "{done:?}");
    assert!(!dir.path().join("state.compacting").exists() && !dir.path().join("state.before-compacting").exists());
    let before = dump(&state).unwrap();
    write(207, 1, Some(20));
    let after = dump(&state).unwrap();
    assert_ne!(before, after);
    store.close().unwrap();
    drop((store, state));
    let (store, state) = open(dir.path());
    assert!(!store.rebuilding());
    assert_eq!(dump(&state).unwrap(), after);
}

#[test]
fn compacting_keeps_everything_and_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, state) = open(dir.path());
    for index in 1..=400u64 {
        let row = |value| Change::Row { table: "t".into(), key: vec![1], value };
        let batch = Batch { changes: vec![row(Some(vec![index.to_le_bytes()[0]; 150_000]))], ..batch("a", index - 1) };
        state.apply(index, &[Op::Batch(Box::new(batch))]).unwrap();
        store.flush().unwrap();
    }
    let before = dump(&state).unwrap();
    store.close().unwrap();
    drop((store, state));
    // As if a compaction was killed between its renames.
    std::fs::rename(dir.path().join("state"), dir.path().join("state.before-compacting")).unwrap();
    std::fs::create_dir(dir.path().join("state.compacting")).unwrap();
    let done = super::compact(dir.path()).unwrap();
    assert!(done.after_bytes < done.before_bytes && done.shards == 1, "{done:?}");
    let (_store, state) = open(dir.path());
    assert_eq!(dump(&state).unwrap(), before);
    assert!(matches!(super::compact(dir.path()), Err(StateError::Io(_))), "the database is in use");
}

/// On a node that is younger than its first snapshot, or took in much since its last, most of the database may well be of
/// use.
#[test]
fn a_database_is_rewritten_once_a_snapshot_says_how_little_of_it_is_of_use() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        cache_bytes: 8 << 20,
        flush_every: Duration::from_secs(3600),
        compact_min_bytes: 1,
        ..StoreOptions::default()
    };
    let store = StateStore::open(dir.path(), options).unwrap();
    let state = store.shard(SHARD).unwrap();
    for index in 1..=100u64 {
        let row = |value| Change::Row { table: "t".into(), key: vec![1], value };
        let batch = Batch { changes: vec![row(Some(vec![index.to_le_bytes()[0]; 150_000]))], ..batch("a", index - 1) };
        state.apply(index, &[Op::Batch(Box::new(batch))]).unwrap();
        store.flush().unwrap();
    }
    let directory = || std::fs::metadata(dir.path().join("state")).unwrap().ino();
    let (original, before) = (directory(), dump(&state).unwrap());
    store.shared.compact_some();
    assert_eq!(directory(), original, "nobody knows how much of it is of use");
    let kept = Arc::new(AtomicU64::new(1 << 30));
    store.follow(Box::new(Scripted { settle: || Ok(()), kept: Arc::clone(&kept) }));
    Snapshots::at(dir.path().join("snapshots/1"), 1).unwrap().write(&store, &state).unwrap();
    store.shared.compact_some();
    assert_eq!(directory(), original, "the log has as much that no snapshot has");
    kept.store(0, Ordering::SeqCst);
    store.shared.compact_some();
    assert_ne!(directory(), original);
    assert_eq!(dump(&state).unwrap(), before);
}
