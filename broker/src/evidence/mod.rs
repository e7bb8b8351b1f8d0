//! Evidence: from what a caller presents to the proof that it is attested, what verifiers trust,
//! and what operators may see of both.
//!
//! P2: a challenge is gone before this begins. P11: a caller hears nothing of what was found; an
//! operator can ask.

mod attempts;
mod attest;
mod make_credential;
pub(crate) mod node;
pub mod offline;
#[cfg(test)]
mod tests;
mod tpm_keys;
mod trust_items;
mod withdrawal;

use std::sync::Arc;

use sundew_attestation::{Attested, hex};
use tokio::sync::{Notify, Semaphore};

use crate::ledger::Ledger;
use crate::material::Material;
use crate::peer::Trust;
use attempts::Attempts;

pub(crate) use attest::Presentation;
pub(crate) use tpm_keys::TpmKeys;
pub(crate) use trust_items::TrustItems;

/// The room of evidence.
pub(crate) struct Evidence {
    ledger: Ledger,
    /// The audience that evidence for this broker must have, as callers are told.
    audience: String,
    attempts: Attempts,
    material: Arc<Material>,
    trust: Arc<Trust>,
    /// Notified when a token named a key that its issuer's known keys do not have.
    unknown_key: Arc<Notify>,
    /// P12: bounds how many slow verifications run at a time, so that others are answered.
    verify_permits: Semaphore,
}

impl Evidence {
    /// A room without attempts.
    pub(crate) fn new(
        ledger: Ledger,
        audience: String,
        material: Arc<Material>,
        trust: Arc<Trust>,
        unknown_key: Arc<Notify>,
    ) -> Self {
        let half_of_the_cores =
            std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        Self {
            ledger,
            audience,
            attempts: Attempts::default(),
            material,
            trust,
            unknown_key,
            verify_permits: Semaphore::new(half_of_the_cores),
        }
    }

    /// The audience that evidence for this broker must have.
    pub(crate) fn audience(&self) -> &str {
        &self.audience
    }
}

/// The kind and digest of each piece of evidence, for records: `kind:digest`.
pub(crate) fn attested_digests(attested: &Attested) -> Vec<String> {
    attested
        .claims()
        .iter()
        .map(|claims| format!("{}:{}", claims.kind, hex(&claims.digest)))
        .collect()
}
