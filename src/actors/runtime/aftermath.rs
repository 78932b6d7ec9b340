//! What a cluster does differently because it began as an earlier state of another: after a restore, or after a majority
//! was lost.
//!
//! Between that state and the end of the old cluster things happened outside that this one knows nothing of: mails went
//! out, cards were charged, sessions ended. So everything that follows from before the beginning is one trace, whose id is
//! the id of this cluster: what was waiting in the outbox then, and timers that were due until the old cluster may have
//! acted. Who delivers effects looks whether a record belongs to it ([`Aftermath::is_past`]), and does nothing blindly.
//! Architecture invariant: what people ask for afterwards has other traces, and is served as ever.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kernel::{OutboxRecord, ShardId, Timestamp, made_at};

/// How this cluster began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aftermath {
    /// The id of this cluster.
    pub cluster: [u8; 16],
    /// Until when the old cluster may have acted, in the cluster's time.
    pub until: Timestamp,
    /// The first outbox record of each shard that is this cluster's own.
    pub floors: BTreeMap<ShardId, u64>,
}

impl Aftermath {
    /// The trace of what follows from before (W3C Trace Context).
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-00", hex::encode(self.cluster), hex::encode(&self.cluster[..8]))
    }

    /// Whether an effect follows from before the beginning: the old cluster may have had it, too.
    #[must_use]
    pub fn is_past(&self, shard: ShardId, record: &OutboxRecord) -> bool {
        let traced = |trace: &String| trace.get(3..35) == Some(&hex::encode(self.cluster));
        self.was_waiting(shard, record) || record.traceparent.as_ref().is_some_and(traced)
    }

    fn was_waiting(&self, shard: ShardId, record: &OutboxRecord) -> bool {
        self.floors.get(&shard).is_some_and(|floor| record.number < *floor)
    }

    /// The idempotency key that the other side sees. What was waiting keeps the one it had, so that the other side knows it
    /// again; what was decided since has another than whatever the old cluster decided in its place.
    #[must_use]
    pub fn key(&self, shard: ShardId, record: &OutboxRecord) -> String {
        if self.was_waiting(shard, record) {
            return record.key();
        }
        format!("{}@{}", record.key(), hex::encode(&self.cluster[..8]))
    }

    /// Whether an object, by its id, may have been there in the old cluster.
    #[must_use]
    pub fn may_have_held(&self, key: &str) -> bool {
        made_at(key).is_some_and(|at| at <= self.until)
    }

    /// The epoch of a channel: offsets may be given out that the old cluster gave out for something else.
    #[must_use]
    pub fn epoch(&self, epoch: &str) -> String {
        format!("{epoch}{}", hex::encode(&self.cluster[..4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::id::type_id;
    use crate::kernel::{EntityId, OutboxState, Slot, Target};

    #[test]
    fn what_follows_from_before_is_known_and_its_keys_collide_with_nothing() {
        let until = Timestamp::from_millis(1_700_000_000_000);
        let aftermath = Aftermath { cluster: [0xab; 16], until, floors: BTreeMap::from([(ShardId(1), 5)]) };
        let record = |number, traceparent: Option<&str>| OutboxRecord {
            number,
            source: EntityId::new("invoice", "inv_1"),
            sequence: 2,
            position: 0,
            target: Target::Entity(EntityId::new("inbox", "b")),
            tag: String::new(),
            payload: Vec::new(),
            subject: None,
            traceparent: traceparent.map(str::to_owned),
            state: OutboxState::Waiting { attempts: 0, not_before: Timestamp::ZERO },
        };
        let (ours, other) = (aftermath.traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        for (number, trace, past) in [
            (4, None, true),
            (4, Some(other), true),
            (5, None, false),
            (5, Some(other), false),
            (5, Some(&*ours), true),
        ] {
            assert_eq!(aftermath.is_past(ShardId(1), &record(number, trace)), past, "{number} {trace:?}");
        }
        assert_eq!(aftermath.key(ShardId(1), &record(4, None)), "invoice/inv_1:2:0");
        assert_eq!(aftermath.key(ShardId(1), &record(5, Some(&ours))), "invoice/inv_1:2:0@abababababababab");
        let id = |at| type_id("ses", at, Slot(1), [1; 8]);
        assert!(aftermath.may_have_held(&id(until)) && !aftermath.may_have_held(&id(until.plus_millis(1))));
        assert!(!aftermath.may_have_held("acme"));
    }
}
