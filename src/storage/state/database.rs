//! The sled database of a node: how it is opened, and set aside when it is damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;
use std::{fs, io, thread};

use super::StateError;
use crate::kernel::ShardId;
use crate::storage::sync_range;

/// What the names of trees begin with; the shard follows.
const TREE: &str = "shard-";
/// What the names of damaged databases begin with; a number follows.
const ASIDE: &str = "state.damaged-";
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

pub(super) fn tree(db: &sled::Db, shard: ShardId) -> Result<sled::Tree, StateError> {
    Ok(db.open_tree(format!("{TREE}{shard}"))?)
}

/// The shards that have a tree, in order.
pub(super) fn shards(db: &sled::Db) -> Vec<ShardId> {
    let names = db.tree_names();
    let number = |name: &sled::IVec| std::str::from_utf8(name).ok()?.strip_prefix(TREE)?.parse().ok();
    let mut shards: Vec<_> = names.iter().filter_map(number).map(ShardId).collect();
    shards.sort_unstable();
    shards
}

pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<sled::Db, StateError> {
    sync_range::ensure_linked()?;
    fs::create_dir_all(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        // A half-written file of sled's own that it would trust after a power cut.
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(entry.path())?;
        }
    }
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::HighThroughput)
        .segment_size(16 << 20)
        .cache_capacity(cache_bytes)
        .flush_every_ms(None);
    let mut tries = 0;
    loop {
        tries += 1;
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            // sled lets go of its lock a little after the last handle is dropped.
            Ok(Err(sled::Error::Io(error))) if tries < LOCK_TRIES && error.to_string().contains("acquire lock") => {
                pause(LOCK_PAUSE);
            }
            Ok(opened) => return Ok(opened?),
            Err(_) => return Err(StateError::Corrupt { what: "the database", key: Vec::new() }),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "opening blocks its caller anyway")]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// Databases and snapshots of a data directory that were found damaged and are kept under another name.
///
/// # Errors
/// What the system says.
pub fn damage_set_aside(data_dir: &Path) -> io::Result<u64> {
    let count = |dir: &Path, is_one: &dyn Fn(&Path) -> bool| -> io::Result<u64> {
        let mut found = 0;
        for entry in fs::read_dir(dir)? {
            found += u64::from(is_one(&entry?.path()));
        }
        Ok(found)
    };
    let name =
        |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(ASIDE));
    let mut found = count(data_dir, &name)?;
    for shard in fs::read_dir(data_dir.join("snapshots"))? {
        found += count(&shard?.path(), &|path| path.extension().is_some_and(|extension| extension == "damaged"))?;
    }
    Ok(found)
}

pub(super) fn set_aside(path: &Path, why: &str) -> Result<(), StateError> {
    let mut number = 1u32;
    let aside = loop {
        let aside = path.with_file_name(format!("{ASIDE}{number}"));
        if !aside.exists() {
            break aside;
        }
        number += 1;
    };
    match fs::rename(path, &aside) {
        Ok(()) => {
            tracing::error!(why, kept = %aside.display(),
                "the state database is damaged; it was set aside and is rebuilt from local snapshots and the log");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
