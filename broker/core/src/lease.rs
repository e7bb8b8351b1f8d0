//! Leases: the credentials in other systems that Sundew has to remove (P6).

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::id::{LeaseId, TaskId};
use crate::position::EntryId;
use crate::record::RecordError;
use crate::sealing::{KeyFingerprint, RootKey};

/// A credential in another system. The record is written before the credential is made, and removed
/// after the credential is gone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeaseRecord {
    /// The task that the credential was made for.
    pub task: TaskId,
    /// The workload that owns the task.
    pub workload: SpiffeId,
    /// The name of the engine, which stands for the other system.
    pub engine: String,
    /// The role of the engine that the credential has.
    pub role: String,
    /// The name that the credential has, or will have, in the other system.
    pub username: String,
    /// The time at which the record was written, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// The time at which the lease ends by itself, in milliseconds since the epoch. A system that
    /// can end credentials at a time ends this one then, too.
    pub expires_at_ms: i64,
    /// Whether the other system said that it has made the credential.
    #[serde(default)]
    pub confirmed: bool,
    /// The number of failed attempts to remove the credential.
    #[serde(default)]
    pub failures: u32,
    /// The reason why the last attempt failed; empty if none did.
    #[serde(default)]
    pub problem: String,
}

impl LeaseRecord {
    /// Returns the identifier of the one lease that a task has for a secret, under the root key of
    /// the task. L10: `interruptions`, as the view has them, are part of it, so that a task that was
    /// resumed has another lease, with another name and another password.
    #[must_use]
    pub fn id(
        (root, key): (&RootKey, KeyFingerprint),
        task: TaskId,
        secret: &str,
        interruptions: &[EntryId],
    ) -> LeaseId {
        let mut parts: Vec<&[u8]> = vec![b"lease", task.as_bytes(), secret.as_bytes()];
        parts.extend(interruptions.iter().map(|entry| entry.0.as_slice()));
        LeaseId::from_bytes(root.derive_name_under(key, &parts))
    }

    /// Returns the text with which all names begin that this installation gives in an engine's
    /// system under one of its root keys. Names without any of them belong to others, and are not
    /// ours to remove.
    #[must_use]
    pub fn prefix((root, key): (&RootKey, KeyFingerprint), engine: &str) -> String {
        let parts: [&[u8]; 2] = [b"lease-prefix", engine.as_bytes()];
        let tag = LeaseId::from_bytes(root.derive_name_under(key, &parts)).to_string();
        format!("sdw_{}_", tag.get(6..14).unwrap_or_default())
    }

    /// Returns the name that the credential of a lease has in the other system.
    #[must_use]
    pub fn username(prefix: &str, id: LeaseId) -> String {
        format!("{prefix}{}", id.to_string().trim_start_matches("lease-"))
    }

    /// Returns whether the credential is waiting to be removed: the lease has ended, or it was made
    /// due at `due_ms`, before its end. Both times are in milliseconds since the epoch.
    #[must_use]
    pub fn is_being_removed(&self, due_ms: i64, now_ms: i64) -> bool {
        due_ms < self.expires_at_ms || now_ms >= self.expires_at_ms
    }

    /// Returns the time to wait after so many failures before the next attempt, in milliseconds. It
    /// grows up to five minutes. `random`, which may be any number, spreads attempts of many
    /// leases.
    #[must_use]
    pub fn retry_after_ms(failures: u32, random: u32) -> i64 {
        let most = 500_i64
            .checked_shl(failures.min(10))
            .unwrap_or(i64::MAX)
            .min(300_000);
        most / 2 + i64::from(random) % (most / 2 + 1)
    }

    /// Returns the bytes that the store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`LeaseRecord::encode`] returned.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`] if the bytes are anything else.
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
        let (former, next) = (RootKey::new(&[7; 32]), RootKey::new(&[8; 32]));
        let (former, next) = (former.unwrap(), next.unwrap());
        let key = former.active();
        let root = (&former, key);
        let id = LeaseRecord::id(root, TaskId::from_bytes([1; 16]), "db/a/b", &[]);
        let prefix = LeaseRecord::prefix(root, "db/a");
        let name = LeaseRecord::username(&prefix, id);
        assert!(
            name.starts_with(&prefix)
                && name.len() <= 63
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        );
        assert_ne!(prefix, LeaseRecord::prefix(root, "db/b"));
        for (secret, interruptions) in [("db/a/c", &[][..]), ("db/a/b", &[EntryId([1; 16])])] {
            let other = LeaseRecord::id(root, TaskId::from_bytes([1; 16]), secret, interruptions);
            assert_ne!(id, other);
        }
        // Another active key changes nothing of a task that began under this one.
        let both = next.accepting([RootKey::new(&[7; 32]).unwrap()]).unwrap();
        let again = LeaseRecord::id((&both, key), TaskId::from_bytes([1; 16]), "db/a/b", &[]);
        assert_eq!(id, again);
        assert_eq!(prefix, LeaseRecord::prefix((&both, key), "db/a"));
        assert_ne!(prefix, LeaseRecord::prefix((&both, both.active()), "db/a"));
    }
}
