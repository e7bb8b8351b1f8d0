//! What a verifier found true in a piece of evidence.

use std::collections::BTreeMap;

use crate::spiffe::SpiffeId;

/// An evidence kind that cannot carry a nonce is good once: the broker consumes this before
/// anything rests on it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SingleUse {
    /// Names the evidence, over all callers and brokers.
    pub id: [u8; 32],
    /// Until when it must be remembered, in milliseconds since the epoch.
    pub until_ms: i64,
}

/// How much a piece of evidence is worth at best, the weakest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Assurance {
    /// The claimant measured itself; others signed what it should be (`manifest`).
    Claimed,
    /// A third party that knows the claimant says so (`oidc`, `aws_iid`, `cosign`).
    Vouched,
    /// Hardware that the claimant does not control measured it (`tpm2`, `sev_snp`, `tdx`, `nitro`).
    Hardware,
}

impl Assurance {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Vouched => "vouched",
            Self::Hardware => "hardware",
        }
    }
}

/// A counter of the evidence's source that only grows. The broker remembers it: evidence with a
/// lower one comes from a source that was set back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counter {
    /// Names the source, over all callers and brokers.
    pub source: [u8; 32],
    /// What it says now.
    pub value: u128,
    /// How much lower it may be than what was seen last: evidence that was made at the same time
    /// may come in another order.
    pub slack: u128,
}

/// Whose word it is: the broker takes it only while that node's task is alive.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Voucher {
    /// The node.
    pub node: SpiffeId,
    /// SHA-256 of the certificate that it signed with.
    pub certificate: [u8; 32],
    /// The task that it names.
    pub task: String,
}

/// Verified claims of one piece of evidence.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The kind of evidence.
    pub kind: &'static str,
    /// Claim name to values, such as `repository_id` or `subject.code`; a claim may have several
    /// values.
    pub values: BTreeMap<String, Vec<String>>,
    /// What the evidence is worth.
    pub assurance: Assurance,
    /// Whether the evidence carried the nonce (P2).
    pub fresh: bool,
    /// When the evidence itself ends, in milliseconds since the epoch; nothing that rests on it
    /// lives longer (P3).
    pub not_after_ms: Option<i64>,
    /// Set for kinds that are good once.
    pub single_use: Option<SingleUse>,
    /// Set for kinds whose source counts.
    pub counter: Option<Counter>,
    /// Set for kinds that are another workload's word.
    pub voucher: Option<Voucher>,
    /// SHA-256 of the evidence, for the record.
    pub digest: [u8; 32],
}

impl Claims {
    /// Of one piece of evidence, without an end of its own and with nothing to be done before it
    /// counts.
    pub(crate) fn of(
        kind: &'static str,
        assurance: Assurance,
        fresh: bool,
        values: impl Into<BTreeMap<String, Vec<String>>>,
        evidence: &[u8],
    ) -> Self {
        let (values, digest) = (values.into(), sha256(evidence));
        Self {
            kind,
            values,
            assurance,
            fresh,
            not_after_ms: None,
            single_use: None,
            counter: None,
            voucher: None,
            digest,
        }
    }
}

/// A claim set under construction: every value is one string, numbers in decimal and bytes in
/// lower-case hexadecimal.
#[derive(Debug, Default)]
pub(crate) struct Values(BTreeMap<String, Vec<String>>);

impl Values {
    pub(crate) fn text(&mut self, name: &str, value: impl ToString) {
        self.0
            .entry(name.to_owned())
            .or_default()
            .push(value.to_string());
    }

    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        self.text(name, hex(value));
    }
}

impl From<Values> for BTreeMap<String, Vec<String>> {
    fn from(values: Values) -> Self {
        values.0
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}
