//! Endings of what rests on trust material that is taken away.
//!
//! P4: once a withdrawal answers, no broker takes evidence on what was withdrawn, and nothing that was
//! begun on it is alive.

use std::collections::BTreeSet;
use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{Loss, TrustItem, TrustKind};
use sundew_core::store::DocumentKind;
use sundew_core::{GivenFor, SealError, Selector, WorkloadRecord};
use sundew_proto::v1;

use super::TrustItems;
use super::trust_items::document_name;
use crate::clock;
use crate::ledger::Dependents;
use crate::records::Before;
use crate::refusal::Refusal;

/// Everything that was begun on an item.
pub(super) struct BegunOn<'a> {
    pub(super) items: &'a TrustItems,
    pub(super) kind: TrustKind,
    pub(super) name: &'a str,
    pub(super) actor: &'a SpiffeId,
    pub(super) reason: &'a str,
}

impl BegunOn<'_> {
    /// Returns the item, and whether that is the one on which everything was begun. L22: somebody may
    /// have put an older one in its place, or taken it away.
    fn item(&self, before: &Before) -> Result<(Arc<TrustItem>, bool), Refusal> {
        let parse = |content: &[u8]| TrustItem::parse(self.kind, self.name, content).ok();
        let stored = before.document.as_ref().or(before.leftover.as_ref());
        let stored = stored.and_then(|document| parse(document.body()));
        let trusted = self.items.material.snapshot();
        match (stored, trusted.find(self.kind, self.name)) {
            (Some(item), _) if before.has_last_content() => Ok((Arc::new(item), true)),
            (_, Some(item)) => Ok((Arc::clone(item), true)),
            (stored, None) => {
                let item = stored.or_else(|| parse(b"lost")).ok_or(Refusal::Seal {
                    what: "trust",
                    cause: SealError::Opening,
                })?;
                Ok((Arc::new(item), false))
            }
        }
    }
}

/// E10: the names of the items that bar the key that an item is, and the TPM that activated it.
pub(super) fn bars(item: &TrustItem) -> Vec<String> {
    let Some(key) = item.attestation_key() else {
        return Vec::new();
    };
    let of_tpm = key.endorsement().map(|of_tpm| of_tpm.id().to_owned());
    [Some(key.name()), of_tpm].into_iter().flatten().collect()
}

impl Dependents for BegunOn<'_> {
    type Ended = Vec<v1::TrustRevocation>;
    async fn end(&self, before: &Before) -> Result<Self::Ended, Refusal> {
        // Only the item says what rests on it. Once it is gone, everything of it has ended.
        if !before.is_expected() {
            return Ok(Vec::new());
        }
        let (item, is_the_last) = self.item(before)?;
        let mut rest = self.items.material.snapshot().without(self.kind, self.name);
        // The bars that came before this withdrawal do not say that nothing rests on the key (E10).
        for name in bars(&item) {
            rest = rest.without(TrustKind::Tpm2Barred, &name);
        }
        let losses = rest
            .with_item(TrustItem::clone(&item))
            .losses(&rest, clock::now_ms());
        let mut selectors = self.items.resting_on(&losses).await?;
        if !is_the_last {
            // Tasks were begun on something newer, and this does not say on what.
            selectors
                .iter_mut()
                .for_each(|selector| selector.claims.clear());
            selectors.dedup();
        }
        let reason = format!("{} withdrawn: {}", document_name(&item), self.reason);
        let mut revocations = Vec::new();
        for selector in selectors {
            let responses = &self.items.responses;
            let id = responses.revoke_for(selector.clone(), self.actor, &reason);
            revocations.extend(message(selector, id.await?));
        }
        Ok(revocations)
    }
}

impl TrustItems {
    /// Returns the selectors of everything that rests on what was lost: one for each registration and
    /// claim that names it.
    pub(super) async fn resting_on(&self, losses: &[Loss]) -> Result<Vec<Selector>, Refusal> {
        let mut selectors = Vec::new();
        if losses.is_empty() {
            return Ok(selectors);
        }
        let records = &self.ledger.records;
        for (name, document) in records.documents(DocumentKind::Workload).await? {
            let record = document.and_then(|document| document.decode(WorkloadRecord::decode));
            // What a registration that cannot be read wants is not known, so all of it may rest on
            // what was lost.
            let (workload, claims) = match record {
                Ok(WorkloadRecord { registration, .. }) => {
                    let svids = registration.enrollment_policy().resting_on(losses);
                    let before_ms = self.ledger.given_before_ms();
                    selectors.extend(svids.iter().flat_map(|claim| {
                        let claim = claim.as_deref();
                        let what = claim.map_or(GivenFor::Evidence, GivenFor::Claim);
                        Selector::svids_given_for(&registration.spiffe_id, what, before_ms)
                    }));
                    let claims = registration.policy().resting_on(losses);
                    (registration.spiffe_id, claims)
                }
                Err(_) => match SpiffeId::parse(&name) {
                    Ok(workload) => (workload, BTreeSet::from([None])),
                    Err(_) => continue,
                },
            };
            selectors.extend(claims.into_iter().map(|claim| Selector {
                claims: claim.into_iter().collect(),
                ..Selector::workload(workload.clone())
            }));
        }
        Ok(selectors)
    }
}

/// The revocation of what a workload had, as registrars see it.
pub(super) fn message(selector: Selector, revocation_id: String) -> Option<v1::TrustRevocation> {
    let spiffe_id = selector.workload?.to_string();
    Some(v1::TrustRevocation {
        spiffe_id,
        revocation_id,
    })
}
