//! The persisted values of a shard, each behind a `(kind, version)` header of [`codec`].
//!
//! Architecture invariant: append-only. A new field is a new version and a new arm where the record is read.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kernel::{Batch, EntityId, OutboxRecord, Timestamp, codec};

use super::{FeedEntry, StateError};

const HEADER: u8 = 0x40;
const HEAD: u8 = 0x41;
const OUTBOX: u8 = 0x42;
const FEED: u8 = 0x43;
const VERSION: u16 = 1;

/// The place of an entry in a shard's Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    pub term: u64,
    /// The node that led in that term.
    pub node: u64,
    pub index: u64,
}

/// The voters of a shard as of an applied log entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub at: Option<LogPosition>,
    /// One set of voters, or two while a change is under way.
    pub voters: Vec<BTreeSet<u64>>,
    /// Addresses by node id.
    pub nodes: BTreeMap<u64, String>,
}

/// Counters of the shard and the place in the log they belong to. Written last, so that it never runs ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub applied: Option<LogPosition>,
    pub membership: Membership,
    /// The number of the next outbox record; the first is 1.
    pub next_outbox: u64,
    /// The position of the newest feed entry; the first is 1.
    pub feed_head: u64,
    /// The position of the oldest feed entry kept.
    pub feed_tail: u64,
    pub audit_size: u64,
    pub entities: u64,
    pub timers: u64,
    pub outbox_pending: u64,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            applied: None,
            membership: Membership::default(),
            next_outbox: 1,
            feed_head: 0,
            feed_tail: 1,
            audit_size: 0,
            entities: 0,
            timers: 0,
            outbox_pending: 0,
        }
    }
}

/// What is known of an entity beside its journal and snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) subject: Option<String>,
}

#[derive(Deserialize)]
struct FeedBody {
    entity: EntityId,
    first_sequence: u64,
    subject: Option<String>,
    #[serde(with = "codec::byte_strings")]
    events: Vec<Vec<u8>>,
    at: Timestamp,
}

/// As [`FeedBody`], of a batch that stays where it is.
#[derive(Serialize)]
struct FeedBodyRef<'a> {
    entity: &'a EntityId,
    first_sequence: u64,
    subject: &'a Option<String>,
    #[serde(serialize_with = "codec::byte_strings::serialize")]
    events: &'a [Vec<u8>],
    at: Timestamp,
}

fn write<T: Serialize>(kind: u8, value: &T) -> Result<Vec<u8>, StateError> {
    Ok(codec::encode_record(kind, VERSION, value)?)
}

fn read<T: DeserializeOwned>(kind: u8, bytes: &[u8]) -> Result<T, StateError> {
    Ok(codec::decode_record(kind, bytes)?)
}

