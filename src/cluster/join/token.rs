//! A join token: a secret that the cluster knows by its digest, and what the joiner needs to know the cluster by.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use crate::cluster::link::ClusterId;

const PREFIX: &str = "construct-join-1.";
const BYTES: usize = 32 + 32 + 16;

/// A one-time join token. Whoever holds it may become a member until it expires; it is shown once and kept nowhere.
pub struct Token {
    secret: Zeroizing<[u8; 32]>,
    authority: [u8; 32],
    cluster: ClusterId,
}

/// Why a text is not a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("not a join token: expected the line that `construct cluster token` prints, which begins with {PREFIX}")]
    Form,
    #[error("the join token was cut or mistyped: its checksum does not fit")]
    Checksum,
}

impl Token {
    /// A new token of the cluster with this authority (the SHA-256 of its certificate).
    #[must_use]
    pub fn new(authority: [u8; 32], cluster: ClusterId) -> Self {
        Self { secret: Zeroizing::new(crate::actors::runtime::entropy()), authority, cluster }
    }

    /// What the cluster keeps of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    /// The line that the operator copies.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([&self.secret[..], &self.authority, &self.cluster].concat());
        let checksum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes.extend_from_slice(&checksum);
        Zeroizing::new(format!("{PREFIX}{}", Zeroizing::new(BASE64.encode(&bytes[..])).as_str()))
    }

    pub(super) fn secret(&self) -> [u8; 32] {
        *self.secret
    }

    pub(super) fn authority(&self) -> [u8; 32] {
        self.authority
    }

    pub(super) fn cluster(&self) -> ClusterId {
        self.cluster
    }
}

pub(super) fn hash(secret: &[u8; 32]) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    digest.update(b"construct join token v1");
    digest.update(secret);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        let bytes = Zeroizing::new(BASE64.decode(body).map_err(|_| TokenError::Form)?);
        let (fields, checksum) = bytes.split_at_checked(BYTES).ok_or(TokenError::Checksum)?;
        if crc32c::crc32c(fields).to_le_bytes() != checksum {
            return Err(TokenError::Checksum);
        }
        let mut token = Self { secret: Zeroizing::default(), authority: [0; 32], cluster: ClusterId::default() };
        let (secret, rest) = fields.split_at(32);
        let (authority, cluster) = rest.split_at(32);
        token.secret.copy_from_slice(secret);
        token.authority.copy_from_slice(authority);
        token.cluster.copy_from_slice(cluster);
        Ok(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}
