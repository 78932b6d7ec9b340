//! What crosses the entity lane: many requests and answers at once.
//!
//! An envelope is `length of head (4, little endian) ‖ head ‖ bodies`; the head says whose each body is. Architecture
//! invariant: append-only, held by golden bytes.

use serde::{Deserialize, Serialize};

use crate::actors::runtime::remote::{REMOTE_BYTES, Refusal};
use crate::kernel::codec::{self, CodecError};

const ENVELOPE: u8 = 0x66;
const VERSION: u16 = 1;

/// Requests and answers in one envelope, and bytes at which it is closed; one item always fits.
pub(super) const ITEMS: usize = 512;
pub(super) const BYTES: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub from: u64,
    /// Of the process that sends: an answer goes to the one that asked or to nobody.
    pub incarnation: u64,
    pub items: Vec<Item>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Request {
        id: u64,
        shard: u16,
        remaining_ms: u32,
        body: Vec<u8>,
    },
    /// `incarnation` is that of the asking process.
    Answer {
        id: u64,
        incarnation: u64,
        answer: Result<Vec<u8>, Refusal>,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    from: u64,
    incarnation: u64,
    items: Vec<ItemHead>,
}

#[derive(Serialize, Deserialize)]
enum ItemHead {
    Request { id: u64, shard: u16, remaining_ms: u32, length: u32 },
    Reply { id: u64, incarnation: u64, length: u32 },
    Refused { id: u64, incarnation: u64, refusal: Refusal },
}

impl Item {
    pub fn bytes(&self) -> usize {
        const HEAD: usize = 32;
        let body = match self {
            Self::Request { body, .. } | Self::Answer { answer: Ok(body), .. } => body.len(),
            Self::Answer { .. } => 0,
        };
        HEAD + body
    }
}

impl Envelope {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let length = |body: &[u8]| u32::try_from(body.len()).unwrap_or(u32::MAX);
        let heads = self.items.iter().map(|item| match item {
            Item::Request { id, shard, remaining_ms, body } => {
                ItemHead::Request { id: *id, shard: *shard, remaining_ms: *remaining_ms, length: length(body) }
            }
            Item::Answer { id, incarnation, answer: Ok(body) } => {
                ItemHead::Reply { id: *id, incarnation: *incarnation, length: length(body) }
            }
            Item::Answer { id, incarnation, answer: Err(refusal) } => {
                ItemHead::Refused { id: *id, incarnation: *incarnation, refusal: refusal.clone() }
            }
        });
        let head = Head { from: self.from, incarnation: self.incarnation, items: heads.collect() };
        let head = codec::encode_record(ENVELOPE, VERSION, &head)?;
        let bytes: usize = self.items.iter().map(Item::bytes).sum();
        let mut envelope = Vec::with_capacity(4 + head.len() + bytes);
        envelope.extend_from_slice(&length(&head).to_le_bytes());
        envelope.extend_from_slice(&head);
        for item in &self.items {
            if let Item::Request { body, .. } | Item::Answer { answer: Ok(body), .. } = item {
                envelope.extend_from_slice(body);
            }
        }
        Ok(envelope)
    }

    pub fn decode(envelope: &[u8]) -> Result<Self, CodecError> {
        let (length, rest) = envelope.split_first_chunk::<4>().ok_or(CodecError::Short)?;
        let (head, mut rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(CodecError::Short)?;
        let Head { from, incarnation, items } = codec::decode_record(ENVELOPE, head)?;
        let mut take = |length: u32| {
            let invalid = || CodecError::Invalid { kind: ENVELOPE, what: format!("a body of {length} bytes") };
            let length = Some(length as usize).filter(|length| *length <= REMOTE_BYTES).ok_or_else(invalid)?;
            let (body, after) = rest.split_at_checked(length).ok_or(CodecError::Short)?;
            rest = after;
            Ok::<_, CodecError>(body.to_vec())
        };
        let items = items.into_iter().map(|item| {
            Ok(match item {
                ItemHead::Request { id, shard, remaining_ms, length } => {
                    Item::Request { id, shard, remaining_ms, body: take(length)? }
                }
                ItemHead::Reply { id, incarnation, length } => {
                    Item::Answer { id, incarnation, answer: Ok(take(length)?) }
                }
                ItemHead::Refused { id, incarnation, refusal } => {
                    Item::Answer { id, incarnation, answer: Err(refusal) }
                }
            })
        });
        let items = items.collect::<Result<_, CodecError>>()?;
        if rest.is_empty() {
            Ok(Self { from, incarnation, items })
        } else {
            Err(CodecError::Invalid { kind: ENVELOPE, what: format!("{} bytes too many", rest.len()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::{fuzz, keeps_its_form};

    #[test]
    fn the_bytes_of_version_1_are_fixed() {
        let items = vec![
            Item::Request { id: 1, shard: 2, remaining_ms: 3, body: vec![0xaa, 0xbb] },
            Item::Answer { id: 4, incarnation: 5, answer: Ok(vec![0xcc]) },
            Item::Answer { id: 6, incarnation: 7, answer: Err(Refusal::NotLeader { leader: Some(8) }) },
            Item::Answer { id: 6, incarnation: 7, answer: Err(Refusal::Unreadable) },
        ];
        let envelope = Envelope { from: 9, incarnation: 10, items };
        let bytes = envelope.encode().unwrap();
        let golden = concat!(
            "660100 0900000000000000 0a00000000000000 0400000000000000",
            "00000000 0100000000000000 0200 03000000 02000000",
            "01000000 0400000000000000 0500000000000000 01000000",
            "02000000 0600000000000000 0700000000000000 00000000 01 0800000000000000",
            "02000000 0600000000000000 0700000000000000 04000000",
            "aabbcc",
        );
        assert_eq!(hex::encode(&bytes[4..]), golden.replace(' ', ""));
        assert_eq!(Envelope::decode(&bytes).unwrap(), envelope);
        for cut in 0..bytes.len() {
            assert!(Envelope::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Envelope::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn any_bytes_as_an_envelope() {
        let items = vec![
            Item::Request { id: 1, shard: 2, remaining_ms: 3, body: vec![0xaa, 0xbb] },
            Item::Answer { id: 4, incarnation: 5, answer: Ok(vec![0xcc]) },
            Item::Answer { id: 6, incarnation: 7, answer: Err(Refusal::NotLeader { leader: Some(8) }) },
        ];
        let good = Envelope { from: 9, incarnation: 10, items }.encode().expect("encodes");
        let empty = Envelope { from: 9, incarnation: 10, items: Vec::new() }.encode().expect("encodes");
        fuzz("envelope", &[&good, &empty], |bytes| {
            keeps_its_form(bytes, Envelope::decode, |envelope| envelope.encode().expect("encodes"))
        });
    }
}
