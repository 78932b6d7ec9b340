//! The audit log as a file that anyone can check offline, with nothing else at hand.
//!
//! JSON lines, in this order:
//! 1. `{"format":"construct-audit-export","version":1,"origin":…,"exported_at":…,"logs":[{"shard":…,"verifier":…}…]}`
//! 2. for every log in the order of the header: entries `{"leaf_hash":"<hex>","entry":<canonical leaf>}` from index 0
//!    on, and after every [`CHECKPOINT_EVERY`] of them and at the end a line `{"checkpoint":"<signed note>"}`
//! 3. `{"end":{"entries":<total>}}`
//!
//! The bytes between `"entry":` and the last brace are the leaf exactly as it is hashed, so a verifier re-serializes
//! nothing. Wrong, missing, added and moved lines are named; a forger who also recomputes leaf hashes is caught by the
//! next checkpoint. What the file cannot say: that its keys are the right ones (compare or pin them) and that it is the
//! newest one (compare its checkpoint with one kept elsewhere).

use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};

use super::AuditLog;
use super::note::{Verifier, shard_origin};
use super::search::AuditEntry;
use crate::kernel::merkle::{Hash, empty_root, leaf_hash, node_hash};
use crate::kernel::{Error, ShardId, Timestamp};

/// Entries between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 100;

const FORMAT: &str = "construct-audit-export";
const ENTRY_HEAD: &str = "{\"leaf_hash\":\"";
const ENTRY_MIDDLE: &str = "\",\"entry\":";

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: String,
    pub version: u32,
    pub origin: String,
    pub exported_at: Timestamp,
    pub logs: Vec<LogKey>,
}

/// One log and the key of its checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogKey {
    pub shard: u16,
    /// C2SP verifier key: `<origin>/shard-<n>+<hash>+<base64>`.
    pub verifier: String,
}

impl Header {
    #[must_use]
    pub fn new(origin: &str, exported_at: Timestamp, logs: Vec<LogKey>) -> Self {
        Self { format: FORMAT.to_owned(), version: 1, origin: origin.to_owned(), exported_at, logs }
    }

    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("text always serializes") + "\n"
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    entries: u64,
}

/// The line of an entry, from its leaf bytes.
#[must_use]
pub fn entry_line(leaf: &[u8]) -> Vec<u8> {
    let head = format!("{ENTRY_HEAD}{}{ENTRY_MIDDLE}", hex::encode(leaf_hash(leaf)));
    [head.as_bytes(), leaf, b"}\n"].concat()
}

#[must_use]
pub fn checkpoint_line(note: &str) -> String {
    serde_json::to_string(&CheckpointLine { checkpoint: note.to_owned() }).expect("text always serializes") + "\n"
}

#[must_use]
pub fn end_line(entries: u64) -> String {
    serde_json::to_string(&EndLine { end: End { entries } }).expect("text always serializes") + "\n"
}

/// The lines of an export, in pieces of up to [`CHECKPOINT_EVERY`] entries.
///
/// Each log is taken up to the size it has when its turn comes. The stream ends after an error.
pub fn lines(log: Arc<AuditLog>, exported_at: Timestamp) -> impl Stream<Item = Result<Vec<u8>, Error>> + Send {
    let shards = log.shards();
    let key = |shard: &ShardId| LogKey { shard: shard.0, verifier: log.verifier(*shard).to_text() };
    let header = Header::new(log.origin(), exported_at, shards.iter().map(key).collect()).line();
    let start = Writing { log, left: shards.into(), current: None, total: 0, ended: false };
    let rest = stream::try_unfold(start, |mut writing| async move {
        let piece = writing.next().await?;
        Ok(piece.map(|piece| (piece, writing)))
    });
    stream::once(async move { Ok(header.into_bytes()) }).chain(rest)
}

/// An export while it is written.
struct Writing {
    log: Arc<AuditLog>,
    left: VecDeque<ShardId>,
    /// The log being written: its size when its turn came, and the entries written of it.
    current: Option<(ShardId, u64, u64)>,
    total: u64,
    ended: bool,
}

impl Writing {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let (shard, size, written) = match (self.current, self.left.pop_front()) {
            (Some(current), shard) => {
                shard.into_iter().for_each(|shard| self.left.push_front(shard));
                current
            }
            (None, Some(shard)) => (shard, self.log.head(shard, None).await?.0, 0),
            (None, None) => {
                self.ended = true;
                return Ok(Some(end_line(self.total).into_bytes()));
            }
        };
        let upto = size.min(written + CHECKPOINT_EVERY);
        let mut piece = Vec::new();
        for leaf in self.log.entries(shard, written, (upto - written) as u32).await? {
            piece.extend(entry_line(&leaf));
        }
        piece.extend(checkpoint_line(&self.log.checkpoint(shard, Some(upto)).await?.note).into_bytes());
        self.total += upto - written;
        self.current = (upto < size).then_some((shard, size, upto));
        Ok(Some(piece))
    }
}

