//! Opaque tokens: `<owner id>.<base64url of 32 random bytes ‖ 16 bytes of authenticity tag>`.
//!
//! The owner's id routes the token to its shard without a lookup. The tag is an HMAC under a cluster key over owner,
//! purpose and random part: a forged token is refused before it reaches any entity, so nobody can burn another
//! person's attempts or revoke a session family by sending garbage under a known id. Entities keep only the SHA-256
//! of the whole token. Deliberately absent: any content; what a token means is the state of its owner.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::kernel::{Origin, Secret};

const RANDOM_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Longer texts are no tokens.
const MAX_CHARS: usize = 160;

/// What is kept of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of the token's text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// What a token is for; a token of one purpose is none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Verification,
    PasswordReset,
    MfaChallenge,
    Refresh,
    ApiKey,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Verification => b"verification",
            Self::PasswordReset => b"password reset",
            Self::MfaChallenge => b"mfa challenge",
            Self::Refresh => b"refresh",
            Self::ApiKey => b"api key",
        }
    }
}

/// A genuine token: whose it is, and the hash to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaqueToken {
    pub owner: String,
    pub hash: TokenHash,
}

/// Makes and recognizes opaque tokens.
#[derive(Clone)]
pub struct Mint {
    tag_key: hmac::Key,
    derive_key: hmac::Key,
}

impl Mint {
    /// `secret` is the same on every node of a cluster and never changes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, label).as_ref());
        Self { tag_key: derive(b"construct opaque token tag v1"), derive_key: derive(b"construct opaque token v1") }
    }

    /// A new token for `owner`. Under an idempotency key a repeat makes the same token again, so that a retry after a
    /// crash in mid-request hands out the token whose hash was stored.
    #[must_use]
    pub fn issue(&self, owner: &str, purpose: Purpose, origin: &Origin) -> Secret<String> {
        let mut random = [0; RANDOM_BYTES];
        match origin.idempotency {
            Some(scope) => {
                let mut context = hmac::Context::with_key(&self.derive_key);
                for part in [&scope[..], purpose.label(), b"\0", owner.as_bytes()] {
                    context.update(part);
                }
                random.copy_from_slice(context.sign().as_ref());
            }
            None => SystemRandom::new().fill(&mut random).expect("the operating system's generator works"),
        }
        let mut bytes = random.to_vec();
        bytes.extend_from_slice(&self.tag(owner, purpose, &random));
        Secret::new(format!("{owner}.{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The token in `text`; `None` when this cluster never issued it for this purpose to an id with `prefix`.
    #[must_use]
    pub fn recognize(&self, text: &str, prefix: &str, purpose: Purpose) -> Option<OpaqueToken> {
        if text.len() > MAX_CHARS {
            return None;
        }
        let (owner, body) = text.split_once('.')?;
        if !crate::kernel::id::is_type_id(prefix, owner) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).ok()?;
        let (random, tag) = bytes.split_at_checked(RANDOM_BYTES)?;
        let expected = self.tag(owner, purpose, random);
        let genuine = ring_constant_time_eq(&expected, tag);
        genuine.then(|| OpaqueToken { owner: owner.to_owned(), hash: TokenHash::of(text) })
    }

    fn tag(&self, owner: &str, purpose: Purpose, random: &[u8]) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.tag_key);
        for part in [purpose.label(), b"\0", owner.as_bytes(), b"\0", random] {
            context.update(part);
        }
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&context.sign().as_ref()[..TAG_BYTES]);
        tag
    }
}

/// Compares without telling by its time where the first difference is.
pub(crate) fn ring_constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0u8, |seen, (a, b)| seen | (a ^ b));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Slot, Timestamp, id};

    #[test]
    fn a_token_is_recognized_only_as_what_it_is() {
        let mint = Mint::new(&[3; 32]);
        let user = id::type_id("usr", Timestamp::from_millis(1), Slot(5), [9; 8]);
        let origin = Origin::system("test");
        let token = mint.issue(&user, Purpose::Refresh, &origin);
        let text = token.expose();
        let seen = mint.recognize(text, "usr", Purpose::Refresh).expect("genuine");
        assert_eq!((seen.owner.as_str(), seen.hash), (user.as_str(), TokenHash::of(text)));
        assert_eq!(mint.recognize(text, "usr", Purpose::PasswordReset), None);
        assert_eq!(mint.recognize(text, "ses", Purpose::Refresh), None);
        assert_eq!(Mint::new(&[4; 32]).recognize(text, "usr", Purpose::Refresh), None);
        let other = id::type_id("usr", Timestamp::from_millis(1), Slot(5), [8; 8]);
        assert_eq!(mint.recognize(&text.replace(&user, &other), "usr", Purpose::Refresh), None);
        for bad in ["", ".", &user, &text[..text.len() - 1], &"x".repeat(200)] {
            assert_eq!(mint.recognize(bad, "usr", Purpose::Refresh), None, "{bad}");
        }
        assert_ne!(text, mint.issue(&user, Purpose::Refresh, &origin).expose());
    }

    #[test]
    fn a_repeat_under_one_idempotency_key_makes_the_same_token() {
        let mint = Mint::new(&[3; 32]);
        let user = id::type_id("usr", Timestamp::from_millis(1), Slot(5), [9; 8]);
        let under = |scope| Origin { idempotency: Some(scope), ..Origin::system("test") };
        let first = mint.issue(&user, Purpose::Refresh, &under([1; 32]));
        assert_eq!(first, mint.issue(&user, Purpose::Refresh, &under([1; 32])));
        assert_ne!(first, mint.issue(&user, Purpose::Refresh, &under([2; 32])));
        assert_ne!(first, mint.issue(&user, Purpose::MfaChallenge, &under([1; 32])));
    }

    #[test]
    fn any_bytes_as_an_opaque_token() {
        let mint = Mint::new(&[3; 32]);
        let user = id::type_id("usr", Timestamp::from_millis(1), Slot(5), [9; 8]);
        let good =
            mint.issue(&user, Purpose::Refresh, &Origin { idempotency: Some([1; 32]), ..Origin::system("test") });
        let good = good.expose().clone();
        crate::kernel::fuzz_tests::fuzz("opaque", &[good.as_bytes()], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let found = mint.recognize(&text, "usr", Purpose::Refresh);
            assert_eq!(found.is_some(), text == good, "only the token itself is the token: {text}");
            format!("{} {}", found.is_some(), text.contains('.'))
        });
    }
}
