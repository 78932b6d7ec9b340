//! Makes a new cluster of one node from a backup: offline, in a data directory that holds nothing yet.
//!
//! The new cluster has an id of its own, and so certificates that no node of the old one has. Each shard begins with the
//! snapshot from the backup, with this node as its only voter ([`planting`](super::raft::planting)); others join as they
//! join any cluster, so its size is free. The number of shards is not: where an entity lives follows from it. What the first
//! start has to do is noted ([`beginning`](super::beginning)). A crash in the middle leaves a mark; another try starts over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::beginning::{self, Pending};
use super::raft::{Formation, FormationError, adopt, planting};
use super::secrets;
use crate::actors::restoration::{Beginning, Cause};
use crate::actors::runtime::aftermath::Aftermath;
use crate::actors::runtime::entropy;
use crate::kernel::{Secret, ShardId, Timestamp};
use crate::storage::backup::{Archive, Manifest, Part};
use crate::storage::data_dir::DataDir;
use crate::storage::state::{Header, StateError, plant};
use crate::storage::wal::{Wal, WalError, WalOptions};

/// What stays in a data directory when an unfinished restore is begun again.
const KEPT: [&str; 2] = ["LOCK", "beginning.unfinished"];

/// Why there is no new cluster.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0} is in use: a restore needs an empty data directory")]
    InUse(PathBuf),
    #[error(
        "the backup is of a cluster with {found} data shards, and cluster.shards is {wanted}: set it to {found}. The number is fixed when a cluster is formed, also by a restore"
    )]
    Shards { found: u16, wanted: u16 },
    #[error("shard {shard} is in the backup {id}, which is not here")]
    Missing { shard: u16, id: String },
    #[error("shard {shard} of the backup {id} is not the one that this backup means")]
    Other { shard: u16, id: String },
    #[error("the backup names no cluster")]
    Cluster,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] WalError),
    #[error(transparent)]
    Formation(#[from] FormationError),
}

/// The node that the new cluster begins with.
#[derive(Debug, Clone)]
pub struct Founder {
    pub node: u64,
    /// Where others will reach it.
    pub address: String,
    /// The number of data shards that it is configured for.
    pub shards: u16,
}

/// A backup, and where others are that it builds on.
pub struct Source<'a> {
    pub archive: Archive,
    /// Files by the ids of their backups.
    pub others: &'a BTreeMap<String, PathBuf>,
    pub key: &'a Secret<String>,
    /// Until when the old cluster may have acted.
    pub until: Timestamp,
    /// Who is to be erased anew.
    pub erasures: BTreeSet<String>,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Restored {
    pub cluster: [u8; 16],
    pub shards: u16,
}

/// Makes the new cluster in the data directory.
///
/// # Errors
/// [`RestoreError`]; the directory is then not one that a node starts over.
pub async fn restore(data_dir: &DataDir, founder: &Founder, source: Source<'_>) -> Result<Restored, RestoreError> {
    let (dir, manifest) = (data_dir.path(), source.archive.manifest.clone());
    if manifest.shards != founder.shards {
        return Err(RestoreError::Shards { found: manifest.shards, wanted: founder.shards });
    }
    let mut from = [0; 16];
    hex::decode_to_slice(&manifest.cluster, &mut from).map_err(|_| RestoreError::Cluster)?;
    clear(dir)?;
    beginning::begin(dir)?;
    let Source { mut archive, others, key, until, erasures } = source;
    let packed = archive.read(&manifest.secrets)?;
    secrets::unpack(dir, &packed)?;
    let headers = snapshots(dir, founder, &mut archive, others, key)?;
    logs(dir, founder, &headers).await?;
    let cluster = entropy().first_chunk().copied().unwrap_or_default();
    let floors = headers.iter().map(|(shard, header)| (*shard, header.next_outbox)).collect();
    let cause = Cause::Backup { id: manifest.id.clone(), taken_at: manifest.taken_at };
    let begun = Beginning { from, cause, aftermath: Aftermath { cluster, until, floors } };
    adopt(dir, &Formation { node: founder.node, shards: manifest.shards, cluster, founder: true, named: false })?;
    beginning::finish(dir, &Pending { beginning: begun, erasures: erasures.into_iter().collect() })?;
    Ok(Restored { cluster, shards: manifest.shards })
}

/// An empty directory, or what is left of a restore that did not come to its end.
pub(super) fn clear(dir: &Path) -> Result<(), RestoreError> {
    let unfinished = beginning::is_unfinished(dir);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if KEPT.iter().any(|kept| name == *kept) || name == "lost+found" {
            continue;
        }
        // While the mark is there no node has started over it.
        if !unfinished {
            return Err(RestoreError::InUse(dir.to_owned()));
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes every shard's snapshot; what their headers were.
fn snapshots(
    dir: &Path,
    founder: &Founder,
    archive: &mut Archive,
    others: &BTreeMap<String, PathBuf>,
    key: &Secret<String>,
) -> Result<BTreeMap<ShardId, Header>, RestoreError> {
    let mut headers = BTreeMap::new();
    let received = dir.join("received");
    for part in archive.manifest.parts.clone() {
        let mut file = File::create(&received)?;
        match (&part.section, &part.held_by) {
            (Some(section), _) => archive.copy(section, &mut file)?,
            (None, Some(id)) => copy_from(others.get(id), id, &archive.manifest, &part, key, &mut file)?,
            (None, None) => return Err(RestoreError::Missing { shard: part.shard, id: String::new() }),
        }
        drop(file);
        let shard = ShardId(part.shard);
        let alone = |header: &mut Header| planting::alone(header, founder.node, &founder.address);
        headers.insert(shard, plant(dir, shard, &received, alone)?);
    }
    fs::remove_file(&received)?;
    Ok(headers)
}

/// A shard that had not changed since an earlier backup.
fn copy_from(
    path: Option<&PathBuf>,
    id: &str,
    manifest: &Manifest,
    part: &Part,
    key: &Secret<String>,
    output: &mut File,
) -> Result<(), RestoreError> {
    let (shard, id) = (part.shard, id.to_owned());
    let Some(path) = path else { return Err(RestoreError::Missing { shard, id }) };
    let mut other = Archive::open(path, key)?;
    let same = other.manifest.cluster == manifest.cluster && other.manifest.id == id;
    let held = other.manifest.part(shard).filter(|held| same && held.position == part.position);
    let Some(section) = held.and_then(|held| held.section.clone()) else {
        return Err(RestoreError::Other { shard, id });
    };
    Ok(other.copy(&section, output)?)
}

/// Begins the log of every shard behind its state.
pub(super) async fn logs(
    dir: &Path,
    founder: &Founder,
    headers: &BTreeMap<ShardId, Header>,
) -> Result<(), RestoreError> {
    let (wal, _) = Wal::open(&dir.join("wal"), WalOptions::default())?;
    for (shard, header) in headers {
        let nothing = || io::Error::new(io::ErrorKind::InvalidData, format!("shard {shard} holds nothing"));
        let at = header.applied.ok_or_else(nothing)?;
        planting::begin_log(&wal, *shard, at, founder.node).await?;
    }
    wal.close();
    Ok(())
}
