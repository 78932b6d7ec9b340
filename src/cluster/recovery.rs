//! Makes a new cluster of one node from what is left of one that lost its majority: offline, from the data directories of
//! the survivors, in a data directory that holds nothing yet.
//!
//! Of each shard the replica is taken whose log is the newest by Raft's own rule (§5.4.1 of the Raft paper): the last term,
//! then the last index. Its whole log is applied, also what it did not know to be committed: the majority that could tell
//! is gone, and what was acknowledged is more likely there than not. What only the lost nodes had is lost, which is why
//! this is asked for by hand. The rest is as in a restore ([`restore`](super::restore)): another cluster id, so that none of
//! the lost nodes, should it come back, is listened to; nothing of the past is done blindly. Shards are not of one instant.
//! The survivors' directories are opened as their nodes would open them, and stay whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::RaftLogReader as _;
use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};

use super::beginning::{self, Pending};
use super::raft::{Formation, FormationError, adopt, formed, planting};
use super::restore::{Founder, RestoreError, clear, logs};
use super::secrets;
use crate::actors::restoration::{Beginning, Cause};
use crate::actors::runtime::aftermath::Aftermath;
use crate::actors::runtime::entropy;
use crate::kernel::{ShardId, Timestamp};
use crate::providers::keys::{FileKeys, KeyError, KeyWrapper as _};
use crate::storage::data_dir::{DataDir, DataDirError};
use crate::storage::state::{Header, LogPosition, ShardMachine, StateError, StateStore, StoreOptions, plant};
use crate::storage::wal::{GroupLog, Wal, WalError, WalOptions};

/// Snapshots that a survivor keeps beside the one that is made of it.
const SNAPSHOTS_KEPT: usize = 2;
/// Entries of a log that are read at once.
const PIECE: u64 = 256;

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{0} is not the data directory of a node")]
    NoNode(PathBuf),
    #[error("{path} belongs to another cluster than {first}")]
    Foreign { path: PathBuf, first: PathBuf },
    #[error("{path} was formed with {formed} data shards, and cluster.shards is {wanted}: set it to {formed}")]
    Shards { path: PathBuf, formed: u16, wanted: u16 },
    #[error(
        "none of the directories has a replica of these shards: {0}. Name the directories of the other survivors, too"
    )]
    NotHeld(String),
    #[error("the log of shard {shard} in {path} has a gap after entry {index}")]
    Gap { shard: ShardId, path: PathBuf, index: u64 },
    #[error("the data directory of a survivor")]
    Directory(#[from] DataDirError),
    #[error(transparent)]
    Formation(#[from] FormationError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] WalError),
    #[error("the key-encryption keys of a survivor: {0}")]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the new cluster begins with, and what it must not do blindly.
pub struct Remains<'a> {
    /// Data directories of nodes of the lost cluster.
    pub survivors: &'a [PathBuf],
    /// Until when the lost cluster may have acted.
    pub until: Timestamp,
    /// Who is to be erased anew: a replica that was behind may not know it.
    pub erasures: BTreeSet<String>,
}

/// Where a shard came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    pub shard: ShardId,
    /// The node whose replica was taken.
    pub node: u64,
    /// Its last entry.
    pub last: LogPosition,
    /// How many of its entries it did not know to be committed.
    pub unsure: u64,
}

/// A node of the lost cluster.
struct Survivor {
    directory: DataDir,
    formation: Formation,
    wal: Wal,
    store: Arc<StateStore>,
}

/// A shard as a survivor has it.
struct Replica<'a> {
    survivor: &'a Survivor,
    machine: ShardMachine,
    log: GroupLog,
    last: LogPosition,
    committed: u64,
}