/// What a file that verifies holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub origin: String,
    pub exported_at: Timestamp,
    pub logs: Vec<VerifiedLog>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLog {
    pub shard: u16,
    pub entries: u64,
    pub root: Hash,
    pub verifier: String,
}

/// Why a file does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("line {line}: {reason}")]
    Line { line: u64, reason: String },
    #[error("the file cannot be read")]
    Io(#[from] std::io::Error),
}

/// The complete subtrees of a growing tree, largest first: enough for its root.
#[derive(Default)]
struct Peaks(Vec<(u8, Hash)>);

impl Peaks {
    fn push(&mut self, leaf: Hash) {
        let (mut level, mut hash) = (0, leaf);
        while let Some((_, left)) = self.0.pop_if(|(peak, _)| *peak == level) {
            hash = node_hash(&left, &hash);
            level += 1;
        }
        self.0.push((level, hash));
    }

    fn root(&self) -> Hash {
        let mut peaks = self.0.iter().rev().map(|(_, hash)| *hash);
        let Some(smallest) = peaks.next() else { return empty_root() };
        peaks.fold(smallest, |right, left| node_hash(&left, &right))
    }
}

/// One log while its lines are read.
struct Reading {
    key: LogKey,
    verifier: Verifier,
    peaks: Peaks,
    size: u64,
    /// The line after the last checkpoint; what follows is not signed yet.
    unsigned_from: Option<u64>,
    signed: bool,
}

/// Checks a whole file. `pinned`: verifier keys known from elsewhere, of which each log's must be one.
///
/// # Errors
/// [`VerifyError::Line`] names the first bad line.
pub fn verify(file: impl BufRead, pinned: &[String]) -> Result<Verified, VerifyError> {
    let mut lines = file.split(b'\n');
    let mut number = 1;
    let first = lines.next().transpose()?.unwrap_or_default();
    let header = read_header(&first).map_err(|reason| VerifyError::Line { line: number, reason })?;
    let mut logs = header.logs.iter();
    let (mut current, mut done, mut ended) = (None, Vec::new(), false);
    for line in lines {
        let line = line?;
        number += 1;
        let bad = |reason: String| VerifyError::Line { line: number, reason };
        if ended {
            return Err(bad("there is more after the end".into()));
        }
        if current.is_none() {
            current = logs.next().map(|key| open_log(&header, key, pinned)).transpose().map_err(bad)?;
        }
        if let Some(text) = line.strip_prefix(ENTRY_HEAD.as_bytes()) {
            let log = next_log(&mut current, &mut logs, &mut done, text, &header, pinned).map_err(bad)?;
            log.entry(text, number).map_err(bad)?;
        } else if let Ok(CheckpointLine { checkpoint }) = serde_json::from_slice(&line) {
            // An empty log has a checkpoint only, so a checkpoint too may begin the next log.
            if current.as_ref().is_some_and(|log| log.signed && log.verifier.open(&checkpoint).is_err()) {
                done.extend(current.take());
                current = logs.next().map(|key| open_log(&header, key, pinned)).transpose().map_err(bad)?;
            }
            let log = current.as_mut().ok_or_else(|| bad("a checkpoint of a log the header does not name".into()))?;
            log.checkpoint(&checkpoint, number)?;
        } else if let Ok(EndLine { end }) = serde_json::from_slice(&line) {
            ended = true;
            done.extend(current.take());
            finish(&header, &done, end.entries).map_err(bad)?;
        } else {
            return Err(bad("neither an entry, a checkpoint nor the end".into()));
        }
    }
    if !ended {
        return Err(VerifyError::Line {
            line: number + 1,
            reason: "the file is cut off: the end line is missing".into(),
        });
    }
    let logs = done.into_iter().map(Reading::verified).collect();
    Ok(Verified { origin: header.origin, exported_at: header.exported_at, logs })
}

fn read_header(line: &[u8]) -> Result<Header, String> {
    let header: Header =
        serde_json::from_slice(line).map_err(|error| format!("not the header of an export: {error}"))?;
    if header.format != FORMAT || header.version != 1 {
        return Err(format!("not an export of format {FORMAT}, version 1"));
    }
    Ok(header)
}

