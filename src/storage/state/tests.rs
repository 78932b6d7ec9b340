//! The state of a shard against a model made of plain maps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::kernel::{
    AuditRecord, Batch, Change, DedupeKey, EntityId, Op, OpOutcome, OutboxChange, OutboxRecord, OutboxState, ShardId,
    Target, Timestamp, merkle,
};

use super::*;

const OPTIONS: StateOptions = StateOptions { feed_keep: 4, overlay_bytes: 1 << 20 };
const NAMES: [&str; 3] = ["a", "ab", "b"];

pub(super) fn id(name: &str) -> EntityId {
    EntityId::new("thing", name)
}

/// What the state should be, said as simply as possible.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) index: u64,
    entities: BTreeMap<EntityId, StoredEntity>,
    rows: BTreeMap<(EntityId, String, Vec<u8>), Vec<u8>>,
    indexes: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    timers: BTreeMap<(EntityId, String), Timestamp>,
    outbox: BTreeMap<u64, OutboxRecord>,
    numbers: u64,
    messages: BTreeMap<(u64, EntityId), Vec<u8>>,
    watermark: u64,
    requests: BTreeMap<([u8; 32], EntityId), (Timestamp, Vec<u8>)>,
    feed: Vec<FeedEntry>,
    feed_tail: u64,
    consumed: BTreeMap<String, u64>,
    audit: Vec<AuditRecord>,
}

impl Model {
    fn known(&self, entity: &EntityId, key: &DedupeKey) -> Option<Vec<u8>> {
        match key {
            DedupeKey::Message { number, .. } if *number < self.watermark => Some(Vec::new()),
            DedupeKey::Message { number, .. } => self.messages.get(&(*number, entity.clone())).cloned(),
            DedupeKey::Request { hash, .. } => self.requests.get(&(*hash, entity.clone())).map(|found| found.1.clone()),
        }
    }

    fn expire(&mut self, before: Timestamp, limit: usize) {
        let mut order: Vec<_> = self.requests.iter().map(|(key, (at, _))| (*at, key.clone())).collect();
        order.sort();
        for (_, key) in order.into_iter().filter(|(at, _)| *at < before).take(limit) {
            self.requests.remove(&key);
        }
    }

    fn batch(&mut self, batch: &Batch) -> OpOutcome {
        if let Some(reply) = batch.dedupe.as_ref().and_then(|key| self.known(&batch.entity, key)) {
            return OpOutcome::Duplicate { reply };
        }
        let old = self.entities.get(&batch.entity).cloned();
        let actual = old.as_ref().map_or(0, |old| old.sequence);
        if actual != batch.expected {
            return OpOutcome::SequenceConflict { actual };
        }
        let mut new = old.unwrap_or(StoredEntity { sequence: 0, subject: None, snapshot: None, tail: Vec::new() });
        if batch.purge {
            (new.snapshot, new.tail) = (None, Vec::new());
            self.rows.retain(|key, _| key.0 != batch.entity);
        }
        new.sequence = batch.next_sequence();
        new.subject.clone_from(&batch.subject);
        match &batch.snapshot {
            Some(state) => (new.snapshot, new.tail) = (Some((new.sequence, state.clone())), Vec::new()),
            None => new.tail.extend((batch.expected + 1..).zip(batch.events.clone())),
        }
        self.entities.insert(batch.entity.clone(), new);
        self.outbox.retain(|number, _| !batch.settles.contains(number));
        for record in &batch.outbox {
            self.numbers += 1;
            self.outbox.insert(self.numbers, OutboxRecord { number: self.numbers, ..record.clone() });
        }
        for (name, due) in &batch.fired {
            self.drop_timer(&batch.entity, name, *due);
        }
        for change in &batch.changes {
            self.change(&batch.entity, change);
        }
        self.audit.extend(batch.audit.clone());
        self.append_feed(batch);
        self.remember(batch);
        OpOutcome::Applied
    }

    fn append_feed(&mut self, batch: &Batch) {
        if batch.events.is_empty() {
            return;
        }
        let position = self.feed.len() as u64 + 1;
        let Batch { entity, subject, events, at, .. } = batch.clone();
        self.feed.push(FeedEntry { position, entity, first_sequence: batch.expected + 1, subject, events, at });
        let handled = self.consumed.values().min().copied().unwrap_or(u64::MAX);
        for _ in 0..2 {
            if position - self.feed_tail > OPTIONS.feed_keep && self.feed_tail < handled {
                self.feed_tail += 1;
            }
        }
    }

