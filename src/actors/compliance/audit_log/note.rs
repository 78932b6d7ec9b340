//! Signed checkpoints: C2SP signed-note and tlog-checkpoint, with Ed25519.
//!
//! A checkpoint's text is three lines: the origin of the log, the number of entries, the root in base64. A note is that
//! text, an empty line, and one signature line `— <key name> <base64(key hash ‖ signature)>`. The key name is the
//! origin. See <https://c2sp.org/signed-note> and <https://c2sp.org/tlog-checkpoint>. Deliberately absent: witnesses'
//! cosignatures, which a reader may append and which are ignored here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::kernel::ShardId;
use crate::kernel::merkle::Hash;

const ED25519_TYPE: u8 = 0x01;

/// Why a note proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("not a signed checkpoint")]
    Malformed,
    #[error("not a verifier key (<name>+<hash>+<base64>) of type Ed25519")]
    Key,
    #[error("the checkpoint is of another log")]
    Origin,
    #[error("no signature by the log's key")]
    Unsigned,
    #[error("the log's signature is wrong")]
    Signature,
}

/// What a log says about itself: so many entries, this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    /// The signed text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Malformed)?.split('\n');
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or(NoteError::Malformed)?;
        let size = lines.next().ok_or(NoteError::Malformed)?;
        let root = lines.next().and_then(|line| BASE64.decode(line).ok()).ok_or(NoteError::Malformed)?;
        // Extension lines are allowed and say nothing to us, but an empty one would end the text.
        if lines.any(str::is_empty) || size.starts_with('+') || (size.len() > 1 && size.starts_with('0')) {
            return Err(NoteError::Malformed);
        }
        let size = size.parse().map_err(|_| NoteError::Malformed)?;
        let root = root.try_into().map_err(|_| NoteError::Malformed)?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

/// The name of a shard's log under the origin of the installation.
#[must_use]
pub fn shard_origin(origin: &str, shard: ShardId) -> String {
    format!("{origin}/shard-{shard}")
}

/// The first four bytes of `SHA-256(name ‖ 0x0A ‖ type ‖ public key)`.
fn key_hash(name: &str, public_key: &[u8; 32]) -> [u8; 4] {
    let digest = digest(&SHA256, &[name.as_bytes(), b"\n", &[ED25519_TYPE], public_key].concat());
    let bytes = digest.as_ref();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// Signs checkpoints with one key for every shard's log.
pub struct Signer {
    pair: Ed25519KeyPair,
    public_key: [u8; 32],
}

impl Signer {
    /// From a 32-byte seed (RFC 8032 §5.1.5). `None` when it is no key.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public_key = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { pair, public_key })
    }

    #[must_use]
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The whole signed note.
    #[must_use]
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.text();
        let signature = self.pair.sign(text.as_bytes());
        let signed = [&key_hash(&checkpoint.origin, &self.public_key), signature.as_ref()].concat();
        format!("{text}\n\u{2014} {} {}\n", checkpoint.origin, BASE64.encode(signed))
    }
}

/// The public half, as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    pub name: String,
    public_key: [u8; 32],
}

impl Verifier {
    #[must_use]
    pub fn new(name: &str, public_key: [u8; 32]) -> Self {
        Self { name: name.to_owned(), public_key }
    }

