//! What was decided when the cluster was formed and can never change: kept in `DATA/cluster.json` and in a copy
//! beside it, each with a checksum, so that either may be lost or damaged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::link::ClusterId;
use crate::kernel::fail_point;

const FILE: &str = "cluster.json";
const COPY: &str = "cluster.copy.json";
/// There from the moment on that the log is; empty.
const STARTED: &str = "started";
const LOG: &str = "wal";
/// What is in a data directory only after it was formed.
const LATER: [&str; 4] = [LOG, "state", "snapshots", STARTED];
const VERSION: u32 = 4;

/// Whether a cluster was formed in this data directory, or joined from it, before.
#[must_use]
pub fn is_formed(data_dir: &Path) -> bool {
    is_used(data_dir) || [FILE, COPY].iter().any(|name| data_dir.join(name).exists())
}

fn is_used(data_dir: &Path) -> bool {
    LATER.iter().any(|name| data_dir.join(name).exists())
}

/// Why the data directory does not fit the configuration.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    #[error(
        "this data directory was formed with {formed} data shards, and cluster.shards is {wanted}: the number is fixed \
         when a cluster is formed"
    )]
    Shards { formed: u16, wanted: u16 },
    #[error("this data directory belongs to node {formed}, and node.id is {wanted}")]
    Node { formed: u64, wanted: u64 },
    #[error("cluster.shards is {wanted}; it must be between 1 and {limit}")]
    Range { wanted: u16, limit: u16 },
    #[error("{FILE} is of version {found}; this build reads up to version {VERSION}")]
    Version { found: u32 },
    #[error(
        "{path} and its copy {COPY} are missing or damaged ({why}), but this data directory is in use. Lost with them: \
         which cluster and node it belongs to and how many shards it was formed with, nothing else. Remedy: restore one of \
         them from a backup"
    )]
    Lost { path: PathBuf, why: String },
    #[error(
        "{path} holds no segment of the log, but this node was started before. Lost with it: whatever this node alone has, \
         and what it confirmed to others. Remedy: restore the directory; or, where other nodes have the shards, remove this \
         node from the cluster and let it join again with an empty data directory; or restore a backup"
    )]
    LogGone { path: PathBuf },
    #[error("{FILE} holds no cluster id of 32 hexadecimal digits")]
    Cluster,
    #[error("{FILE} cannot be written")]
    Io(#[from] io::Error),
}

/// What a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formation {
    pub node: u64,
    pub shards: u16,
    pub cluster: ClusterId,
    /// Whether the cluster was formed here; otherwise this node joined it.
    pub founder: bool,
    /// Whether memberships must name this node by its key ([`naming`](super::naming)): of all who joined since they do.
    pub named: bool,
}

/// The file. Version 1 had no cluster id: no other node could join it yet. Versions 1 and 2 had no checksum, and up to
/// version 3 nobody was named by a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    node: u64,
    shards: u16,
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    joined: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    named: bool,
    /// CRC-32C of the others.
    #[serde(default)]
    checksum: u32,
}

impl Stored {
    fn sum(&self) -> u32 {
        let Self { version, node, shards, cluster, joined, named, .. } = self;
        let named = if *named { " named" } else { "" };
        crc32c::crc32c(format!("{version} {node} {shards} {cluster} {joined}{named}").as_bytes())
    }
}

/// The most data shards a cluster may have.
pub const SHARDS_LIMIT: u16 = 1024;

/// Checks node and shards against what the directory was formed with; a new directory is formed now, durably.
///
/// # Errors
/// [`FormationError`].
pub fn form(data_dir: &Path, node: u64, shards: u16) -> Result<Formation, FormationError> {
    if !(1..=SHARDS_LIMIT).contains(&shards) {
        return Err(FormationError::Range { wanted: shards, limit: SHARDS_LIMIT });
    }
    if let Some(stored) = read(data_dir)? {
        if stored.shards != shards {
            return Err(FormationError::Shards { formed: stored.shards, wanted: shards });
        }
        if stored.node != node {
            return Err(FormationError::Node { formed: stored.node, wanted: node });
        }
    }
    if let Some(known) = formed(data_dir)? {
        return Ok(known);
    }
    let cluster = crate::actors::runtime::entropy().first_chunk().copied().unwrap_or_default();
    let formation = Formation { node, shards, cluster, founder: true, named: false };
    adopt(data_dir, &formation)?;
    Ok(formation)
}

