//! E-mail addresses: one canonical form per mailbox, and the keyed hash under which an address is claimed.
//!
//! Canonical form: NFKC of the whole (Unicode TR 15), the domain in lower-case ASCII (UTS 46 through `idna`), the
//! local part case-folded. Two spellings of one mailbox therefore meet in one `email_claim` entity. Look-alikes are
//! refused: a part that mixes scripts which resemble each other, or that is written wholly in foreign letters that
//! each look Latin (after UTS 39, "restriction levels"). Deliberately absent: quoted local parts, comments, address
//! literals and provider-specific rules such as dots or plus tags.

use std::fmt;

use ring::hmac;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

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

/// Scripts whose letters are mistaken for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Latin,
    Greek,
    Cyrillic,
    Armenian,
    Georgian,
    Cherokee,
    Coptic,
    Other,
}

fn script(c: char) -> Option<Script> {
    if !c.is_alphabetic() {
        return None;
    }
    Some(match u32::from(c) {
        0x00..=0x24f | 0x250..=0x2af | 0x1e00..=0x1eff | 0x2c60..=0x2c7f | 0xa720..=0xa7ff | 0xab30..=0xab6f => {
            Script::Latin
        }
        0x370..=0x3ff | 0x1f00..=0x1fff => Script::Greek,
        0x400..=0x52f | 0x1c80..=0x1c8f | 0x2de0..=0x2dff | 0xa640..=0xa69f => Script::Cyrillic,
        0x530..=0x58f => Script::Armenian,
        0x10a0..=0x10ff | 0x1c90..=0x1cbf | 0x2d00..=0x2d2f => Script::Georgian,
        0x13a0..=0x13ff | 0xab70..=0xabbf => Script::Cherokee,
        0x2c80..=0x2cff => Script::Coptic,
        _ => Script::Other,
    })
}

/// Cyrillic and Greek small letters that pass for Latin ones.
const LATIN_LOOK_ALIKES: &str = "аеорсухіјѕһԁԛԝѵԍӏкмтвн\u{3bf}αινκρτυχγεωϲϳ";

fn check_scripts(part: &str) -> Result<(), AddressError> {
    let mut seen: Option<Script> = None;
    let mut look_alikes_only = true;
    for c in part.chars() {
        let Some(found) = script(c) else { continue };
        if !c.to_lowercase().all(|lower| LATIN_LOOK_ALIKES.contains(lower)) {
            look_alikes_only = false;
        }
        if found == Script::Other {
            continue;
        }
        match seen {
            Some(before) if before != found => return Err(AddressError::Confusable),
            _ => seen = Some(found),
        }
    }
    let foreign = matches!(seen, Some(Script::Greek | Script::Cyrillic));
    if foreign && look_alikes_only { Err(AddressError::Confusable) } else { Ok(()) }
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
}
