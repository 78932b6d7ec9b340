//! What was decided when the cluster was formed and can never change: kept in `DATA/cluster.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cluster::link::ClusterId;

const FILE: &str = "cluster.json";
const VERSION: u32 = 2;

/// Whether a cluster was formed in this data directory, or joined from it, before.
#[must_use]
pub fn is_formed(data_dir: &Path) -> bool {
    data_dir.join(FILE).exists()
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
    #[error("{FILE} cannot be read")]
    Unreadable(#[from] serde_json::Error),
    #[error("{FILE} holds no cluster id of 32 hexadecimal digits")]
    Cluster,
    #[error("{FILE} cannot be read or written")]
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
}

/// The file. Version 1 had no cluster id: no other node could join it yet.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    node: u64,
    shards: u16,
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    joined: bool,
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
    let stored = read(data_dir)?;
    if let Some(Stored { shards: formed, .. }) = stored
        && formed != shards
    {
        return Err(FormationError::Shards { formed, wanted: shards });
    }
    if let Some(Stored { node: formed, .. }) = stored
        && formed != node
    {
        return Err(FormationError::Node { formed, wanted: node });
    }
    if let Some(Stored { version: VERSION, cluster, joined, .. }) = &stored {
        let mut id = ClusterId::default();
        hex::decode_to_slice(cluster, &mut id).map_err(|_| FormationError::Cluster)?;
        return Ok(Formation { node, shards, cluster: id, founder: !joined });
    }
    let cluster = crate::actors::runtime::entropy().first_chunk().copied().unwrap_or_default();
    let formation = Formation { node, shards, cluster, founder: true };
    adopt(data_dir, &formation)?;
    Ok(formation)
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
    let Formation { node, shards, cluster, founder } = *formation;
    let stored = Stored { version: VERSION, node, shards, cluster: hex::encode(cluster), joined: !founder };
    let partial = data_dir.join("cluster.json.partial");
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&partial, data_dir.join(FILE))?;
    Ok(File::open(data_dir)?.sync_all()?)
}

fn read(data_dir: &Path) -> Result<Option<Stored>, FormationError> {
    let text = match fs::read(data_dir.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stored: Stored = serde_json::from_slice(&text)?;
    if !(1..=VERSION).contains(&stored.version) {
        return Err(FormationError::Version { found: stored.version });
    }
    Ok(Some(stored))
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
        fs::write(dir.path().join(FILE), b"{}").unwrap();
        assert!(matches!(form(dir.path(), 1, 8), Err(FormationError::Unreadable(_))));
    }

    #[test]
    fn a_directory_of_version_1_gets_a_cluster_id_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), br#"{"version": 1, "node": 1, "shards": 8}"#).unwrap();
        let formed = form(dir.path(), 1, 8).unwrap();
        assert!(formed.cluster != ClusterId::default() && formed.founder);
        assert_eq!(form(dir.path(), 1, 8).unwrap(), formed);
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        fs::write(dir.path().join(FILE), text.replace(&hex::encode(formed.cluster), "beef")).unwrap();
        assert!(matches!(form(dir.path(), 1, 8), Err(FormationError::Cluster)));
        fs::write(dir.path().join(FILE), text.replace("\"version\": 2", "\"version\": 3")).unwrap();
        assert!(matches!(form(dir.path(), 1, 8), Err(FormationError::Version { found: 3 })));
        let joined = Formation { founder: false, ..formed };
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
            match form(dir.path(), 1, 8) {
                Ok(found) => {
                    assert_eq!((found.node, found.shards), (1, 8));
                    format!("{} {:?}", found.founder, joined_shards(dir.path()).expect("readable"))
                }
                Err(error) => error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect(),
            }
        });
    }
}
