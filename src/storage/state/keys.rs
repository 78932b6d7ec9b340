//! The key space of one shard: a one-byte area, then parts whose byte order is the order reads want.
//!
//! Numbers are big-endian; times are big-endian with the sign flipped; texts are escaped (`00` → `00 FF`) and ended by
//! `00 00`, so that no text is a prefix of another and the order of texts is kept. The last part of a key is raw.
//! Architecture invariant: areas and layouts are persisted; they are added to, never changed.

use crate::kernel::{EntityId, ShardId, Timestamp};

use super::StateError;

pub(super) const HEADER: u8 = b'H';
pub(super) const ENTITY: u8 = b'E';
pub(super) const SNAPSHOT: u8 = b'S';
pub(super) const JOURNAL: u8 = b'J';
pub(super) const ROW: u8 = b'R';
pub(super) const INDEX: u8 = b'I';
/// Timers by entity and name.
pub(super) const TIMER: u8 = b'T';
/// Timers by due time.
pub(super) const DUE: u8 = b'D';
pub(super) const OUTBOX: u8 = b'O';
/// Remembered outbox records of other shards.
pub(super) const MESSAGE: u8 = b'M';
/// How far the memory of another shard's records was pruned.
pub(super) const WATERMARK: u8 = b'W';
/// Remembered requests under idempotency keys.
pub(super) const REQUEST: u8 = b'Q';
/// Remembered requests by expiry.
pub(super) const EXPIRY: u8 = b'X';
pub(super) const AUDIT: u8 = b'A';
pub(super) const NODE: u8 = b'N';
pub(super) const FEED: u8 = b'F';
pub(super) const CONSUMER: u8 = b'C';
/// Pieces of large values; only [`super::base`] writes below it.
pub(super) const CHUNK: u8 = 0xff;

/// A key under construction.
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn area(area: u8) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(area);
        Self(bytes)
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        for &byte in text.as_bytes() {
            self.0.push(byte);
            if byte == 0 {
                self.0.push(0xff);
            }
        }
        self.0.extend_from_slice(&[0, 0]);
        self
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(super) fn time(self, at: Timestamp) -> Self {
        self.number(at.as_millis().cast_unsigned() ^ (1 << 63))
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn build(self) -> Vec<u8> {
        self.0
    }
}

pub(super) fn header() -> Vec<u8> {
    vec![HEADER]
}

pub(super) fn entity(id: &EntityId) -> Vec<u8> {
    Key::area(ENTITY).text(id.as_str()).build()
}

pub(super) fn snapshot(id: &EntityId) -> Vec<u8> {
    Key::area(SNAPSHOT).text(id.as_str()).build()
}

pub(super) fn journal(id: &EntityId) -> Vec<u8> {
    Key::area(JOURNAL).text(id.as_str()).build()
}

pub(super) fn event(id: &EntityId, sequence: u64) -> Vec<u8> {
    Key::area(JOURNAL).text(id.as_str()).number(sequence).build()
}

pub(super) fn rows(id: &EntityId) -> Vec<u8> {
    Key::area(ROW).text(id.as_str()).build()
}

pub(super) fn table(id: &EntityId, table: &str) -> Vec<u8> {
    Key::area(ROW).text(id.as_str()).text(table).build()
}

pub(super) fn row(id: &EntityId, table: &str, key: &[u8]) -> Vec<u8> {
    Key::area(ROW).text(id.as_str()).text(table).raw(key).build()
}

pub(super) fn index(index: &str, key: &[u8]) -> Vec<u8> {
    Key::area(INDEX).text(index).raw(key).build()
}

pub(super) fn timer(id: &EntityId, name: &str) -> Vec<u8> {
    Key::area(TIMER).text(id.as_str()).text(name).build()
}

pub(super) fn due(at: Timestamp, id: &EntityId, name: &str) -> Vec<u8> {
    Key::area(DUE).time(at).text(id.as_str()).text(name).build()
}

pub(super) fn outbox(number: u64) -> Vec<u8> {
    Key::area(OUTBOX).number(number).build()
}

pub(super) fn message(shard: ShardId, number: u64, id: &EntityId) -> Vec<u8> {
    Key::area(MESSAGE).raw(&shard.0.to_be_bytes()).number(number).text(id.as_str()).build()
}

pub(super) fn messages(shard: ShardId, number: u64) -> Vec<u8> {
    Key::area(MESSAGE).raw(&shard.0.to_be_bytes()).number(number).build()
}

pub(super) fn watermark(shard: ShardId) -> Vec<u8> {
    Key::area(WATERMARK).raw(&shard.0.to_be_bytes()).build()
}

