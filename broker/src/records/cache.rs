//! Bounded caches of records that never change.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sundew_core::{KnownTask, KnownToken, TaskId, TokenHash};

/// The most records of one kind in memory.
pub(super) const MAX_CACHED: usize = 200_000;
/// The most memory for records of one kind, in bytes (A2).
const MAX_CACHED_BYTES: usize = 256 << 20;

/// A bounded map in 16 parts, so that callers seldom wait for each other. A part that is full is
/// emptied, which costs one look-up for each of its records and nothing else.
pub(super) struct Cache<K, V> {
    parts: Vec<RwLock<Part<K, V>>>,
    /// The most records in one part.
    part_size: usize,
    /// The most bytes in one part.
    part_bytes: usize,
    hasher: RandomState,
}

struct Part<K, V> {
    records: HashMap<K, (V, usize)>,
    bytes: usize,
}

impl<K, V> Default for Part<K, V> {
    fn default() -> Self {
        Self {
            records: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<K: Hash + Eq, V> Cache<K, V> {
    const PARTS: usize = 16;

    /// Returns an empty cache for at most [`MAX_CACHED`] records and [`MAX_CACHED_BYTES`] bytes.
    pub(super) fn new() -> Self {
        Self::with_bounds(MAX_CACHED, MAX_CACHED_BYTES)
    }

    fn with_bounds(records: usize, bytes: usize) -> Self {
        Self {
            parts: (0..Self::PARTS).map(|_| RwLock::default()).collect(),
            part_size: records / Self::PARTS,
            part_bytes: bytes / Self::PARTS,
            hasher: RandomState::new(),
        }
    }

    /// Returns the part that has or would have this key.
    fn part(&self, key: &K) -> Option<&RwLock<Part<K, V>>> {
        let index = usize::try_from(self.hasher.hash_one(key) >> 60).unwrap_or(0);
        self.parts.get(index)
    }

    fn read(&self, key: &K) -> Option<RwLockReadGuard<'_, Part<K, V>>> {
        let part = self.part(key)?;
        Some(part.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, key: &K) -> Option<RwLockWriteGuard<'_, Part<K, V>>> {
        let part = self.part(key)?;
        Some(part.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the record of this key, if the record is in memory.
    pub(super) fn get(&self, key: &K) -> Option<V>
    where
        V: Clone,
    {
        let part = self.read(key)?;
        part.records.get(key).map(|(value, _)| value.clone())
    }

    /// Puts a record of about so many bytes into memory.
    pub(super) fn insert(&self, key: K, value: V, bytes: usize) {
        if let Some(mut part) = self.write(&key) {
            part.remove(&key);
            part.make_room(bytes, self.part_size, self.part_bytes);
            part.bytes = part.bytes.saturating_add(bytes);
            part.records.insert(key, (value, bytes));
        }
    }

    /// Removes a record from memory.
    pub(super) fn remove(&self, key: &K) {
        if let Some(mut part) = self.write(key) {
            part.remove(key);
        }
    }

    /// Removes every record from memory.
    pub(super) fn clear(&self) {
        for part in &self.parts {
            *part.write().unwrap_or_else(PoisonError::into_inner) = Part::default();
        }
    }
}

impl<K: Hash + Eq, V> Part<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some((_, bytes)) = self.records.remove(key) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Empties the part if another record of this size would be too much. Returns whether it did.
    fn make_room(&mut self, bytes: usize, most: usize, most_bytes: usize) -> bool {
        let full = self.records.len() >= most || self.bytes.saturating_add(bytes) > most_bytes;
        if full {
            *self = Self::default();
        }
        full
    }
}

/// The tokens of one task in memory.
#[derive(Default)]
struct TaskTokens {
    by_hash: HashMap<TokenHash, Arc<KnownToken>>,
}

/// The tokens of tasks in memory, so that all tokens of a task go together when it ends.
pub(super) struct TokenCache(Cache<TaskId, TaskTokens>);

impl TokenCache {
    pub(super) fn new() -> Self {
        Self(Cache::new())
    }

    /// Returns the token with this hash, if it is in memory.
    pub(super) fn get(&self, task: &TaskId, hash: &TokenHash) -> Option<Arc<KnownToken>> {
        let part = self.0.read(task)?;
        let (tokens, _) = part.records.get(task)?;
        tokens.by_hash.get(hash).cloned()
    }

    /// Puts a token into memory.
    pub(super) fn insert(&self, hash: TokenHash, token: Arc<KnownToken>) {
        let task = token.task().id;
        let Some(mut part) = self.0.write(&task) else {
            return;
        };
        let of_task = bytes_of(token.task());
        let mut bytes = bytes_of_token(&token);
        if !part.records.contains_key(&task) {
            bytes = bytes.saturating_add(of_task);
        }
        if part.make_room(bytes, self.0.part_size, self.0.part_bytes) {
            bytes = bytes_of_token(&token).saturating_add(of_task);
        }
        let (tokens, kept) = part.records.entry(task).or_default();
        if tokens.by_hash.insert(hash, token).is_none() {
            *kept = kept.saturating_add(bytes);
            part.bytes = part.bytes.saturating_add(bytes);
        }
    }

    /// Removes the tokens of a task from memory.
    pub(super) fn remove(&self, task: &TaskId) {
        self.0.remove(task);
    }

    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

/// Returns about how many bytes a task takes in memory: its texts, with its attributes beside them.
pub(super) fn bytes_of(task: &KnownTask) -> usize {
    let attributes: usize = task.claims.iter().map(String::len).sum::<usize>()
        + task
            .scopes
            .iter()
            .map(|scope| scope.as_str().len())
            .sum::<usize>();
    1536 + task.purpose.len() + task.instruction.len() + 2 * attributes
}

fn bytes_of_token(token: &KnownToken) -> usize {
    768 + token.audience.iter().map(String::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_until_it_is_forgotten() {
        let cache = Cache::new();
        assert_eq!(cache.get(&1), None);
        cache.insert(1, "one", 1);
        cache.insert(2, "two", 1);
        assert_eq!((cache.get(&1), cache.get(&2)), (Some("one"), Some("two")));
        cache.remove(&1);
        assert_eq!((cache.get(&1), cache.get(&2)), (None, Some("two")));
        cache.clear();
        assert_eq!((cache.get(&1), cache.get(&2)), (None, None));
    }

    /// P12: whoever makes a broker read many records, or large ones, does not fill its memory.
    #[test]
    fn a_cache_never_has_more_than_its_bounds_and_always_the_newest_record() {
        for (records, bytes, of_each) in [(64, usize::MAX, 1), (usize::MAX, 6400, 100)] {
            let cache = Cache::with_bounds(records, bytes);
            for key in 0..1000 {
                cache.insert(key, key * 2, of_each);
                // Again is not once more.
                cache.insert(key, key * 2, of_each);
                assert_eq!(cache.get(&key), Some(key * 2));
            }
            let found: Vec<i32> = (0..1000).filter_map(|key| cache.get(&key)).collect();
            assert!(found.len() <= 64, "{} records", found.len());
        }
    }
}
