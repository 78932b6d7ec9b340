//! What a crash leaves is repaired; what no crash leaves is refused.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::storage::wal::WalError;

/// Appends `texts` one write each and gives the file they are in, cut as by a power failure: as it was before the
/// log closed.
async fn written(dir: &Path, texts: &[&str]) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let (wal, _) = open(dir, WalOptions { segment_bytes: 64 << 10, ..small() });
    let mut log = wal.group(1);
    let file = segment_files(dir).pop().expect("one segment");
    let mut ends = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        append(&mut log, vec![entry(1, index as u64, text)]).await;
        let bytes = fs::read(&file).expect("readable");
        ends.push(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
    }
    let bytes = fs::read(&file).expect("readable");
    (file, bytes, ends)
}

/// Replaces the directory's log by one file.
fn restore(dir: &Path, file: &Path, bytes: &[u8]) {
    for old in segment_files(dir) {
        fs::remove_file(old).expect("removable");
    }
    fs::write(file, bytes).expect("writable");
}

#[tokio::test]
async fn a_last_record_that_was_there_whole_is_refused_and_one_that_never_came_is_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, whole, ends) = written(dir.path(), &["one", "two", "three"]).await;
    let (start, end) = (ends[1].next_multiple_of(8), ends[2]);
    for at in start..end {
        let mut garbage = whole.clone();
        garbage[at] ^= 0xff;
        for (how, bytes) in [("cut", &whole[..at]), ("garbage", &garbage[..])] {
            restore(dir.path(), &file, bytes);
            match Wal::open(dir.path(), small()) {
                Err(WalError::Corrupt { path, .. }) => assert_eq!(path, file),
                other => panic!("{how} at {at} gave {:?}", other.map(|(_, recovered)| recovered)),
            }
            assert_eq!(fs::read(&file).expect("readable"), bytes, "a refused log is left as it was");
        }
    }
    let mut zeroed = whole.clone();
    zeroed[start..end].fill(0);
    restore(dir.path(), &file, &zeroed);
    let (wal, recovered) = open(dir.path(), small());
    let mut log = wal.group(1);
    assert_eq!((ends_of(&mut log).await, recovered.cut), (Some(1), None));
    append(&mut log, vec![entry(2, 2, "other")]).await;
    drop((wal, log));
    let (wal, _) = open(dir.path(), small());
    assert_eq!(all(&mut wal.group(1)).await, vec![entry(1, 0, "one"), entry(1, 1, "two"), entry(2, 2, "other")]);
}

async fn ends_of(log: &mut GroupLog) -> Option<u64> {
    ends(log).await.1
}

#[tokio::test]
async fn damage_before_the_last_write_is_refused_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, whole, ends) = written(dir.path(), &["one", "two", "three"]).await;
    let second = ends[0].next_multiple_of(8);
    for at in second..ends[1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        restore(dir.path(), &file, &bytes);
        match Wal::open(dir.path(), small()) {
            Err(WalError::Corrupt { path, offset, .. }) => assert_eq!((path, offset), (file.clone(), second as u64)),
            other => panic!("damage at {at} gave {:?}", other.map(|(_, recovered)| recovered)),
        }
        assert_eq!(fs::read(&file).expect("readable"), bytes, "a refused log is left as it was");
    }
}

#[tokio::test]
async fn a_torn_write_of_several_records_keeps_its_valid_beginning() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), WalOptions { segment_bytes: 64 << 10, ..small() });
    let mut log = wal.group(1);
    let file = segment_files(dir.path()).pop().expect("one segment");
    append(&mut log, vec![entry(1, 0, "synced")]).await;
    let together = "together".repeat(200);
    append(&mut log, (1..4).map(|index| entry(1, index, &together)).collect()).await;
    let mut bytes = fs::read(&file).expect("readable");
    drop((wal, log));
    // A sector in the middle of the second of them never reached the disk.
    let second = bytes.windows(8).enumerate().filter(|(_, window)| window == b"together").map(|(at, _)| at).nth(200);
    let sector = (second.expect("so many") + 100).next_multiple_of(512);
    bytes[sector..sector + 512].fill(0);
    restore(dir.path(), &file, &bytes);
    let (wal, recovered) = open(dir.path(), small());
    assert!(recovered.cut.is_some());
    assert_eq!(all(&mut wal.group(1)).await, vec![entry(1, 0, "synced"), entry(1, 1, &together)]);
}

#[tokio::test]
async fn damage_or_loss_of_an_older_segment_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    for index in 0..40 {
        append(&mut log, vec![entry(1, index, &"x".repeat(400))]).await;
    }
    drop((wal, log));
    let files = segment_files(dir.path());
    assert!(files.len() > 3, "{files:?}");
    let whole = fs::read(&files[1]).expect("readable");

    let last_record = whole.iter().rposition(|byte| *byte != 0).expect("records");
    for at in [60, 1000] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&files[1], &bytes).expect("writable");
        let error = Wal::open(dir.path(), small()).err().expect("refused").to_string();
        assert!(error.contains(&files[1].display().to_string()) && error.contains("at offset"), "{error}");
    }
    let mut bytes = whole.clone();
    bytes[last_record] ^= 1;
    fs::write(&files[1], &bytes).expect("writable");
    let (wal, _) = open(dir.path(), small());
    assert_eq!(ends_of(&mut wal.group(1)).await, Some(39), "nothing is lost with a damaged seal");
    drop(wal);

    fs::remove_file(&files[1]).expect("removable");
    let error = Wal::open(dir.path(), small()).err().expect("refused").to_string();
    assert!(error.contains("missing") && error.contains(&files[1].display().to_string()), "{error}");

    fs::write(&files[1], &whole).expect("writable");
    fs::rename(&files[0], dir.path().join("elsewhere")).expect("movable");
    let error = Wal::open(dir.path(), small()).err().expect("refused").to_string();
    assert!(error.contains("missing") && error.contains(&files[0].display().to_string()), "{error}");
}

#[tokio::test]
async fn an_unfinished_segment_is_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    append(&mut wal.group(1), vec![entry(1, 0, "kept")]).await;
    drop(wal);
    fs::write(dir.path().join("next.tmp"), b"half a header").expect("writable");
    let (wal, _) = open(dir.path(), small());
    assert_eq!(all(&mut wal.group(1)).await, vec![entry(1, 0, "kept")]);
    assert!(!dir.path().join("next.tmp").exists());
}
