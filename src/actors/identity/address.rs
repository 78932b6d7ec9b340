//! E-mail addresses: one canonical form per mailbox, and the keyed hash under which an address is claimed.
//!
//! Canonical form: NFKC of the whole (Unicode TR 15), the domain in lower-case ASCII (UTS 46 through `idna`), the
//! local part case-folded. Two spellings of one mailbox therefore meet in one `email_claim` entity. Look-alikes are
//! refused by the tables of UTS 39: a part of scripts that are not written together, with characters that no language
//! uses today, or that reads as an ASCII text though it is none. Deliberately absent: quoted local parts, comments, address
//! literals and provider-specific rules such as dots or plus tags.

use std::fmt;

use ring::hmac;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::{GeneralSecurityProfile, RestrictionLevel, RestrictionLevelDetection, skeleton};

use crate::kernel::Error;

/// RFC 5321 §4.5.3.1: octets of a local part, and of a path without its angle brackets.
const LOCAL_MAX_OCTETS: usize = 64;
const ADDRESS_MAX_OCTETS: usize = 254;

/// Why a text is not an address we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("is not an e-mail address")]
    Syntax,
    #[error("is longer than an e-mail address may be")]
    TooLong,
    #[error("has a domain that is not valid")]
    Domain,
    #[error("mixes letters of scripts that look alike")]
    Confusable,
}

impl AddressError {
    /// The refusal of the request member at `pointer`.
    #[must_use]
    pub fn at(self, pointer: &str) -> Error {
        Error::invalid(pointer, self.to_string())
    }
}

/// An accepted address: as it is written to, and in canonical form.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress {
    mailbox: String,
    canonical: String,
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress([redacted])")
    }
}

impl EmailAddress {
    /// # Errors
    /// [`AddressError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > 4 * ADDRESS_MAX_OCTETS {
            return Err(AddressError::TooLong);
        }
        let text: String = text.trim().nfkc().collect();
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::Syntax)?;
        check_local(local)?;
        let ascii = canonical_domain(domain)?;
        let folded = fold(local);
        // Case hides look-alikes: a capital thorn is itself, the small one reads as a p.
        check_local(&folded)?;
        if local.len() > LOCAL_MAX_OCTETS || folded.len() > LOCAL_MAX_OCTETS {
            return Err(AddressError::TooLong);
        }
        let (mailbox, canonical) = (format!("{local}@{ascii}"), format!("{folded}@{ascii}"));
        if mailbox.len() > ADDRESS_MAX_OCTETS || canonical.len() > ADDRESS_MAX_OCTETS {
            return Err(AddressError::TooLong);
        }
        Ok(Self { mailbox, canonical })
    }

    /// What mail is sent to: the local part as typed (its case may matter to its host), the domain in ASCII.
    #[must_use]
    pub fn mailbox(&self) -> &str {
        &self.mailbox
    }

    /// What addresses are compared by.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The key of the `email_claim` entity of this address: HMAC-SHA-256 under the cluster's index key, in hex.
    /// Without the key nobody can test whether an address is known.
    #[must_use]
    pub fn claim_key(&self, index_key: &[u8; 32]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, index_key);
        let mut context = hmac::Context::with_key(&key);
        context.update(b"construct email claim v1\0");
        context.update(self.canonical.as_bytes());
        hex::encode(context.sign().as_ref())
    }
}

/// Upper then lower case approximates Unicode full case folding (`ß` meets `ss`, final sigma meets sigma).
fn fold(local: &str) -> String {
    local.to_uppercase().to_lowercase().nfkc().collect()
}

fn check_local(local: &str) -> Result<(), AddressError> {
    let dots_wrong = local.starts_with('.') || local.ends_with('.') || local.contains("..");
    if local.is_empty() || dots_wrong || local.starts_with(is_combining_mark) {
        return Err(AddressError::Syntax);
    }
    for c in local.chars() {
        let ascii_ok = c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        let unicode_ok = !c.is_ascii() && (c.is_alphanumeric() || is_combining_mark(c));
        if !(ascii_ok || unicode_ok) {
            return Err(AddressError::Syntax);
        }
    }
    check_scripts(local)
}

fn canonical_domain(domain: &str) -> Result<String, AddressError> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let ascii = idna::domain_to_ascii_strict(domain).map_err(|_| AddressError::Domain)?;
    let (unicode, valid) = idna::domain_to_unicode(&ascii);
    let numeric_top = ascii.rsplit('.').next().is_none_or(|top| top.bytes().all(|b| b.is_ascii_digit()));
    if valid.is_err() || !ascii.contains('.') || numeric_top {
        return Err(AddressError::Domain);
    }
    for label in unicode.split('.') {
        check_scripts(label)?;
    }
    Ok(ascii)
}

/// UTS 39: only characters recommended for identifiers, of scripts that are written together (§5.2, *highly
/// restrictive*), and not a text in other letters that reads as an ASCII one (§4, whole-script confusables).
fn check_scripts(part: &str) -> Result<(), AddressError> {
    if part.is_ascii() {
        return Ok(());
    }
    let known = |c: char| c.is_ascii() || c.identifier_allowed();
    if !part.chars().all(known) || !letters(part).as_str().check_restriction_level(RestrictionLevel::HighlyRestrictive)
    {
        return Err(AddressError::Confusable);
    }
    // Case hides a look-alike: capital Cyrillic En is a Latin H, the small one is none.
    let reads_as_ascii = |text: &str| !text.is_ascii() && skeleton(text).all(|c| c.is_ascii());
    let upper = part.to_uppercase();
    if reads_as_ascii(part) || reads_as_ascii(&upper) { Err(AddressError::Confusable) } else { Ok(()) }
}

