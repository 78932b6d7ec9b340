//! A file of JSON lines that says what a provider of this node has done: every line carries a checksum, and a mark beside
//! the file says how far it reached, so that a damaged or shortened file is noticed.
//!
//! Invariants: a line counts once it is synced; a line torn by a crash was never answered for and is cut off; a whole line
//! that fails its checksum, or a file that ends before its mark, is refused. The mark is written after the sync and not
//! synced itself: after a power cut it may lag, and never runs ahead. Nodes on one machine may share a file: whoever works
//! on it [holds](LineFile::hold) it and has read what the others wrote.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a line ends in, before the newline: `,"crc":"xxxxxxxx"}`, the CRC-32C of everything before the comma.
const SUM_BYTES: usize = 18;
const MARK_BYTES: usize = 26;

/// The open file.
pub struct LineFile {
    path: PathBuf,
    /// What the file is for; for whoever reads that it is damaged.
    kept: &'static str,
    file: File,
    mark: File,
    /// Bytes and lines that were read or written here.
    end: u64,
    lines: usize,
    /// A write failed: what is on disk is not known, so nothing more is written until a start reads it again.
    broken: bool,
}

/// While this lives, no other process works on the file.
pub struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = fs4::fs_std::FileExt::unlock(&self.0) {
            tracing::error!(%error, "a file of a provider stays locked");
        }
    }
}

impl LineFile {
    /// Opens or makes the file, mode 0600. Nothing of it is read yet. `kept` says what it is for.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, kept: &'static str) -> io::Result<Self> {
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let private =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let (file, mark) = (private(path)?, private(&path.with_extension("mark"))?);
        File::open(parent)?.sync_all()?;
        Ok(Self { path: path.to_owned(), kept, file, mark, end: 0, lines: 0, broken: false })
    }

    /// Waits until no other process works on the file.
    ///
    /// # Errors
    /// What the system says.
    pub fn hold(&self) -> io::Result<Held> {
        let file = self.file.try_clone()?;
        fs4::fs_std::FileExt::lock_exclusive(&file)?;
        Ok(Held(file))
    }

    /// The lines that were not read yet, whoever wrote them; makes them durable and cuts off a torn one.
    ///
    /// # Errors
    /// When the file cannot be read or repaired; `InvalidData` with file, loss and remedy when it is damaged.
    pub fn read_new<T: DeserializeOwned>(&mut self, _held: &Held) -> io::Result<Vec<T>> {
        let reached = self.read_mark().max(self.end);
        if self.file.metadata()?.len() == self.end && reached == self.end {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let (end, length) = (self.end + whole as u64, self.file.metadata()?.len());
        if length < reached || end < reached {
            return Err(self.damaged(&format!("it ends at byte {} and reached byte {reached}", end.min(length))));
        }
        let mut lines = Vec::new();
        for line in bytes[..whole].split_inclusive(|byte| *byte == b'\n') {
            let parsed = unsummed(line).and_then(|_| serde_json::from_slice(line).ok());
            let number = self.lines + lines.len() + 1;
            lines.push(parsed.ok_or_else(|| self.damaged(&format!("line {number} cannot be read")))?);
        }
        if whole < bytes.len() {
            self.file.set_len(end)?;
        }
        self.file.sync_all()?;
        (self.end, self.lines) = (end, self.lines + lines.len());
        self.write_mark()?;
        Ok(lines)
    }

    /// Appends a line and returns once it is durable. To be called after [`LineFile::read_new`], holding the file since.
    ///
    /// # Errors
    /// What the system says; after a failure every later call fails too.
    pub fn append(&mut self, _held: &Held, line: &impl Serialize) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed; a restart reads the file again"));
        }
        let mut bytes = serde_json::to_vec(line)?;
        // An object ends in a brace, which comes after the checksum.
        bytes.pop();
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!(",\"crc\":\"{sum:08x}\"}}\n").as_bytes());
        self.broken = true;
        self.file.write_all_at(&bytes, self.end)?;
        self.file.sync_data()?;
        (self.end, self.lines) = (self.end + bytes.len() as u64, self.lines + 1);
        self.write_mark()?;
        self.broken = false;
        Ok(())
    }

    fn write_mark(&self) -> io::Result<()> {
        let digits = format!("{:016x}", self.end);
        let sum = crc32c::crc32c(digits.as_bytes());
        self.mark.write_all_at(format!("{digits} {sum:08x}\n").as_bytes(), 0)
    }

    /// How far the file is known to have reached. A mark that is damaged tells nothing, and the lines carry their own
    /// checksums.
    fn read_mark(&self) -> u64 {
        let mut mark = [0; MARK_BYTES];
        let read = self.mark.read_exact_at(&mut mark, 0).ok().and_then(|()| parse_mark(&mark));
        read.unwrap_or(0)
    }

    fn damaged(&self, what: &str) -> io::Error {
        let problem = format!(
            "{} is damaged: {what}. Lost with it: {}. Remedy: restore the file, or remove it and its .mark beside it to go \
             on without",
            self.path.display(),
            self.kept
        );
        io::Error::new(io::ErrorKind::InvalidData, problem)
    }
}

