//! A bounded cache of records that never change.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{PoisonError, RwLock};

/// The most records of one kind in memory.
pub(super) const MAX_CACHED: usize = 200_000;

/// A bounded map in 16 parts, so that callers seldom wait for each other. A part that is full is
/// emptied, which costs one look-up for each of its records and nothing else.
pub(super) struct Cache<K, V> {
    parts: Vec<RwLock<HashMap<K, V>>>,
    /// The most records in one part.
    part_size: usize,
    hasher: RandomState,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    const PARTS: usize = 16;

    /// Returns an empty cache for at most [`MAX_CACHED`] records.
    pub(super) fn new() -> Self {
        Self::with_bound(MAX_CACHED)
    }

    fn with_bound(records: usize) -> Self {
        Self {
            parts: (0..Self::PARTS).map(|_| RwLock::default()).collect(),
            part_size: records / Self::PARTS,
            hasher: RandomState::new(),
        }
    }

    /// Returns the part that has or would have this key.
    fn part(&self, key: &K) -> Option<&RwLock<HashMap<K, V>>> {
        let index = usize::try_from(self.hasher.hash_one(key) >> 60).unwrap_or(0);
        self.parts.get(index)
    }

    /// Returns the record of this key, if the record is in memory.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.part(key)?
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Puts a record into memory.
    pub(super) fn insert(&self, key: K, value: V) {
        if let Some(part) = self.part(&key) {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            if part.len() >= self.part_size {
                part.clear();
            }
            part.insert(key, value);
        }
    }

    /// Removes every record from memory.
    pub(super) fn clear(&self) {
        for part in &self.parts {
            part.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_until_it_is_forgotten() {
        let cache = Cache::new();
        assert_eq!(cache.get(&1), None);
        cache.insert(1, "one");
        cache.insert(2, "two");
        assert_eq!((cache.get(&1), cache.get(&2)), (Some("one"), Some("two")));
        cache.clear();
        assert_eq!((cache.get(&1), cache.get(&2)), (None, None));
    }

    /// P12: whoever makes a broker read many records does not fill its memory.
    #[test]
    fn a_cache_never_has_more_than_its_bound_and_always_the_newest_record() {
        let cache = Cache::with_bound(64);
        for key in 0..1000 {
            cache.insert(key, key * 2);
            assert_eq!(cache.get(&key), Some(key * 2));
        }
        let found: Vec<i32> = (0..1000).filter_map(|key| cache.get(&key)).collect();
        assert!(found.len() <= 64, "{} records", found.len());
    }
}