    /// Reads the text form `<name>+<hash, 8 hex digits>+<base64(type ‖ public key)>`.
    ///
    /// # Errors
    /// [`NoteError::Key`] when it is not that, of another type, or its hash is wrong.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, rest) = text.split_once('+').ok_or(NoteError::Key)?;
        let (hash, key) = rest.split_once('+').ok_or(NoteError::Key)?;
        let key = BASE64.decode(key).map_err(|_| NoteError::Key)?;
        let Some((&ED25519_TYPE, public_key)) = key.split_first() else { return Err(NoteError::Key) };
        let public_key = public_key.try_into().map_err(|_| NoteError::Key)?;
        if name.is_empty() || name.contains(char::is_whitespace) || hash != hex::encode(key_hash(name, &public_key)) {
            return Err(NoteError::Key);
        }
        Ok(Self { name: name.to_owned(), public_key })
    }

    /// The text form.
    #[must_use]
    pub fn to_text(&self) -> String {
        let key = [&[ED25519_TYPE][..], &self.public_key].concat();
        format!("{}+{}+{}", self.name, hex::encode(key_hash(&self.name, &self.public_key)), BASE64.encode(key))
    }

    /// The checkpoint of a note that this key signed for the log of its name. Other signatures are ignored.
    ///
    /// # Errors
    /// [`NoteError`] when the note is malformed, of another log, or not signed by this key.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Malformed)?;
        let text = format!("{text}\n");
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Malformed)?;
        let checkpoint = Checkpoint::parse(&text)?;
        if checkpoint.origin != self.name {
            return Err(NoteError::Origin);
        }
        let mut verified = false;
        for line in signatures.split('\n') {
            let line = line.strip_prefix("\u{2014} ").ok_or(NoteError::Malformed)?;
            let (name, signed) = line.split_once(' ').ok_or(NoteError::Malformed)?;
            let signed = BASE64.decode(signed).map_err(|_| NoteError::Malformed)?;
            let (hash, signature) = signed.split_at_checked(4).ok_or(NoteError::Malformed)?;
            if name != self.name || hash != key_hash(&self.name, &self.public_key) {
                continue;
            }
            let key = UnparsedPublicKey::new(&ED25519, &self.public_key);
            key.verify(text.as_bytes(), signature).map_err(|_| NoteError::Signature)?;
            verified = true;
        }
        if verified { Ok(checkpoint) } else { Err(NoteError::Unsigned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> (Checkpoint, String, Verifier) {
        let signer = Signer::from_seed(&[3; 32]).expect("a seed");
        let checkpoint = Checkpoint { origin: "example.org/shard-1".into(), size: 7, root: [9; 32] };
        let verifier = Verifier::new(&checkpoint.origin, *signer.public_key());
        (checkpoint.clone(), signer.sign(&checkpoint), verifier)
    }

    #[test]
    fn the_published_example_key_and_note_verify() {
        // From the documentation of golang.org/x/mod/sumdb/note.
        let verifier = Verifier::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
        let verifier = verifier.expect("a verifier key");
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let signed = BASE64.decode(signature).expect("base64");
        assert_eq!(signed[..4], key_hash("PeterNeumann", &verifier.public_key));
        let key = UnparsedPublicKey::new(&ED25519, verifier.public_key);
        assert!(key.verify(text.as_bytes(), &signed[4..]).is_ok());
        assert_eq!(verifier.to_text(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    }

    #[test]
    fn a_signed_checkpoint_opens_and_a_changed_one_does_not() {
        let (checkpoint, note, verifier) = signed();
        assert_eq!(verifier.open(&note), Ok(checkpoint));
        assert_eq!(Verifier::parse(&verifier.to_text()), Ok(verifier.clone()));
        assert_eq!(verifier.open(&note.replacen('7', "8", 1)), Err(NoteError::Signature));
        assert_eq!(verifier.open(&note.replace("shard-1", "shard-2")), Err(NoteError::Origin));
        let stranger = Verifier::new(&verifier.name, [1; 32]);
        assert_eq!(stranger.open(&note), Err(NoteError::Unsigned));
        let cosigned = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert!(verifier.open(&cosigned).is_ok());
    }

    #[test]
    fn what_is_not_a_checkpoint_is_refused() {
        let (_, note, verifier) = signed();
        for bad in [
            "",
            "\n",
            "a\n\n",
            &note[..note.len() - 1],
            &note.replace("\n7\n", "\n07\n"),
            &note.replace("\u{2014} ", "- "),
        ] {
            assert!(verifier.open(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "a",
            "a+b",
            "a+00000000+",
            "+c74f20a3+AR",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert_eq!(Verifier::parse(bad), Err(NoteError::Key), "{bad:?}");
        }
    }
}