impl Header {
    pub(super) fn encode(&self) -> Result<Vec<u8>, StateError> {
        write(HEADER, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        read(HEADER, bytes)
    }
}

impl Head {
    pub(super) fn encode(&self) -> Result<Vec<u8>, StateError> {
        write(HEAD, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        read(HEAD, bytes)
    }
}

pub(super) fn encode_outbox(record: &OutboxRecord) -> Result<Vec<u8>, StateError> {
    write(OUTBOX, record)
}

pub(super) fn decode_outbox(bytes: &[u8]) -> Result<OutboxRecord, StateError> {
    read(OUTBOX, bytes)
}

/// The feed's entry of a batch with events.
pub(super) fn encode_feed(batch: &Batch) -> Result<Vec<u8>, StateError> {
    let Batch { entity, expected, subject, events, at, .. } = batch;
    write(FEED, &FeedBodyRef { entity, first_sequence: expected + 1, subject, events, at: *at })
}

pub(super) fn decode_feed(position: u64, bytes: &[u8]) -> Result<FeedEntry, StateError> {
    let FeedBody { entity, first_sequence, subject, events, at } = read(FEED, bytes)?;
    Ok(FeedEntry { position, entity, first_sequence, subject, events, at })
}

pub(super) fn encode_number(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

pub(super) fn decode_number(key: &[u8], bytes: &[u8]) -> Result<u64, StateError> {
    let bytes = bytes.try_into().map_err(|_| StateError::Corrupt { what: "a number", key: key.to_vec() })?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn encode_time(at: Timestamp) -> Vec<u8> {
    at.as_millis().to_be_bytes().to_vec()
}

pub(super) fn decode_time(key: &[u8], bytes: &[u8]) -> Result<Timestamp, StateError> {
    Ok(Timestamp::from_millis(decode_number(key, bytes)?.cast_signed()))
}

/// An entity's snapshot: its sequence number (big-endian), then the encoded state.
pub(super) fn encode_snapshot(sequence: u64, state: &[u8]) -> Vec<u8> {
    let mut bytes = encode_number(sequence);
    bytes.extend_from_slice(state);
    bytes
}

pub(super) fn decode_snapshot(key: &[u8], bytes: &[u8]) -> Result<(u64, Vec<u8>), StateError> {
    let (sequence, state) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| StateError::Corrupt { what: "an entity snapshot", key: key.to_vec() })?;
    Ok((u64::from_be_bytes(*sequence), state.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::{fuzz, keeps_its_form};
    use crate::kernel::{OutboxState, Target};

    #[test]
    fn the_bytes_of_version_1_are_fixed() {
        let header = Header {
            applied: Some(LogPosition { term: 2, node: 1, index: 3 }),
            membership: Membership {
                at: None,
                voters: vec![BTreeSet::from([1])],
                nodes: BTreeMap::from([(1, "a".into())]),
            },
            ..Header::default()
        };
        let bytes = header.encode().unwrap();
        assert_eq!(
            hex::encode(&bytes),
            concat!(
                "400100",
                "01",
                "0200000000000000",
                "0100000000000000",
                "0300000000000000",
                "00",
                "0100000000000000",
                "0100000000000000",
                "0100000000000000",
                "0100000000000000",
                "0100000000000000",
                "0100000000000000",
                "61",
                "0100000000000000",
                "0000000000000000",
                "0100000000000000",
                "0000000000000000",
                "0000000000000000",
                "0000000000000000",
                "0000000000000000",
            )
        );
        assert_eq!(Header::decode(&bytes).unwrap(), header);
        let head = Head { sequence: 7, subject: Some("u".into()) };
        assert_eq!(hex::encode(head.encode().unwrap()), "4101000700000000000000010100000000000000".to_owned() + "75");
        assert_eq!(encode_snapshot(1, b"s"), b"\0\0\0\0\0\0\0\x01s");
    }

    #[test]
    fn feed_and_outbox_records_are_read_back() {
        let entry = FeedEntry {
            position: 9,
            entity: EntityId::new("user", "a"),
            first_sequence: 4,
            subject: None,
            events: vec![vec![1], vec![]],
            at: Timestamp::from_millis(5),
        };
        let (at, events) = (entry.at, entry.events.clone());
        let batch = Batch { at, events, ..Batch::empty(entry.entity.clone(), 3) };
        let bytes = encode_feed(&batch).unwrap();
        assert_eq!(
            hex::encode(&bytes),
            concat!(
                "430100",
                "0600000000000000",
                "757365722f61",
                "0400000000000000",
                "00",
                "0200000000000000",
                "0100000000000000",
                "01",
                "0000000000000000",
                "0500000000000000",
            )
        );
        assert_eq!(decode_feed(9, &bytes).unwrap(), entry);
        let record = OutboxRecord {
            number: 1,
            source: EntityId::new("user", "a"),
            sequence: 2,
            position: 3,
            target: Target::Entity(EntityId::new("inbox", "b")),
            tag: "t".into(),
            payload: vec![8],
            subject: None,
            traceparent: None,
            state: OutboxState::Waiting { attempts: 0, not_before: Timestamp::ZERO },
        };
        let bytes = encode_outbox(&record).unwrap();
        assert_eq!(
            hex::encode(&bytes),
            concat!(
                "420100",
                "0100000000000000",
                "0600000000000000",
                "757365722f61",
                "0200000000000000",
                "0300",
                "00000000",
                "0700000000000000",
                "696e626f782f62",
                "0100000000000000",
                "74",
                "0100000000000000",
                "08",
                "00",
                "00",
                "00000000",
                "00000000",
                "0000000000000000",
            )
        );
        assert_eq!(decode_outbox(&bytes).unwrap(), record);
        assert!(Head::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_as_stored_records() {
        let header = Header::default().encode().expect("encodes");
        let head = Head { sequence: 7, subject: Some("usr_1".to_owned()) }.encode().expect("encodes");
        let seeds =
            [header, head, encode_number(7), encode_snapshot(3, b"state"), vec![FEED, 1, 0], vec![OUTBOX, 1, 0]];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        fuzz("state-records", &seeds, |bytes| {
            let ways = [
                keeps_its_form(bytes, Header::decode, |header| header.encode().expect("encodes")),
                keeps_its_form(bytes, Head::decode, |head| head.encode().expect("encodes")),
                keeps_its_form(bytes, decode_outbox, |record| encode_outbox(record).expect("encodes")),
                keeps_its_form(bytes, |bytes| decode_time(b"k", bytes), |at| encode_time(*at)),
                keeps_its_form(bytes, |bytes| decode_snapshot(b"k", bytes), |(at, state)| encode_snapshot(*at, state)),
            ];
            format!("{} {}", ways.join(" "), decode_feed(1, bytes).is_ok())
        });
    }
}
