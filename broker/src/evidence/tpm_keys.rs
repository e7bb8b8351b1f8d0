//! Attestation keys that are trusted because the manufacturer of their TPM is: the TPM has opened a
//! credential that is made for both the TPM and the key.
//!
//! P1: by this a key becomes known and nothing more; evidence under it is taken where a
//! registration names the TPM or the key. Nothing is kept between the two calls: the content of the
//! credential is derived.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use sundew_attestation::kinds::tpm2::{AttestationKey, Endorsement};
use sundew_attestation::{TrustItem, TrustKind, TrustMaterial};
use sundew_core::{AskedIdentity, Grounds};
use sundew_proto::v1;
use tokio::sync::Semaphore;

use super::make_credential::make_credential;
use super::{Evidence, TrustItems};
use crate::clock;
use crate::journal;
use crate::ledger::Ledger;
use crate::peer::Peer;
use crate::refusal::Refusal;

/// Longest time between a credential and its answer, in milliseconds: TPMs are slow.
const ANSWER_TIMEOUT_MS: i64 = 120_000;
/// Most trusted keys of one TPM (P12).
const MAX_KEYS: usize = 8;

/// The room of TPM keys.
pub(crate) struct TpmKeys {
    ledger: Ledger,
    /// Whether callers without an SVID may come: this broker has an embedded CA.
    enrolls: bool,
    enroll_permits: Arc<Semaphore>,
    evidence: Arc<Evidence>,
    items: Arc<TrustItems>,
}

impl TpmKeys {
    /// A room whose keys become trust items; `enroll_permits` bounds what anonymous callers cost.
    pub(crate) fn new(
        ledger: Ledger,
        enrolls: bool,
        enroll_permits: Arc<Semaphore>,
        evidence: Arc<Evidence>,
        items: Arc<TrustItems>,
    ) -> Self {
        Self {
            ledger,
            enrolls,
            enroll_permits,
            evidence,
            items,
        }
    }

    /// Makes a credential for the key, if a trusted manufacturer has certified the endorsement key.
    pub(crate) async fn challenge_tpm_key(
        self: Arc<Self>,
        peer: Option<Arc<Peer>>,
        request: v1::ChallengeTpmKeyRequest,
    ) -> Result<v1::ChallengeTpmKeyResponse, Refusal> {
        // P12: callers without an SVID and all others cost the same, and a few come in at a time.
        let _permit = self
            .enroll_permits
            .try_acquire()
            .map_err(|_| Refusal::Overload)?;
        self.may_bring_keys(peer.as_deref()).await?;
        let (key, endorsement, document) = self.endorsed(peer.as_deref(), request.key).await?;
        let expires_at_ms = clock::now_ms().saturating_add(ANSWER_TIMEOUT_MS);
        let hidden = self.hidden(&document, expires_at_ms);
        let hidden = hidden.first().ok_or(Refusal::Credential)?;
        let credential = make_credential(endorsement.key(), key.name_bytes(), hidden)
            .map_err(|e| Refusal::invalid("key", e))?;
        Ok(v1::ChallengeTpmKeyResponse {
            credential: credential.blob,
            secret: credential.secret,
            expires_at_ms,
        })
    }

    /// Trusts the key, because its TPM has opened the credential.
    pub(crate) async fn activate_tpm_key(
        self: Arc<Self>,
        peer: Option<Arc<Peer>>,
        request: v1::ActivateTpmKeyRequest,
    ) -> Result<v1::ActivateTpmKeyResponse, Refusal> {
        let _permit = self
            .enroll_permits
            .try_acquire()
            .map_err(|_| Refusal::Overload)?;
        self.may_bring_keys(peer.as_deref()).await?;
        let (key, endorsement, document) = self.endorsed(peer.as_deref(), request.key).await?;
        let (now_ms, until_ms) = (clock::now_ms(), request.expires_at_ms);
        // The time is the caller's word until the credential is compared: it is part of the
        // content.
        let in_time = now_ms < until_ms && until_ms <= now_ms.saturating_add(ANSWER_TIMEOUT_MS);
        let opened = request.opened.as_slice();
        let hidden = self.hidden(&document, until_ms);
        if !in_time || !hidden.iter().any(|hidden| hidden.ct_eq(opened).into()) {
            return Err(Refusal::Credential);
        }
        let ek = endorsement.id();
        let trust = self.evidence.trusted().await?;
        let item = TrustItem::parse(TrustKind::Tpm2Ak, &item_name(&trust, ek, &key)?, &document)
            .map_err(|e| Refusal::invalid("key", e))?;
        let mut record = journal::record("tpm_key_activated")
            .with("ek", ek)
            .with("key", key.name());
        let mut actor = String::new();
        if let Some(peer) = &peer {
            actor = peer.id().to_string();
            record = record.with("peer", &actor);
        }
        let trusted = self.items.trust_item(&item, document, (&actor, record));
        let action = trusted.await?.action;
        // AC-4A: looked at again, since an operator may have barred the TPM meanwhile.
        if let Err(refusal) = self.require_not_barred(&key).await {
            self.items.forget(&item).await?;
            return Err(refusal);
        }
        // A key that was trusted before stays; nothing rests on one that was not.
        if let Err(refusal) = self.require_no_quarantine(peer.as_deref(), &endorsement, &key) {
            if action == "created" {
                self.items.forget(&item).await?;
            }
            return Err(refusal);
        }
        Ok(v1::ActivateTpmKeyResponse {
            ek: ek.to_owned(),
            key: key.name(),
            action,
        })
    }