    fn remember(&mut self, batch: &Batch) {
        match &batch.dedupe {
            Some(DedupeKey::Message { number, settled_below, .. }) => {
                self.messages.insert((*number, batch.entity.clone()), batch.reply.clone());
                self.watermark = self.watermark.max(*settled_below);
            }
            Some(DedupeKey::Request { hash, expires }) => {
                self.requests.insert((*hash, batch.entity.clone()), (*expires, batch.reply.clone()));
                self.expire(batch.at, 2);
            }
            None => {}
        }
    }

    fn drop_timer(&mut self, entity: &EntityId, name: &str, due: Timestamp) {
        self.timers.retain(|key, at| !(key.0 == *entity && key.1 == name && *at == due));
    }

    fn change(&mut self, entity: &EntityId, change: &Change) {
        match change.clone() {
            Change::Timer { name, due } => set(&mut self.timers, (entity.clone(), name), due),
            Change::Index { index, key, value } => set(&mut self.indexes, (index, key), value),
            Change::Row { table, key, value } => set(&mut self.rows, (entity.clone(), table, key), value),
        }
    }

    fn apply(&mut self, op: &Op) -> OpOutcome {
        match op {
            Op::Batch(batch) => return self.batch(batch),
            Op::Outbox(changes) => {
                for change in changes {
                    match change {
                        OutboxChange::Settle { number } => drop(self.outbox.remove(number)),
                        OutboxChange::Set { number, state } => {
                            self.outbox.entry(*number).and_modify(|record| record.state = state.clone());
                        }
                    }
                }
            }
            Op::Consumed { consumer, position } => {
                let old = self.consumed.entry(consumer.clone()).or_default();
                *old = (*old).max(*position);
            }
            Op::Audit(records) => self.audit.extend(records.clone()),
            Op::DropTimer { entity, name, due } => self.drop_timer(entity, name, *due),
            Op::Expire { before } => self.expire(*before, usize::MAX),
        }
        OpOutcome::Applied
    }

    pub(super) fn entry(&mut self, ops: &[Op]) -> Vec<OpOutcome> {
        self.index += 1;
        ops.iter().map(|op| self.apply(op)).collect()
    }

    /// Compares everything that can be read.
    pub(super) fn check(&self, state: &ShardState) {
        for name in NAMES {
            let id = id(name);
            assert_eq!(state.entity(&id).unwrap(), self.entities.get(&id).cloned());
            for reverse in [false, true] {
                let mut rows: Vec<_> = self.rows.iter().filter(|(key, _)| key.0 == id && key.1 == "t").collect();
                if reverse {
                    rows.reverse();
                }
                let rows: Vec<_> = rows.into_iter().map(|(key, value)| (key.2.clone(), value.clone())).collect();
                assert_eq!(state.rows(&id, "t", None, 100, reverse).unwrap(), rows);
            }
            for number in 0..8 {
                let key = DedupeKey::Message { shard: ShardId(2), number, settled_below: 0 };
                assert_eq!(state.remembered(&id, &key).unwrap(), self.known(&id, &key));
                let key = request(number.to_le_bytes()[0], Timestamp::ZERO);
                assert_eq!(state.remembered(&id, &key).unwrap(), self.known(&id, &key));
            }
        }
        let mut timers: Vec<_> = self.timers.iter().map(|((id, name), due)| (*due, id.clone(), name.clone())).collect();
        timers.sort();
        assert_eq!(state.next_timer().unwrap(), timers.first().map(|timer| timer.0));
        let due = Timestamp::from_millis(3);
        let expected: Vec<_> = timers.into_iter().filter(|timer| timer.0 <= due).collect();
        let found = state.timers_due(due, 100).unwrap();
        assert_eq!(found.into_iter().map(|timer| (timer.due, timer.entity, timer.name)).collect::<Vec<_>>(), expected);
        let outbox: Vec<_> = self.outbox.values().cloned().collect();
        assert_eq!(state.outbox(0, 100).unwrap(), outbox);
        assert_eq!(state.settled_below().unwrap(), outbox.first().map_or(self.numbers + 1, |record| record.number));
        let index: Vec<_> = self.indexes.iter().map(|((_, key), value)| (key.clone(), value.clone())).collect();
        assert_eq!(state.index_scan("i", &[], None, 100, false).unwrap(), index);
        let after: Vec<_> = index.iter().filter(|(key, _)| key[..] > [1, 0][..] && key[0] == 1).cloned().collect();
        assert_eq!(state.index_scan("i", &[1], Some(&[1, 0]), 100, false).unwrap(), after);
        assert_eq!(state.feed(0, 100).unwrap(), self.feed[usize::try_from(self.feed_tail).unwrap()..]);
        assert_eq!(state.consumed("c").unwrap(), self.consumed.get("c").copied().unwrap_or(0));
        self.check_audit(state);
        let counts = state.counts();
        assert_eq!(counts.entities, self.entities.len() as u64);
        assert_eq!((counts.outbox_pending, counts.timers), (outbox.len() as u64, self.timers.len() as u64));
        assert_eq!(counts.feed_length, self.feed.len() as u64 - self.feed_tail);
        let progress = *state.applied().borrow();
        assert_eq!((progress.feed_head, progress.outbox_head), (self.feed.len() as u64, self.numbers));
        assert_eq!(progress.applied_index, self.index);
    }

