//! Time-based one-time passwords (RFC 6238: SHA-1, 6 digits, 30 seconds, one step of tolerance) and recovery codes.
//!
//! Pure: the time and the randomness are arguments. A code names the step it matched; the `user` entity accepts a step
//! once and only after the last accepted one, so a code works once.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Totp};

use super::opaque::TokenHash;
use crate::kernel::{Secret, Timestamp};

/// Bytes of a shared secret (RFC 4226 §4 recommends 160 bits).
pub const SECRET_BYTES: usize = 20;
/// Recovery codes made at a time.
pub const RECOVERY_CODES: usize = 10;

/// The shared secret of one authenticator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotpSecret(Secret<Vec<u8>>);

impl TotpSecret {
    #[must_use]
    pub fn new(random: &[u8; 32]) -> Self {
        Self(Secret::new(random[..SECRET_BYTES].to_vec()))
    }

    fn totp(&self, issuer: &str, account: &str) -> Totp {
        Builder::new()
            .with_secret(self.0.expose().clone())
            .with_account_name(account.replace(':', "_"))
            .with_issuer(Some(issuer.replace(':', " ")))
            .build()
            .expect("six digits, a secret of 160 bits and names without colons")
    }

    /// The step `code` belongs to at `now`; `None` when it is not a code of this secret for about now.
    #[must_use]
    pub fn matched_step(&self, code: &str, now: Timestamp) -> Option<u64> {
        let seconds = u64::try_from(now.as_seconds()).ok()?;
        self.totp("construct", "user").check(code, seconds)
    }

    /// In RFC 4648 base32 without padding, for typing into an authenticator.
    #[must_use]
    pub fn to_base32(&self) -> String {
        self.totp("construct", "user").secret().to_base32()
    }

    /// The `otpauth://` URI that authenticators read from a QR code.
    #[must_use]
    pub fn otpauth_uri(&self, issuer: &str, account: &str) -> String {
        self.totp(issuer, account).to_url().expect("the account name is set")
    }
}

/// A fresh set of recovery codes from 32 random bytes: 50 bits each, in Crockford's base32, such as `7k2m9-x4q8d`.
#[must_use]
pub fn recovery_codes(random: &[u8; 32]) -> Vec<String> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut codes = Vec::with_capacity(RECOVERY_CODES);
    for number in 0..RECOVERY_CODES {
        let mut seed = random.to_vec();
        seed.push(u8::try_from(number).expect("ten codes"));
        let bits = digest(&SHA256, &seed);
        let letters = bits.as_ref()[..10].iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
        let text: String = letters.collect();
        codes.push(format!("{}-{}", &text[..5], &text[5..]));
    }
    codes
}

/// What is kept of a recovery code. Case, dashes and spaces do not matter; `o`, `i` and `l` are read as digits.
#[must_use]
pub fn recovery_code_hash(user_id: &str, code: &str) -> TokenHash {
    let mut plain = String::with_capacity(16);
    for c in code.chars().take(64) {
        match c.to_ascii_lowercase() {
            '-' | ' ' => {}
            'o' => plain.push('0'),
            'i' | 'l' => plain.push('1'),
            c => plain.push(c),
        }
    }
    TokenHash::of(&format!("recovery code\0{user_id}\0{plain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, SHA-1, cut to six digits.
    #[test]
    fn the_vectors_of_rfc_6238_match_their_steps() {
        let secret = TotpSecret(Secret::new(b"12345678901234567890".to_vec()));
        let table = [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ];
        for (seconds, code) in table {
            let at = |offset: i64| Timestamp::from_millis((seconds + offset) * 1000);
            let step = u64::try_from(seconds).expect("positive") / 30;
            assert_eq!(secret.matched_step(code, at(0)), Some(step), "{code}");
            assert_eq!(secret.matched_step(code, at(30)), Some(step), "one step late");
            assert_eq!(secret.matched_step(code, at(90)), None, "three steps late");
            assert_eq!(secret.matched_step(&format!(" {code}"), at(0)), None);
        }
        assert_eq!(secret.to_base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        let uri = secret.otpauth_uri("The: Construct", "ada@example.org");
        assert!(uri.starts_with("otpauth://totp/") && uri.contains("secret=GEZDGNBVGY3TQOJQ"), "{uri}");
    }

    #[test]
    fn recovery_codes_differ_and_forgive_how_they_are_typed() {
        let codes = recovery_codes(&[5; 32]);
        let unique: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(unique.len(), RECOVERY_CODES);
        let hash = recovery_code_hash("usr_1", "0a1b2-c3d4e");
        assert_eq!(hash, recovery_code_hash("usr_1", "OA1B2 C3D4E"));
        assert_eq!(hash, recovery_code_hash("usr_1", "oalb2c3d4e"));
        assert_ne!(hash, recovery_code_hash("usr_2", "0a1b2-c3d4e"));
    }
}