    /// E10: refuses a key that an operator took back, or of a TPM that was. A machine cannot bring them
    /// back by itself.
    async fn require_not_barred(&self, key: &AttestationKey) -> Result<(), Refusal> {
        match self.evidence.trusted().await?.bars(key) {
            true => Err(Refusal::TpmBarred),
            false => Ok(()),
        }
    }

    /// I1: refuses a key that a quarantine is about, by the claims that evidence under it would have,
    /// or by whose it is, as far as the caller has an SVID.
    fn require_no_quarantine(
        &self,
        peer: Option<&Peer>,
        endorsement: &Endorsement,
        key: &AttestationKey,
    ) -> Result<(), Refusal> {
        let mut claims = vec![
            format!("tpm2.ek={}", endorsement.id()),
            format!("tpm2.key={}", key.name()),
        ];
        let grounds = peer.and_then(Peer::grounds);
        claims.extend(grounds.into_iter().flat_map(Grounds::claims));
        self.ledger.require_not_forbidden(&AskedIdentity {
            id: peer.map(Peer::id),
            svid_serial: peer.map(|peer| peer.svid().serial()),
            claims: &claims,
            ..AskedIdentity::default()
        })
    }

    /// Refuses callers that may not bring keys. A caller with an SVID must be registered; a caller
    /// without one may come if this broker enrolls.
    async fn may_bring_keys(&self, peer: Option<&Peer>) -> Result<(), Refusal> {
        match peer {
            Some(peer) if self.ledger.records.workload(peer.id()).await?.is_none() => {
                Err(Refusal::Unregistered)
            }
            None if !self.enrolls => Err(Refusal::Unsupported("embedded CA")),
            _ => Ok(()),
        }
    }

    /// Reads a key that may become trusted. Answers the key, the endorsement of its TPM, and the
    /// document of both; refuses a TPM whose manufacturer is not trusted, and what an operator keeps
    /// from becoming trusted.
    async fn endorsed(
        &self,
        peer: Option<&Peer>,
        key: Option<v1::TpmKey>,
    ) -> Result<(AttestationKey, Endorsement, Vec<u8>), Refusal> {
        let v1::TpmKey {
            attestation_key,
            endorsement_key,
            certificate,
            intermediates,
        } = key.unwrap_or_default();
        let parsed = AttestationKey::endorsed(
            &attestation_key,
            &endorsement_key,
            &certificate,
            &intermediates,
        );
        let (key, endorsement, document) = parsed.map_err(|e| Refusal::invalid("key", e))?;
        let makers = self.evidence.trusted().await?.tpm_manufacturers();
        endorsement
            .verify(&makers, clock::now_ms())
            .map_err(|e| Refusal::UntrustedManufacturer(e.to_string()))?;
        self.require_not_barred(&key).await?;
        self.require_no_quarantine(peer, &endorsement, &key)?;
        Ok((key, endorsement, document))
    }

    /// The content of the credential for this document, which only brokers and the TPM know: under
    /// each root key, the active one first.
    fn hidden(&self, document: &[u8], expires_at_ms: i64) -> Vec<[u8; 32]> {
        let parts: [&[u8]; 3] = [b"tpm credential", document, &expires_at_ms.to_be_bytes()];
        self.ledger.root().derive_each(&parts)
    }
}

/// Returns the name of the item that a key becomes. A TPM may have several keys, such as one for each
/// system that it starts; one that is trusted keeps its name.
fn item_name(trust: &TrustMaterial, ek: &str, key: &AttestationKey) -> Result<String, Refusal> {
    let mut others = 0_usize;
    for item in trust.items() {
        let Some(known) = item.attestation_key() else {
            continue;
        };
        let of_tpm = known.endorsement().is_some_and(|known| known.id() == ek);
        if of_tpm && known.name_bytes() == key.name_bytes() {
            return Ok(item.name().to_owned());
        }
        others = others.saturating_add(usize::from(of_tpm));
    }
    if others >= MAX_KEYS {
        return Err(Refusal::invalid(
            "key",
            format!("this TPM has {MAX_KEYS} trusted keys already: an operator has to remove one"),
        ));
    }
    Ok(format!("ek-{ek}/{}", key.name()))
}
