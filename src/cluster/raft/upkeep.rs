//! What the groups need from time to time: snapshots, purges, and someone who notices that they failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{GroupSettings, ShardGroup};
use crate::actors::runtime::log::ShardLog;
use crate::kernel::ShardId;
use crate::storage::state::StateStore;
use crate::storage::wal::Wal;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries that an earlier process left without a snapshot at which one is made at once.
const LEFT_ENTRIES: u64 = 20_000;

/// Starts the tasks that go on until `stop`, and what tells that the node must stop.
pub(super) fn start(
    shards: &[Arc<ShardGroup>],
    wal: &Wal,
    store: &Arc<StateStore>,
    data_dir: &Path,
    settings: &GroupSettings,
    stop: &CancellationToken,
) -> (watch::Receiver<Option<String>>, Vec<JoinHandle<()>>) {
    let (failed, watch) = watch::channel(None);
    let space = Space { data_dir: data_dir.to_owned(), settings: settings.clone() };
    space.look();
    let guard = Guard { shards: shards.to_vec(), wal: wal.clone(), store: Arc::clone(store), space, failed };
    let snapshots =
        Snapshots { shards: shards.to_vec(), settings: settings.clone(), made: BTreeMap::new(), began: Instant::now() };
    let (first, second) = (stop.clone(), stop.clone());
    let tasks = vec![
        tokio::spawn(async move { first.run_until_cancelled_owned(guard.run()).await.unwrap_or_default() }),
        tokio::spawn(async move { second.run_until_cancelled_owned(snapshots.run()).await.unwrap_or_default() }),
    ];
    (watch, tasks)
}

struct Guard {
    shards: Vec<Arc<ShardGroup>>,
    wal: Wal,
    store: Arc<StateStore>,
    space: Space,
    failed: watch::Sender<Option<String>>,
}

impl Guard {
    async fn run(self) {
        let (mut wal, mut store) = (self.wal.failed(), self.store.failed());
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let why = loop {
            tokio::select! {
                Ok(why) = wal.wait_for(Option::is_some) => {
                    break format!("the write-ahead log failed: {}", why.as_deref().unwrap_or_default());
                }
                Ok(why) = store.wait_for(Option::is_some) => {
                    break format!("the state store failed: {}", why.as_deref().unwrap_or_default());
                }
                _ = tick.tick() => {
                    self.space.look();
                    if let Some((shard, why)) = self.stopped() {
                        break format!("shard {shard} stopped: {why}");
                    }
                }
            }
        };
        tracing::error!(%why, "this node can commit nothing any more and must stop");
        self.failed.send_replace(Some(why));
    }

    fn stopped(&self) -> Option<(ShardId, String)> {
        self.shards.iter().find_map(|group| group.fatal().map(|why| (group.shard(), why)))
    }
}

/// Watches the free space of the disk. Nothing is accepted while there is too little, so that what was accepted can still
/// be taken to the state, and the disk is never found full in the middle of a write.
struct Space {
    data_dir: PathBuf,
    settings: GroupSettings,
}

impl Space {
    fn look(&self) {
        let free = match fs4::available_space(&self.data_dir) {
            Ok(free) => free,
            Err(error) => return tracing::warn!(%error, "the free space of the disk cannot be read"),
        };
        let full = free < self.settings.min_free_bytes;
        if self.settings.disk_full.swap(full, Ordering::Relaxed) != full {
            let (free_bytes, wanted_bytes) = (free, self.settings.min_free_bytes);
            if full {
                tracing::error!(
                    free_bytes,
                    wanted_bytes,
                    "the disk is full: nothing more is accepted until there is space"
                );
            } else {
                tracing::info!(free_bytes, wanted_bytes, "there is space on the disk again");
            }
        }
    }
}

/// Makes snapshots of one shard at a time.
struct Snapshots {
    shards: Vec<Arc<ShardGroup>>,
    settings: GroupSettings,
    made: BTreeMap<ShardId, Made>,
    began: Instant,
}

#[derive(Clone, Copy)]
struct Made {
    at: Instant,
    index: u64,
    log_bytes: u64,
}

impl Snapshots {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for group in self.shards.clone() {
                if !self.settings.disk_full.load(Ordering::Relaxed)
                    && self.is_due(&group)
                    && let Err(error) = self.make(&group).await
                {
                    tracing::error!(%error, "a snapshot failed; the log is kept");
                }
            }
        }
    }

    fn is_due(&self, group: &ShardGroup) -> bool {
        let index = group.state().applied().borrow().applied_index;
        let last = self.made.get(&group.shard()).copied();
        let none = Made { at: self.began, index: group.snapshot_index(), log_bytes: 0 };
        if last.is_none() && index - none.index.min(index) >= LEFT_ENTRIES {
            return true;
        }
        let last = last.unwrap_or(none);
        let grown = group.log_bytes().saturating_sub(last.log_bytes);
        // A snapshot costs as much as it is large: it is made when the log has grown by as much.
        let large = grown >= self.settings.snapshot_log_bytes && grown >= group.snapshot_bytes();
        index > last.index && (large || last.at.elapsed() >= self.settings.snapshot_every)
    }

    async fn make(&mut self, group: &ShardGroup) -> Result<(), super::RaftGroupError> {
        let made = Made {
            at: Instant::now(),
            index: group.state().applied().borrow().applied_index,
            log_bytes: group.log_bytes(),
        };
        // Also when it fails: the next try waits for its time.
        self.made.insert(group.shard(), made);
        group.snapshot().await
    }
}