fn open_log(header: &Header, key: &LogKey, pinned: &[String]) -> Result<Reading, String> {
    let verifier = Verifier::parse(&key.verifier).map_err(|error| format!("shard {}: {error}", key.shard))?;
    if verifier.name != shard_origin(&header.origin, ShardId(key.shard)) {
        return Err(format!("shard {}: the header's key is named {}", key.shard, verifier.name));
    }
    if !pinned.is_empty() && !pinned.contains(&key.verifier) {
        return Err(format!("shard {}: the file's key {} is not one of those given", key.shard, key.verifier));
    }
    let peaks = Peaks::default();
    Ok(Reading { key: key.clone(), verifier, peaks, size: 0, unsigned_from: None, signed: false })
}

/// The log that an entry line belongs to: the current one, or the next one when the current one ended signed.
fn next_log<'a, 'h>(
    current: &'a mut Option<Reading>,
    logs: &mut impl Iterator<Item = &'h LogKey>,
    done: &mut Vec<Reading>,
    text: &[u8],
    header: &Header,
    pinned: &[String],
) -> Result<&'a mut Reading, String> {
    let shard = split_entry(text).and_then(|(_, leaf)| AuditEntry::from_leaf(leaf)).map(|entry| entry.shard);
    let moves_on = |log: &Reading| shard.is_some_and(|shard| shard != log.key.shard) && log.unsigned_from.is_none();
    while current.as_ref().is_some_and(|log| log.signed && moves_on(log)) {
        done.extend(current.take());
        *current = logs.next().map(|key| open_log(header, key, pinned)).transpose()?;
    }
    current.as_mut().ok_or_else(|| "an entry of a log the header does not name".to_owned())
}

/// The claimed leaf hash in hexadecimal and the leaf bytes.
fn split_entry(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (claimed, rest) = text.split_at_checked(64)?;
    let leaf = rest.strip_prefix(ENTRY_MIDDLE.as_bytes())?.strip_suffix(b"}")?;
    Some((claimed, leaf))
}

impl Reading {
    fn entry(&mut self, text: &[u8], number: u64) -> Result<(), String> {
        let (claimed, leaf) = split_entry(text).ok_or("not an entry line")?;
        let hash = leaf_hash(leaf);
        if claimed != hex::encode(hash).as_bytes() {
            return Err("the entry does not have its leaf hash: it was changed".into());
        }
        let entry = AuditEntry::from_leaf(leaf).ok_or("the entry cannot be read")?;
        let (shard, expected) = (self.key.shard, self.size);
        if expected > 0 && expected.is_multiple_of(CHECKPOINT_EVERY) && self.unsigned_from.is_some() {
            return Err(format!("the checkpoint after {expected} entries is missing"));
        }
        if (entry.shard, entry.index) != (shard, expected) {
            let found = format!("entry {} of shard {}", entry.index, entry.shard);
            return Err(format!(
                "expected entry {expected} of shard {shard}, found {found}: lines are missing, added or moved"
            ));
        }
        self.peaks.push(hash);
        self.size += 1;
        self.unsigned_from.get_or_insert(number);
        Ok(())
    }

    fn checkpoint(&mut self, note: &str, number: u64) -> Result<(), VerifyError> {
        let bad = |line, reason: String| VerifyError::Line { line, reason };
        let shard = self.key.shard;
        let checkpoint = self.verifier.open(note).map_err(|error| bad(number, format!("shard {shard}: {error}")))?;
        if self.signed && self.unsigned_from.is_none() {
            return Err(bad(number, "the checkpoint is there twice".into()));
        }
        if checkpoint.size != self.size {
            let reason =
                format!("the checkpoint is over {} entries, the file has {} before it", checkpoint.size, self.size);
            return Err(bad(number, reason));
        }
        if checkpoint.root != self.peaks.root() {
            let first = self.unsigned_from.unwrap_or(number);
            let last = number - 1;
            let reason = format!(
                "an entry of lines {first} to {last} was changed: they do not lead to the signed root in line {number}"
            );
            return Err(bad(first, reason));
        }
        (self.unsigned_from, self.signed) = (None, true);
        Ok(())
    }

    fn verified(self) -> VerifiedLog {
        let LogKey { shard, verifier } = self.key;
        VerifiedLog { shard, entries: self.size, root: self.peaks.root(), verifier }
    }
}

fn finish(header: &Header, done: &[Reading], entries: u64) -> Result<(), String> {
    if let Some(log) = done.iter().find(|log| log.unsigned_from.is_some() || !log.signed) {
        return Err(format!("the log of shard {} does not end with a checkpoint", log.key.shard));
    }
    if let Some(missing) = header.logs.get(done.len()) {
        return Err(format!("the log of shard {} is missing", missing.shard));
    }
    let found: u64 = done.iter().map(|log| log.size).sum();
    if found != entries {
        return Err(format!("the file has {found} entries, its end says {entries}"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
