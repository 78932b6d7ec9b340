//! A shard's whole state in a file: to rebuild from when the database is lost, and to give to a new replica.
//!
//! Layout: blocks of `length (4) ‖ CRC-32C (4) ‖ body`, the first one the [`Header`], the others runs of
//! `key length (4) ‖ value length (4) ‖ key ‖ value` in key order, then an empty block, whose checksum is over the
//! number of pairs. A file is written under another name, synced, then renamed: one that is there is whole, and what
//! time has done to it since, the checksums tell.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::base::Base;
use super::keys;
use super::records::Header;
use super::{ShardState, StateError, StateStore};
use crate::kernel::{ShardId, fail_point};

const MAGIC: &[u8; 8] = b"CSNAP\0\0\x01";
/// A block is closed once it is larger.
const BLOCK_BYTES: usize = 1 << 20;
/// The largest block read: one full block and one largest value.
const BLOCK_LIMIT: usize = (64 << 20) + BLOCK_BYTES;
const PAIR_PREFIX: usize = 8;
/// The file of a backup that is being taken.
const CUT: &str = "backup";

/// A snapshot file of a shard.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub header: Header,
}

impl SnapshotFile {
    /// A file with the header that it begins with.
    ///
    /// # Errors
    /// [`StateError`] when it is not a snapshot.
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let header = Reader::open(&path)?.header;
        Ok(Self { path, header })
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// [`StateError`] when it is damaged or cannot be read.
    pub fn verify(&self) -> Result<(), StateError> {
        Reader::open(&self.path)?.pairs(|_, _| Ok(()))
    }

    /// As [`SnapshotFile::verify`]; one that is damaged gets another name.
    ///
    /// # Errors
    /// As [`SnapshotFile::verify`].
    pub fn verify_or_set_aside(&self) -> Result<(), StateError> {
        self.verify().inspect_err(|error| {
            let aside = self.path.with_extension("damaged");
            let renamed = fs::rename(&self.path, &aside);
            tracing::error!(%error, path = %self.path.display(), aside = renamed.is_ok(), "a local snapshot is damaged");
        })
    }
}

/// Where the snapshots of one shard are, named by the applied index.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    dir: PathBuf,
    keep: usize,
}