/// Makes the new cluster in the data directory; where each shard came from.
///
/// # Errors
/// [`RecoveryError`]; the directory is then not one that a node starts over.
pub async fn recover(
    data_dir: &DataDir,
    founder: &Founder,
    remains: Remains<'_>,
) -> Result<([u8; 16], Vec<Recovered>), RecoveryError> {
    let dir = data_dir.path();
    clear(dir)?;
    let mut survivors = Vec::new();
    for path in remains.survivors {
        let survivor = Survivor::open(path, founder.shards, survivors.first())?;
        survivors.push(survivor);
    }
    let replicas = newest(&survivors, founder.shards).await?;
    beginning::begin(dir)?;
    let meta = replicas.first().map(|replica| replica.survivor);
    let Some(Survivor { formation: lost, directory, .. }) = meta else {
        return Err(RecoveryError::NotHeld("all".to_owned()));
    };
    secrets::unpack(dir, &secrets::pack(directory.path())?)?;
    gather_keys(dir, &survivors).await?;
    let (mut headers, mut report) = (BTreeMap::new(), Vec::new());
    for mut replica in replicas {
        let shard = replica.machine.state().shard();
        let snapshot = replica.caught_up().await?;
        let alone = |header: &mut Header| planting::alone(header, founder.node, &founder.address);
        headers.insert(shard, plant(dir, shard, &snapshot, alone)?);
        let (node, last) = (replica.survivor.formation.node, replica.last);
        report.push(Recovered { shard, node, last, unsure: last.index.saturating_sub(replica.committed) });
    }
    logs(dir, founder, &headers).await?;
    let cluster = entropy().first_chunk().copied().unwrap_or_default();
    let floors = headers.iter().map(|(shard, header)| (*shard, header.next_outbox)).collect();
    let nodes = survivors.iter().map(|survivor| survivor.formation.node).collect();
    let aftermath = Aftermath { cluster, until: remains.until, floors };
    let begun = Beginning { from: lost.cluster, cause: Cause::LostMajority { nodes }, aftermath };
    adopt(dir, &Formation { node: founder.node, shards: founder.shards, cluster, founder: true, named: false })?;
    beginning::finish(dir, &Pending { beginning: begun, erasures: remains.erasures.into_iter().collect() })?;
    for survivor in survivors {
        survivor.store.close()?;
        survivor.wal.close();
    }
    Ok((cluster, report))
}

/// Every version of the key-encryption key that a survivor has: one that was away in a rotation has only old ones, and what
/// only the others knew to be wrapped anew needs those.
async fn gather_keys(dir: &Path, survivors: &[Survivor]) -> Result<(), RecoveryError> {
    let held = survivors.iter().map(|survivor| FileKeys::open(survivor.directory.path()));
    let mut held = held.collect::<Result<Vec<_>, _>>()?;
    held.sort_by_key(|keys| keys.versions().first().copied());
    let Some(oldest) = held.first() else { return Ok(()) };
    oldest.copy_to(dir)?;
    let gathered = FileKeys::open(dir)?;
    for keys in &held {
        for version in keys.versions() {
            gathered.take_in(version, &keys.hand_out(version).await?).await?;
        }
    }
    Ok(())
}

impl Survivor {
    fn open(path: &Path, shards: u16, first: Option<&Self>) -> Result<Self, RecoveryError> {
        let no_node = || RecoveryError::NoNode(path.to_owned());
        // Opening makes what is not there.
        if !path.is_dir() || beginning::is_unfinished(path) {
            return Err(no_node());
        }
        let formation = formed(path)?.ok_or_else(no_node)?;
        if formation.shards != shards {
            return Err(RecoveryError::Shards { path: path.to_owned(), formed: formation.shards, wanted: shards });
        }
        if let Some(first) = first.filter(|first| first.formation.cluster != formation.cluster) {
            return Err(RecoveryError::Foreign { path: path.to_owned(), first: first.directory.path().to_owned() });
        }
        let directory = DataDir::open(path)?;
        let (wal, _) = Wal::open(&path.join("wal"), WalOptions::default())?;
        let store = StateStore::open(path, StoreOptions::default())?;
        Ok(Self { directory, formation, wal, store })
    }

