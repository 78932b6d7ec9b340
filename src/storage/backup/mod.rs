//! A backup of a cluster in a file: the state of every shard at one instant, the cluster's keys, and who was erased.
//!
//! What is sealed ([`seal`]) is sections one after another, then the [`Manifest`] as JSON, then its offset (8, little
//! endian), so that a reader finds everything from the end. A shard that had not changed since an earlier backup has no
//! section: `held_by` names the file that has it. Deliberately absent: how a backup is taken (`cluster::backup`) and what
//! is done with it (`cluster::restore`).

mod seal;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

pub use self::seal::{KeyError, SECRET_BYTES, Sealer};
use self::seal::{Opener, invalid};
use crate::kernel::{Secret, Timestamp};
use crate::storage::state::LogPosition;

/// The version of what is inside.
pub const FORMAT: u32 = 1;
/// What the names of finished backups end with.
pub const EXTENSION: &str = "backup";
/// Above what a manifest of as many shards as there may be takes.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// What a backup holds and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Names this backup; hexadecimal.
    pub id: String,
    /// The cluster it was taken of; hexadecimal.
    pub cluster: String,
    /// The build that took it.
    pub version: String,
    /// Data shards; the meta shard comes on top.
    pub shards: u16,
    /// The cluster's time at the instant that all shards are of.
    pub taken_at: Timestamp,
    pub secrets: Section,
    /// The ids of everybody who was erased or whose erasure had begun, a line each.
    pub erased: Section,
    pub parts: Vec<Part>,
}

/// Some bytes of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    pub offset: u64,
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// One shard: a snapshot file, here or in an earlier backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub shard: u16,
    /// The last entry of its log that it holds.
    pub position: Option<LogPosition>,
    /// The id of the backup that has it, where that is another one.
    pub held_by: Option<String>,
    pub section: Option<Section>,
}

impl Manifest {
    /// The part of a shard.
    #[must_use]
    pub fn part(&self, shard: u16) -> Option<&Part> {
        self.parts.iter().find(|part| part.shard == shard)
    }

    /// How many shards are in another file.
    #[must_use]
    pub fn held_elsewhere(&self) -> usize {
        self.parts.iter().filter(|part| part.held_by.is_some()).count()
    }

    fn is_sound(&self) -> bool {
        let numbers = self.parts.iter().map(|part| part.shard);
        let placed = self.parts.iter().all(|part| part.section.is_some() != part.held_by.is_some());
        numbers.eq(0..=self.shards) && placed
    }
}

/// Notes where a section began and what goes by.
pub struct SectionWriter {
    offset: u64,
    digest: Context,
}

impl SectionWriter {
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { offset, digest: Context::new(&SHA256) }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    #[must_use]
    pub fn end(self, offset: u64) -> Section {
        let sha256 = hex::encode(self.digest.finish());
        Section { offset: self.offset, bytes: offset - self.offset, sha256 }
    }
}

/// The last bytes of a backup: its manifest, and where that begins.
///
/// # Errors
/// When it does not serialize.
pub fn ending(manifest: &Manifest, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(manifest)?;
    bytes.extend_from_slice(&offset.to_le_bytes());
    Ok(bytes)
}

/// A backup file that opened.
pub struct Archive {
    pub manifest: Manifest,
    input: Opener<BufReader<File>>,
}

impl Archive {
    /// Opens a file and reads its manifest.
    ///
    /// # Errors
    /// `InvalidData` when it is no backup, damaged, cut off, or of another key.
    pub fn open(path: &Path, secret: &Secret<String>) -> io::Result<Self> {
        let mut input = Opener::new(BufReader::new(File::open(path)?), secret)?;
        let end = input.len().checked_sub(8).ok_or_else(|| invalid("it is cut off"))?;
        input.seek_to(end);
        let mut offset = [0; 8];
        input.read_exact(&mut offset)?;
        let offset = u64::from_le_bytes(offset);
        let length = end.checked_sub(offset).filter(|length| *length <= MANIFEST_LIMIT);
        let length = length.ok_or_else(|| invalid("its manifest is nowhere"))?;
        input.seek_to(offset);
        let mut text = Vec::new();
        (&mut input).take(length).read_to_end(&mut text)?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| invalid(&error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(invalid(&format!("it is of format {}; this build reads {FORMAT}", manifest.format)));
        }
        if !manifest.is_sound() {
            return Err(invalid("its manifest contradicts itself"));
        }
        Ok(Self { manifest, input })
    }