fn parse_mark(mark: &[u8]) -> Option<u64> {
    let (digits, sum) = std::str::from_utf8(mark).ok()?.trim_end().split_once(' ')?;
    let whole = u32::from_str_radix(sum, 16).ok()? == crc32c::crc32c(digits.as_bytes());
    whole.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// A line without its checksum, if that is right.
fn unsummed(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (body, sum) = line.split_at_checked(line.len().checked_sub(SUM_BYTES)?)?;
    let wanted = format!(",\"crc\":\"{:08x}\"}}", crc32c::crc32c(body));
    (sum == wanted.as_bytes()).then_some(body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Line = BTreeMap<String, String>;

    #[test]
    fn damage_and_loss_are_refused_and_a_torn_line_is_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("done.jsonl");
        let line = |key: &str| Line::from([("key".to_owned(), key.to_owned())]);
        let open = || {
            let mut file = LineFile::open(&path, "what was done")?;
            let held = file.hold()?;
            file.read_new::<Line>(&held).map(|lines| (file, held, lines))
        };
        let (mut file, held, lines) = open().expect("made");
        assert!(lines.is_empty());
        for key in ["a", "b"] {
            file.append(&held, &line(key)).expect("written");
        }
        assert!(file.read_new::<Line>(&held).expect("read").is_empty(), "what was written here is known here");
        drop((file, held));
        let whole = fs::read(&path).expect("bytes");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            for damaged in [&bytes, &whole[..at]] {
                fs::write(&path, damaged).expect("written");
                let refused = open().err().expect("refused").to_string();
                assert!(refused.contains("done.jsonl is damaged") && refused.contains("Remedy"), "{refused}");
            }
        }
        fs::write(&path, [&whole[..], b"{\"key\":\"c"].concat()).expect("torn");
        let mark = path.with_extension("mark");
        for damaged in ["", "nonsense", "00000000000000000000 00000000\n"] {
            fs::write(&mark, damaged).expect("written");
            let (_, _, lines) = open().expect("opened");
            assert_eq!(lines.iter().map(|line| line["key"].as_str()).collect::<Vec<_>>(), ["a", "b"]);
        }
        assert_eq!(fs::read(&path).expect("bytes"), whole);
    }

    #[test]
    fn each_of_two_reads_what_the_other_wrote_and_notices_what_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("shared.jsonl");
        let mut both = [(); 2].map(|()| LineFile::open(&path, "what was done").expect("opened"));
        for number in 0..6_usize {
            let file = &mut both[number % 2];
            let held = file.hold().expect("held");
            assert_eq!(file.read_new::<Line>(&held).expect("read").len(), number.min(1));
            file.append(&held, &Line::from([("key".to_owned(), number.to_string())])).expect("written");
        }
        fs::File::options().write(true).open(&path).expect("a file").set_len(40).expect("cut");
        for file in &mut both {
            let held = file.hold().expect("held");
            assert!(file.read_new::<Line>(&held).is_err(), "cut off while it was open");
        }
    }
}