/// What a data directory belongs to; `None` when it belongs to nothing yet, or to a cluster of a build that none could join.
///
/// # Errors
/// [`FormationError`] when it cannot be read.
pub fn formed(data_dir: &Path) -> Result<Option<Formation>, FormationError> {
    let Some(Stored { version: 2.., node, shards, cluster, joined, named, .. }) = read(data_dir)? else {
        return Ok(None);
    };
    let mut id = ClusterId::default();
    hex::decode_to_slice(&cluster, &mut id).map_err(|_| FormationError::Cluster)?;
    Ok(Some(Formation { node, shards, cluster: id, founder: !joined, named }))
}

/// The number of data shards of the cluster that this directory joined; `None` when it founded one, or is new.
///
/// # Errors
/// [`FormationError`] when it cannot be read.
pub fn joined_shards(data_dir: &Path) -> Result<Option<u16>, FormationError> {
    Ok(read(data_dir)?.filter(|stored| stored.joined).map(|stored| stored.shards))
}

/// Makes a data directory part of a cluster, durably.
///
/// # Errors
/// [`FormationError::Io`].
pub fn adopt(data_dir: &Path, formation: &Formation) -> Result<(), FormationError> {
    let Formation { node, shards, cluster, founder, named } = *formation;
    let cluster = hex::encode(cluster);
    let stored = Stored { version: VERSION, node, shards, cluster, joined: !founder, named, checksum: 0 };
    let stored = Stored { checksum: stored.sum(), ..stored };
    for name in [FILE, COPY] {
        write(data_dir, name, &stored)?;
        fail_point::reach("formation.adopted");
    }
    Ok(())
}

/// That a node which was started before has a log: without one it would begin anew, under an id that confirmed entries
/// and votes to others.
///
/// # Errors
/// [`FormationError::LogGone`] when it has none.
pub fn must_have_log(data_dir: &Path) -> Result<(), FormationError> {
    let path = data_dir.join(LOG);
    let has_log = || match fs::read_dir(&path) {
        Ok(mut files) => {
            files.any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|name| name == "wal")))
        }
        Err(_) => false,
    };
    if data_dir.join(STARTED).exists() && !has_log() { Err(FormationError::LogGone { path }) } else { Ok(()) }
}

/// Notes, durably, that there is a log from now on.
///
/// # Errors
/// [`FormationError::Io`].
pub fn note_log(data_dir: &Path) -> Result<(), FormationError> {
    let path = data_dir.join(STARTED);
    if !path.exists() {
        File::create(path)?.sync_all()?;
        File::open(data_dir)?.sync_all()?;
        fail_point::reach("formation.started");
    }
    Ok(())
}

fn write(data_dir: &Path, name: &str, stored: &Stored) -> io::Result<()> {
    let partial = data_dir.join("cluster.json.partial");
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(stored)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&partial, data_dir.join(name))?;
    File::open(data_dir)?.sync_all()
}

/// What the two files say. One that is missing or damaged is written again from the other.
fn read(data_dir: &Path) -> Result<Option<Stored>, FormationError> {
    let found = [FILE, COPY].map(|name| (name, read_one(&data_dir.join(name))));
    let Some(stored) = found.iter().find_map(|(_, found)| found.clone().ok().flatten()) else {
        let damaged = found.into_iter().find_map(|(_, found)| found.err());
        let missing = is_used(data_dir).then(|| "there is no file".to_owned());
        let lost = |why| FormationError::Lost { path: data_dir.join(FILE), why };
        return damaged.or(missing).map_or(Ok(None), |why| Err(lost(why)));
    };
    if !(1..=VERSION).contains(&stored.version) {
        return Err(FormationError::Version { found: stored.version });
    }
    for (name, found) in found {
        if found.as_ref() != Ok(&Some(stored.clone())) {
            tracing::warn!(name, ?found, "written again from its copy");
            write(data_dir, name, &stored)?;
        }
    }
    Ok(Some(stored))
}

