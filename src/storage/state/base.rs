//! One shard's tree in sled: what lies below the overlay.
//!
//! Every value carries a CRC-32C over key and value, so that damage is an error and never an answer. Values above
//! [`CHUNK_BYTES`] are cut into pieces, because sled keeps large pages in files it never syncs. Writes come from the
//! flusher alone; readers never look at a key the flusher is writing (the overlay shadows it).

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sled::IVec;
use tokio::sync::watch;

use super::StateError;
use super::keys::{self, Key};
use super::records::Header;

/// The largest value given to sled, in bytes.
pub(super) const CHUNK_BYTES: usize = 60 << 10;

const INLINE: u8 = 0;
const CHUNKED: u8 = 1;
/// Tag and CRC.
const PREFIX: usize = 5;

/// Remembers in a file that the database is damaged, so that the next start sets it aside, and has the node stop: what it
/// would answer from here on may be incomplete.
pub(super) struct Damage {
    marker: PathBuf,
    said: AtomicBool,
    failed: watch::Sender<Option<String>>,
}

impl Damage {
    pub(super) fn at(marker: PathBuf, failed: watch::Sender<Option<String>>) -> Self {
        Self { marker, said: AtomicBool::new(false), failed }
    }

    pub(super) fn reported(&self) -> bool {
        self.marker.exists()
    }

    pub(super) fn clear(&self) -> io::Result<()> {
        fs::remove_file(&self.marker)
    }

    pub(super) fn report(&self, error: &StateError) {
        if !error.is_damage() || self.said.swap(true, Ordering::Relaxed) {
            return;
        }
        let marked = File::create(&self.marker).and_then(|file| file.sync_all());
        tracing::error!(%error, marked = marked.is_ok(), "the state database is damaged; the next start rebuilds it");
        let why =
            "the state database is damaged; the next start sets it aside and rebuilds it from snapshots and the log";
        self.failed.send_replace(Some(why.to_owned()));
    }
}

/// The tree of a shard.
#[derive(Clone)]
pub(super) struct Base(pub(super) sled::Tree, pub(super) Arc<Damage>);

impl Base {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let stored = self.0.get(key).map_err(StateError::from);
        let value = stored.and_then(|stored| stored.map(|stored| self.verify(key, &stored)).transpose());
        value.inspect_err(|error| self.1.report(error))
    }

    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, StateError> {
        self.0.contains_key(key).map_err(StateError::from).inspect_err(|error| self.1.report(error))
    }

    /// The header sled holds; without one, the tree is empty or half-installed.
    pub(super) fn header(&self) -> Result<Option<Header>, StateError> {
        self.get(&keys::header())?.map(|stored| Header::decode(&stored)).transpose()
    }

    /// Keys in `from..to`, with values as stored: decode the ones that are wanted.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(IVec, IVec), StateError>> + use<> {
        let damage = Arc::clone(&self.1);
        self.0.range(from..to).map(move |item| item.map_err(StateError::from).inspect_err(|error| damage.report(error)))
    }

    pub(super) fn decode(&self, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, StateError> {
        self.verify(key, stored).inspect_err(|error| self.1.report(error))
    }

    fn verify(&self, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, StateError> {
        let corrupt = || StateError::Corrupt { what: "a stored value", key: key.to_vec() };
        if stored.len() < PREFIX {
            return Err(corrupt());
        }
        let (prefix, body) = stored.split_at(PREFIX);
        let crc = u32::from_le_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let value = match prefix[0] {
            INLINE => body.to_vec(),
            CHUNKED => {
                let count = u32::from_le_bytes(body.try_into().map_err(|_| corrupt())?);
                let mut value = Vec::new();
                for number in 0..count {
                    value.extend_from_slice(&self.0.get(chunk(key, number))?.ok_or_else(corrupt)?);
                }
                value
            }
            _ => return Err(corrupt()),
        };
        if checksum(key, &value) == crc { Ok(value) } else { Err(corrupt()) }
    }

    /// Sets or removes a key. Not atomic across a crash: the redo file makes it so.
    pub(super) fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StateError> {
        let Some(value) = value else {
            let old = self.0.remove(key)?;
            return self.drop_chunks(key, old.as_ref(), 0);
        };
        let crc = checksum(key, value).to_le_bytes();
        let mut stored = Vec::with_capacity(PREFIX + value.len().min(CHUNK_BYTES));
        let mut count = 0;
        if value.len() <= CHUNK_BYTES {
            stored.push(INLINE);
            stored.extend_from_slice(&crc);
            stored.extend_from_slice(value);
        } else {
            for piece in value.chunks(CHUNK_BYTES) {
                self.0.insert(chunk(key, count), piece)?;
                count += 1;
            }
            stored.push(CHUNKED);
            stored.extend_from_slice(&crc);
            stored.extend_from_slice(&count.to_le_bytes());
        }
        let old = self.0.insert(key, stored)?;
        self.drop_chunks(key, old.as_ref(), count)
    }

    fn drop_chunks(&self, key: &[u8], old: Option<&IVec>, keep: u32) -> Result<(), StateError> {
        let Some([CHUNKED, _, _, _, _, count @ ..]) = old.map(IVec::as_ref) else { return Ok(()) };
        let count = count.try_into().map(u32::from_le_bytes).unwrap_or(0);
        for number in keep..count {
            self.0.remove(chunk(key, number))?;
        }
        Ok(())
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn chunk(key: &[u8], number: u32) -> Vec<u8> {
    Key::area(keys::CHUNK).raw(key).raw(&number.to_be_bytes()).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_are_cut_and_put_together_again() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (failed, stopping) = watch::channel(None);
        let damage = Arc::new(Damage::at(dir.path().join("damaged"), failed));
        let base = Base(db.open_tree("t").unwrap(), Arc::clone(&damage));
        let large: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
        for value in [&large[..], &large[..70_000], &large[..3], &large[..], &[]] {
            base.write(b"k", Some(value)).unwrap();
            assert_eq!(base.get(b"k").unwrap().as_deref(), Some(value));
            assert_eq!(base.0.len(), 1 + if value.len() > CHUNK_BYTES { value.len().div_ceil(CHUNK_BYTES) } else { 0 });
        }
        base.write(b"k", Some(&large)).unwrap();
        base.0.insert(chunk(b"k", 1), b"other").unwrap();
        assert!(!damage.reported());
        assert!(matches!(base.get(b"k"), Err(StateError::Corrupt { .. })));
        assert!(damage.reported() && stopping.borrow().is_some());
        base.write(b"k", None).unwrap();
        assert!(base.0.is_empty());
    }
}