    fn check_audit(&self, state: &ShardState) {
        let size = self.audit.len() as u64;
        assert_eq!(state.audit_size(), size);
        let mut leaves = Vec::new();
        for (record, index) in self.audit.iter().zip(0..) {
            let leaf = merkle::leaf_bytes(ShardId(1), index, record);
            assert_eq!(state.audit_entry(index).unwrap().as_ref(), Some(&leaf));
            leaves.push(merkle::leaf_hash(&leaf));
        }
        let alone = merkle::root(size, |level, index| (level == 0).then(|| leaves[usize::try_from(index).unwrap()]));
        let stored = merkle::root(size, |level, index| state.audit_node(level, index).unwrap());
        assert!(stored.is_ok());
        if size <= 1 {
            assert_eq!(stored, alone);
        }
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn request(hash: u8, expires: Timestamp) -> DedupeKey {
    DedupeKey::Request { hash: [hash; 32], expires }
}

pub(super) fn batch(name: &str, expected: u64) -> Batch {
    Batch { at: Timestamp::from_millis(1), ..Batch::empty(id(name), expected) }
}

fn outbox_record(tag: u8) -> OutboxRecord {
    OutboxRecord {
        number: 0,
        source: id("a"),
        sequence: 1,
        position: 0,
        target: Target::Entity(id("b")),
        tag: tag.to_string(),
        payload: vec![tag; 3],
        subject: None,
        traceparent: None,
        state: OutboxState::Waiting { attempts: 0, not_before: Timestamp::ZERO },
    }
}

fn audit_record(n: u8) -> AuditRecord {
    AuditRecord {
        at: Timestamp::from_millis(n.into()),
        actor: "system".into(),
        action: n.to_string(),
        target: "t".into(),
        outcome: "ok".into(),
        source: String::new(),
        request_id: String::new(),
    }
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (-2i64..6).prop_map(Timestamp::from_millis)
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..4), 1 => any::<u8>().prop_map(|byte| vec![byte; 70_000])]
}

fn any_dedupe() -> impl Strategy<Value = Option<DedupeKey>> {
    let message = (1u64..8, 0u64..4).prop_map(|(number, back)| DedupeKey::Message {
        shard: ShardId(2),
        number,
        settled_below: number.saturating_sub(back),
    });
    prop_oneof![2 => Just(None), 1 => message.prop_map(Some),
        1 => (0u8..8, any_time()).prop_map(|(hash, expires)| Some(request(hash, expires)))]
}

fn any_change() -> impl Strategy<Value = Change> {
    let key = || prop::collection::vec(0u8..3, 1..3);
    prop_oneof![
        ("[xy]", prop::option::of(any_time())).prop_map(|(name, due)| Change::Timer { name, due }),
        (key(), prop::option::of(any_bytes())).prop_map(|(key, value)| Change::Index { index: "i".into(), key, value }),
        ("[tu]", key(), prop::option::of(any_bytes())).prop_map(|(table, key, value)| Change::Row {
            table,
            key,
            value
        }),
    ]
}

