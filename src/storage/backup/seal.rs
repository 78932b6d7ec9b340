//! The sealed form of a backup: AES-256-GCM in chunks, each in its place, the last one marked.
//!
//! The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
//! Misuse-Resistance, CRYPTO 2015): the nonce of a chunk is its number and whether it is the last, so that a chunk that is
//! missing, moved or cut off is found. The key is Argon2id (RFC 9106) of the operator's secret with a salt of the file's
//! own, so that no two files share one, and numbers may start at 0 in each.
//! Layout: magic (8), salt (16), then chunks of 64 KiB and a tag (16), the last one shorter. The first 24 bytes are
//! associated data of every chunk.

use std::io::{self, Read, Seek, SeekFrom};

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::kernel::Secret;

const MAGIC: &[u8; 8] = b"CBACKUP\x01";
const HEADER_BYTES: usize = 24;
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
/// 64 MiB, three passes, one lane (RFC 9106 §4, second recommendation, with one lane).
const ARGON2: (u32, u32, u32) = (64 << 10, 3, 1);
/// The shortest secret that is taken.
pub const SECRET_BYTES: usize = 16;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the backup key is shorter than {SECRET_BYTES} bytes")]
    Short,
    #[error("the backup key cannot be derived: {0}")]
    Derive(argon2::Error),
    #[error("there is no randomness")]
    Random,
}

fn derive(secret: &Secret<String>, header: &[u8; HEADER_BYTES]) -> Result<LessSafeKey, KeyError> {
    let secret = secret.expose().trim().as_bytes();
    if secret.len() < SECRET_BYTES {
        return Err(KeyError::Short);
    }
    let (memory, passes, lanes) = ARGON2;
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(KeyError::Derive)?;
    let mut key = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(secret, &header[MAGIC.len()..], key.as_mut()).map_err(KeyError::Derive)?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a 32-byte key")))
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[3..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals a file from its beginning to its end.
pub struct Sealer {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
    number: u64,
    /// Not sealed yet: at least one byte of what was pushed, so that the last chunk can be marked.
    pending: Vec<u8>,
    pushed: u64,
}

impl Sealer {
    /// Also the first bytes of the file. Takes a moment: off the async threads.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(secret: &Secret<String>) -> Result<(Self, Vec<u8>), KeyError> {
        let mut header = [0; HEADER_BYTES];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        SystemRandom::new().fill(&mut header[MAGIC.len()..]).map_err(|_| KeyError::Random)?;
        let key = derive(secret, &header)?;
        Ok((Self { key, header, number: 0, pending: Vec::with_capacity(CHUNK), pushed: 0 }, header.to_vec()))
    }

    /// How many bytes were pushed so far.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The sealed chunks that are full by now.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        self.pushed += bytes.len() as u64;
        let mut sealed = Vec::new();
        while self.pending.len() + bytes.len() > CHUNK {
            let (head, rest) = bytes.split_at(CHUNK - self.pending.len());
            self.pending.extend_from_slice(head);
            bytes = rest;
            self.seal(false, &mut sealed);
        }
        self.pending.extend_from_slice(bytes);
        sealed
    }

    /// The last chunk; nothing may follow.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        self.seal(true, &mut sealed);
        sealed
    }

    fn seal(&mut self, last: bool, sealed: &mut Vec<u8>) {
        let nonce = nonce(self.number, last);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&self.header), &mut self.pending);
        let tag = tag.expect("a chunk is within the limit of AES-GCM");
        sealed.extend_from_slice(&self.pending);
        sealed.extend_from_slice(tag.as_ref());
        self.pending.clear();
        self.number += 1;
    }
}

/// Reads a sealed file; what does not open is an error of the kind `InvalidData`.
pub struct Opener<R> {
    input: R,
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
    chunks: u64,
    plain_bytes: u64,
    /// The number of the chunk that is open, and its bytes.
    open: Option<(u64, Vec<u8>)>,
    position: u64,
}

