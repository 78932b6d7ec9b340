//! Makes a flush whole or nothing, and bears witness to what sled confirmed.
//!
//! What a round will write to sled is first written here and synced. A crash while it is written leaves it invalid and
//! sled untouched at the round before; a crash while sled is written leaves it valid, and opening writes the whole
//! round to sled again. Rounds take two files in turn, so that one of them is always whole; it names the position of
//! every shard, and a sled that holds another one has lost something (a damaged database often opens as an older or
//! an empty one).
//! Layout: magic (8), body length (8), CRC-32C of the body (4), body: number of the round, then for each shard its id,
//! the position the round follows, the header it leads to, and the changes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::kernel::{ShardId, fail_point};

use super::StateError;
use super::layers::Changes;
use super::records::{Header, LogPosition};

const MAGIC: &[u8; 8] = b"CREDO\0\0\x01";
const PREFIX: u64 = 20;

/// What one round writes for one shard.
pub(super) struct Round<C> {
    pub(super) shard: ShardId,
    /// The position of what sled holds before this round.
    pub(super) follows: Option<LogPosition>,
    pub(super) header: Header,
    pub(super) changes: C,
}

/// A round of all shards and its number.
type Numbered = (u64, Vec<Round<Changes>>);

/// The two files of a directory.
pub(super) struct Redo {
    dir: PathBuf,
    /// Of the last round that was written completely.
    number: u64,
}

impl Redo {
    /// Where the next round goes.
    #[cfg(test)]
    pub(super) fn next(&self) -> PathBuf {
        self.path(self.number + 1)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(if number.is_multiple_of(2) { "redo-0" } else { "redo-1" })
    }

    /// The last round that was written completely.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<Round<Changes>>), StateError> {
        let mut redo = Self { dir: dir.to_owned(), number: 0 };
        for slot in [0, 1] {
            File::options().create(true).append(true).open(redo.path(slot))?;
        }
        // A file that a power cut takes away again would be no witness.
        File::open(dir)?.sync_all()?;
        let mut newest = Vec::new();
        for slot in [0, 1] {
            if let Some((number, rounds)) = read(&redo.path(slot))?
                && number >= redo.number
            {
                (redo.number, newest) = (number, rounds);
            }
        }
        Ok((redo, newest))
    }

    /// Writes a round and returns once it is on disk.
    pub(super) fn write<C: AsRef<Changes>>(&mut self, rounds: &[Round<C>]) -> Result<(), StateError> {
        let number = self.number + 1;
        write(&self.path(number), number, rounds)?;
        self.number = number;
        Ok(())
    }

    /// Makes sure that no round is written again.
    pub(super) fn clear(&mut self) -> Result<(), StateError> {
        for slot in [0, 1] {
            File::options().create(true).truncate(true).write(true).open(self.path(slot))?.sync_all()?;
        }
        Ok(())
    }
}

fn write<C: AsRef<Changes>>(path: &Path, number: u64, rounds: &[Round<C>]) -> Result<(), StateError> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.seek(SeekFrom::Start(PREFIX))?;
    let mut body = Body { out: BufWriter::with_capacity(1 << 20, &mut file), crc: 0, length: 0 };
    body.put(&number.to_le_bytes())?;
    for round in rounds {
        body.put(&round.shard.0.to_le_bytes())?;
        let follows = round.follows.map_or([0; 24], |at| {
            let mut bytes = [0; 24];
            bytes[..8].copy_from_slice(&at.term.to_le_bytes());
            bytes[8..16].copy_from_slice(&at.node.to_le_bytes());
            bytes[16..].copy_from_slice(&at.index.to_le_bytes());
            bytes
        });
        body.put(&[u8::from(round.follows.is_some())])?;
        body.put(&follows)?;
        body.text(&round.header.encode()?)?;
        let changes = round.changes.as_ref();
        body.put(&(changes.len() as u64).to_le_bytes())?;
        for (key, value) in changes {
            body.text(key)?;
            body.put(&[u8::from(value.is_some())])?;
            if let Some(value) = value {
                body.text(value)?;
            }
        }
    }
    let (crc, length) = (body.crc, body.length);
    body.out.flush()?;
    fail_point::reach("flush.redo_half");
    drop(body);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&[&MAGIC[..], &length.to_le_bytes(), &crc.to_le_bytes()].concat())?;
    file.set_len(PREFIX + length)?;
    file.sync_data()?;
    Ok(())
}

/// The number and content of a round, if it was written completely.
fn read(path: &Path) -> Result<Option<Numbered>, StateError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut input = Input(&bytes);
    let valid = input.array::<8>() == Some(*MAGIC)
        && input.number() == Some((bytes.len() as u64).saturating_sub(PREFIX))
        && input.array().map(u32::from_le_bytes) == Some(crc32c::crc32c(input.0));
    if !valid {
        return Ok(None);
    }
    let Some(number) = input.number() else { return Ok(None) };
    let mut rounds = Vec::new();
    while !input.0.is_empty() {
        rounds.push(round(&mut input)?);
    }
    Ok(Some((number, rounds)))
}

