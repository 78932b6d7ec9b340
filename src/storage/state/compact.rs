//! Rewrites the database of a node that does not run: sled never gives space back.
//!
//! The copy is made beside the original and takes its name in two renames. A crash before the first leaves the
//! original; between them, opening puts the original back; after them, the copy is in place. Every value is checked on
//! the way, so that a damaged database is never made to look whole.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::base::{Base, Damage};
use super::{StateError, StateStore, StoreOptions, keys, store};

const COPY: &str = "state.compacting";
const ORIGINAL: &str = "state.before-compacting";

/// What rewriting gained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub shards: usize,
    pub values: u64,
}

/// Rewrites the state database under `data_dir`. The node must not run.
///
/// # Errors
/// [`StateError`] when the database is in use, damaged, or cannot be read or written; it is left as it was.
pub fn compact(data_dir: &Path) -> Result<Compaction, StateError> {
    let path = data_dir.join("state");
    restore(data_dir)?;
    if !path.exists() {
        return Err(
            io::Error::new(io::ErrorKind::NotFound, format!("there is no database in {}", path.display())).into()
        );
    }
    // Opening finishes what a crash left half-written, and sets a damaged database aside.
    let store = StateStore::open(data_dir, StoreOptions::default())?;
    let rebuilding = store.rebuilding();
    store.close()?;
    drop(store);
    if rebuilding {
        return Err(StateError::Corrupt { what: "the database", key: Vec::new() });
    }
    let before_bytes = bytes_of(&path)?;
    let copy = data_dir.join(COPY);
    let (shards, values) = rewrite(data_dir, &path, &copy)?;
    fs::rename(&path, data_dir.join(ORIGINAL))?;
    fs::rename(&copy, &path)?;
    File::open(data_dir)?.sync_all()?;
    fs::remove_dir_all(data_dir.join(ORIGINAL))?;
    Ok(Compaction { before_bytes, after_bytes: bytes_of(&path)?, shards, values })
}

/// Undoes a compaction that did not come to its end.
pub(super) fn restore(data_dir: &Path) -> io::Result<()> {
    let (path, copy, original) = (data_dir.join("state"), data_dir.join(COPY), data_dir.join(ORIGINAL));
    if original.exists() {
        if path.exists() {
            fs::remove_dir_all(&original)?;
        } else {
            fs::rename(&original, &path)?;
        }
    }
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    Ok(())
}

fn rewrite(data_dir: &Path, from: &Path, to: &Path) -> Result<(usize, u64), StateError> {
    let cache = StoreOptions::default().cache_bytes;
    let damage = Arc::new(Damage::at(data_dir.join(store::DAMAGED), watch::Sender::new(None)));
    let (old, new) = (store::open_sled(from, cache)?, store::open_sled(to, cache)?);
    let (mut shards, mut values) = (0, 0);
    for name in old.tree_names() {
        if !name.starts_with(store::TREE.as_bytes()) {
            continue;
        }
        let source = Base(old.open_tree(&name)?, Arc::clone(&damage));
        let target = Base(new.open_tree(&name)?, Arc::clone(&damage));
        for item in source.range(&[], &[keys::CHUNK]) {
            let (key, stored) = item?;
            // The header goes last, as everywhere.
            if *key != keys::header() {
                target.write(&key, Some(&source.decode(&key, &stored)?))?;
                values += 1;
            }
        }
        if let Some(header) = source.get(&keys::header())? {
            target.write(&keys::header(), Some(&header))?;
        }
        shards += 1;
    }
    new.flush()?;
    // The witness of what is confirmed goes with the database.
    for file in ["redo-0", "redo-1"] {
        if from.join(file).exists() {
            fs::copy(from.join(file), to.join(file))?;
            File::open(to.join(file))?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()?;
    Ok((shards, values))
}

fn bytes_of(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { bytes_of(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}