pub(super) fn request(hash: &[u8; 32], id: &EntityId) -> Vec<u8> {
    Key::area(REQUEST).raw(hash).text(id.as_str()).build()
}

/// Ends with the key of the remembered request without its area.
pub(super) fn expiry(expires: Timestamp, request: &[u8]) -> Vec<u8> {
    Key::area(EXPIRY).time(expires).raw(&request[1..]).build()
}

pub(super) fn audit(index: u64) -> Vec<u8> {
    Key::area(AUDIT).number(index).build()
}

pub(super) fn node(level: u8, index: u64) -> Vec<u8> {
    Key::area(NODE).byte(level).number(index).build()
}

pub(super) fn feed(position: u64) -> Vec<u8> {
    Key::area(FEED).number(position).build()
}

pub(super) fn consumer(name: &str) -> Vec<u8> {
    Key::area(CONSUMER).text(name).build()
}

/// The smallest key above every key that starts with `prefix`; `None` when there is none.
pub(super) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Reads the parts of a stored key back.
pub(super) struct Parts<'a> {
    key: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Behind the area byte.
    pub(super) fn of(key: &'a [u8]) -> Self {
        Self { key, rest: key.get(1..).unwrap_or_default() }
    }

    fn broken(&self) -> StateError {
        StateError::Corrupt { what: "a key", key: self.key.to_vec() }
    }

    pub(super) fn number(&mut self) -> Result<u64, StateError> {
        let (number, rest) = self.rest.split_first_chunk::<8>().ok_or_else(|| self.broken())?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*number))
    }

    pub(super) fn shard(&mut self) -> Result<ShardId, StateError> {
        let (number, rest) = self.rest.split_first_chunk::<2>().ok_or_else(|| self.broken())?;
        self.rest = rest;
        Ok(ShardId(u16::from_be_bytes(*number)))
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StateError> {
        Ok(Timestamp::from_millis((self.number()? ^ (1 << 63)).cast_signed()))
    }

    pub(super) fn text(&mut self) -> Result<String, StateError> {
        let mut text = Vec::new();
        let mut at = 0;
        loop {
            match (self.rest.get(at), self.rest.get(at + 1)) {
                (Some(0), Some(0)) => break,
                (Some(0), Some(0xff)) => {
                    text.push(0);
                    at += 2;
                }
                (Some(&byte), _) if byte != 0 => {
                    text.push(byte);
                    at += 1;
                }
                _ => return Err(self.broken()),
            }
        }
        self.rest = &self.rest[at + 2..];
        String::from_utf8(text).map_err(|_| self.broken())
    }

    pub(super) fn entity(&mut self) -> Result<EntityId, StateError> {
        let text = self.text()?;
        let (kind, key) = text.split_once('/').ok_or_else(|| self.broken())?;
        Ok(EntityId::new(kind, key))
    }

    pub(super) fn raw(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_keep_the_order_of_their_parts(
            a in "[\\x00-\\x02a/]{0,4}", b in "[\\x00-\\x02a/]{0,4}", m in any::<i64>(), n in any::<i64>(),
        ) {
            let (x, y) = (EntityId::new("k", &a), EntityId::new("k", &b));
            prop_assert_eq!(a.cmp(&b), entity(&x).cmp(&entity(&y)));
            prop_assert_eq!((&a, m).cmp(&(&b, n)), {
                let of = |id: &EntityId, t| Key::area(DUE).text(id.as_str()).time(Timestamp::from_millis(t)).build();
                of(&x, m).cmp(&of(&y, n))
            });
            let key = due(Timestamp::from_millis(m), &x, &b);
            let mut parts = Parts::of(&key);
            prop_assert_eq!(parts.time().unwrap().as_millis(), m);
            prop_assert_eq!(parts.entity().unwrap(), x.clone());
            prop_assert_eq!(parts.text().unwrap(), b);
            prop_assert!(parts.raw().is_empty());
            prop_assert!(!journal(&y).starts_with(&journal(&x)) || x == y);
        }
    }

    #[test]
    fn the_layout_of_keys_is_fixed() {
        let id = EntityId::new("user", "a\0b");
        assert_eq!(event(&id, 258), b"Juser/a\x00\xffb\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02");
        assert_eq!(due(Timestamp::ZERO, &id, "t")[..9], *b"D\x80\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(message(ShardId(3), 1, &id)[..11], *b"M\x00\x03\x00\x00\x00\x00\x00\x00\x00\x01");
        assert_eq!(end_of(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(end_of(b"\xff"), None);
    }
}
