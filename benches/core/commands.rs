//! Durable commands through entity actor, Raft and state, against a plain file that is written and synced.
//!
//! Ours: as many callers as the name says, each with an entity of its own, each sending its next 512-byte command when
//! the one before is answered. Raw: one `write` of as many 512-byte records, one `fdatasync`, and again. Processor time
//! is that of the whole process, callers and the flusher of the state included.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use construct::actors::runtime::Router;
use construct::kernel::{Origin, Principal};
use tokio::runtime::Runtime;

use super::support::process;
use super::support::rig::{Note, NoteCommand, Rig, settings};
use super::support::{Goal, Measured, Run, median, rate};
use super::wal::{RECORD_BYTES, raw};

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
        write(&tokio, &rig.runtime.router, callers, Duration::from_millis(500));
        let mut cpu = Vec::new();
        let ours = || {
            let (commands, micros) = write(&tokio, &rig.runtime.router, callers, run.turn());
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

/// Commands a second, and processor time in microseconds of each.
pub fn write(tokio: &Runtime, router: &Router, callers: usize, turn: Duration) -> (f64, f64) {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (began, cpu) = (Instant::now(), process::cpu(None));
    tokio.block_on(async {
        let calls =
            (0..callers).map(|caller| tokio::spawn(call(router.clone(), caller, Arc::clone(&stop), Arc::clone(&done))));
        let calls: Vec<_> = calls.collect();
        tokio::time::sleep(turn).await;
        stop.store(true, Ordering::Relaxed);
        for call in calls {
            call.await.expect("no panic");
        }
    });
    let (done, took) = (done.load(Ordering::Relaxed), began.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let micros = (process::cpu(None) - cpu).as_secs_f64() * 1e6 / done as f64;
    (rate(done, took), micros)
}

async fn call(router: Router, caller: usize, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let id = Note::id(caller);
    let origin = origin();
    while !stop.load(Ordering::Relaxed) {
        let command = NoteCommand::Write(vec![0x5a; RECORD_BYTES]);
        let written = router.ask::<Note>(&id, command, &origin).await.expect("durable");
        assert_eq!(written, RECORD_BYTES as u64);
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A person at the gateway.
pub fn origin() -> Origin {
    let principal = Principal::User {
        id: "usr_01h455vb4pex5vsknk084sn02q".to_owned(),
        session: Some("ses_01h455vb4pex5vsknk084sn02q".to_owned()),
        roles: vec!["user".to_owned()],
    };
    Origin {
        principal,
        source: "0123456789abcdef".to_owned(),
        request_id: "req_01h455vb4pex5vsknk084sn02q".to_owned(),
        traceparent: None,
        idempotency: None,
        reaches_all: false,
    }
}
