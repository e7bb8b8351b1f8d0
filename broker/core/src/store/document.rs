//! Documents: small values that the store keeps until they are deleted.

/// A family of documents. Each document has a name within its family.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
