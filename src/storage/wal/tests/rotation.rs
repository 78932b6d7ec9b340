//! Segments come and go under several groups; nothing live is lost on the way.

use super::*;
use crate::storage::types::Vote;
use openraft::storage::IOFlushed;

fn text(group: u16, index: u64) -> String {
    format!("{group}/{index} {}", "y".repeat(200))
}

#[tokio::test]
async fn cold_groups_survive_the_freeing_of_their_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let (mut cold, mut hot) = (wal.group(1), wal.group(2));
    cold.save_vote(&Vote::new_committed(7, 3)).await.expect("durable");
    append(&mut cold, (0..4).map(|index| entry(7, index, &text(1, index))).collect()).await;
    cold.purge(log_id(7, 1)).await.expect("accepted");
    cold.save_committed(Some(log_id(7, 3))).await.expect("accepted");
    hot.save_vote(&Vote::new(1, 1)).await.expect("durable");
    for index in 0..400 {
        append(&mut hot, vec![entry(1, index, &text(2, index))]).await;
        if index % 10 == 9 {
            hot.purge(log_id(1, index - 5)).await.expect("accepted");
        }
    }
    // Freed after the purge, in the writer's own time: another write that returns comes after it.
    hot.save_vote(&Vote::new(2, 1)).await.expect("durable");
    let stats = wal.stats();
    assert!(stats.freed > 10 && stats.moved >= 2, "{stats:?}");
    assert!(stats.segments < 12, "{stats:?}");
    drop((wal, cold, hot));

    for _ in 0..3 {
        let (wal, _) = open(dir.path(), small());
        let (mut cold, mut hot) = (wal.group(1), wal.group(2));
        assert_eq!(wal.groups(), [1, 2]);
        assert_eq!(cold.read_vote().await.expect("readable"), Some(Vote::new_committed(7, 3)));
        assert_eq!(cold.read_committed().await.expect("readable"), Some(log_id(7, 3)));
        assert_eq!(ends(&mut cold).await, (Some(1), Some(3)));
        let kept: Vec<_> = (2..4).map(|index| entry(7, index, &text(1, index))).collect();
        assert_eq!(all(&mut cold).await, kept);
        assert_eq!(hot.read_vote().await.expect("readable"), Some(Vote::new(2, 1)));
        assert_eq!(ends(&mut hot).await, (Some(394), Some(399)));
        let kept: Vec<_> = (395..400).map(|index| entry(1, index, &text(2, index))).collect();
        assert_eq!(all(&mut hot).await, kept);
    }
}

#[tokio::test]
async fn damage_in_the_last_segment_is_named_although_it_hides_what_was_freed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    log.save_vote(&Vote::new(1, 1)).await.expect("durable");
    for index in 0..100 {
        append(&mut log, vec![entry(1, index, &text(1, index))]).await;
        if index % 5 == 4 {
            log.purge(log_id(1, index - 2)).await.expect("accepted");
        }
    }
    // What is freed is said in the last segment, behind other records.
    let mut files = Vec::new();
    for round in 2.. {
        log.save_vote(&Vote::new(round, 1)).await.expect("durable");
        files = std::fs::read_dir(dir.path()).expect("readable").map(|file| file.expect("a file").path()).collect();
        if files.len() == 1 || round > 1000 {
            break;
        }
        let last = 100 + round;
        append(&mut log, vec![entry(1, last - 2, &text(1, last - 2))]).await;
        log.purge(log_id(1, last - 2)).await.expect("accepted");
    }
    drop((wal, log));
    files.sort();
    let last = files.last().expect("a segment");
    let mut bytes = std::fs::read(last).expect("readable");
    let at = crate::storage::wal::segment::HEADER_BYTES as usize + 12;
    bytes[at] ^= 0x40;
    std::fs::write(last, bytes).expect("written");
    let error = Wal::open(dir.path(), small()).err().expect("damaged").to_string();
    assert!(error.contains(&last.display().to_string()), "{error}");
}

