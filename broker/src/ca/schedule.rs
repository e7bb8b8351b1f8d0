//! The keys of the embedded CA, and the times between which each of them signs and is trusted.
//!
//! I10: each step of a rotation is a time in the stored document. So all brokers of a store take it
//! at the same moment, whichever of them were told or restarted meanwhile. A new key is trusted
//! from the moment at which it is stored, signs after an overlap, and the one before it is trusted
//! until everything that it signed has ended.

use serde::{Deserialize, Serialize};
use sundew_core::{SealError, SecretBytes};
use zeroize::Zeroize as _;

use super::CaError;
use crate::records::CaKeys;

/// How long a former key is trusted beyond the last thing that it signed, for clocks that differ,
/// in milliseconds.
const MARGIN_MS: i64 = 60_000;

/// A key as it is stored, sealed under the root key.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct StoredKey {
    /// The root certificate, in DER. Empty for a key that signs JWT-SVIDs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) certificate: Vec<u8>,
    /// PKCS#8 DER.
    pub(super) key: Vec<u8>,
    /// From when the key signs, in milliseconds since the epoch.
    pub(super) active_from_ms: i64,
    /// When the key ceases to be trusted, in milliseconds since the epoch, if another one follows.
    pub(super) retires_at_ms: Option<i64>,
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl StoredKey {
    /// A key that signs from the beginning, and that nothing follows.
    pub(super) fn first(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        Self {
            certificate,
            key,
            active_from_ms: 0,
            retires_at_ms: None,
        }
    }

    /// Whether the key is trusted at a time.
    pub(super) fn is_trusted(&self, now_ms: i64) -> bool {
        self.retires_at_ms.is_none_or(|at_ms| now_ms < at_ms)
    }
}

/// The keys of one kind, oldest first: at least one.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Schedule {
    keys: Vec<StoredKey>,
    /// The request that brought about the present keys, so that a retry changes nothing.
    #[serde(default)]
    request: String,
}

/// The form from before there were rotations.
#[derive(Deserialize)]
struct OnlyRoot {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Drop for OnlyRoot {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Schedule {
    /// A schedule with one key.
    pub(super) fn of(key: StoredKey) -> Self {
        Self {
            keys: vec![key],
            request: String::new(),
        }
    }

    /// Reads the plain form; also that of a version that knew no rotation.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] for anything else.
    pub(super) fn decode(kind: CaKeys, text: &[u8]) -> Result<Self, SealError> {
        if let Ok(schedule) = serde_json::from_slice::<Self>(text) {
            return if schedule.keys.is_empty() {
                Err(SealError::Opening)
            } else {
                Ok(schedule)
            };
        }
        let only = match kind {
            CaKeys::Jwt => StoredKey::first(Vec::new(), text.to_vec()),
            CaKeys::Roots => {
                let only: OnlyRoot =
                    serde_json::from_slice(text).map_err(|_| SealError::Opening)?;
                StoredKey::first(only.certificate.clone(), only.key.clone())
            }
        };
        Ok(Self::of(only))
    }

    /// The plain form, in JSON.
    ///
    /// # Errors
    ///
    /// [`SealError::Opening`] if it cannot be written, which does not happen.
    pub(super) fn encode(&self) -> Result<SecretBytes, SealError> {
        let text = serde_json::to_vec(self).map_err(|_| SealError::Opening)?;
        Ok(SecretBytes::new(text))
    }

    /// All keys, oldest first.
    pub(super) fn keys(&self) -> &[StoredKey] {
        &self.keys
    }

    /// The request that brought about the present keys.
    pub(super) fn request(&self) -> &str {
        &self.request
    }

    /// The place of the key that signs at a time: the last one that is active by then. A broker
    /// whose clock is before all of them takes the first.
    pub(super) fn signer(&self, now_ms: i64) -> usize {
        let is_active = |key: &StoredKey| key.active_from_ms <= now_ms && key.is_trusted(now_ms);
        let first_trusted = || self.keys.iter().position(|key| key.is_trusted(now_ms));
        let active = self.keys.iter().rposition(is_active);
        active.or_else(first_trusted).unwrap_or_default()
    }

    /// When the rotation that is under way ends, in milliseconds since the epoch, if there is one.
    pub(super) fn under_way_until(&self, now_ms: i64) -> Option<i64> {
        let retires = self.keys.iter().filter_map(|key| key.retires_at_ms);
        retires.filter(|at_ms| now_ms < *at_ms).max()
    }

    /// The schedule with a key more, which signs after `overlap_ms`. The key before it is trusted
    /// for as long as something lives that it signed, which is `life_ms` at most.
    pub(super) fn rotated(
        &self,
        mut next: StoredKey,
        now_ms: i64,
        (overlap_ms, life_ms): (i64, i64),
        request: &str,
    ) -> Self {
        let mut rotated = self.without_retired(now_ms);
        next.active_from_ms = now_ms.saturating_add(overlap_ms);
        let ends_ms = next.active_from_ms.saturating_add(life_ms);
        for key in &mut rotated.keys {
            let retires_ms = key.retires_at_ms.unwrap_or(i64::MAX);
            key.retires_at_ms = Some(retires_ms.min(ends_ms.saturating_add(MARGIN_MS)));
        }
        rotated.keys.push(next);
        request.clone_into(&mut rotated.request);
        rotated
    }

    /// The schedule with nothing but the newest key, which signs now at the latest.
    pub(super) fn newest_alone(&self, now_ms: i64) -> Result<Self, CaError> {
        let mut newest = self.keys.last().ok_or(SealError::Opening)?.clone();
        newest.active_from_ms = newest.active_from_ms.min(now_ms);
        Ok(Self {
            keys: vec![newest],
            request: self.request.clone(),
        })
    }

    /// The schedule without the keys that nobody trusts any more.
    pub(super) fn without_retired(&self, now_ms: i64) -> Self {
        let trusted = self.keys.iter().filter(|key| key.is_trusted(now_ms));
        Self {
            keys: trusted.cloned().collect(),
            request: self.request.clone(),
        }
    }

    /// Whether every broker has ceased to trust some key that is still there, whatever its clock.
    pub(super) fn has_retired(&self, now_ms: i64) -> bool {
        let surely_ms = now_ms.saturating_sub(MARGIN_MS);
        self.keys.iter().any(|key| !key.is_trusted(surely_ms))
    }
}
