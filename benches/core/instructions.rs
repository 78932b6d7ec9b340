//! Hot paths for `scripts/bench --instructions`, which runs this program under callgrind with two counts of the same
//! path and takes the difference: instructions of one, without those of the start. Instructions do not depend on what
//! else the machine does, so a small change shows.
//!
//! One thread runs everything asynchronous; only the log's writer and the state's flusher are threads of their own.

use std::sync::Arc;

use async_trait::async_trait;
use construct::actors::runtime::clock::NodeClock;
use construct::actors::runtime::kinds::{Kind, Kinds};
use construct::actors::runtime::log::{Completion, Leadership, LogError, LogStatus, ShardLog};
use construct::actors::runtime::{RuntimeOptions, RuntimeParts};
use construct::kernel::{Op, ShardId};
use construct::storage::state::{ShardState, StateOptions};
use construct::storage::wal::{Wal, WalOptions};
use tokio::sync::watch;

use super::support::callers::{RECORD_BYTES, origin};
use super::support::rig::{Note, NoteCommand, OneKey};
use super::wal::{Appender, append};

/// A log that applies at once.
struct Immediate(Arc<ShardState>, watch::Sender<Leadership>);

#[async_trait]
impl ShardLog for Immediate {
    fn shard(&self) -> ShardId {
        self.0.shard()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.1.subscribe()
    }

    fn propose_then(&self, _term: u64, op: Op, done: Completion) -> Result<(), LogError> {
        let index = self.0.applied().borrow().applied_index + 1;
        let mut outcomes = self.0.apply(index, std::slice::from_ref(&op)).expect("applied");
        done.complete(Ok(outcomes.remove(0)));
        Ok(())
    }

    async fn read_barrier(&self, _term: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn state(&self) -> &Arc<ShardState> {
        &self.0
    }

    fn votes(&self) -> bool {
        true
    }

    fn status(&self) -> LogStatus {
        LogStatus { leader: Some(1), term: 1, applied: 0, queued: 0, replicas: Vec::new() }
    }
}

/// Goes along the path of this name so many times.
pub fn run(path: &str, count: usize) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match path {
        "command" => tokio.block_on(asks(|| NoteCommand::Write(vec![0x5a; RECORD_BYTES]), count)),
        "ask" => tokio.block_on(asks(|| NoteCommand::GetLength, count)),
        "append" => tokio.block_on(appends(count)),
        other => panic!("there is no path {other}"),
    }
}

/// Router, actor, `decide`, batch, `apply` in memory, reply.
async fn asks(command: impl Fn() -> NoteCommand, count: usize) {
    let leads = Leadership { leading: Some(1), leader: Some(1), replica: true };
    let state = Arc::new(ShardState::in_memory(ShardId(1), StateOptions::default()));
    let log = Immediate(state, watch::channel(leads).0);
    let kinds = Kinds::new(&[Kind::of::<Note>()], 1);
    let (clock, options) = (Arc::new(NodeClock::system()), RuntimeOptions::default());
    let parts = RuntimeParts { logs: vec![Arc::new(log)], kinds, clock, providers: Vec::new(), options };
    let runtime = construct::actors::runtime::Runtime::start(parts).await.expect("the runtime starts");
    runtime.set_sealer(Arc::new(OneKey));
    let (id, origin) = (Note::id(1), origin());
    for _ in 0..count {
        runtime.router.ask::<Note>(&id, command(), &origin).await.expect("answered");
    }
    runtime.stop().await;
}

/// Encoding of an entry, its frame, write and sync.
async fn appends(count: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = Wal::open(dir.path(), WalOptions::default()).expect("the log opens");
    let mut appender = Appender { log: wal.group(1), next: 0 };
    for _ in 0..count {
        append(&mut appender).await.await.expect("an answer").expect("durable");
    }
}
