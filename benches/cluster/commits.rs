//! Durable commands of three replicas on this machine: against a plain file that is written and synced, against the two
//! syncs in a row that one of them takes, and against etcd with three members.
//!
//! All three nodes are in this process, so its processor time is the sum over the replicas, callers included. etcd's
//! callers ask over gRPC, which a call of a router does not; what that costs is etcd's.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::etcd::Etcd;
use super::support::callers::{RECORD_BYTES, raw, write};
use super::support::{Goal, Measured, Run, median};
use super::trio::Trio;

/// Callers, and the least share of the raw limit.
const CASES: [(usize, f64); 3] = [(1, 0.25), (64, 0.14), (1024, 0.12)];
/// Processor time of a command over all replicas at most, in microseconds.
const CPU_MICROS: f64 = 70.0;
/// At least so many times what etcd does.
const TIMES_ETCD: f64 = 3.0;
/// At most so many times two syncs in a row.
const TIMES_SYNCS: f64 = 2.0;

pub fn run(run: &Run) {
    if !run.wants("three replicas") {
        return;
    }
    let dir = tempfile::tempdir_in(&run.place).expect("a directory");
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let trio = tokio.block_on(Trio::start(dir.path()));
    let commits = |callers: usize, turn: Duration| {
        let measured = write(&tokio, |caller| trio.router(caller), callers, turn);
        tokio.block_on(trio.settle());
        measured
    };
    for (callers, goal) in CASES {
        // Actors come to life and files grow outside of what is measured.
        commits(callers, Duration::from_millis(500));
        let mut cpu = Vec::new();
        let ours = || {
            let (commands, micros) = commits(callers, run.turn());
            cpu.push(micros);
            commands
        };
        let measured = run.pairs(ours, || raw(&run.place, callers, run.turn()));
        measured.print(&format!("three replicas, commands/s x{callers}"), Goal::Ratio(goal));
        let goal = if callers == 1 { Goal::None } else { Goal::AtMost(CPU_MICROS) };
        Measured::alone(median(cpu)).print(&format!("three replicas x{callers}, CPU us each"), goal);
    }
    let latency = run.pairs(|| 1e6 / commits(1, run.turn()).0, || two_syncs(&run.place, run.turn()));
    latency.print("three replicas, us of one command", Goal::RatioAtMost(TIMES_SYNCS));
    let etcd = Etcd::start(&run.place);
    for (callers, _) in CASES {
        let measured = run.pairs(|| commits(callers, run.turn()).0, || etcd.puts(&tokio, callers, run.turn()));
        measured.print(&format!("three replicas against etcd x{callers}"), Goal::Ratio(TIMES_ETCD));
    }
    drop(etcd);
    tokio.block_on(trio.stop());
}

/// Microseconds of writing and syncing a record twice in a row: once for the leader, once for the one of the others that is
/// waited for.
fn two_syncs(place: &Path, turn: Duration) -> f64 {
    let dir = tempfile::tempdir_in(place).expect("a directory");
    let mut file = OpenOptions::new().create_new(true).append(true).open(dir.path().join("raw")).expect("a file");
    let (record, began, mut count) = (vec![0x5a; RECORD_BYTES], Instant::now(), 0.0);
    while began.elapsed() < turn {
        for _ in 0..2 {
            file.write_all(&record).expect("written");
            file.sync_data().expect("synced");
        }
        count += 1.0;
    }
    began.elapsed().as_secs_f64() * 1e6 / count
}