impl Snapshots {
    pub(super) fn at(dir: PathBuf, keep: usize) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, keep: keep.max(1) })
    }

    /// Removes what a process left that ended while it took a backup.
    pub(super) fn clear_cut(&self) -> io::Result<()> {
        match fs::remove_file(self.dir.join(CUT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes every file, also what other nodes sent and what was set aside.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Where snapshots of other nodes are received: beside the own ones, not among them.
    pub(super) fn incoming(&self) -> io::Result<PathBuf> {
        let directory = self.dir.join("incoming");
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// The newest snapshot whose header can be read.
    pub(super) fn newest(&self) -> Result<Option<SnapshotFile>, StateError> {
        for path in self.files()?.into_iter().rev() {
            match Reader::open(&path) {
                Ok(reader) => return Ok(Some(SnapshotFile { path, header: reader.header })),
                Err(error) => tracing::error!(%error, path = %path.display(), "a local snapshot cannot be read"),
            }
        }
        Ok(None)
    }

    /// Reads the newest snapshot to its end; one that is damaged gets another name and the next one is read.
    pub(super) fn verify_newest(&self) -> Result<(), StateError> {
        for path in self.files()?.into_iter().rev() {
            let file = SnapshotFile { path, header: Header::default() };
            match file.verify_or_set_aside() {
                Ok(()) => break,
                // Under its name it would be used.
                Err(error) if file.path.exists() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The log up to here can be let go of: as many snapshots as are kept are newer or this old.
    pub(super) fn covered(&self) -> Result<Option<u64>, StateError> {
        let files = self.files()?;
        let oldest = files.first().filter(|_| files.len() >= self.keep);
        let name = oldest.and_then(|path| path.file_stem()).and_then(|name| name.to_str());
        Ok(name.and_then(|name| name.parse().ok()))
    }

    /// The size of the newest snapshot.
    pub(super) fn newest_bytes(&self) -> io::Result<u64> {
        self.files()?.last().map_or(Ok(0), |path| Ok(fs::metadata(path)?.len()))
    }

    /// Oldest first.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "snapshot") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Writes what the shard holds now. Applying goes on meanwhile.
    pub(super) fn write(&self, store: &StateStore, state: &ShardState) -> Result<SnapshotFile, StateError> {
        let partial = self.dir.join("partial");
        let written = store.still(state, |base| write(&partial, base));
        // Half a file is of no use to anyone, least of all on a full disk.
        let header = written.inspect_err(|_| drop(fs::remove_file(&partial)))?;
        self.keep(&partial, header)
    }

    /// Writes what the shard holds now for a backup; `taken` hears of it before the writing begins, and from there on
    /// applying goes on.
    pub(super) fn cut(
        &self,
        store: &StateStore,
        state: &ShardState,
        taken: impl FnOnce(&Header),
    ) -> Result<PathBuf, StateError> {
        let path = self.dir.join(CUT);
        let written = store.still(state, |base| {
            taken(&base.header()?.unwrap_or_default());
            write(&path, base)
        });
        written.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(path)
    }

    /// Gives a finished file its name and removes old ones.
    fn keep(&self, partial: &Path, header: Header) -> Result<SnapshotFile, StateError> {
        let index = header.applied.map_or(0, |applied| applied.index);
        let path = self.dir.join(format!("{index:020}.snapshot"));
        fail_point::reach("snapshot.written");
        fs::rename(partial, &path)?;
        fail_point::reach("snapshot.named");
        File::open(&self.dir)?.sync_all()?;
        let files = self.files()?;
        for old in files.iter().take(files.len().saturating_sub(self.keep)) {
            fs::remove_file(old)?;
        }
        fail_point::reach("snapshot.old_removed");
        Ok(SnapshotFile { path, header })
    }

    /// Replaces the state by a snapshot, and keeps the file as one of ours.
    pub(super) fn install(
        &self,
        store: &StateStore,
        state: &ShardState,
        file: &SnapshotFile,
    ) -> Result<(), StateError> {
        // Read once before anything is removed: a damaged file must not cost the state.
        Reader::open(&file.path)?.pairs(|_, _| Ok(()))?;
        if file.path.parent() != Some(&self.dir) {
            let partial = self.dir.join("partial");
            fs::copy(&file.path, &partial)?;
            File::open(&partial)?.sync_all()?;
            self.keep(&partial, file.header.clone())?;
        }
        store.replace(state, |base| {
            let mut reader = Reader::open(&file.path)?;
            let header = reader.header.encode()?;
            reader.pairs(|key, value| base.write(key, Some(value)))?;
            base.write(&keys::header(), Some(&header))
        })
    }
}

/// Makes a snapshot file what a shard of a new data directory begins with, under a header that is changed. The header it
/// had.
///
/// # Errors
/// [`StateError`] when the file is damaged, or cannot be written.
pub fn plant(
    data_dir: &Path,
    shard: ShardId,
    file: &Path,
    change: impl FnOnce(&mut Header),
) -> Result<Header, StateError> {
    let Reader { mut input, header: before } = Reader::open(file)?;
    let snapshots = Snapshots::at(data_dir.join("snapshots").join(shard.to_string()), 1)?;
    let mut header = before.clone();
    change(&mut header);
    let partial = snapshots.dir.join("partial");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    out.write_all(MAGIC)?;
    block(&mut out, &header.encode()?)?;
    io::copy(&mut input, &mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    snapshots.keep(&partial, header)?.verify()?;
    Ok(before)
}

fn write(path: &Path, base: &Base) -> Result<Header, StateError> {
    let header = base.header()?.unwrap_or_default();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(MAGIC)?;
    block(&mut out, &header.encode()?)?;
    let (mut body, mut count) = (Vec::with_capacity(BLOCK_BYTES + (64 << 10)), 0u64);
    for item in base.range(&[], &[keys::CHUNK]) {
        let (key, stored) = item?;
        if *key == keys::header() {
            continue;
        }
        let value = base.decode(&key, &stored)?;
        for length in [key.len(), value.len()] {
            let length = u32::try_from(length).map_err(|_| damaged("a pair"))?;
            body.extend_from_slice(&length.to_le_bytes());
        }
        body.extend_from_slice(&key);
        body.extend_from_slice(&value);
        count += 1;
        if body.len() >= BLOCK_BYTES {
            block(&mut out, &body)?;
            body.clear();
        }
    }
    if !body.is_empty() {
        block(&mut out, &body)?;
    }
    out.write_all(&0u32.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(&count.to_le_bytes()).to_le_bytes())?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(header)
}

fn block(out: &mut impl Write, body: &[u8]) -> Result<(), StateError> {
    let length = u32::try_from(body.len()).map_err(|_| damaged("a block"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(body).to_le_bytes())?;
    out.write_all(body)?;
    Ok(())
}

fn damaged(what: &'static str) -> StateError {
    StateError::Corrupt { what, key: b"snapshot".to_vec() }
}

struct Reader {
    input: BufReader<File>,
    header: Header,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, StateError> {
        let mut input = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(damaged("the beginning of a snapshot"));
        }
        let body = next(&mut input)?.0;
        Ok(Self { input, header: Header::decode(&body)? })
    }

    fn pairs(&mut self, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StateError>) -> Result<(), StateError> {
        let mut count = 0u64;
        loop {
            let (body, crc) = next(&mut self.input)?;
            if body.is_empty() {
                let whole = crc == crc32c::crc32c(&count.to_le_bytes());
                return if whole { Ok(()) } else { Err(damaged("the end of a snapshot")) };
            }
            let mut rest = body.as_slice();
            while !rest.is_empty() {
                let (prefix, pair) = rest.split_first_chunk::<PAIR_PREFIX>().ok_or_else(|| damaged("a pair"))?;
                let [a, b, c, d, e, f, g, h] = *prefix;
                let (key, value) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                let (key, pair) = pair.split_at_checked(key as usize).ok_or_else(|| damaged("a pair"))?;
                let (value, pair) = pair.split_at_checked(value as usize).ok_or_else(|| damaged("a pair"))?;
                visit(key, value)?;
                count += 1;
                rest = pair;
            }
        }
    }
}

/// The next block and its checksum; the last one is empty.
fn next(input: &mut impl Read) -> Result<(Vec<u8>, u32), StateError> {
    let mut prefix = [0; 8];
    input.read_exact(&mut prefix)?;
    let [a, b, c, d, e, f, g, h] = prefix;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let crc = u32::from_le_bytes([e, f, g, h]);
    if length > BLOCK_LIMIT {
        return Err(damaged("a block"));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    if length > 0 && crc32c::crc32c(&body) != crc {
        return Err(damaged("a block"));
    }
    Ok((body, crc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::fuzz;

    #[test]
    fn any_bytes_as_blocks_of_a_snapshot() {
        let mut good = Vec::new();
        for body in [&b"header"[..], b"\x03\0\0\0\x02\0\0\0keyva", b""] {
            block(&mut good, body).expect("written");
        }
        let header = Header::decode(&good);
        assert!(header.is_err());
        fuzz("snapshot", &[&good], |bytes| {
            let mut input = bytes;
            let mut blocks = 0;
            let mut again = Vec::new();
            let end = loop {
                match next(&mut input) {
                    Ok((body, _)) if body.is_empty() => break "end".to_owned(),
                    Ok((body, _)) => {
                        blocks += 1;
                        block(&mut again, &body).expect("written");
                        assert_eq!(again, bytes[..again.len()], "a block has one form");
                    }
                    Err(error) => break error.to_string(),
                }
            };
            format!("{blocks} {end} {}", Header::decode(bytes).is_ok())
        });
    }
}