/// A batch whose `expected` is how far it is off.
fn any_batch() -> impl Strategy<Value = Batch> {
    let first = (0usize..3, prop_oneof![9 => Just(0u64), 1 => Just(1)], any_time(), any_dedupe(), any_bytes());
    let second = (
        prop::collection::vec(any_bytes(), 0..3),
        prop_oneof![4 => Just(None), 1 => any_bytes().prop_map(Some)],
        prop::bool::weighted(0.1),
        prop::collection::vec(any::<u8>().prop_map(outbox_record), 0..3),
        prop::collection::vec(0u64..12, 0..3),
        prop::collection::vec(("[xy]", any_time()), 0..2),
        prop::collection::vec(any_change(), 0..4),
        prop::collection::vec(any::<u8>().prop_map(audit_record), 0..3),
    );
    (first, second).prop_map(|((name, expected, at, dedupe, reply), rest)| {
        let (events, snapshot, purge, outbox, settles, fired, changes, audit) = rest;
        let subject = Some("usr".to_owned());
        let base = batch(NAMES[name], expected);
        Batch { at, subject, dedupe, reply, events, snapshot, purge, outbox, settles, fired, changes, audit, ..base }
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    let state = OutboxState::Sending { attempts: 1, since: Timestamp::from_millis(9) };
    prop_oneof![
        8 => any_batch().prop_map(|batch| Op::Batch(Box::new(batch))),
        1 => (0u64..12, 0u64..12).prop_map(move |(number, other)| Op::Outbox(vec![
            OutboxChange::Set { number, state: state.clone() }, OutboxChange::Settle { number: other }])),
        1 => ("[cd]", 0u64..20).prop_map(|(consumer, position)| Op::Consumed { consumer, position }),
        1 => any::<u8>().prop_map(|n| Op::Audit(vec![audit_record(n)])),
        1 => ("[xy]", any_time()).prop_map(|(name, due)| Op::DropTimer { entity: id("a"), name, due }),
        1 => any_time().prop_map(|before| Op::Expire { before }),
    ]
}

/// Gives batches the sequence number their entity has by then.
pub(super) fn settle_sequences(model: &Model, ops: &mut [Op]) {
    let mut model = model.clone();
    for op in ops {
        if let Op::Batch(batch) = op {
            batch.expected += model.entities.get(&batch.entity).map_or(0, |entity| entity.sequence);
        }
        model.apply(op);
    }
}

pub(super) fn any_entries() -> impl Strategy<Value = Vec<(Vec<Op>, u8)>> {
    prop::collection::vec((prop::collection::vec(any_op(), 1..5), 0u8..10), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_state_is_what_the_model_says(entries in any_entries()) {
        let state = ShardState::in_memory(ShardId(1), OPTIONS);
        let mut model = Model::default();
        for (mut ops, _) in entries {
            settle_sequences(&model, &mut ops);
            let expected = model.entry(&ops);
            prop_assert_eq!(state.apply(model.index, &ops).unwrap(), expected);
            model.check(&state);
        }
    }
}

#[test]
fn an_entry_is_applied_once_and_in_order() {
    let state = ShardState::in_memory(ShardId(1), OPTIONS);
    let ops = [Op::Batch(Box::new(Batch { events: vec![vec![1]], ..batch("a", 0) }))];
    assert_eq!(state.apply(3, &ops).unwrap(), [OpOutcome::Applied]);
    assert!(matches!(state.apply(3, &ops), Err(StateError::OutOfOrder { applied: 3, found: 3 })));
    assert_eq!(state.apply(4, &ops).unwrap(), [OpOutcome::SequenceConflict { actual: 1 }]);
}

#[test]
fn the_memory_of_messages_is_pruned_in_steps_and_stays_closed_below() {
    let state = ShardState::in_memory(ShardId(1), OPTIONS);
    let mut model = Model::default();
    let message = |number, settled_below| Some(DedupeKey::Message { shard: ShardId(2), number, settled_below });
    for number in 1..=600u64 {
        let mut ops = [Op::Batch(Box::new(Batch { dedupe: message(number, 1), ..batch("a", 0) }))];
        settle_sequences(&model, &mut ops);
        assert_eq!(state.apply(number, &ops).unwrap(), model.entry(&ops));
    }
    let mut kept = BTreeSet::new();
    for number in 601..=604u64 {
        let ops = [Op::Batch(Box::new(Batch { dedupe: message(number, 600), ..batch("a", number - 1) }))];
        assert_eq!(state.apply(number, &ops).unwrap(), [OpOutcome::Applied]);
        let keys = state.lock_read().layers.keys(&[keys::MESSAGE], 1000).unwrap();
        kept.insert(keys.len());
        for number in 1..=600 {
            assert!(state.remembered(&id("a"), &message(number, 0).unwrap()).unwrap().is_some(), "{number}");
        }
    }
    assert_eq!(kept, BTreeSet::from([345, 90, 4, 5]));
}
