//! Groups that give their space back: what stays of them, and what they must not do any more.

use openraft::RaftLogReader;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::super::tests::{DATA, committed, consistent, names, op, settings, start};
use super::super::{Formation, GroupSettings, Groups, adopt};
use super::*;
use crate::cluster::recovery::{RecoveryError, Remains, recover};
use crate::cluster::restore::Founder;
use crate::kernel::Timestamp;
use crate::storage::data_dir::DataDir;
use crate::storage::types::{Entry, LogId, TypeConfig};

const ELSEWHERE: Leader = Leader { term: 9, node: 2 };

async fn filled(dir: &std::path::Path) -> Groups {
    let groups = start(dir, settings()).await.expect("starts");
    let group = groups.shard(DATA).expect("a shard");
    for sequence in 0..20 {
        for name in names(5) {
            committed(group, op(&name, sequence)).await;
        }
        if sequence == 10 {
            group.snapshot().await.expect("a snapshot");
        }
    }
    groups
}

async fn entries(group: &ShardGroup) -> Vec<Entry> {
    let mut log = group.parts().log.clone();
    log.try_get_log_entries(..).await.expect("readable")
}

fn append(from: Leader, previous: Option<LogId>, entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
    let last = entries.last().map(|entry| entry.log_id);
    let vote = Vote { leader_id: LeaderId::new(from.term, from.node), committed: true };
    AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit: last }
}

/// What a leader elsewhere sends.
async fn send(group: &ShardGroup, previous: Option<LogId>, entries: Vec<Entry>) {
    let appended = group.raft().append_entries(append(ELSEWHERE, previous, entries)).await.expect("an answer");
    assert!(matches!(appended, AppendEntriesResponse::Success), "{appended:?}");
}

fn has_nothing(group: &ShardGroup, dir: &std::path::Path) {
    assert!(!group.holds_anything() && group.state().counts().entities == 0);
    let left: Vec<_> = std::fs::read_dir(dir.join("snapshots/1")).expect("a directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_given_back_only_once_the_group_is_without_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let groups = filled(dir.path()).await;
    let group = groups.shard(DATA).expect("a shard");
    let before = consistent(group, &names(5));
    assert!(!group.collect(async { None }).await.expect("goes on"), "nobody says so");
    assert_eq!(consistent(group, &names(5)), before);
    committed(group, op("e000", 20)).await;
    groups.shutdown().await.expect("stops");
}

/// The founder's log begins with a membership in which it decides alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_was_emptied_neither_forms_its_group_again_nor_leads_by_how_its_log_begins() {
    let dir = tempfile::tempdir().expect("a directory");
    let groups = filled(dir.path()).await;
    let group = groups.shard(DATA).expect("a shard");
    let log = entries(group).await;
    let last = group.parts().log.last();
    assert!(group.collect(async { Some(ELSEWHERE) }).await.expect("collected"));
    has_nothing(group, dir.path());
    assert!(group.leadership().borrow().leading.is_none() && !group.votes());
    let mark = group.parts().log.mark().expect("a mark");
    assert_eq!((mark.upto, mark.unfinished), (last, false));

    // Who led it before and does not know that another does would find that it forgot.
    let deposed = Leader { term: ELSEWHERE.term - 1, node: 3 };
    let refused = group.raft().append_entries(append(deposed, last, Vec::new())).await.expect("an answer");
    assert!(matches!(refused, AppendEntriesResponse::HigherVote(_)), "{refused:?}");

    // Taken in again, it has been sent this much when it ends.
    let (first, rest) = log.split_first().expect("the whole log");
    send(group, None, vec![first.clone()]).await;
    let heard = group.raft().wait(Some(std::time::Duration::from_secs(30)));
    let heard =
        heard.metrics(|metrics| metrics.membership_config.voter_ids().eq([metrics.id]), "it decides alone").await;
    assert!(heard.is_ok() && !group.votes(), "it makes no use of that vote");
    groups.shutdown().await.expect("stops");
    drop(groups);
    let groups = start(dir.path(), GroupSettings { election_ms: 100, heartbeat_ms: 100, ..settings() }).await;
    let groups = groups.expect("starts");
    let group = groups.shard(DATA).expect("a shard");
    // Several elections long, if there were one.
    let elected = group.raft().wait(Some(std::time::Duration::from_secs(2)));
    let elected = elected.metrics(|metrics| metrics.current_leader == Some(metrics.id), "nobody leads").await;
    assert!(elected.is_err(), "a second leader, which decides alone");

    // Once it has all of its past, it is who it was.
    send(group, Some(first.log_id), rest.to_vec()).await;
    assert!(group.parts().log.reaches_mark() && group.votes());
    groups.shutdown().await.expect("stops");
}

/// A replica that the group was without is not what the shard is made of after a lost majority.
async fn not_recovered(survivor: &std::path::Path) {
    let formation = Formation { node: 1, shards: 1, cluster: [7; 16], founder: true, named: true };
    adopt(survivor, &formation).expect("written");
    let new = tempfile::tempdir().expect("a directory");
    let directory = DataDir::open(new.path()).expect("locked");
    let founder = Founder { node: 1, address: String::new(), shards: 1 };
    let survivors = [survivor.to_owned()];
    let remains = Remains { survivors: &survivors, until: Timestamp::ZERO, erasures: Default::default() };
    let recovered = recover(&directory, &founder, remains).await;
    assert!(matches!(&recovered, Err(RecoveryError::NotHeld(shards)) if shards == "1"), "{recovered:?}");
}

/// What a crash leaves after the log was emptied looks as if the log had been lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_begun_is_ended_before_the_group_starts() {
    let dir = tempfile::tempdir().expect("a directory");
    let groups = filled(dir.path()).await;
    let log = groups.shard(DATA).expect("a shard").parts().log.clone();
    let last = log.last();
    groups.shutdown().await.expect("stops");
    drop((groups, log));
    let (wal, _) = crate::storage::wal::Wal::open(&dir.path().join("wal"), Default::default()).expect("a log");
    wal.group(DATA.0).empty(Some(Vote::new_committed(9, 2)), true).await.expect("durable");
    drop(wal);
    not_recovered(dir.path()).await;
    let groups = start(dir.path(), settings()).await.expect("it is no damage");
    let group = groups.shard(DATA).expect("a shard");
    has_nothing(group, dir.path());
    let mark = group.parts().log.mark().expect("a mark");
    assert_eq!((mark.upto, mark.unfinished), (last, false));
    assert!(groups.shard(ShardId::META).expect("a shard").leadership().borrow().leading.is_some());
    groups.shutdown().await.expect("stops");
}
