//! Callers that send durable commands, and the plain file that they are held against.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use construct::actors::runtime::Router;
use construct::kernel::{ErrorCode, Origin, Principal};
use tokio::runtime::Runtime;

use super::rig::{Note, NoteCommand};
use super::{process, rate, repeat};

pub const RECORD_BYTES: usize = 512;
/// Of a caller that was told that a bound is full.
const PAUSE: Duration = Duration::from_millis(5);

/// Records a second of a plain file: one `write` of a record for each caller, one `fdatasync`, and again.
pub fn raw(place: &Path, callers: usize, turn: Duration) -> f64 {
    let dir = tempfile::tempdir_in(place).expect("a directory");
    let mut file = OpenOptions::new().create_new(true).append(true).open(dir.path().join("raw")).expect("a file");
    let batch = vec![0x5a; RECORD_BYTES * callers];
    repeat(turn, callers as u64, || {
        file.write_all(&batch).expect("written");
        file.sync_data().expect("synced");
    })
}

/// Commands a second of so many callers, each with an entity of its own and the router that it is given, and processor time of
/// this process in microseconds of each.
pub fn write(tokio: &Runtime, router: impl Fn(usize) -> Router, callers: usize, turn: Duration) -> (f64, f64) {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (began, cpu) = (Instant::now(), process::cpu(None));
    tokio.block_on(async {
        let calls =
            (0..callers).map(|caller| tokio::spawn(call(router(caller), caller, Arc::clone(&stop), Arc::clone(&done))));
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

/// Writes one note; asks again as long as a bound is full, which more callers than a node is sized for run into.
pub async fn overwrite(router: &Router, number: usize, origin: &Origin) {
    loop {
        let command = NoteCommand::Write(vec![0x5a; RECORD_BYTES]);
        match router.ask::<Note>(&Note::id(number), command, origin).await {
            Ok(_) => return,
            Err(error) if error.code == ErrorCode::Overloaded => tokio::time::sleep(PAUSE).await,
            Err(error) => panic!("a note is not written: {error:?}"),
        }
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