/// Without digits and signs, which are common to all scripts but not *allowed* at any restriction level.
fn letters(part: &str) -> String {
    part.chars().filter(|c| !c.is_ascii() || c.is_ascii_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_mailbox_meet() {
        let table = [
            ("Ada@Example.ORG", "ada@example.org"),
            ("  ada@example.org. ", "ada@example.org"),
            ("\u{ff21}da@example.org", "ada@example.org"),
            ("ada+robots@example.org", "ada+robots@example.org"),
            ("STRASSE@example.org", "strasse@example.org"),
            ("straße@example.org", "strasse@example.org"),
            ("ΣΊΣΥΦΟΣ@example.gr", "σίσυφος@example.gr"),
            ("jose\u{301}@example.org", "jos\u{e9}@example.org"),
            ("ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
            ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
            ("почта@домен.рф", "почта@xn--d1acufc.xn--p1ai"),
            ("o'hara/x=y@sub.example.co", "o'hara/x=y@sub.example.co"),
            ("søren.1+x@example.dk", "søren.1+x@example.dk"),
            ("महेश@example.in", "महेश@example.in"),
            ("김robot@example.kr", "김robot@example.kr"),
            ("محمد@example.org", "محمد@example.org"),
        ];
        for (text, canonical) in table {
            assert_eq!(EmailAddress::parse(text).map(|a| a.canonical), Ok(canonical.to_owned()), "{text}");
        }
        assert_eq!(EmailAddress::parse("Ada@Example.ORG").map(|a| a.mailbox), Ok("Ada@example.org".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long = format!("aaaaa@{}example.org", "abcdefghi.".repeat(24));
        let table = [
            ("", AddressError::Syntax),
            ("ada", AddressError::Syntax),
            ("@example.org", AddressError::Syntax),
            (".ada@example.org", AddressError::Syntax),
            ("a..b@example.org", AddressError::Syntax),
            ("a b@example.org", AddressError::Syntax),
            ("\"a b\"@example.org", AddressError::Syntax),
            ("a\u{200b}b@example.org", AddressError::Syntax),
            ("a\r\nBcc: x@example.org", AddressError::Syntax),
            ("ada@localhost", AddressError::Domain),
            ("ada@[127.0.0.1]", AddressError::Domain),
            ("ada@127.0.0.1", AddressError::Domain),
            ("ada@exa_mple.org", AddressError::Domain),
            ("ada@-example.org", AddressError::Domain),
            ("ada@example..org", AddressError::Domain),
            ("\u{430}da@example.org", AddressError::Confusable),
            ("ada@p\u{430}ypal.com", AddressError::Confusable),
            ("ada@\u{430}\u{440}\u{440}\u{435}.com", AddressError::Confusable),
            ("\u{3b1}da@example.org", AddressError::Confusable),
            ("\u{441}\u{43e}\u{440}\u{435}@example.org", AddressError::Confusable),
            ("\u{43d}\u{432}@example.org", AddressError::Confusable),
            ("\u{3bf}\u{3bd}@example.org", AddressError::Confusable),
            ("\u{13aa}\u{13aa}@example.org", AddressError::Confusable),
            ("\u{555}\u{555}@example.org", AddressError::Confusable),
            ("adm\u{131}n@example.org", AddressError::Confusable),
            ("ada\u{251}@example.org", AddressError::Confusable),
            ("\u{de}aul@example.org", AddressError::Confusable),
            ("l\u{1c3}@example.org", AddressError::Confusable),
            ("\u{5d0}da@example.org", AddressError::Confusable),
            ("ada@\u{440}\u{430}\u{443}\u{440}\u{430}\u{4cf}.com", AddressError::Confusable),
            (&long_local, AddressError::TooLong),
            (&long, AddressError::TooLong),
        ];
        for (text, error) in table {
            assert_eq!(EmailAddress::parse(text).map(|a| a.canonical), Err(error), "{text}");
        }
    }

    #[test]
    fn the_claim_key_depends_on_the_mailbox_and_on_the_cluster_key_alone() {
        let parse = |text| EmailAddress::parse(text).expect("an address");
        let key = parse("ada@example.org").claim_key(&[1; 32]);
        assert_eq!(key.len(), 64);
        assert_eq!(key, parse("ADA@example.org").claim_key(&[1; 32]));
        assert_ne!(key, parse("ada@example.org").claim_key(&[2; 32]));
        assert_ne!(key, parse("bob@example.org").claim_key(&[1; 32]));
    }

    #[test]
    fn any_bytes_as_an_address() {
        let seeds: [&[u8]; 5] = [
            b"Ada+x@Example.ORG",
            "\u{43f}\u{43e}\u{447}\u{442}\u{430}@\u{434}\u{43e}\u{43c}\u{435}\u{43d}.\u{440}\u{444}".as_bytes(),
            "stra\u{df}e@xn--bcher-kva.example".as_bytes(),
            "jose\u{301}@example.org".as_bytes(),
            "\u{fb03}\u{131}@\u{2024}example\u{3002}org".as_bytes(),
        ];
        crate::kernel::fuzz_tests::fuzz("address", &seeds, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match EmailAddress::parse(&text) {
                Ok(address) => {
                    let again = EmailAddress::parse(address.canonical()).expect("a canonical address is an address");
                    assert_eq!(again.canonical(), address.canonical(), "its own canonical form");
                    let mailbox = EmailAddress::parse(address.mailbox()).expect("a mailbox is an address");
                    assert_eq!(mailbox.canonical(), address.canonical(), "the same mailbox");
                    assert!(!address.mailbox().contains(char::is_control) && address.mailbox().len() <= 254);
                    format!("accepted {}", address.mailbox().is_ascii())
                }
                Err(error) => error.to_string(),
            }
        });
    }
}
