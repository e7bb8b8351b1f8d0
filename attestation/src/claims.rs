//! What a verifier found true in a piece of evidence.

use std::collections::BTreeMap;

/// An evidence kind that cannot carry a nonce is good once: the broker consumes this before anything rests on it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SingleUse {
    /// Names the evidence, over all callers and brokers.
    pub id: [u8; 32],
    /// Until when it must be remembered, in milliseconds since the epoch.
    pub until_ms: i64,
}

/// Verified claims of one piece of evidence.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The kind of evidence.
    pub kind: &'static str,
    /// Claim name to values, such as `repository_id` or `subject.code`; a claim may have several values.
    pub values: BTreeMap<String, Vec<String>>,
    /// Whether the evidence carried the nonce (P2).
    pub fresh: bool,
    /// When the evidence itself ends, in milliseconds since the epoch; nothing that rests on it lives longer (P3).
    pub not_after_ms: Option<i64>,
    /// Set for kinds that are good once.
    pub single_use: Option<SingleUse>,
    /// SHA-256 of the evidence, for the record.
    pub digest: [u8; 32],
}