fn round(input: &mut Input<'_>) -> Result<Round<Changes>, StateError> {
    let broken = || StateError::Corrupt { what: "the redo file", key: Vec::new() };
    let shard = ShardId(u16::from_le_bytes(input.array().ok_or_else(broken)?));
    let some = input.array().ok_or_else(broken)? == [1];
    let mut number = || input.number().ok_or_else(broken);
    let follows = LogPosition { term: number()?, node: number()?, index: number()? };
    let header = Header::decode(input.text().ok_or_else(broken)?)?;
    let mut changes = Changes::new();
    for _ in 0..input.number().ok_or_else(broken)? {
        let key = input.text().ok_or_else(broken)?.to_vec();
        let value = match input.array().ok_or_else(broken)? {
            [0] => None,
            _ => Some(input.text().ok_or_else(broken)?.to_vec()),
        };
        changes.insert(key, value);
    }
    Ok(Round { shard, follows: some.then_some(follows), header, changes })
}

struct Body<W> {
    out: W,
    crc: u32,
    length: u64,
}

impl<W: Write> Body<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.length += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(&(bytes.len() as u64).to_le_bytes())?;
        self.put(bytes)
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::{fuzz, fuzz_costly};
    use std::sync::Arc;

    #[test]
    fn a_round_is_read_back_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (mut redo, found) = Redo::open(dir.path()).unwrap();
        assert!(found.is_empty());
        let at = LogPosition { term: 1, node: 2, index: 3 };
        let changes = Changes::from([(b"a".to_vec(), Some(vec![1; 300])), (b"b".to_vec(), None)]);
        let round = |follows, number| Round {
            shard: ShardId(4),
            follows,
            header: Header { next_outbox: number, ..Header::default() },
            changes: Arc::new(changes.clone()),
        };
        redo.write(&[round(None, 7), round(Some(at), 8)]).unwrap();
        redo.write(&[round(Some(at), 9)]).unwrap();
        let numbers = || {
            let (redo, found) = Redo::open(dir.path()).unwrap();
            assert!(found.iter().all(|round| round.changes == changes && round.shard == ShardId(4)));
            (redo.number, found.iter().map(|round| (round.follows, round.header.next_outbox)).collect::<Vec<_>>())
        };
        assert_eq!(numbers(), (2, vec![(Some(at), 9)]));
        let whole = std::fs::read(redo.path(2)).unwrap();
        for damaged in [0, 9, 17, 30, whole.len() - 1] {
            let mut torn = whole.clone();
            torn[damaged] ^= 1;
            std::fs::write(redo.path(2), &torn).unwrap();
            assert_eq!(numbers(), (1, vec![(None, 7), (Some(at), 8)]), "byte {damaged}");
            std::fs::write(redo.path(2), &whole[..damaged]).unwrap();
            assert_eq!(numbers().0, 1, "cut at {damaged}");
        }
        redo.clear().unwrap();
        assert_eq!(numbers(), (0, vec![]));
    }

    #[test]
    fn any_bytes_as_a_redo_file_give_what_was_written_or_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("redo");
        let at = LogPosition { term: 1, node: 2, index: 3 };
        let changes = Changes::from([(b"a".to_vec(), Some(vec![1; 300])), (b"b".to_vec(), None)]);
        let rounds =
            [Round { shard: ShardId(4), follows: Some(at), header: Header::default(), changes: Arc::new(changes) }];
        write(&path, 7, &rounds).expect("written");
        let good = std::fs::read(&path).expect("readable");
        fuzz_costly("redo", &[&good], |bytes| {
            std::fs::write(&path, bytes).expect("writable");
            match read(&path) {
                Ok(None) => "nothing".to_owned(),
                // A checksum stands before the content: what passes it was written.
                Ok(Some((number, rounds))) => {
                    assert_eq!(bytes, good);
                    format!("{number} {}", rounds.len())
                }
                Err(error) => error.to_string(),
            }
        });
        // Behind a checksum that fits, too.
        let body = good[usize::try_from(PREFIX).expect("short")..].to_vec();
        fuzz("redo-body", &[&body], |bytes| {
            let mut input = Input(bytes);
            let number = input.number();
            let mut found = 0;
            while !input.0.is_empty() {
                match round(&mut input) {
                    Ok(_) => found += 1,
                    Err(error) => return format!("{} {found} {error}", number.is_some()),
                }
            }
            format!("{} {found}", number.is_some())
        });
    }
}
