//! Values that are asked for again when they are too old, and maps that forget what is not used.
//!
//! Age is monotonic time of this process and has nothing to do with domain time: it bounds for how long a node may
//! believe something that was changed elsewhere.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::kernel::Error;

/// One value, at most `max_age` old, fetched by one caller at a time.
pub(super) struct Fresh<T> {
    value: RwLock<Option<(tokio::time::Instant, T)>>,
    fetching: tokio::sync::Mutex<()>,
    max_age: Duration,
}

impl<T: Clone> Fresh<T> {
    pub fn new(max_age: Duration) -> Self {
        Self { value: RwLock::new(None), fetching: tokio::sync::Mutex::new(()), max_age }
    }

    /// The value if it is young enough.
    pub fn get(&self) -> Option<T> {
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        let (since, value) = value.as_ref()?;
        (since.elapsed() < self.max_age).then(|| value.clone())
    }

    /// The value, asked for when it is too old. Its age counts from before the question.
    pub async fn get_or<F: Future<Output = Result<T, Error>>>(&self, ask: impl FnOnce() -> F) -> Result<T, Error> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let _turn = self.fetching.lock().await;
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let asked = tokio::time::Instant::now();
        let value = ask().await?;
        self.set(asked, value.clone());
        Ok(value)
    }

    fn set(&self, since: tokio::time::Instant, value: T) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Some((since, value));
    }

    /// As [`Fresh::forget`], unless it was asked for less than `age` ago.
    pub fn forget_older(&self, age: Duration) {
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        value.take_if(|(since, _)| since.elapsed() >= age);
    }

    pub fn forget(&self) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A map of bounded size: when the young half is full, the old half is forgotten and the young one becomes old.
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The value; what is used becomes young again.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_asked_for_again_only_when_it_is_too_old() {
        let young = Fresh::new(Duration::from_secs(3600));
        assert!(young.get_or(|| async { Err(Error::internal()) }).await.is_err());
        assert_eq!(young.get_or(|| async { Ok(1) }).await, Ok(1));
        assert_eq!(young.get_or(|| async { Ok(2) }).await, Ok(1));
        young.forget();
        assert_eq!(young.get_or(|| async { Ok(3) }).await, Ok(3));
        let always_too_old = Fresh::new(Duration::ZERO);
        assert_eq!(always_too_old.get_or(|| async { Ok(1) }).await, Ok(1));
        assert_eq!(always_too_old.get_or(|| async { Ok(2) }).await, Ok(2));
    }

    #[test]
    fn what_is_not_used_is_forgotten_at_the_bound() {
        let mut recent = Recent::new(4);
        for n in 0..3 {
            recent.insert(n, n);
        }
        assert_eq!(recent.get(&0), Some(0));
        recent.insert(3, 3);
        recent.insert(4, 4);
        assert_eq!((recent.get(&0), recent.get(&1)), (Some(0), None));
        assert!(recent.young.len() + recent.old.len() <= 4);
    }
}