#[tokio::test]
async fn files_stay_bounded_although_one_group_keeps_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let (mut keeper, mut hot) = (wal.group(1), wal.group(2));
    append(&mut keeper, (0..40).map(|index| entry(1, index, &text(1, index))).collect()).await;
    for index in 0..600 {
        append(&mut hot, vec![entry(1, index, &text(2, index))]).await;
        hot.purge(log_id(1, index)).await.expect("accepted");
    }
    hot.save_vote(&Vote::new(2, 1)).await.expect("durable");
    let stats = wal.stats();
    assert!(stats.disk_bytes < 4 * stats.live_bytes + 6 * 4096, "{stats:?}");
    let kept: Vec<_> = (0..40).map(|index| entry(1, index, &text(1, index))).collect();
    assert_eq!(all(&mut keeper).await, kept);
    drop((wal, keeper, hot));
    let (wal, _) = open(dir.path(), small());
    assert_eq!(all(&mut wal.group(1)).await, kept);
    assert_eq!(ends(&mut wal.group(2)).await, (Some(599), Some(599)));
}

#[tokio::test]
async fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    let entries = vec![entry(1, 0, "small"), entry(1, 1, &"z".repeat(50_000)), entry(1, 2, "small")];
    append(&mut log, entries.clone()).await;
    assert_eq!(all(&mut log).await, entries);
    drop((wal, log));
    let (wal, _) = open(dir.path(), small());
    assert_eq!(all(&mut wal.group(1)).await, entries);
}

#[tokio::test]
async fn limited_reads_and_streams_agree_with_the_whole() {
    use futures::TryStreamExt;
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    let entries: Vec<_> = (0..50).map(|index| entry(1, index, &text(1, index))).collect();
    append(&mut log, entries.clone()).await;
    let some = log.limited_get_log_entries(10, 50).await.expect("readable");
    assert!(!some.is_empty() && some.len() < 40, "{}", some.len());
    assert_eq!(some[..], entries[10..10 + some.len()]);
    let streamed: Vec<_> = log.entries_stream(10..).await.try_collect().await.expect("readable");
    assert_eq!(streamed, entries[10..]);
}

#[tokio::test]
async fn a_hole_or_a_taken_index_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    append(&mut log, vec![entry(1, 5, "first")]).await;
    for wrong in [vec![entry(1, 5, "again")], vec![entry(1, 7, "hole")], vec![entry(1, 6, "a"), entry(1, 8, "b")]] {
        let error = log.append(wrong, IOFlushed::noop()).await.expect_err("refused");
        assert!(error.to_string().contains("does not follow"), "{error}");
    }
    append(&mut log, vec![entry(1, 6, "second")]).await;
    assert_eq!(ends(&mut log).await, (None, Some(6)));
}

#[tokio::test]
async fn an_emptied_group_keeps_its_vote_and_what_it_had_and_may_fill_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    log.save_vote(&Vote::new(3, 1)).await.expect("durable");
    append(&mut log, vec![entry(2, 0, "old")]).await;
    let (older, newer) = (Vote::new_committed(2, 2), Vote::new_committed(3, 2));
    log.empty(Some(older), true).await.expect("durable");
    assert_eq!(log.read_vote().await.expect("readable"), Some(Vote::new(3, 1)), "what it promised stays");
    drop((wal, log));
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    assert_eq!(log.mark(), Some(Mark { upto: Some(log_id(2, 0)), unfinished: true }));
    log.empty(Some(newer), false).await.expect("durable");
    let mark = Some(Mark { upto: Some(log_id(2, 0)), unfinished: false });
    assert_eq!((log.mark(), log.read_vote().await.expect("readable")), (mark, Some(newer)));
    append(&mut log, vec![entry(1, 0, "of an older term"), entry(1, 1, "and another")]).await;
    assert!(!log.reaches_mark(), "a longer log of an older term has not what this one had");
    append(&mut log, vec![entry(3, 2, "new")]).await;
    // Everything that stands before goes into new segments, or goes.
    for round in 3..400 {
        append(&mut log, vec![entry(3, round, &text(3, round))]).await;
        log.purge(log_id(3, round - 1)).await.expect("accepted");
    }
    drop((wal, log));
    let (wal, _) = open(dir.path(), small());
    let log = wal.group(1);
    assert!(log.reaches_mark());
    assert_eq!(log.mark(), mark);
}

#[tokio::test]
async fn one_sync_serves_all_that_waited() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), WalOptions::default());
    let groups: Vec<_> = (0..64).map(|group| wal.group(group)).collect();
    let appends = groups.into_iter().map(|mut log| async move {
        for index in 0..20 {
            append(&mut log, vec![entry(1, index, "text")]).await;
        }
    });
    futures::future::join_all(appends).await;
    let stats = wal.stats();
    assert_eq!(stats.records, 64 * 20);
    assert!(stats.syncs < 64 * 20 / 4 && stats.largest_batch > 8, "{stats:?}");
}
