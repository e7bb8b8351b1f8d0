//! Leases: credentials in other systems that Sundew has to remove (P6).

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::id::{LeaseId, TaskId};
use crate::record::RecordError;
use crate::sealing::RootKey;

/// A credential in another system. Written before it is made, removed after it is gone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeaseRecord {
    /// For which task.
    pub task: TaskId,
    /// Whose.
    pub workload: SpiffeId,
    /// Where: the engine's name.
    pub engine: String,
    /// Which of the engine's roles.
    pub role: String,
    /// The name that the credential has, or will have, at the target.
    pub username: String,
    /// When it was written, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When it ends by itself, in milliseconds since the epoch; where the target can, it ends it
    /// then too.
    pub expires_at_ms: i64,
    /// Whether the target said that it was made.
    #[serde(default)]
    pub confirmed: bool,
    /// Attempts to remove it that failed.
    #[serde(default)]
    pub failures: u32,
    /// Why the last one failed.
    #[serde(default)]
    pub problem: String,
}

impl LeaseRecord {
    /// The one lease that a task has for a secret.
    #[must_use]
    pub fn id(root: &RootKey, task: TaskId, secret: &str) -> LeaseId {
        LeaseId::from_bytes(root.derive_name(&[b"lease", task.as_bytes(), secret.as_bytes()]))
    }

    /// What all names that this installation gives at a target begin with: those of another
    /// installation are not ours to remove.
    #[must_use]
    pub fn prefix(root: &RootKey, engine: &str) -> String {
        let tag = LeaseId::from_bytes(root.derive_name(&[b"lease-prefix", engine.as_bytes()]))
            .to_string();
        format!("sdw_{}_", tag.get(6..14).unwrap_or_default())
    }

    /// The name that the credential of a lease has at the target.
    #[must_use]
    pub fn username(prefix: &str, id: LeaseId) -> String {
        format!("{prefix}{}", id.to_string().trim_start_matches("lease-"))
    }

    /// Whether it is past its life, or was made due before: then it is waiting to be removed.
    #[must_use]
    pub fn is_being_removed(&self, due_ms: i64, now_ms: i64) -> bool {
        due_ms < self.expires_at_ms || now_ms >= self.expires_at_ms
    }

    /// When to try again after a failure: growing, with jitter, for ever. `random` is any number.
    #[must_use]
    pub fn retry_after_ms(failures: u32, random: u32) -> i64 {
        let most = 500_i64
            .checked_shl(failures.min(10))
            .unwrap_or(i64::MAX)
            .min(300_000);
        most / 2 + i64::from(random) % (most / 2 + 1)
    }

    /// As the store has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`LeaseRecord::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_and_stay_bounded() {
        for failures in 0..200 {
            for random in [0, 1, 77, u32::MAX] {
                let after = LeaseRecord::retry_after_ms(failures, random);
                assert!(
                    (250..=300_000).contains(&after),
                    "{failures} {random} {after}"
                );
            }
        }
        assert!(LeaseRecord::retry_after_ms(9, 0) > LeaseRecord::retry_after_ms(1, u32::MAX));
    }

    #[test]
    fn names_are_derived_and_fit_everywhere() {
        let root = RootKey::new(&[7; 32]).unwrap();
        let id = LeaseRecord::id(&root, TaskId::from_bytes([1; 16]), "db/a/b");
        let prefix = LeaseRecord::prefix(&root, "db/a");
        let name = LeaseRecord::username(&prefix, id);
        assert!(
            name.starts_with(&prefix)
                && name.len() <= 63
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        );
        assert_ne!(prefix, LeaseRecord::prefix(&root, "db/b"));
        assert_ne!(
            id,
            LeaseRecord::id(&root, TaskId::from_bytes([1; 16]), "db/a/c")
        );
    }
}
