//! Durable commands through entity actor, Raft and state, against a plain file that is written and synced.
//!
//! Ours: as many callers as the name says, each with an entity of its own, each sending its next 512-byte command when
//! the one before is answered. Raw: one `write` of as many 512-byte records, one `fdatasync`, and again. Processor time
//! is that of the whole process, callers and the flusher of the state included.

use std::time::Duration;

use super::support::callers::{raw, write};
use super::support::rig::{Rig, settings};
use super::support::{Goal, Measured, Run, median};

/// Callers, and the least share of the raw limit.
const CASES: [(usize, f64); 3] = [(1, 0.5), (64, 0.5), (1024, 0.3)];
/// Processor time of a command at most, in microseconds.
const CPU_MICROS: f64 = 40.0;

pub fn run(run: &Run) {
    if !run.wants("durable commands/s") {
        return;
    }
    let dir = tempfile::tempdir_in(&run.place).expect("a directory");
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rig = tokio.block_on(Rig::notes(dir.path(), &settings()));
    for (callers, goal) in CASES {
        // Actors come to life and files grow outside of what is measured.
        write(&tokio, |_| rig.runtime.router.clone(), callers, Duration::from_millis(500));
        let mut cpu = Vec::new();
        let ours = || {
            let (commands, micros) = write(&tokio, |_| rig.runtime.router.clone(), callers, run.turn());
            cpu.push(micros);
            tokio.block_on(rig.settle());
            commands
        };
        let measured = run.pairs(ours, || raw(&run.place, callers, run.turn()));
        measured.print(&format!("durable commands/s x{callers}"), Goal::Ratio(goal));
        let goal = if callers == 1 { Goal::None } else { Goal::AtMost(CPU_MICROS) };
        Measured::alone(median(cpu)).print(&format!("durable commands x{callers}, CPU us each"), goal);
    }
    tokio.block_on(rig.stop());
}
