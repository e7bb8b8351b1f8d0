//! Verified claims, with the assurance and the obligations that come with them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::spiffe::SpiffeId;

/// The largest number of values of one claim that is a list.
const MAX_VALUES: usize = 64;

/// Those among whom evidence is good once.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Once {
    /// The evidence was made for one presentation: whoever shows it next is refused.
    ForAll,
    /// The evidence is of a machine, and everything on it may show it: each workload may once.
    ForEachWorkload,
}

/// The identity of evidence that is accepted once because its kind cannot carry a nonce. The broker
/// consumes it before anything rests on the evidence (P2).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SingleUse {
    /// The identity of the evidence, unique over all claimants and brokers.
    pub id: [u8; 32],
    /// Those among whom the evidence is good once.
    pub once: Once,
    /// The time until which the identity must be remembered, in milliseconds since the epoch.
    pub until_ms: i64,
}

/// The highest assurance that a kind of evidence can give, the weakest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Assurance {
    /// The claimant measured itself, and another party signed the expected values (`manifest`); or the
    /// kernel said whose process it is, and nobody what the process runs (`local_user`).
    Claimed,
    /// A third party that knows the claimant vouches for it (`oidc`, `aws_iid`, `cosign`,
    /// `process`).
    Vouched,
    /// Hardware that the claimant does not control measured the claimant (`tpm2`, `sev_snp`, `tdx`,
    /// `nitro`).
    Hardware,
}

impl Assurance {
    /// Returns the name that records and policies use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Vouched => "vouched",
            Self::Hardware => "hardware",
        }
    }
}

/// A counter of the evidence's source that never decreases. The broker remembers its last value;
/// evidence with a lower one comes from a source that was set back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counter {
    /// The identity of the source, unique over all claimants and brokers.
    pub source: [u8; 32],
    /// The value of the counter in this evidence.
    pub value: u128,
    /// The largest difference by which the value may be below the last one. Pieces of evidence that
    /// were made at the same time may arrive in another order.
    pub slack: u128,
}

/// The node whose statement the evidence is. The broker accepts the statement only while the node's
/// task is alive.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Voucher {
    /// The SPIFFE ID of the node.
    pub node: SpiffeId,
    /// The SHA-256 of the certificate whose key signed the statement.
    pub certificate: [u8; 32],
    /// The node's task, as the statement names it.
    pub task: String,
}

/// The verified claims of one piece of evidence.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The kind of evidence.
    pub kind: &'static str,
    /// The values of each claim by its name, such as `repository_id` or `subject.code`.
    pub values: BTreeMap<String, Vec<String>>,
    /// The assurance that the evidence gives.
    pub assurance: Assurance,
    /// Whether the evidence is bound to the challenge's nonce (P2).
    pub fresh: bool,
    /// The end of the evidence itself, in milliseconds since the epoch, if it has one. Nothing that
    /// rests on the evidence lives longer (P3).
    pub not_after_ms: Option<i64>,
    /// Present if the evidence is accepted once.
    pub single_use: Option<SingleUse>,
    /// Present if the source of the evidence has a counter.
    pub counter: Option<Counter>,
    /// Present if the evidence is another workload's statement.
    pub voucher: Option<Voucher>,
    /// The SHA-256 of the evidence, for the record.
    pub digest: [u8; 32],
}

impl Claims {
    /// Returns each value of each claim, written as `<kind>.<claim>=<value>`.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        let kind = self.kind;
        let each = self.values.iter();
        each.flat_map(move |(name, values)| {
            let text = move |value| format!("{kind}.{name}={value}");
            values.iter().map(text)
        })
    }

    /// Makes the claims of evidence that has no end of its own, is not single-use, and has neither
    /// counter nor voucher.
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

/// A claim set under construction. Every value is a string: numbers in decimal, bytes in lower-case
/// hexadecimal.
#[derive(Debug, Default)]
pub(crate) struct Values(BTreeMap<String, Vec<String>>);

impl Values {
    /// Adds a value to a claim.
    pub(crate) fn text(&mut self, name: &str, value: impl ToString) {
        self.0
            .entry(name.to_owned())
            .or_default()
            .push(value.to_string());
    }

    /// Adds bytes to a claim.
    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        self.text(name, hex::encode(value));
    }
}

impl From<Values> for BTreeMap<String, Vec<String>> {
    fn from(values: Values) -> Self {
        values.0
    }
}

/// Returns the values of a JSON value that is a text, a boolean, an integer, or a list of at most 64
/// of these; `None` for any other.
///
/// A list with another member is not taken in part: the member that is left out could be one that
/// the registration does not accept.
pub(crate) fn plain_values(value: &Value) -> Option<Vec<String>> {
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => number.as_i64().map(|n| n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value.as_array() {
        Some(items) if items.len() > MAX_VALUES => None,
        Some(items) => items.iter().map(plain).collect(),
        None => plain(value).map(|one| vec![one]),
    }
}

/// Returns the bytes in lower-case hexadecimal, as `hex::encode` does.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}
