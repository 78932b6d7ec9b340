//! What clients did and heard, and whether one register that was touched at one moment each explains it.
//!
//! The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing
//! for linearizability", 2017): an operation that had returned before another was called comes before it; one that never
//! returned took effect at some moment after its call, or never.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// A value and how often it was written: what an entity shows with its ETag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Register {
    pub value: u64,
    pub version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Read,
    /// With a condition: only at this version.
    Write {
        value: u64,
        at: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What a read saw, and what a write left.
    Shown(Register),
    /// The condition of the write did not hold.
    Refused,
}

/// One operation of a client, in nanoseconds since the history began.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Of the client, and of the node it asked last.
    #[expect(dead_code, reason = "shown when nothing explains a history")]
    pub who: (usize, u64),
    pub action: Action,
    pub called: u64,
    /// `None`: nobody heard how it ended. Reads of which nothing was heard say nothing and are left out.
    pub returned: Option<(u64, Outcome)>,
}

impl Operation {
    /// The register after it, if it may happen at `now` and is answered like that.
    fn step(&self, now: Register) -> Option<Register> {
        let outcome = self.returned.map(|(_, outcome)| outcome);
        match self.action {
            Action::Read => (outcome == Some(Outcome::Shown(now))).then_some(now),
            Action::Write { at: Some(at), .. } if at != now.version => {
                (outcome == Some(Outcome::Refused)).then_some(now)
            }
            Action::Write { value, .. } => {
                let after = Register { value, version: now.version + 1 };
                outcome.is_none_or(|outcome| outcome == Outcome::Shown(after)).then_some(after)
            }
        }
    }
}

/// A call or the return of an operation, in a list from which operations are taken out and put back.
struct Entry {
    operation: usize,
    is_call: bool,
    before: usize,
    after: usize,
}

/// Entries in the order of time, doubly linked; the first and the last are no entries.
struct Events {
    entries: Vec<Entry>,
    /// Of each operation: where its call and its return are.
    places: Vec<(usize, Option<usize>)>,
}

const HEAD: usize = 0;

impl Events {
    fn new(history: &[Operation]) -> Self {
        let mut moments = Vec::new();
        for (operation, did) in history.iter().enumerate() {
            moments.push((did.called, true, operation));
            moments.extend(did.returned.map(|(at, _)| (at, false, operation)));
        }
        // At one moment calls come first: then the two may have overlapped.
        moments.sort_by_key(|(at, is_call, operation)| (*at, !is_call, *operation));
        let mut entries = vec![Entry { operation: usize::MAX, is_call: true, before: 0, after: 1 }];
        let mut places = vec![(0, None); history.len()];
        for (_, is_call, operation) in moments {
            let here = entries.len();
            match is_call {
                true => places[operation].0 = here,
                false => places[operation].1 = Some(here),
            }
            entries.push(Entry { operation, is_call, before: here - 1, after: here + 1 });
        }
        let end = entries.len();
        entries.push(Entry { operation: usize::MAX, is_call: true, before: end - 1, after: end });
        Self { entries, places }
    }

    fn end(&self) -> usize {
        self.entries.len() - 1
    }

    fn take_out(&mut self, operation: usize) {
        let (call, back) = self.places[operation];
        for place in [Some(call), back].into_iter().flatten() {
            let Entry { before, after, .. } = self.entries[place];
            self.entries[before].after = after;
            self.entries[after].before = before;
        }
    }

    fn put_back(&mut self, operation: usize) {
        let (call, back) = self.places[operation];
        for place in [back, Some(call)].into_iter().flatten() {
            let Entry { before, after, .. } = self.entries[place];
            self.entries[before].after = place;
            self.entries[after].before = place;
        }
    }
}

/// What was seen of versions and values. Each version is written once; without this, writes of which nothing was heard would be
/// tried in every order.
struct Shown {
    /// The value of a version.
    values: HashMap<u64, u64>,
    /// The version of a value that was written once.
    versions: HashMap<u64, u64>,
    seen: HashSet<u64>,
}

impl Shown {
    fn by(start: Register, history: &[Operation]) -> Self {
        let mut writes = HashMap::from([(start.value, 2)]);
        for did in history {
            if let Action::Write { value, .. } = did.action {
                *writes.entry(value).or_insert(0) += 1;
            }
        }
        let registers = || {
            history.iter().filter_map(|did| match did.returned {
                Some((_, Outcome::Shown(register))) => Some(register),
                _ => None,
            })
        };
        let once = |register: &Register| writes.get(&register.value) == Some(&1);
        Self {
            values: registers().map(|register| (register.version, register.value)).collect(),
            versions: registers().filter(once).map(|register| (register.value, register.version)).collect(),
            seen: registers().map(|register| register.value).collect(),
        }
    }

