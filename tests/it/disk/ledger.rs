//! A load whose every trace can be checked: what a shard holds of it must tell one story.

use std::collections::BTreeMap;

use construct::kernel::{AuditRecord, Batch, Change, EntityId, Op, Timestamp};
use construct::storage::state::ShardState;

use crate::load::Dice;

/// Sizes of values: in a page, in a few, and above what sled is given in one piece.
const SIZES: [usize; 3] = [512, 6 << 10, 64 << 10];
const ENTITIES_OF_A_SIZE: usize = 6;
/// Rows of an entity; older ones are written over.
const ROWS: u64 = 8;
const TABLE: &str = "t";

/// `<size>-<number>`.
pub fn names() -> Vec<String> {
    let of_size = |size: usize| (0..ENTITIES_OF_A_SIZE).map(move |number| format!("{size}-{number}"));
    SIZES.into_iter().flat_map(of_size).collect()
}

pub fn id(name: &str) -> EntityId {
    EntityId::new("thing", name)
}

/// The value that an entity's batch `number` writes.
pub fn value(name: &str, number: u64) -> Vec<u8> {
    let size = name.split('-').next().and_then(|size| size.parse().ok()).expect("a size");
    let mut dice = Dice(number << 32 ^ u64::from(crc32c::crc32c(name.as_bytes())));
    let mut value = Vec::with_capacity(size + 8);
    while value.len() < size {
        value.extend_from_slice(&dice.roll(u64::MAX).to_le_bytes());
    }
    value.truncate(size);
    value
}

/// The entity's batch that follows `expected`: an event, a row, a timer, an audit entry, now and then a snapshot.
pub fn op(name: &str, expected: u64) -> Op {
    let number = expected + 1;
    let row = Change::Row {
        table: TABLE.into(),
        key: vec![u8::try_from(number % ROWS).expect("small")],
        value: Some(value(name, number)),
    };
    let due = Some(Timestamp::from_millis(i64::try_from(number).expect("small")));
    let audit = AuditRecord {
        at: Timestamp::ZERO,
        actor: "system".into(),
        action: "tested".into(),
        target: name.into(),
        outcome: "ok".into(),
        source: String::new(),
        request_id: String::new(),
    };
    Op::Batch(Box::new(Batch {
        entity: id(name),
        expected,
        at: Timestamp::ZERO,
        subject: None,
        dedupe: None,
        reply: Vec::new(),
        events: vec![number.to_be_bytes().to_vec()],
        snapshot: number.is_multiple_of(16).then(|| number.to_be_bytes().to_vec()),
        purge: false,
        outbox: Vec::new(),
        settles: Vec::new(),
        fired: Vec::new(),
        changes: vec![row, Change::Timer { name: "next".into(), due }],
        audit: vec![audit],
    }))
}

/// Checks that the shard's header and everything under it agree, to the last byte; the sequence number of each entity.
pub fn check(state: &ShardState) -> Result<BTreeMap<String, u64>, String> {
    let mut sequences = BTreeMap::new();
    for name in names() {
        let text = |error: construct::storage::state::StateError| format!("{name}: {error}");
        let Some(entity) = state.entity(&id(&name)).map_err(text)? else { continue };
        let from = entity.snapshot.as_ref().map_or(0, |(sequence, _)| *sequence);
        let tail: Vec<_> = entity.tail.iter().map(|(sequence, _)| *sequence).collect();
        if tail != (from + 1..=entity.sequence).collect::<Vec<_>>() {
            return Err(format!("{name}: snapshot at {from}, then {tail:?}, and the sequence is {}", entity.sequence));
        }
        let rows = state.rows(&id(&name), TABLE, None, usize::MAX, false).map_err(text)?;
        let newest = entity.sequence.saturating_sub(ROWS) + 1..=entity.sequence;
        let wanted: BTreeMap<u64, u64> = newest.map(|number| (number % ROWS, number)).collect();
        if rows.len() != wanted.len() {
            return Err(format!("{name}: {} rows at sequence {}", rows.len(), entity.sequence));
        }
        for ((key, found), (slot, number)) in rows.iter().zip(wanted) {
            if u64::from(key[0]) != slot || *found != value(&name, number) {
                return Err(format!("{name}: row {slot} is not what batch {number} wrote"));
            }
        }
        sequences.insert(name, entity.sequence);
    }
    let total: u64 = sequences.values().sum();
    let (counts, fed) = (state.counts(), state.feed_head());
    let told = (counts.audit_size, fed, counts.entities, counts.timers);
    let held = (total, total, sequences.len() as u64, sequences.len() as u64);
    if told == held { Ok(sequences) } else { Err(format!("the header says {told:?}, the rest says {held:?}")) }
}
