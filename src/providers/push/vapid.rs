//! Voluntary application server identification (RFC 8292): who sends, in a token signed with ES256.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// A token is good for half of the 24 hours that RFC 8292 §2 allows.
const TOKEN_SECONDS: i64 = 12 * 3600;

/// The key that identifies this sender to push services. Subscriptions are bound to it, so it must not be lost.
pub struct VapidKey {
    pair: EcdsaKeyPair,
}

/// The key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VapidError {
    #[error("the VAPID key file cannot be read or written")]
    File(#[from] io::Error),
    #[error(
        "{path} does not hold a P-256 key in PKCS#8, base64: it is damaged. Lost with it: browsers subscribed under this \
         key get no pushes. Remedy: restore the file, or remove it; then a new key is made and every browser subscribes \
         again"
    )]
    Damaged { path: String },
    #[error("not a P-256 key in PKCS#8")]
    Content,
    #[error("a signature cannot be made")]
    Sign,
}

fn generate() -> Result<ring::pkcs8::Document, VapidError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(|_| VapidError::Sign)
}

impl VapidKey {
    /// A key that is kept nowhere.
    ///
    /// # Errors
    /// [`VapidError::Sign`] when the generator fails.
    pub fn ephemeral() -> Result<Self, VapidError> {
        Self::from_pkcs8(generate()?.as_ref())
    }

    /// Reads the key, or makes one at first start (mode 0600, durable before it is used).
    ///
    /// # Errors
    /// [`VapidError`] when the file is damaged or cannot be written.
    pub fn open(path: &Path) -> Result<Self, VapidError> {
        if path.try_exists()? {
            let text = Zeroizing::new(fs::read(path)?);
            let bytes = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new).ok();
            let key = bytes.and_then(|bytes| Self::from_pkcs8(&bytes).ok());
            return key.ok_or_else(|| VapidError::Damaged { path: path.display().to_string() });
        }
        let document = generate()?;
        let text = Zeroizing::new(format!("{}\n", STANDARD.encode(document.as_ref())));
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(parent)?.sync_all()?;
        Self::from_pkcs8(document.as_ref())
    }

    fn from_pkcs8(bytes: &[u8]) -> Result<Self, VapidError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &SystemRandom::new())
            .map(|pair| Self { pair })
            .map_err(|_| VapidError::Content)
    }

    /// What a browser needs to subscribe (`applicationServerKey`): the uncompressed point, base64url.
    #[must_use]
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// The value of `Authorization` for a push service at `audience` (an origin). `now`: Unix seconds of the wall clock,
    /// which is what the push service goes by.
    ///
    /// # Errors
    /// [`VapidError::Sign`] when the generator fails.
    pub fn authorization(&self, audience: &str, subject: &str, now: i64) -> Result<String, VapidError> {
        let claims = serde_json::json!({ "aud": audience, "exp": now + TOKEN_SECONDS, "sub": subject });
        let header = URL_SAFE_NO_PAD.encode(br#"{"typ":"JWT","alg":"ES256"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| VapidError::Sign)?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(format!("vapid t={token}, k={}", self.public_key()))
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn the_key_is_made_once_and_its_tokens_verify() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vapid-key");
        let key = VapidKey::open(&path).expect("made");
        let again = VapidKey::open(&path).expect("read");
        assert_eq!(key.public_key(), again.public_key());
        let value = key.authorization("https://push.example", "mailto:a@b.example", 1000).expect("signed");
        let (token, public) = value.strip_prefix("vapid t=").and_then(|rest| rest.split_once(", k=")).expect("form");
        let (signed, signature) = token.rsplit_once('.').expect("a JWS");
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).expect("base64url");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, decode(public))
            .verify(signed.as_bytes(), &decode(signature))
            .expect("a signature");
        let claims: serde_json::Value =
            serde_json::from_slice(&decode(signed.split('.').nth(1).expect("claims"))).expect("JSON");
        assert_eq!(claims["aud"], "https://push.example");
        assert_eq!(claims["exp"], 1000 + TOKEN_SECONDS);
        fs::write(&path, "nonsense").expect("written");
        assert!(matches!(VapidKey::open(&path), Err(VapidError::Damaged { .. })));
    }
}