    /// What stands for a write in the set of those that took effect. Of writes without a condition of which nothing was heard and
    /// that nobody saw, the one that was called first serves wherever a later one would: they are not told apart.
    fn name(&self, nth: usize, did: &Operation) -> u128 {
        name(if self.is_unseen(did) { usize::MAX } else { nth })
    }

    fn is_unseen(&self, did: &Operation) -> bool {
        let Action::Write { value, at: None } = did.action else { return false };
        did.returned.is_none() && !self.seen.contains(&value)
    }

    /// Whether nobody saw what this would contradict.
    fn allows(&self, next: Register) -> bool {
        self.values.get(&next.version).is_none_or(|value| *value == next.value)
            && self.versions.get(&next.value).is_none_or(|version| *version == next.version)
    }
}

/// Whether some order explains the history from `start` on; else how far any order came.
///
/// # Errors
/// A text with the operations around the one that no order reached.
pub fn check(start: Register, history: &[Operation]) -> Result<(), String> {
    let mut events = Events::new(history);
    let mut left = history.iter().filter(|did| did.returned.is_some()).count();
    let (mut now, mut taken, mut seen) = (start, Vec::new(), HashSet::new());
    // A set of operations is known by the sum of their names: 2⁻¹²⁸ is not going to happen.
    let mut set = 0_u128;
    let shown = Shown::by(start, history);
    let (mut place, mut furthest) = (events.entries[HEAD].after, (usize::MAX, 0));
    while left > 0 {
        let Entry { operation, is_call, after, .. } = events.entries[place];
        if place != events.end() && is_call {
            let next = history[operation].step(now);
            let did = &history[operation];
            let with = set.wrapping_add(shown.name(operation, did));
            let looks =
                |next: &Register| Register { value: if shown.is_unseen(did) { u64::MAX } else { next.value }, ..*next };
            let next = next.filter(|next| shown.allows(*next));
            if let Some(next) = next.filter(|next| seen.insert((with, looks(next)))) {
                taken.push((operation, now));
                left -= usize::from(history[operation].returned.is_some());
                (set, now) = (with, next);
                events.take_out(operation);
                place = events.entries[HEAD].after;
            } else {
                place = after;
            }
            continue;
        }
        // It returned and nothing that was under way by then explains it.
        if left < furthest.0 {
            furthest = (left, operation);
        }
        let Some((operation, before)) = taken.pop() else { return Err(tell(history, furthest.1)) };
        left += usize::from(history[operation].returned.is_some());
        (set, now) = (set.wrapping_sub(shown.name(operation, &history[operation])), before);
        events.put_back(operation);
        place = events.entries[events.places[operation].0].after;
    }
    Ok(())
}

/// A random number that belongs to this operation.
fn name(operation: usize) -> u128 {
    let mut dice = crate::load::Dice(operation as u64);
    u128::from(dice.roll(u64::MAX)) << 64 | u128::from(dice.roll(u64::MAX))
}

