//! `kill -9` under load, again and again over one directory: nothing acknowledged is lost.
//!
//! The test starts its own executable as the victim. The victim prints a line for everything the log acknowledged;
//! the parent kills it after a random number of lines and compares.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use ring::rand::{SecureRandom, SystemRandom};

use super::*;
use crate::storage::types::Vote;

const VICTIM: &str = "CONSTRUCT_WAL_VICTIM";
const GROUPS: u16 = 6;
const ROUNDS: usize = 20;

fn options() -> WalOptions {
    WalOptions { segment_bytes: 32 << 10, ..small() }
}

fn text(group: u16, index: u64) -> String {
    format!("{group}/{index} {}", "k".repeat(usize::from(group) * 90))
}

/// What the victim was told is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Promise {
    last: Option<u64>,
    term: u64,
}

fn say(word: &str, group: u16, number: u64) {
    // One call, one line; a closed pipe means the parent has what it wanted.
    let _ = std::io::stdout().write_all(format!("{word} {group} {number}\n").as_bytes());
}

/// Appends, votes, truncates and purges in one group until killed.
async fn suffer(wal: Wal, group: u16) {
    let mut log = wal.group(group);
    let mut term = log.read_vote().await.expect("readable").map_or(1, |vote| vote.leader_id.term);
    let mut next = ends(&mut log).await.1.map_or(0, |last| last + 1);
    for round in 1u64.. {
        let entries: Vec<_> = (next..=next + round % 3).map(|index| entry(term, index, &text(group, index))).collect();
        next += entries.len() as u64;
        append(&mut log, entries).await;
        say("durable", group, next - 1);
        if round % 7 == u64::from(group) {
            term += 1;
            log.save_vote(&Vote::new_committed(term, 1)).await.expect("durable");
            say("voted", group, term);
        }
        if round % 5 == 0 && next > 20 {
            let upto = log_id_at(&mut log, next - 15).await;
            log.purge(upto).await.expect("accepted");
        }
        if round % 11 == 0 {
            let last = log_id_at(&mut log, next - 1).await;
            log.save_committed(Some(last)).await.expect("accepted");
        }
    }
}

async fn log_id_at(log: &mut GroupLog, index: u64) -> LogId {
    log.try_get_log_entries(index..=index).await.expect("readable").pop().expect("there").log_id
}

/// Run as an ordinary test it does nothing; started by the parent it works until killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let (wal, _) = open(Path::new(&dir), options());
    futures::future::join_all((0..GROUPS).map(|group| tokio::spawn(suffer(wal.clone(), group)))).await;
}

/// Starts a victim, kills it after `lines` acknowledgements, and adds all that it was promised.
fn kill_one(dir: &Path, lines: usize, promised: &mut BTreeMap<u16, Promise>) {
    let mut child = Command::new(std::env::current_exe().expect("this executable"))
        .args(["storage::wal::tests::kill::victim", "--exact", "--nocapture"])
        .env(VICTIM, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut heard = 0;
    for line in output.lines().map(|line| line.expect("readable")) {
        let words: Vec<&str> = line.split_whitespace().rev().take(3).collect();
        let [number, group, word @ ("durable" | "voted")] = words[..] else { continue };
        let promise = promised.entry(group.parse().expect("a group")).or_default();
        let number: u64 = number.parse().expect("a number");
        match word {
            "durable" => promise.last = promise.last.max(Some(number)),
            _ => promise.term = promise.term.max(number),
        }
        heard += 1;
        if heard == lines {
            // What is in the pipe already was said before the kill, and is read after it.
            child.kill().expect("killed");
        }
    }
    child.wait().expect("dead");
    assert!(heard >= lines, "the victim ended by itself after {heard} of {lines} acknowledgements");
}

async fn check(dir: &Path, promised: &BTreeMap<u16, Promise>) {
    let (wal, _) = open(dir, options());
    for (group, promise) in promised {
        let mut log = wal.group(*group);
        let (purged, last) = ends(&mut log).await;
        assert!(last >= promise.last, "group {group}: last is {last:?}, promised {promise:?}");
        let term = log.read_vote().await.expect("readable").map_or(0, |vote| vote.leader_id.term);
        assert!(term >= promise.term, "group {group}: term is {term}, promised {promise:?}");
        let mut next = purged.map_or(0, |purged| purged + 1);
        for found in all(&mut log).await {
            assert_eq!(found, entry(found.log_id.leader_id.term, next, &text(*group, next)), "group {group}");
            next += 1;
        }
        assert_eq!(Some(next), last.map(|last| last + 1), "group {group}");
    }
}

#[tokio::test]
async fn acknowledged_entries_and_votes_survive_kill_nine() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut promised = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut random = [0; 2];
        SystemRandom::new().fill(&mut random).expect("the operating system's generator works");
        let lines = usize::from(u16::from_le_bytes(random)) % 400 + 1;
        kill_one(dir.path(), lines, &mut promised);
        check(dir.path(), &promised).await;
    }
}
