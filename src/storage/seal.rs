//! Sealing of personal data: AES-256-GCM (NIST SP 800-38D) under one data key per person.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Bytes that were not sealed by this key with this associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed data does not open with this key")]
pub struct SealError;

const NONCE_BYTES: usize = 12;

/// The AES-256 key of one person. Cheap to clone; zeroized on drop.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, self.0.as_ref()).expect("a 32-byte key");
        LessSafeKey::new(key)
    }

    /// `nonce (12) ‖ ciphertext ‖ tag (16)`; `associated` names the place the bytes belong to.
    #[must_use]
    pub fn seal(&self, associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).expect("the operating system's generator works");
        let mut sealed = Vec::with_capacity(NONCE_BYTES + plain.len() + 16);
        sealed.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        self.key()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut body)
            .expect("records are far below the limit of AES-GCM");
        sealed.extend_from_slice(&body);
        sealed
    }

    /// # Errors
    /// [`SealError`] when the bytes were changed, sealed by another key, or belong to another place.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_BYTES).ok_or(SealError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let mut body = body.to_vec();
        let plain = self.key().open_in_place(nonce, Aad::from(associated), &mut body).map_err(|_| SealError)?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_only_with_their_key_and_place() {
        let (ours, theirs) = (DataKey::new([1; 32]), DataKey::new([2; 32]));
        let mut sealed = ours.seal(b"user/a:1", b"ada@example.org");
        assert_eq!(ours.open(b"user/a:1", &sealed).as_deref(), Ok(&b"ada@example.org"[..]));
        assert_eq!(ours.open(b"user/a:2", &sealed), Err(SealError));
        assert_eq!(theirs.open(b"user/a:1", &sealed), Err(SealError));
        sealed[20] ^= 1;
        assert_eq!(ours.open(b"user/a:1", &sealed), Err(SealError));
        assert_eq!(ours.open(b"", b"short"), Err(SealError));
    }
}