/// The unexplained operation, what overlapped with it and what came just before.
fn tell(history: &[Operation], unexplained: usize) -> String {
    const SHOWN: usize = 40;
    let Some(culprit) = history.get(unexplained) else { return "nothing explains the history".to_owned() };
    let until = culprit.returned.map_or(u64::MAX, |(at, _)| at);
    let mut near: Vec<&Operation> = history.iter().filter(|did| did.called <= until).collect();
    near.sort_by_key(|did| did.returned.map_or(u64::MAX, |(at, _)| at));
    let mut text = format!("no order explains {culprit:?}; what had returned last or was open by then:\n");
    let open = near.iter().filter(|did| did.returned.is_none_or(|(at, _)| at > until)).count();
    for did in &near[near.len().saturating_sub(SHOWN + open)..] {
        let _ = writeln!(text, "  {did:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::Dice;

    const START: Register = Register { value: 0, version: 0 };

    fn shown(value: u64, version: u64) -> Outcome {
        Outcome::Shown(Register { value, version })
    }

    fn did(action: Action, called: u64, returned: Option<(u64, Outcome)>) -> Operation {
        Operation { who: (0, 1), action, called, returned }
    }

    fn write(value: u64) -> Action {
        Action::Write { value, at: None }
    }

    fn is_fine(history: &[Operation], fine: bool) {
        assert_eq!(check(START, history).is_ok(), fine, "{history:#?}");
    }

    #[test]
    fn what_one_register_could_have_shown_is_told_from_what_it_could_not() {
        let wrote = did(write(7), 0, Some((10, shown(7, 1))));
        is_fine(&[wrote, did(Action::Read, 11, Some((12, shown(7, 1))))], true);
        is_fine(&[wrote, did(Action::Read, 11, Some((12, shown(0, 0))))], false);
        is_fine(&[wrote, did(Action::Read, 5, Some((12, shown(0, 0))))], true);
        // Seen by one and then not by another.
        let saw = did(Action::Read, 1, Some((3, shown(7, 1))));
        is_fine(&[wrote, saw, did(Action::Read, 4, Some((5, shown(0, 0))))], false);
        is_fine(&[wrote, saw, did(Action::Read, 2, Some((5, shown(0, 0))))], true);
        // Nobody knows how it ended: it may happen late, or never, and not twice.
        let open = did(write(8), 0, None);
        is_fine(&[open, did(Action::Read, 50, Some((60, shown(0, 0))))], true);
        is_fine(&[open, did(Action::Read, 50, Some((60, shown(8, 1))))], true);
        is_fine(&[open, wrote, did(Action::Read, 50, Some((60, shown(8, 2))))], true);
        is_fine(&[open, wrote, did(Action::Read, 50, Some((60, shown(8, 3))))], false);
        // An acknowledged write that is gone, and two that got one number.
        let second = did(write(9), 20, Some((30, shown(9, 1))));
        is_fine(&[wrote, second], false);
        // A condition.
        let at = |at, outcome| did(Action::Write { value: 9, at: Some(at) }, 20, Some((30, outcome)));
        is_fine(&[wrote, at(1, shown(9, 2))], true);
        is_fine(&[wrote, at(0, Outcome::Refused)], true);
        is_fine(&[wrote, at(1, Outcome::Refused)], false);
        is_fine(&[wrote, at(0, shown(9, 2))], false);
    }

    #[test]
    fn many_writes_of_which_nothing_was_heard_are_no_search_without_end() {
        let (mut dice, mut now, mut history) = (Dice(7), START, Vec::new());
        for value in 1..=2000_u64 {
            let (called, after) = (value * 10, Register { value, version: now.version + 1 });
            let (heard, happened) = (dice.roll(10) < 7, dice.roll(10) < 5);
            if heard || happened {
                now = after;
            }
            history.push(did(write(value), called, heard.then_some((called + 5, Outcome::Shown(after)))));
            if dice.roll(10) < 3 {
                history.push(did(Action::Read, called + 6, Some((called + 8, Outcome::Shown(now)))));
            }
        }
        is_fine(&history, true);
        // The last one heard of was never written.
        let wrong = Register { value: 0, ..now };
        history.push(did(Action::Read, 30_000, Some((30_001, Outcome::Shown(wrong)))));
        assert!(check(START, &history).is_err());
    }

    /// Every order that keeps what had returned before what was called later.
    fn by_trying_all(now: Register, left: &[Operation]) -> bool {
        let done = left.iter().all(|did| did.returned.is_none());
        let earliest = left.iter().filter_map(|did| did.returned.map(|(at, _)| at)).min().unwrap_or(u64::MAX);
        done || (0..left.len()).filter(|nth| left[*nth].called <= earliest).any(|nth| {
            let mut rest = left.to_vec();
            rest.remove(nth).step(now).is_some_and(|next| by_trying_all(next, &rest))
        })
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let action = prop_oneof![
            Just(Action::Read),
            (1..3_u64).prop_map(write),
            (1..3_u64, 0..3_u64).prop_map(|(value, at)| Action::Write { value, at: Some(at) }),
        ];
        let outcome = prop_oneof![
            4 => (0..3_u64, 0..4_u64).prop_map(|(value, version)| shown(value, version)),
            1 => Just(Outcome::Refused),
        ];
        let one = (action, 0..20_u64, 1..10_u64, prop::option::weighted(0.8, outcome));
        let one = one.prop_map(|(action, called, took, outcome)| {
            did(action, called, outcome.map(|outcome| (called + took, outcome)))
        });
        // Those of which nothing was heard and that read are never part of a history.
        let kept = |did: &Operation| did.returned.is_some() || did.action != Action::Read;
        prop::collection::vec(one.prop_filter("says something", kept), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn the_search_agrees_with_trying_all_orders(history in operations()) {
            prop_assert_eq!(check(START, &history).is_ok(), by_trying_all(START, &history));
        }
    }
}
