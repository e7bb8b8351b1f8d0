//! Documents: small values that the store keeps until they are deleted, and their versions.
//!
//! L22: a tag says where a document belongs and that its content is genuine, not how old it is. So
//! each document carries a version under its tag, and the log says which version is the last.

use serde::{Deserialize, Serialize};

/// A family of documents. Each document has a name within its family.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// The engines that make credentials in other systems. Credentials of an engine are sealed.
    Engine,
    /// The keys of the broker, sealed.
    Meta,
    /// The actions of responders, with the progress of each clean-up.
    Response,
    /// The stored secrets, sealed.
    Secret,
    /// The keys and references that verifiers trust.
    Trust,
    /// The registrations of workloads.
    Workload,
}

impl DocumentKind {
    /// All families of documents.
    pub const ALL: [Self; 6] = [
        Self::Engine,
        Self::Meta,
        Self::Response,
        Self::Secret,
        Self::Trust,
        Self::Workload,
    ];

    /// Returns the short name that keys of a store use for the family.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Meta => "meta",
            Self::Response => "response",
            Self::Secret => "secret",
            Self::Trust => "trust",
            Self::Workload => "workload",
        }
    }
}

/// The statement that a document has a version: what an entry of the log says of a change.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DocumentVersion {
    /// The family of the document.
    pub kind: DocumentKind,
    /// The name of the document within its family.
    pub name: String,
    /// The version, which grows with each change of this document, also when it is deleted and
    /// written again. 0 is a document from before there were versions.
    pub version: u64,
    /// Whether the document was deleted with this version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The version whose content this is, if an operator put it back from a backup (L21).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_of: Option<u64>,
}

/// A version has two halves. The lower one counts changes. The upper one is the epoch: 0, or the
/// time of the restore that began it, in seconds since the Unix epoch. So everything that a restore
/// writes is above whatever any broker knows from before, also where the store has lost what that
/// was.
const EPOCH_SHIFT: u32 = 32;

/// Returns the first version of the epoch that a restore begins at this time, in milliseconds since
/// the Unix epoch.
#[must_use]
pub fn first_version_of_epoch(now_ms: i64) -> u64 {
    let seconds = u64::try_from(now_ms.div_euclid(1000)).unwrap_or(0);
    (seconds << EPOCH_SHIFT).saturating_add(1)
}

/// Returns a version as people read it: a number, and the epoch before it if there is one.
#[must_use]
pub fn version_text(version: u64) -> String {
    match (version >> EPOCH_SHIFT, version & u64::from(u32::MAX)) {
        (0, number) => number.to_string(),
        (epoch, number) => format!("{epoch}.{number}"),
    }
}

impl DocumentVersion {
    /// Returns whether two statements say the same of a document.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        (self.version, self.deleted) == (other.version, other.deleted)
    }

    /// Returns whether this statement takes the place of an earlier one about the same document. Of
    /// two statements about one version, a deletion stands; otherwise the later statement does.
    #[must_use]
    pub fn supersedes(&self, earlier: &Self) -> bool {
        match self.version.cmp(&earlier.version) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => self.deleted || !earlier.deleted,
            std::cmp::Ordering::Less => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_above_everything_from_before() {
        let first = first_version_of_epoch(1_767_225_600_123);
        assert!(first > u64::from(u32::MAX));
        assert!(first_version_of_epoch(1_767_225_601_000) > first + u64::from(u32::MAX >> 1));
        assert_eq!(version_text(7), "7");
        assert_eq!(version_text(first + 1), "1767225600.2");
    }
}