    /// Its replica of a shard, if it has one.
    async fn replica(&self, shard: ShardId) -> Result<Option<Replica<'_>>, RecoveryError> {
        let (path, mut log) = (self.directory.path(), self.wal.group(shard.0));
        if log.mark().is_some_and(|mark| mark.unfinished) {
            // What is left of one that the group was without already.
            return Ok(None);
        }
        let held = log.get_log_state().await?;
        let machine = ShardMachine::new(path, Arc::clone(&self.store), self.store.shard(shard)?, SNAPSHOTS_KEPT)?;
        let index = |id: Option<_>| id.map(|id: crate::storage::types::LogId| id.index());
        machine.prepare(path, index(held.last_purged_log_id), index(held.last_log_id))?;
        let (applied, membership) = machine.state().position()?;
        let applied = applied.max(machine.newest()?.and_then(|header| header.applied));
        let last = held.last_log_id.map(|id| {
            let leader = id.committed_leader_id();
            LogPosition { term: leader.term, node: leader.node_id, index: id.index() }
        });
        let known = membership.nodes.is_empty() || membership.nodes.contains_key(&self.formation.node);
        let Some(last) = last.max(applied).filter(|_| known) else { return Ok(None) };
        let committed = log.read_committed().await?.map_or(0, |id| id.index()).max(applied.map_or(0, |at| at.index));
        Ok(Some(Replica { survivor: self, machine, log, last, committed }))
    }
}

/// Of every shard the replica with the newest log.
async fn newest(survivors: &[Survivor], shards: u16) -> Result<Vec<Replica<'_>>, RecoveryError> {
    let (mut replicas, mut missing) = (Vec::new(), Vec::new());
    for shard in (0..=shards).map(ShardId) {
        let mut best: Option<Replica<'_>> = None;
        for survivor in survivors {
            let replica = survivor.replica(shard).await?;
            let newer = |replica: &Replica<'_>| {
                best.as_ref()
                    .is_none_or(|best| (replica.last.term, replica.last.index) > (best.last.term, best.last.index))
            };
            if let Some(replica) = replica.filter(newer) {
                best = Some(replica);
            }
        }
        match best {
            Some(best) => replicas.push(best),
            None => missing.push(shard.to_string()),
        }
    }
    if missing.is_empty() { Ok(replicas) } else { Err(RecoveryError::NotHeld(missing.join(", "))) }
}

impl Replica<'_> {
    /// Applies its whole log; a snapshot of what it then is.
    async fn caught_up(&mut self) -> Result<PathBuf, RecoveryError> {
        let (shard, mut machine) = (self.machine.state().shard(), self.machine.clone());
        if let Some(kept) = machine.get_current_snapshot().await?
            && kept.snapshot.header.applied > machine.state().position()?.0
        {
            machine.install_snapshot(&kept.meta, kept.snapshot).await?;
        }
        let mut reader = self.log.get_log_reader().await;
        loop {
            let applied = machine.state().position()?.0.map_or(0, |at| at.index);
            if applied >= self.last.index {
                break;
            }
            let piece = reader.try_get_log_entries(applied + 1..(applied + 1 + PIECE).min(self.last.index + 1)).await?;
            if piece.first().is_none_or(|entry| entry.log_id.index() != applied + 1) {
                let path = self.survivor.directory.path().to_owned();
                return Err(RecoveryError::Gap { shard, path, index: applied });
            }
            let unanswered = piece.into_iter().map(|entry| Ok((entry, None)));
            machine.apply(futures::stream::iter(unanswered)).await?;
        }
        machine.write_snapshot().await?;
        let nothing = || io::Error::new(io::ErrorKind::InvalidData, format!("shard {shard} holds nothing"));
        Ok(machine.get_current_snapshot().await?.ok_or_else(nothing)?.snapshot.path)
    }
}