/// None when there is no file; why when it cannot be believed.
fn read_one(path: &Path) -> Result<Option<Stored>, String> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let stored: Stored = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let whole = stored.checksum == stored.sum() || (stored.version < VERSION && stored.checksum == 0);
    if whole { Ok(Some(stored)) } else { Err("it fails its checksum".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_shards_is_fixed_when_the_cluster_is_formed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(form(dir.path(), 1, 0), Err(FormationError::Range { .. })));
        let formed = form(dir.path(), 1, 8).unwrap();
        assert_eq!(form(dir.path(), 1, 8).unwrap(), formed);
        let error = form(dir.path(), 1, 4).unwrap_err();
        assert!(error.to_string().contains("formed with 8 data shards, and cluster.shards is 4"), "{error}");
        assert!(matches!(form(dir.path(), 2, 8), Err(FormationError::Node { formed: 1, wanted: 2 })));
    }

    #[test]
    fn a_directory_of_version_1_gets_a_cluster_id_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), br#"{"version": 1, "node": 1, "shards": 8}"#).unwrap();
        let formed = form(dir.path(), 1, 8).unwrap();
        assert!(formed.cluster != ClusterId::default() && formed.founder);
        assert_eq!(form(dir.path(), 1, 8).unwrap(), formed);
        let joined = Formation { founder: false, named: true, ..formed };
        adopt(dir.path(), &joined).unwrap();
        assert_eq!(form(dir.path(), 1, 8).unwrap(), joined);
    }

    #[test]
    fn any_bytes_as_the_file_of_a_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        form(dir.path(), 1, 8).expect("formed");
        let path = dir.path().join(FILE);
        let good = fs::read(&path).expect("readable");
        let old = br#"{"version":1,"node":1,"shards":8}"#;
        crate::kernel::fuzz_tests::fuzz_costly("formation", &[&good, old], |bytes| {
            fs::write(&path, bytes).expect("writable");
            // Without the copy, which would do.
            let _ = fs::remove_file(dir.path().join(COPY));
            match form(dir.path(), 1, 8) {
                Ok(found) => {
                    assert_eq!((found.node, found.shards), (1, 8));
                    format!("{} {:?}", found.founder, joined_shards(dir.path()).expect("readable"))
                }
                Err(error) => error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect(),
            }
        });
    }

    #[test]
    fn a_directory_of_version_2_is_read_and_gets_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            br#"{"version": 2, "node": 1, "shards": 8, "cluster": "07070707070707070707070707070707", "joined": true}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let formation = Formation { node: 1, shards: 8, cluster: [7; 16], founder: false, named: false };
        assert_eq!(form(dir.path(), 1, 8).unwrap(), formation);
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert_eq!(form(dir.path(), 1, 8).unwrap(), formation);
    }

    #[test]
    fn one_of_the_two_files_is_enough_and_none_is_refused_in_a_directory_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let formed = form(dir.path(), 1, 8).unwrap();
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        for name in [FILE, COPY] {
            let path = dir.path().join(name);
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                for bytes in [&damaged[..], &whole[..at]] {
                    fs::write(&path, bytes).unwrap();
                    assert_eq!(form(dir.path(), 1, 8).unwrap(), formed, "{name}: byte {at}");
                }
            }
            fs::remove_file(&path).unwrap();
            assert_eq!(form(dir.path(), 1, 8).unwrap(), formed);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        fs::write(dir.path().join(FILE), b"{}").unwrap();
        fs::remove_file(dir.path().join(COPY)).unwrap();
        let lost = form(dir.path(), 1, 8).unwrap_err().to_string();
        assert!(lost.contains("cluster.json") && lost.contains("Remedy"), "{lost}");
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::create_dir(dir.path().join("wal")).unwrap();
        assert!(matches!(form(dir.path(), 1, 8), Err(FormationError::Lost { .. })));
    }
}