    /// Copies a section; an error when it is not what was written.
    ///
    /// # Errors
    /// `InvalidData`, or what writing said.
    pub fn copy(&mut self, section: &Section, output: &mut impl io::Write) -> io::Result<()> {
        let mut digest = SectionWriter::at(section.offset);
        self.input.seek_to(section.offset);
        let mut input = (&mut self.input).take(section.bytes);
        let (mut buffer, mut copied) = (vec![0; 64 << 10], 0);
        loop {
            let read = input.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            output.write_all(&buffer[..read])?;
            copied += read as u64;
        }
        if digest.end(section.offset + copied) == *section { Ok(()) } else { Err(invalid("a section is damaged")) }
    }

    /// A section that fits into memory.
    ///
    /// # Errors
    /// As [`Archive::copy`].
    pub fn read(&mut self, section: &Section) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.copy(section, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// As [`Archive::copy`].
    pub fn verify(&mut self) -> io::Result<()> {
        let parts = self.manifest.parts.iter().filter_map(|part| part.section.clone());
        let all: Vec<Section> =
            [&self.manifest.secrets, &self.manifest.erased].into_iter().cloned().chain(parts).collect();
        all.iter().try_for_each(|section| self.copy(section, &mut io::sink()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
        let secret = Secret::new("correct horse battery".to_owned());
        let (mut sealer, mut file) = Sealer::new(&secret).unwrap();
        let mut sections = Vec::new();
        for content in [&b"keys"[..], b"usr_1\nusr_2\n", b"snapshot"] {
            let mut section = SectionWriter::at(sealer.pushed());
            section.update(content);
            file.extend(sealer.push(content));
            sections.push(section.end(sealer.pushed()));
        }
        let part = |shard| Part { shard, position: None, held_by: None, section: None };
        let mut manifest = Manifest {
            format: FORMAT,
            id: "1".into(),
            cluster: "2".into(),
            version: "3".into(),
            shards: 1,
            taken_at: Timestamp::from_millis(5),
            secrets: sections[0].clone(),
            erased: sections[1].clone(),
            parts: vec![
                Part { section: Some(sections[2].clone()), ..part(0) },
                Part { held_by: Some("0".into()), ..part(1) },
            ],
        };
        change(&mut manifest);
        let offset = sealer.pushed();
        file.extend(sealer.push(&ending(&manifest, offset).unwrap()));
        file.extend(sealer.finish());
        file
    }

    fn open(bytes: &[u8]) -> io::Result<Archive> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Archive::open(file.path(), &Secret::new(" correct horse battery\n".to_owned()))
    }

    #[test]
    fn a_backup_is_read_back_and_one_that_contradicts_itself_is_not() {
        let mut archive = open(&written(|_| {})).unwrap();
        archive.verify().unwrap();
        let erased = archive.manifest.erased.clone();
        assert_eq!(archive.read(&erased).unwrap(), b"usr_1\nusr_2\n");
        assert_eq!(archive.manifest.held_elsewhere(), 1);
        let spoil: [fn(&mut Manifest); 4] = [
            |manifest| manifest.format = 2,
            |manifest| manifest.shards = 2,
            |manifest| drop(manifest.parts.pop()),
            |manifest| manifest.parts[1].held_by = None,
        ];
        for spoil in spoil {
            assert_eq!(open(&written(spoil)).err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        }
        let mut wrong = open(&written(|manifest| manifest.erased.sha256 = "00".repeat(32))).unwrap();
        assert!(wrong.verify().is_err());
    }
}
