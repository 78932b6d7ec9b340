//! The log against the simplest thing that could be one: a map per group, over random calls with reopening.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::storage::types::Vote;

#[derive(Debug, Clone)]
enum Call {
    Append { group: u16, count: u8, bytes: u16 },
    Truncate { group: u16, keep: u8 },
    Purge { group: u16, share: u8 },
    Vote { group: u16 },
    Committed { group: u16 },
    Empty { group: u16, unfinished: bool },
    Reopen,
}

fn call() -> impl Strategy<Value = Call> {
    let group = 0u16..4;
    prop_oneof![
        12 => (group.clone(), 1u8..6, 0u16..900).prop_map(|(group, count, bytes)| Call::Append { group, count, bytes }),
        2 => (group.clone(), 0u8..4).prop_map(|(group, keep)| Call::Truncate { group, keep }),
        4 => (group.clone(), 0u8..110).prop_map(|(group, share)| Call::Purge { group, share }),
        2 => group.clone().prop_map(|group| Call::Vote { group }),
        2 => group.clone().prop_map(|group| Call::Committed { group }),
        1 => (group, any::<bool>()).prop_map(|(group, unfinished)| Call::Empty { group, unfinished }),
        2 => Just(Call::Reopen),
    ]
}

#[derive(Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    mark: Option<Mark>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }
}

/// Makes `call` on both; `term` grows with every call.
async fn make(call: &Call, term: u64, log: &mut GroupLog, model: &mut Model) {
    match call {
        Call::Append { count, bytes, .. } => {
            let text = "t".repeat(usize::from(*bytes));
            let entries: Vec<_> = (0..u64::from(*count)).map(|i| entry(term, model.next() + i, &text)).collect();
            append(log, entries.clone()).await;
            model.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        }
        Call::Truncate { keep, .. } => {
            let kept = model.entries.values().rev().nth(usize::from(*keep)).map(|entry| entry.log_id).or(model.purged);
            log.truncate_after(kept).await.expect("accepted");
            model.entries.split_off(&kept.map_or(0, |kept| kept.index + 1));
        }
        Call::Purge { share, .. } => {
            let first = model.purged.map_or(0, |purged| purged.index + 1);
            let upto = first + (model.next() - first) * u64::from(*share) / 100;
            let upto = model.entries.get(&upto).map_or_else(|| log_id(term, upto), |entry| entry.log_id);
            log.purge(upto).await.expect("accepted");
            model.entries = model.entries.split_off(&(upto.index + 1));
            model.purged = Some(upto);
        }
        Call::Vote { .. } => {
            model.vote = Some(Vote::new(term, 1));
            log.save_vote(&Vote::new(term, 1)).await.expect("durable");
        }
        Call::Committed { .. } => {
            model.committed = model.last();
            log.save_committed(model.last()).await.expect("accepted");
        }
        Call::Empty { unfinished, .. } => {
            let vote = Vote::new_committed(term, 2);
            log.empty(Some(vote), *unfinished).await.expect("durable");
            let upto = model.last().max(model.mark.and_then(|mark| mark.upto));
            *model = Model { vote: Some(vote), mark: Some(Mark { upto, unfinished: *unfinished }), ..Model::default() };
        }
        Call::Reopen => {}
    }
}

async fn agree(wal: &Wal, models: &BTreeMap<u16, Model>) {
    for (group, model) in models {
        let mut log = wal.group(*group);
        let entries = all(&mut log).await.into_iter().map(|entry| (entry.log_id.index, entry)).collect();
        let state = log.get_log_state().await.expect("readable");
        let found = Model {
            entries,
            purged: state.last_purged_log_id,
            vote: log.read_vote().await.expect("readable"),
            committed: log.read_committed().await.expect("readable"),
            mark: log.mark(),
        };
        assert_eq!(&found, model, "group {group}");
        assert_eq!(state.last_log_id, model.last(), "group {group}");
    }
}

async fn run(calls: Vec<Call>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path(), small());
    let mut models: BTreeMap<u16, Model> = BTreeMap::new();
    for (step, call) in calls.iter().enumerate() {
        match call {
            Call::Reopen => {
                drop(wal);
                (wal, _) = open(dir.path(), small());
                agree(&wal, &models).await;
            }
            Call::Append { group, .. }
            | Call::Truncate { group, .. }
            | Call::Purge { group, .. }
            | Call::Vote { group }
            | Call::Committed { group }
            | Call::Empty { group, .. } => {
                let model = models.entry(*group).or_default();
                make(call, step as u64 + 1, &mut wal.group(*group), model).await;
            }
        }
    }
    agree(&wal, &models).await;
    drop(wal);
    let (wal, _) = open(dir.path(), small());
    agree(&wal, &models).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_map_of_entries_per_group(calls in prop::collection::vec(call(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(run(calls));
    }
}
