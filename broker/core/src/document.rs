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
}

impl DocumentVersion {
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
