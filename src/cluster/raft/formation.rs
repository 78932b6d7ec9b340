//! What was decided when the cluster was formed and can never change: kept in `DATA/cluster.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "cluster.json";

/// Whether a cluster was formed in this data directory before.
#[must_use]
pub fn is_formed(data_dir: &Path) -> bool {
    data_dir.join(FILE).exists()
}
const VERSION: u32 = 1;

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
    #[error("{FILE} is of version {found}; this build reads version {VERSION}")]
    Version { found: u32 },
    #[error("{FILE} cannot be read")]
    Unreadable(#[from] serde_json::Error),
    #[error("{FILE} cannot be read or written")]
    Io(#[from] io::Error),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Formation {
    version: u32,
    node: u64,
    shards: u16,
}

/// The most data shards a cluster may have.
pub const SHARDS_LIMIT: u16 = 1024;

/// Checks node and shards against what the directory was formed with; a new directory is formed now, durably.
pub(super) fn form(data_dir: &Path, node: u64, shards: u16) -> Result<(), FormationError> {
    if !(1..=SHARDS_LIMIT).contains(&shards) {
        return Err(FormationError::Range { wanted: shards, limit: SHARDS_LIMIT });
    }
    let path = data_dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(write(data_dir, &Formation { version: VERSION, node, shards })?);
        }
        Err(error) => return Err(error.into()),
    };
    let formed: Formation = serde_json::from_slice(&text)?;
    if formed.version != VERSION {
        return Err(FormationError::Version { found: formed.version });
    }
    if formed.shards != shards {
        return Err(FormationError::Shards { formed: formed.shards, wanted: shards });
    }
    if formed.node != node {
        return Err(FormationError::Node { formed: formed.node, wanted: node });
    }
    Ok(())
}

fn write(data_dir: &Path, formation: &Formation) -> io::Result<()> {
    let partial = data_dir.join("cluster.json.partial");
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(formation)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&partial, data_dir.join(FILE))?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_shards_is_fixed_when_the_cluster_is_formed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(form(dir.path(), 1, 0), Err(FormationError::Range { .. })));
        form(dir.path(), 1, 8).unwrap();
        form(dir.path(), 1, 8).unwrap();
        let error = form(dir.path(), 1, 4).unwrap_err();
        assert!(error.to_string().contains("formed with 8 data shards, and cluster.shards is 4"), "{error}");
        assert!(matches!(form(dir.path(), 2, 8), Err(FormationError::Node { formed: 1, wanted: 2 })));
        fs::write(dir.path().join(FILE), b"{}").unwrap();
        assert!(matches!(form(dir.path(), 1, 8), Err(FormationError::Unreadable(_))));
    }
}
