//! Free text about a person inside a record that is kept in clear: sealed under their key, so that erasure reaches it.
//!
//! Invoices must be readable for years and are not sealed; what somebody typed into one must not outlive its person.
//! Architecture invariant: the key is asked for anew each time and not remembered, because whoever reads such a record
//! may be on a node that does not follow the person's shard and would not hear that the key was destroyed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::service::Compliance;
use crate::kernel::Error;
use crate::storage::seal::DataKey;

/// What a sealed text begins with. Text without it is from before there was sealing, or the product's own.
const MARK: &str = "sealed:";

/// The texts about one person.
pub struct Texts {
    /// `None`: they were erased, or there never was a key.
    key: Option<DataKey>,
}

impl Compliance {
    /// For reading and, with `create`, writing texts about this person.
    ///
    /// # Errors
    /// `unavailable` when their keyring cannot be reached now.
    pub async fn texts_of(&self, user_id: &str, create: bool) -> Result<Texts, Error> {
        Ok(Texts { key: self.sealer.fresh_key(user_id, create).await? })
    }
}

impl Texts {
    /// `text` as it is stored at `place`, where alone it opens; nothing is kept about a person who was erased.
    #[must_use]
    pub fn seal(&self, place: &str, text: &str) -> String {
        match &self.key {
            Some(key) if !text.is_empty() => {
                format!("{MARK}{}", BASE64.encode(key.seal(place.as_bytes(), text.as_bytes())))
            }
            _ => String::new(),
        }
    }

    /// The reverse; empty when the person was erased since.
    #[must_use]
    pub fn open(&self, place: &str, stored: &str) -> String {
        let Some(sealed) = stored.strip_prefix(MARK) else { return stored.to_owned() };
        let Some(key) = &self.key else { return String::new() };
        let opened = BASE64.decode(sealed).ok().and_then(|sealed| key.open(place.as_bytes(), &sealed).ok());
        opened.and_then(|plain| String::from_utf8(plain).ok()).unwrap_or_else(|| {
            tracing::error!(place, "a sealed text does not open");
            String::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_opens_at_its_place_for_as_long_as_its_person_has_a_key() {
        let (texts, erased) = (Texts { key: Some(DataKey::new([1; 32])) }, Texts { key: None });
        let sealed = texts.seal("invoice/a", "called from 555 0100");
        assert!(sealed.starts_with(MARK) && !sealed.contains("555"));
        assert_eq!(texts.open("invoice/a", &sealed), "called from 555 0100");
        assert_eq!(texts.open("invoice/b", &sealed), "");
        assert_eq!(erased.open("invoice/a", &sealed), "");
        assert_eq!((erased.seal("invoice/a", "x"), texts.seal("invoice/a", "")), (String::new(), String::new()));
        assert_eq!(erased.open("invoice/a", "of before"), "of before");
    }
}
