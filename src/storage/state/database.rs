//! The sled database of a node: how it is opened, and set aside when it is damaged.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;
use std::{fs, io, thread};

use super::StateError;
use crate::kernel::ShardId;
use crate::storage::sync_range;

/// What the names of trees begin with; the shard follows, and in all but the first generation a dot and its number.
const TREE: &str = "shard-";
/// What the names of damaged databases begin with; a number follows.
const ASIDE: &str = "state.damaged-";
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

fn name(shard: ShardId, generation: u32) -> String {
    if generation == 0 { format!("{TREE}{shard}") } else { format!("{TREE}{shard}.{generation}") }
}

/// The tree of a shard that is in use.
pub(super) fn tree(db: &sled::Db, shard: ShardId) -> Result<sled::Tree, StateError> {
    Ok(db.open_tree(name(shard, generation(db, shard)?))?)
}

/// Which tree of a shard is in use: one more with every snapshot that was installed since the database was written.
pub(super) fn generation(db: &sled::Db, shard: ShardId) -> Result<u32, StateError> {
    let key = name(shard, 0);
    let Some(stored) = db.get(&key)? else { return Ok(0) };
    let known = stored.split_first_chunk::<4>().filter(|(number, sum)| *sum == checksum(&key, **number));
    let corrupt = || StateError::Corrupt { what: "the generation of a shard", key: key.clone().into_bytes() };
    known.map(|(number, _)| u32::from_le_bytes(*number)).ok_or_else(corrupt)
}

/// Lets another tree of a shard be the one in use, once the database is flushed.
pub(super) fn set_generation(db: &sled::Db, shard: ShardId, generation: u32) -> Result<(), StateError> {
    let (key, number) = (name(shard, 0), generation.to_le_bytes());
    let stored = [number, checksum(&key, number)].concat();
    db.insert(key, stored)?;
    Ok(())
}

fn checksum(key: &str, number: [u8; 4]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), &number).to_le_bytes()
}

/// A tree of a shard beside the one in use, without what an earlier attempt may have left in it.
pub(super) fn empty_tree(db: &sled::Db, shard: ShardId, generation: u32) -> Result<sled::Tree, StateError> {
    let tree = db.open_tree(name(shard, generation))?;
    tree.clear()?;
    Ok(tree)
}

/// Removes the trees that are not in use: what an installation left that came to its end, or did not. While nothing is
/// installed.
pub(super) fn drop_unused(db: &sled::Db) -> Result<(), StateError> {
    for tree in db.tree_names() {
        let Some((shard, number)) = parse(&tree) else { continue };
        if number != generation(db, shard)? {
            drop_tree(db, shard, number)?;
        }
    }
    Ok(())
}

pub(super) fn drop_tree(db: &sled::Db, shard: ShardId, generation: u32) -> Result<(), StateError> {
    db.drop_tree(name(shard, generation))?;
    Ok(())
}

/// The shard and the generation that a tree's name says.
fn parse(tree: &[u8]) -> Option<(ShardId, u32)> {
    let text = std::str::from_utf8(tree).ok()?.strip_prefix(TREE)?;
    let (shard, generation) = text.split_once('.').unwrap_or((text, "0"));
    Some((ShardId(shard.parse().ok()?), generation.parse().ok()?))
}

/// The shards that have a tree, in order.
pub(super) fn shards(db: &sled::Db) -> BTreeSet<ShardId> {
    db.tree_names().iter().filter_map(|tree| Some(parse(tree)?.0)).collect()
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
