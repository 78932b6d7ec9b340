//! A shard held still for a backup, at the same instant as all others.
//!
//! To hold a shard is to hold the proposer's turn: what is under way has committed and is applied, and nothing follows
//! until it is let go. While all shards are held at once, what each of them has applied is the state of the cluster at one
//! instant: nothing that came of an operation is in it without the operation, on whatever shard. A hold ends by itself
//! after [`HOLD`], so that nothing stands still because whoever takes the backup is gone; [`ShardGroup::release`] says
//! whether it lasted. The file is written after that, while the shard goes on.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use super::ShardGroup;
use crate::actors::runtime::log::{CUT_READ, CutId, LogError, ShardLog};
use crate::storage::state::LogPosition;

/// The longest a shard is held.
const HOLD: Duration = Duration::from_secs(2);

/// What is held and what was set aside, of one shard.
#[derive(Default)]
pub(super) struct Cuts {
    /// Whoever has it proposes.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    held: Arc<Mutex<Option<Held>>>,
    written: Mutex<Option<Written>>,
}

struct Held {
    id: CutId,
    _turn: OwnedMutexGuard<()>,
}

/// A file that is being written, or was.
struct Written {
    id: CutId,
    path: watch::Receiver<Option<Result<PathBuf, String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShardGroup {
    /// Holds the shard and begins to set aside what is applied.
    pub(super) async fn begin_cut(&self, term: u64, id: CutId) -> Result<Option<LogPosition>, LogError> {
        if self.is_disk_full() {
            return Err(LogError::DiskFull);
        }
        // Not while another file is written: the shard would be held for as long.
        let writing = self.machine().turn().await;
        let turn = Arc::clone(&self.cuts().turn);
        let turn = tokio::time::timeout(HOLD, turn.lock_owned()).await.map_err(|_| LogError::Overloaded)?;
        self.hold(id, turn);
        let cut = tokio::time::timeout(HOLD, self.cut_held(term, id, writing)).await;
        let cut = cut.unwrap_or(Err(LogError::Overloaded));
        if cut.is_err() {
            self.let_go(id);
        }
        cut
    }

    fn hold(&self, id: CutId, turn: OwnedMutexGuard<()>) {
        *lock(&self.cuts().held) = Some(Held { id, _turn: turn });
        let held = Arc::clone(&self.cuts().held);
        tokio::spawn(async move {
            tokio::time::sleep(HOLD).await;
            lock(&held).take_if(|held| held.id == id);
        });
    }

    /// Whether it was still held.
    fn let_go(&self, id: CutId) -> bool {
        lock(&self.cuts().held).take_if(|held| held.id == id).is_some()
    }

    async fn cut_held(
        &self,
        term: u64,
        id: CutId,
        writing: OwnedMutexGuard<()>,
    ) -> Result<Option<LogPosition>, LogError> {
        // Everything that has committed is applied here when this returns.
        let read = self.raft().ensure_linearizable(LinearizerOption::new(None, true)).await;
        if !read.is_ok_and(|read| read.committed_leader_id().term == term) {
            return Err(LogError::NotLeader { leader: None });
        }
        let (taken, position) = oneshot::channel();
        let (done, path) = watch::channel(None);
        *lock(&self.cuts().written) = Some(Written { id, path });
        let machine = self.machine().clone();
        tokio::spawn(async move {
            // Whoever waits for it may be gone.
            let heard = move |applied| {
                let _ = taken.send(applied);
            };
            let written = machine.cut(writing, heard).await;
            if let Err(error) = &written {
                tracing::error!(shard = %machine.state().shard(), %error, "a shard was not written for a backup");
            }
            done.send_replace(Some(written.map_err(|error| error.to_string())));
        });
        position.await.map_err(|_| LogError::Stopped)
    }

    /// Lets the shard go on; whether it was held, and led in `term`, without a break until now.
    pub(super) async fn end_cut(&self, term: u64, id: CutId) -> bool {
        // Nobody led in between if this node leads in the same term still.
        let leads = tokio::time::timeout(HOLD, self.read_barrier(term)).await.is_ok_and(|barrier| barrier.is_ok());
        self.let_go(id) && leads
    }

    /// A piece of what was set aside, once it is written; empty at its end. [`CUT_READ`] as the offset removes the file.
    pub(super) async fn piece(&self, id: CutId, offset: u64, limit: usize) -> Result<Vec<u8>, String> {
        let path =
            lock(&self.cuts().written).as_ref().filter(|written| written.id == id).map(|written| written.path.clone());
        let mut path = path.ok_or("another backup took its place, or another node leads the shard")?;
        let path = path.wait_for(Option::is_some).await.map_err(|error| error.to_string())?.clone();
        let path = path.ok_or("it is not written")?.map_err(|error| format!("it was not written: {error}"))?;
        let read = tokio::task::spawn_blocking(move || {
            if offset == CUT_READ {
                return match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                    _ => Ok(Vec::new()),
                };
            }
            let mut piece = vec![0; limit];
            let read = File::open(&path)?.read_at(&mut piece, offset)?;
            piece.truncate(read);
            Ok(piece)
        });
        let read: std::io::Result<Vec<u8>> = read.await.map_err(|error| error.to_string())?;
        read.map_err(|error| format!("it cannot be read: {error}"))
    }
}
