//! The proofs of appraisal: [`Appraised`], and [`Attested`] once nothing is left to be done.
//!
//! P1, P2: [`Attested`] is made only here, after every requirement was met and every piece of
//! single-use evidence was consumed.

use std::collections::BTreeSet;

use super::AppraisalError;
use crate::claims::{Assurance, Claims, Counter, SingleUse, Voucher};

/// The proof that evidence met every requirement of a registration. Single-use evidence is still to
/// be consumed, counters are still to be compared, and vouchers are still to be checked.
///
/// [`appraise`](super::appraise) alone makes it. Other crates can neither construct it
///
/// ```compile_fail,E0423
/// let nothing = sundew_attestation::Appraised(Vec::new());
/// ```
///
/// nor clone it, which would confirm it twice:
///
/// ```compile_fail,E0277
/// fn is_clone<T: Clone>() {}
/// is_clone::<sundew_attestation::Appraised>();
/// ```
#[derive(Debug)]
#[must_use]
pub struct Appraised(Vec<Claims>);

/// The proof that a workload's evidence was verified, appraised and consumed (P1, P2).
///
/// [`Appraised::confirm`] alone makes it. Other crates can read it:
///
/// ```
/// fn is_fresh(attested: &sundew_attestation::Attested) -> bool {
///     attested.is_fresh()
/// }
/// ```
///
/// They can neither construct it
///
/// ```compile_fail,E0451
/// let forged = sundew_attestation::Attested { claims: Vec::new() };
/// ```
///
/// nor clone it:
///
/// ```compile_fail,E0277
/// fn is_clone<T: Clone>() {}
/// is_clone::<sundew_attestation::Attested>();
/// ```
#[derive(Debug)]
#[must_use]
pub struct Attested {
    claims: Vec<Claims>,
}

impl Appraised {
    /// Makes the proof of claims that met every requirement.
    pub(super) fn new(claims: Vec<Claims>) -> Self {
        Self(claims)
    }

    /// Returns the single-use evidence that the caller must consume before
    /// [`Appraised::confirm`].
    pub fn single_use(&self) -> impl Iterator<Item = &SingleUse> {
        self.0
            .iter()
            .filter_map(|claims| claims.single_use.as_ref())
    }

    /// Returns the counters that the caller must compare with the last ones of the same sources,
    /// and remember, before [`Appraised::confirm`].
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.0.iter().filter_map(|claims| claims.counter.as_ref())
    }

    /// Returns the vouchers whose nodes the caller must find alive before [`Appraised::confirm`].
    pub fn vouchers(&self) -> impl Iterator<Item = &Voucher> {
        self.0.iter().filter_map(|claims| claims.voucher.as_ref())
    }

    /// Makes the final proof.
    ///
    /// `consumed` is the evidence that the caller consumed for this presentation, `counted` the
    /// sources whose counters it compared and remembered, and `vouched` the vouchers that it
    /// checked.
    ///
    /// # Errors
    /// [`AppraisalError::Unvouched`], [`AppraisalError::Consumed`] or [`AppraisalError::Counter`]
    /// if one of the three sets lacks what this proof asks for.
    pub fn confirm(
        self,
        consumed: &BTreeSet<SingleUse>,
        counted: &BTreeSet<[u8; 32]>,
        vouched: &BTreeSet<Voucher>,
    ) -> Result<Attested, AppraisalError> {
        if !self.vouchers().all(|voucher| vouched.contains(voucher)) {
            return Err(AppraisalError::Unvouched);
        }
        if !self.single_use().all(|item| consumed.contains(item)) {
            return Err(AppraisalError::Consumed);
        }
        if !self
            .counters()
            .all(|counter| counted.contains(&counter.source))
        {
            return Err(AppraisalError::Counter);
        }
        Ok(Attested { claims: self.0 })
    }
}

impl Attested {
    /// Returns the verified claims, one entry for each piece of evidence.
    #[must_use]
    pub fn claims(&self) -> &[Claims] {
        &self.claims
    }

    /// Returns when the first piece of evidence ends, in milliseconds since the epoch; `None` if no
    /// piece has an end of its own (P3).
    #[must_use]
    pub fn not_after_ms(&self) -> Option<i64> {
        self.claims
            .iter()
            .filter_map(|claims| claims.not_after_ms)
            .min()
    }

    /// Returns whether at least one piece of evidence carried the nonce (P2).
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.claims.iter().any(|claims| claims.fresh)
    }

    /// Returns the assurance of the weakest piece of evidence.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.claims
            .iter()
            .map(|claims| claims.assurance)
            .min()
            .unwrap_or(Assurance::Claimed)
    }
}