impl<R: Read + Seek> Opener<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// When it is no backup, or the key cannot be derived.
    pub fn new(mut input: R, secret: &Secret<String>) -> io::Result<Self> {
        let length = input.seek(SeekFrom::End(0))?;
        input.seek(SeekFrom::Start(0))?;
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header).map_err(|_| invalid("it is not a backup: too short"))?;
        if header[..MAGIC.len()] != *MAGIC {
            return Err(invalid("it is not a backup of a version that this build reads"));
        }
        let sealed = length - HEADER_BYTES as u64;
        let whole = (CHUNK + TAG) as u64;
        let chunks = sealed.div_ceil(whole);
        if chunks == 0 || sealed - (chunks - 1) * whole < TAG as u64 {
            return Err(invalid("it is cut off"));
        }
        let key = derive(secret, &header).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let plain_bytes = sealed - chunks * TAG as u64;
        Ok(Self { input, key, header, chunks, plain_bytes, open: None, position: 0 })
    }

    /// How many bytes there are to read.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.plain_bytes
    }

    /// Goes on reading here.
    pub fn seek_to(&mut self, position: u64) {
        self.position = position;
    }

    fn load(&mut self, number: u64) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| *open == number) {
            return Ok(());
        }
        let last = number + 1 == self.chunks;
        let start = number * CHUNK as u64;
        let length = (self.plain_bytes - start).min(CHUNK as u64);
        let length = usize::try_from(length).map_err(io::Error::other)? + TAG;
        let mut chunk = vec![0; length];
        self.input.seek(SeekFrom::Start(HEADER_BYTES as u64 + number * (CHUNK + TAG) as u64))?;
        self.input.read_exact(&mut chunk)?;
        let opened = self.key.open_in_place(nonce(number, last), Aad::from(&self.header), &mut chunk);
        let opened = opened.map(|plain| plain.len()).map_err(|_| match number {
            0 => invalid("it does not open: another key, or it is damaged or cut off"),
            _ => invalid("it is damaged or cut off, or the key is another one"),
        })?;
        chunk.truncate(opened);
        self.open = Some((number, chunk));
        Ok(())
    }
}

impl<R: Read + Seek> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.plain_bytes || buffer.is_empty() {
            return Ok(0);
        }
        self.load(self.position / CHUNK as u64)?;
        let within = usize::try_from(self.position % CHUNK as u64).map_err(io::Error::other)?;
        let rest = self.open.as_ref().and_then(|(_, plain)| plain.get(within..)).unwrap_or_default();
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.position += taken as u64;
        Ok(taken)
    }
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn secret() -> Secret<String> {
        Secret::new("correct horse battery".to_owned())
    }

    fn sealed(plain: &[u8], step: usize) -> Vec<u8> {
        let (mut sealer, mut file) = Sealer::new(&secret()).unwrap();
        for piece in plain.chunks(step) {
            file.extend(sealer.push(piece));
        }
        assert_eq!(sealer.pushed(), plain.len() as u64);
        file.extend(sealer.finish());
        file
    }

    fn opened(file: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Opener::new(Cursor::new(file), &secret())?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn what_was_sealed_is_read_back_from_any_place() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7] {
            let plain: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
            let file = sealed(&plain, 50_000);
            assert_eq!(opened(&file).unwrap(), plain, "{length}");
            let mut opener = Opener::new(Cursor::new(&file), &secret()).unwrap();
            assert_eq!(opener.len(), length as u64);
            let from = length / 2;
            opener.seek_to(from as u64);
            let mut rest = Vec::new();
            opener.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, plain[from..]);
        }
    }

    #[test]
    fn what_is_cut_off_moved_changed_or_of_another_key_does_not_open() {
        let plain = vec![7; 3 * CHUNK];
        let file = sealed(&plain, plain.len());
        let whole = CHUNK + TAG;
        // Also where a chunk ends.
        for length in [0, 10, HEADER_BYTES, HEADER_BYTES + whole, HEADER_BYTES + 2 * whole, file.len() - 1] {
            assert!(opened(&file[..length]).is_err(), "cut at {length}");
        }
        let mut moved = file.clone();
        moved[HEADER_BYTES..HEADER_BYTES + 2 * whole].rotate_left(whole);
        assert!(opened(&moved).is_err());
        let longer = [&file[..], &file[HEADER_BYTES..HEADER_BYTES + whole]].concat();
        assert!(opened(&longer).is_err());
        for at in [0, 9, HEADER_BYTES, file.len() / 2, file.len() - 1] {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(opened(&damaged).is_err(), "byte {at}");
        }
        let other = Secret::new("correct horse batterz".to_owned());
        let read = Opener::new(Cursor::new(&file), &other).unwrap().read(&mut [0; 8]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(matches!(Sealer::new(&Secret::new("short".to_owned())), Err(KeyError::Short)));
    }
}
