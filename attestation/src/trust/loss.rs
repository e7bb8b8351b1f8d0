//! What evidence can no longer rest on after trust material changed.
//!
//! P4: a change takes something away however it is made: an item is removed or replaced by one with
//! less in it, or a revocation list comes that takes certificates back. What an item still has, and
//! what another item has too, is not lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::item::Content;
use super::{TrustItem, TrustKind, TrustMaterial};

/// The largest number of claims that are told apart. Of more, everything of the kind is lost.
const MAX_CLAIMS: usize = 64;

/// Something that evidence rested on and that is trusted no more.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Loss {
    /// Items of this kind lost something of which evidence does not tell whether it rests on it.
    Kind(TrustKind),
    /// An item of this kind alone made evidence with this claim possible, written as
    /// `<kind>.<claim>=<value>`.
    Claim(TrustKind, String),
    /// A set of reference values lost a value.
    Value {
        /// The name of the set.
        set: String,
        /// The value.
        value: String,
    },
}

impl TrustMaterial {
    /// Returns this material with an item added, or put in the place of the item of its kind and
    /// name.
    #[must_use]
    pub fn with_item(&self, item: TrustItem) -> Self {
        let mut changed = self.clone();
        let others = self.items().map(Arc::clone);
        changed.replace_items(others.chain([Arc::new(item)]));
        changed
    }

    /// Returns this material without the item of this kind and name.
    #[must_use]
    pub fn without(&self, kind: TrustKind, name: &str) -> Self {
        let mut changed = self.clone();
        let others = self
            .items()
            .filter(|item| (item.kind(), item.name()) != (kind, name));
        changed.replace_items(others.map(Arc::clone));
        changed
    }

    /// Returns what this material has and `after` has not; `now_ms` is in milliseconds since the
    /// epoch.
    #[must_use]
    pub fn losses(&self, after: &Self, now_ms: i64) -> Vec<Loss> {
        let mut losses = BTreeSet::new();
        for item in self.items() {
            let remains = after.find(item.kind(), item.name());
            let is_same = remains.is_some_and(|other| other.digest() == item.digest());
            if !is_same || item.is_endorsed() {
                losses.extend(self.lost_with(item, after, now_ms));
            }
        }
        losses.extend(self.lost_to_lists(after));
        bounded(losses)
    }

    /// Returns what `after` lacks of this item of ours, which it does not have as it is here.
    fn lost_with(&self, item: &TrustItem, after: &Self, now_ms: i64) -> Option<Loss> {
        let claim = || {
            let (name, value) = item.claim()?;
            Some(Loss::Claim(item.kind(), format!("{name}={value}")))
        };
        match item.content() {
            Content::AwsIid(der) => {
                let still = after.region_certificate(item.name()) == Some(der);
                (!still).then(claim).flatten()
            }
            Content::Nitro(roots) | Content::SevSnp(roots) => {
                let mut ours = roots.anchors.iter().chain(&roots.intermediates);
                let theirs = after.roots_of(item.kind());
                let still = ours
                    .all(|der| theirs.anchors.contains(der) || theirs.intermediates.contains(der));
                (!still).then_some(Loss::Kind(item.kind()))
            }
            Content::Reference => {
                let (set, value) = item.name().split_once('/')?;
                let lost = || Loss::Value {
                    set: set.to_owned(),
                    value: value.to_owned(),
                };
                (!after.is_reference(set, value)).then(lost)
            }
            Content::Tdx(collateral) => {
                let mut theirs = after.tdx_collateral();
                let still = theirs
                    .find(|other| other.fmspc() == collateral.fmspc())
                    .is_some_and(|other| !other.revokes_more_than(collateral));
                (!still).then(claim).flatten()
            }
            Content::Tpm2Ak(key) => {
                let is_good = |material: &Self| {
                    let known = material.attestation_key(&key.name());
                    let manufacturers = material.tpm_manufacturers();
                    known.is_some_and(|known| known.stands_for(key, &manufacturers, now_ms))
                };
                (is_good(self) && !is_good(after)).then(claim).flatten()
            }
            // Nothing rests on what takes back. What certificates of makers lose is seen at the keys
            // that rest on them.
            Content::Crl(_) | Content::Tpm2Barred | Content::Tpm2EkRoot(_) => None,
        }
    }

    /// Returns the kinds of which the revocation lists of `after` take back more than ours. TPM keys
    /// are looked at one by one.
    fn lost_to_lists(&self, after: &Self) -> Vec<Loss> {
        let ours = self.roots_of(TrustKind::Crl).crls;
        let theirs = after.roots_of(TrustKind::Crl).crls;
        let mut losses = Vec::new();
        for list in theirs.iter().filter(|list| list.revokes_more_than(&ours)) {
            let names = |kind: TrustKind| self.roots_of(kind).has_subject(list.issuer());
            if names(TrustKind::SevSnp) {
                losses.push(Loss::Kind(TrustKind::SevSnp));
            } else if !names(TrustKind::Tpm2EkRoot) {
                // The certificates below the root of Nitro come with the evidence.
                losses.push(Loss::Kind(TrustKind::Nitro));
            }
        }
        losses
    }
}

/// Returns the losses, with everything of a kind in place of very many claims.
fn bounded(mut losses: BTreeSet<Loss>) -> Vec<Loss> {
    for kind in TrustKind::ALL {
        let is_claim = |loss: &Loss| matches!(loss, Loss::Claim(of, _) if *of == kind);
        if losses.iter().filter(|loss| is_claim(loss)).count() > MAX_CLAIMS {
            losses.retain(|loss| !is_claim(loss));
            losses.insert(Loss::Kind(kind));
        }
    }
    losses.into_iter().collect()
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
