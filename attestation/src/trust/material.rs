//! The snapshot of everything that verifiers trust.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::item::Content;
use super::{TrustItem, TrustKind};
use crate::chain::Roots;
use crate::kinds::{oidc, tdx, tpm2};

/// An immutable snapshot of everything that verifiers trust. The default trusts nothing.
#[derive(Clone, Debug, Default)]
pub struct TrustMaterial {
    /// The OpenID issuers by URL.
    pub issuers: BTreeMap<String, Arc<oidc::Issuer>>,
    /// All other items by kind and name.
    items: BTreeMap<(TrustKind, String), Arc<TrustItem>>,
}

impl TrustMaterial {
    /// Makes a snapshot with these issuers and no items.
    #[must_use]
    pub fn of_issuers(issuers: impl IntoIterator<Item = oidc::Issuer>) -> Self {
        Self {
            issuers: issuers
                .into_iter()
                .map(|issuer| (issuer.url.clone(), Arc::new(issuer)))
                .collect(),
            items: BTreeMap::new(),
        }
    }

    /// Replaces all items by the given ones. Of several with one kind and name, the last one
    /// counts.
    pub fn replace_items(&mut self, items: impl IntoIterator<Item = Arc<TrustItem>>) {
        self.items = items
            .into_iter()
            .map(|item| ((item.kind(), item.name().to_owned()), item))
            .collect();
    }

    /// Returns all items, sorted by kind and name.
    pub fn items(&self) -> impl Iterator<Item = &Arc<TrustItem>> {
        self.items.values()
    }

    /// Returns the item of this kind and name.
    #[must_use]
    pub fn find(&self, kind: TrustKind, name: &str) -> Option<&Arc<TrustItem>> {
        self.items.get(&(kind, name.to_owned()))
    }

    /// Returns whether there is an item of this kind.
    #[must_use]
    pub fn has(&self, kind: TrustKind) -> bool {
        self.of(kind).next().is_some()
    }

    fn of(&self, kind: TrustKind) -> impl Iterator<Item = &TrustItem> {
        self.items
            .range((kind, String::new())..)
            .map(|(_, item)| item.as_ref())
            .take_while(move |item| item.kind() == kind)
    }

    /// Returns whether a value is in a set of reference values.
    #[must_use]
    pub fn is_reference(&self, set: &str, value: &str) -> bool {
        self.items
            .contains_key(&(TrustKind::Reference, format!("{set}/{value}")))
    }

    /// Returns the certificates of all items of a kind, with every revocation list.
    pub(super) fn roots_of(&self, kind: TrustKind) -> Roots {
        let crl = |item: &TrustItem| {
            if let Content::Crl(crl) = item.content() {
                Some(Arc::clone(crl))
            } else {
                None
            }
        };
        let mut all = Roots {
            crls: self.of(TrustKind::Crl).filter_map(crl).collect(),
            ..Roots::default()
        };
        for item in self.of(kind) {
            if let Content::Nitro(roots) | Content::SevSnp(roots) | Content::Tpm2EkRoot(roots) =
                item.content()
            {
                all.anchors.extend(roots.anchors.iter().cloned());
                all.intermediates
                    .extend(roots.intermediates.iter().cloned());
            }
        }
        all
    }

    /// Returns the roots of Nitro enclaves.
    pub(crate) fn nitro_roots(&self) -> Roots {
        self.roots_of(TrustKind::Nitro)
    }

    /// Returns AMD's certificates for SEV-SNP.
    pub(crate) fn sev_snp_roots(&self) -> Roots {
        self.roots_of(TrustKind::SevSnp)
    }

    /// Returns the certificates with which TPM manufacturers certify endorsement keys.
    #[must_use]
    pub fn tpm_manufacturers(&self) -> Roots {
        self.roots_of(TrustKind::Tpm2EkRoot)
    }

    /// Returns Intel's collateral for all platform models.
    pub(crate) fn tdx_collateral(&self) -> impl Iterator<Item = &tdx::Collateral> {
        self.of(TrustKind::Tdx).filter_map(|item| {
            if let Content::Tdx(collateral) = item.content() {
                Some(collateral.as_ref())
            } else {
                None
            }
        })
    }

    /// Returns the attestation keys of TPMs, barred ones among them.
    fn attestation_keys(&self) -> impl Iterator<Item = &tpm2::AttestationKey> {
        self.of(TrustKind::Tpm2Ak)
            .filter_map(TrustItem::attestation_key)
    }

    /// Returns the attestation key with this TPM name, in lower-case hexadecimal, unless it is barred.
    pub(crate) fn attestation_key(&self, name: &str) -> Option<&tpm2::AttestationKey> {
        self.attestation_keys()
            .find(|key| key.name() == name && !self.bars(key))
    }

    /// Returns whether a key of this TPM name is trusted but for a bar.
    pub(crate) fn bars_key(&self, name: &str) -> bool {
        self.attestation_keys()
            .any(|key| key.name() == name && self.bars(key))
    }

    /// Returns whether an operator took a key or its TPM back. E10: with a TPM go all keys that it has
    /// shown to be its own. A key that an operator registered stands for itself.
    #[must_use]
    pub fn bars(&self, key: &tpm2::AttestationKey) -> bool {
        let is_barred = |name: &str| self.find(TrustKind::Tpm2Barred, name).is_some();
        key.endorsement()
            .is_some_and(|of_tpm| is_barred(of_tpm.id()) || is_barred(&key.name()))
    }

    /// Returns the certificate of an AWS region in DER.
    pub(crate) fn region_certificate(&self, region: &str) -> Option<&[u8]> {
        match self
            .items
            .get(&(TrustKind::AwsIid, region.to_owned()))?
            .content()
        {
            Content::AwsIid(der) => Some(der),
            Content::Crl(_)
            | Content::Nitro(_)
            | Content::Reference
            | Content::SevSnp(_)
            | Content::Tdx(_)
            | Content::Tpm2Ak(_)
            | Content::Tpm2Barred
            | Content::Tpm2EkRoot(_) => None,
        }
    }
}
