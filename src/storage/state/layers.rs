//! What reads see: changes not yet taken by the flusher, over changes it is writing, over sled.
//!
//! Invariants: the flusher takes everything dirty at once, together with the header it belongs to; a key being written
//! to sled is shadowed until sled holds it durably. Deliberately absent: locks (the owner has one over all of it) and
//! any meaning of keys.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::StateError;
use super::base::Base;
use super::keys;

/// Changed keys; `None` is a removal.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What a change costs beside its bytes: the map's node and two allocations.
const ENTRY_BYTES: usize = 96;

#[derive(Default)]
pub(super) struct Layers {
    dirty: Changes,
    dirty_bytes: usize,
    flushing: Arc<Changes>,
    flushing_bytes: usize,
    base: Option<Base>,
}

enum Stored<'a> {
    Value(&'a [u8]),
    Removed,
    Sled(sled::IVec),
}

type Pair<'a> = (Cow<'a, [u8]>, Stored<'a>);
type Item<'a> = Result<Pair<'a>, StateError>;

impl Layers {
    pub(super) fn over(base: Base) -> Self {
        Self { base: Some(base), ..Self::default() }
    }

    /// The same content in another database.
    pub(super) fn rebase(&mut self, base: Base) {
        self.base = Some(base);
    }

    pub(super) fn bytes(&self) -> usize {
        self.dirty_bytes + self.flushing_bytes
    }

    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        if let Some(value) = self.dirty.get(key).or_else(|| self.flushing.get(key)) {
            return Ok(value.clone());
        }
        self.base.as_ref().map_or(Ok(None), |base| base.get(key))
    }

    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, StateError> {
        if let Some(value) = self.dirty.get(key).or_else(|| self.flushing.get(key)) {
            return Ok(value.is_some());
        }
        self.base.as_ref().map_or(Ok(false), |base| base.contains(key))
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.write(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.write(key, None);
    }

    /// Removes a key that was put once and will not be put again. As long as the flusher has not taken it, nothing below
    /// knows it and nothing needs to be told.
    pub(super) fn erase(&mut self, key: Vec<u8>) {
        match self.dirty.remove(&key) {
            Some(Some(value)) => self.dirty_bytes -= ENTRY_BYTES + key.len() + value.len(),
            Some(None) => self.dirty_bytes -= ENTRY_BYTES + key.len(),
            None => self.write(key, None),
        }
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let length = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        // A removal must stay as long as a layer below may still hold the key; without any, nothing is below.
        if value.is_none() && self.base.is_none() && self.flushing.is_empty() {
            if let Some(old) = self.dirty.remove(&key) {
                self.dirty_bytes -= ENTRY_BYTES + key.len() + length(&old);
            }
            return;
        }
        self.dirty_bytes += ENTRY_BYTES + key.len() + length(&value);
        let key_bytes = key.len();
        if let Some(old) = self.dirty.insert(key, value) {
            self.dirty_bytes -= ENTRY_BYTES + key_bytes + length(&old);
        }
    }

    /// Visits `from..to` (`None`: to the end) in order, or backwards, until `visit` breaks.
    pub(super) fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        mut visit: impl FnMut(&[u8], Vec<u8>) -> Result<ControlFlow<()>, StateError>,
    ) -> Result<(), StateError> {
        if to.is_some_and(|to| from >= to) {
            return Ok(());
        }
        let mut sources: Vec<Peekable<Box<dyn Iterator<Item = Item<'_>> + '_>>> = Vec::with_capacity(3);
        for changes in [&self.dirty, &*self.flushing] {
            if !changes.is_empty() {
                sources.push(changes_in(changes, from, to, reverse).peekable());
            }
        }
        if let Some(base) = &self.base {
            sources.push(base_in(base, from, to, reverse).peekable());
        }
        while let Some((key, stored)) = next_of(&mut sources, reverse)? {
            let value = match (stored, &self.base) {
                (Stored::Removed, _) => continue,
                (Stored::Value(value), _) => value.to_vec(),
                (Stored::Sled(value), Some(base)) => base.decode(&key, &value)?,
                (Stored::Sled(_), None) => continue,
            };
            if visit(&key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Visits every key that starts with `prefix`, in order.
    pub(super) fn scan_prefix(
        &self,
        prefix: &[u8],
        visit: impl FnMut(&[u8], Vec<u8>) -> Result<ControlFlow<()>, StateError>,
    ) -> Result<(), StateError> {
        self.scan(prefix, keys::end_of(prefix).as_deref(), false, visit)
    }

    /// The keys that start with `prefix`, at most `limit`.
    pub(super) fn keys(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StateError> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        self.scan_prefix(prefix, |key, _| {
            found.push(key.to_vec());
            Ok(if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }

    /// Hands everything dirty to the flusher; reads still see it.
    pub(super) fn take(&mut self) -> Arc<Changes> {
        debug_assert!(self.flushing.is_empty(), "one flush at a time");
        self.flushing = Arc::new(std::mem::take(&mut self.dirty));
        self.flushing_bytes = std::mem::take(&mut self.dirty_bytes);
        Arc::clone(&self.flushing)
    }

    /// sled holds what was taken, durably.
    pub(super) fn flushed(&mut self) {
        self.flushing = Arc::default();
        self.flushing_bytes = 0;
    }
}

fn next_of<'a>(
    sources: &mut [Peekable<Box<dyn Iterator<Item = Item<'a>> + 'a>>],
    reverse: bool,
) -> Result<Option<Pair<'a>>, StateError> {
    let mut best: Option<Cow<'a, [u8]>> = None;
    for source in sources.iter_mut() {
        match source.peek() {
            Some(Ok((key, _))) => {
                let better = best.as_ref().is_none_or(|best| if reverse { key > best } else { key < best });
                if better {
                    best = Some(key.clone());
                }
            }
            Some(Err(_)) => return source.next().transpose(),
            None => {}
        }
    }
    let Some(best) = best else { return Ok(None) };
    let mut winner = None;
    for source in sources.iter_mut() {
        if let Some(item) = source.next_if(|item| matches!(item, Ok((key, _)) if *key == best)) {
            // Upper layers come first and win.
            if winner.is_none() {
                winner = Some(item?);
            }
        }
    }
    Ok(winner)
}

fn changes_in<'a>(
    changes: &'a Changes,
    from: &[u8],
    to: Option<&[u8]>,
    reverse: bool,
) -> Box<dyn Iterator<Item = Item<'a>> + 'a> {
    let to = to.map_or(Bound::Unbounded, Bound::Excluded);
    let range = changes.range::<[u8], _>((Bound::Included(from), to)).map(|(key, value)| {
        let stored = value.as_deref().map_or(Stored::Removed, Stored::Value);
        Ok((Cow::Borrowed(key.as_slice()), stored))
    });
    if reverse { Box::new(range.rev()) } else { Box::new(range) }
}

fn base_in<'a>(base: &Base, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Box<dyn Iterator<Item = Item<'a>> + 'a> {
    // Pieces of large values are nobody's keys.
    let range = base.range(from, to.unwrap_or(&[keys::CHUNK])).map(|item| {
        let (key, value) = item?;
        Ok((Cow::Owned(key.to_vec()), Stored::Sled(value)))
    });
    if reverse { Box::new(range.rev()) } else { Box::new(range) }
}

#[cfg(test)]
mod tests {
    use super::super::base::Damage;
    use super::*;
    use proptest::prelude::*;

    fn seen(layers: &Layers, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut seen = Vec::new();
        layers
            .scan(from, to, reverse, |key, value| {
                seen.push((key.to_vec(), value));
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        seen
    }

    #[test]
    fn an_erased_key_is_removed_below_only_if_it_was_taken() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let base = Base(
            db.open_tree("t").unwrap(),
            Arc::new(Damage::at("unused".into(), tokio::sync::watch::Sender::new(None))),
        );
        let mut layers = Layers::over(base);
        layers.put(b"short".to_vec(), vec![1]);
        layers.put(b"long".to_vec(), vec![2]);
        layers.erase(b"short".to_vec());
        assert_eq!(layers.take().keys().collect::<Vec<_>>(), [b"long"]);
        layers.erase(b"long".to_vec());
        assert_eq!(layers.get(b"long").unwrap(), None, "hidden while it is being written");
        layers.flushed();
        assert_eq!(*layers.take(), BTreeMap::from([(b"long".to_vec(), None)]));
        layers.flushed();
        assert_eq!(layers.bytes(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn layers_read_like_one_map(steps in prop::collection::vec((0u8..20, prop::option::of(0u8..9), 0u8..8), 1..60)) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let base = Base(db.open_tree("t").unwrap(), Arc::new(Damage::at("unused".into(), tokio::sync::watch::Sender::new(None))));
            let mut layers = Layers::over(base.clone());
            let mut model = BTreeMap::new();
            let mut taken = None;
            for (key, value, event) in steps {
                let key = vec![key];
                match value {
                    Some(value) => { model.insert(key.clone(), vec![value]); layers.put(key.clone(), vec![value]); }
                    None => { model.remove(&key); layers.remove(key.clone()); }
                }
                match (event, taken.take()) {
                    (0, None) => taken = Some(layers.take()),
                    (0, Some(changes)) => {
                        let changes: Arc<Changes> = changes;
                        for (key, value) in changes.iter() { base.write(key, value.as_deref()).unwrap(); }
                        layers.flushed();
                    }
                    (_, other) => taken = other,
                }
                prop_assert_eq!(layers.get(&key).unwrap(), model.get(&key).cloned());
                prop_assert_eq!(layers.contains(&key).unwrap(), model.contains_key(&key));
                let all: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(&seen(&layers, &[], None, false), &all);
                let back: Vec<_> = model.range(vec![3]..vec![12]).rev().map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(seen(&layers, &[3], Some(&[12]), true), back);
            }
            let bytes: usize = layers.dirty.iter().map(|(k, v)| ENTRY_BYTES + k.len() + v.as_ref().map_or(0, Vec::len)).sum();
            prop_assert_eq!(bytes, layers.dirty_bytes);
        }
    }
}
