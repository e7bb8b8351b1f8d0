//! From what a caller presents to the proof that it is attested.

use std::collections::BTreeSet;
use std::sync::Arc;

use ring::digest;
use sundew_attestation::jws::JwsError;
use sundew_attestation::kinds::oidc::OidcError;
use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{
    AppraisalError, Attested, Binding, BindingPurpose, Circumstances, Counter, Finding, Once,
    Presented, SingleUse, TrustItem, TrustKind, TrustMaterial, Voucher, appraise,
};
use sundew_core::store::DocumentKind;
use sundew_core::{TaskId, WorkloadRecord};
use sundew_proto::v1;

use super::attempts::{Attempt, finding_message, policy};
use super::{Evidence, node};
use crate::clock;
use crate::journal::cause_text;
use crate::peer::Channel;
use crate::records::counter_place;
use crate::refusal::Refusal;

/// Kinds whose verification takes a millisecond or more: chains of P-384 and RSA-4096.
const HEAVY: [&str; 3] = ["nitro", "sev_snp", "tdx"];
/// How often a counter is tried before the call is refused because other brokers write it too.
const COUNTER_ATTEMPTS: usize = 8;

/// Evidence that a caller presents, with what it must be bound to (RFC 9334).
pub(crate) struct Presentation<'a> {
    /// The workload whose registration says which evidence is enough.
    pub(crate) workload: &'a Arc<WorkloadRecord>,
    /// SubjectPublicKeyInfo of the key that the evidence must be bound to, in DER.
    pub(crate) public_key: &'a [u8],
    /// The channel on which the evidence is presented.
    pub(crate) channel: &'a Channel,
    /// The challenge; it is consumed already.
    pub(crate) nonce: &'a [u8],
    /// The evidence.
    pub(crate) evidence: &'a [v1::Evidence],
    /// The use case that the evidence must be bound to.
    pub(crate) purpose: BindingPurpose,
}

impl Evidence {
    /// Verifies and appraises the evidence, consumes what is good only once, and compares counters
    /// that only grow. The attempt is remembered, whatever comes of it.
    pub(crate) async fn attest(&self, presentation: Presentation<'_>) -> Result<Attested, Refusal> {
        let mut findings = Vec::new();
        let result = self.appraise(&presentation, &mut findings).await;
        let rest = v1::EvidenceAttempt {
            at_ms: clock::now_ms(),
            shown: presentation
                .evidence
                .iter()
                .take(16)
                .map(|piece| piece.kind.chars().take(32).collect())
                .collect(),
            findings: findings.into_iter().map(finding_message).collect(),
            refusal: result.as_ref().err().map(cause_text).unwrap_or_default(),
            assurance: result
                .as_ref()
                .map(|attested| attested.assurance().as_str().to_owned())
                .unwrap_or_default(),
            ..v1::EvidenceAttempt::default()
        };
        self.attempts.note(Attempt {
            workload: Arc::clone(presentation.workload),
            purpose: presentation.purpose,
            rest,
        });
        result
    }

    /// Does what [`attest`](Self::attest) does; every finding is added to `findings`.
    async fn appraise(
        &self,
        presentation: &Presentation<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<Attested, Refusal> {
        let Presentation {
            workload,
            public_key,
            channel,
            nonce,
            evidence,
            purpose,
        } = *presentation;
        let policy = policy(workload, purpose);
        let binding = Binding::new(purpose, nonce, public_key, channel.exporter());
        let presented: Vec<_> = evidence
            .iter()
            .map(|e| Presented {
                kind: &e.kind,
                payload: &e.payload,
            })
            .collect();
        let trust = self.trusted().await?;
        let roots = self.trust.current();
        let circumstances = Circumstances {
            public_key,
            binding: &binding,
            trust: &trust,
            bundles: &roots.bundles,
            now_ms: clock::now_ms(),
        };
        let appraised = if evidence
            .iter()
            .any(|piece| HEAVY.contains(&piece.kind.as_str()))
        {
            // P12: not on a thread that other calls wait for, and on half of the cores at most.
            let _permit = self
                .verify_permits
                .acquire()
                .await
                .map_err(|_| Refusal::Overload)?;
            tokio::task::block_in_place(|| appraise(policy, &presented, circumstances, findings))
        } else {
            appraise(policy, &presented, circumstances, findings)
        };
        if let Err(AppraisalError::Oidc(OidcError::Jws(JwsError::UnknownKey))) = appraised {
            self.unknown_key.notify_waiters();
        }
        let appraised = appraised?;
        // Verifiers do no I/O; these are the questions that only the store can answer.
        let mut vouched = BTreeSet::new();
        for voucher in appraised.vouchers() {
            if self.vouches(voucher).await? {
                vouched.insert(voucher.clone());
            }
        }
        let mut counted = BTreeSet::new();
        for counter in appraised.counters() {
            if self.advance(counter).await? {
                counted.insert(counter.source);
            }
        }
        let mut consumed = BTreeSet::new();
        for item in appraised.single_use() {
            let id = single_use_id(item, &workload.registration.spiffe_id);
            let store = self.ledger.records.store();
            if store.consume(&id, item.until_ms).await? {
                consumed.insert(item.clone());
            }
        }
        Ok(appraised.confirm(&consumed, &counted, &vouched)?)
    }

    /// Says whether a node's word counts now: the task that the node names is its own, is bound to
    /// the certificate that it signed with, lives, and lets it speak for processes.
    async fn vouches(&self, voucher: &Voucher) -> Result<bool, Refusal> {
        let Ok(id) = TaskId::parse(&voucher.task) else {
            return Ok(false);
        };
        let Some(task) = self.ledger.records.read_task(id).await? else {
            return Ok(false);
        };
        let is_its_own = task.workload == voucher.node
            && (task.certificate == voucher.certificate
                || task.rotated_to.contains(&voucher.certificate));
        match node::require_serves(&self.ledger, &task) {
            Ok(()) => Ok(is_its_own),
            Err(Refusal::TaskDead(_) | Refusal::Denied(_) | Refusal::Quarantined) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Remembers how far a source of evidence has counted; says whether the source counts on from
    /// there, and was not set back (T29).
    async fn advance(&self, counter: &Counter) -> Result<bool, Refusal> {
        let name = format!("counter/{}", sundew_attestation::hex(&counter.source));
        let place = counter_place(&counter.source);
        for _ in 0..COUNTER_ATTEMPTS {
            let before = self
                .ledger
                .records
                .store()
                .document(DocumentKind::Meta, &name)
                .await?;
            let known = match &before {
                Some(bytes) => self
                    .ledger
                    .records
                    .open("counter", &place, bytes, |record| {
                        record.try_into().map(u128::from_be_bytes)
                    })?,
                None => 0,
            };
            if counter.value <= known {
                return Ok(counter.value.saturating_add(counter.slack) >= known);
            }
            let after = self
                .ledger
                .root()
                .tag(&place, counter.value.to_be_bytes().to_vec());
            if self
                .ledger
                .records
                .store()
                .replace_document(DocumentKind::Meta, &name, before.as_deref(), Some(&after))
                .await?
            {
                return Ok(true);
            }
        }
        Err(Refusal::Conflict("counter"))
    }

    /// Answers what verifiers trust now, read anew if the log says that it changed.
    pub(crate) async fn trusted(&self) -> Result<Arc<TrustMaterial>, Refusal> {
        if let Some(change) = self.material.unread() {
            let records = &self.ledger.records;
            let mut items = Vec::new();
            let documents = records.documents(DocumentKind::Trust).await?;
            for (name, known) in records.expected_documents(DocumentKind::Trust) {
                if takes_back(&name) && !documents.iter().any(|(stored, _)| *stored == name) {
                    return Err(Refusal::Outdated {
                        what: "trust",
                        stored: 0,
                        known,
                    });
                }
            }
            for (name, document) in documents {
                let content = match document {
                    Ok(document) => document.body().to_vec(),
                    // What takes something back must not be missing; anything else that was
                    // altered is not trusted, and health says so.
                    Err(altered) if takes_back(&name) => return Err(altered),
                    Err(_) => continue,
                };
                let parsed = name
                    .split_once('/')
                    .and_then(|(kind, name)| Some((TrustKind::parse(kind)?, name)));
                let item =
                    parsed.and_then(|(kind, name)| TrustItem::parse(kind, name, &content).ok());
                match item {
                    Some(item) => items.push(item),
                    // Written by a version that took what this one does not: what cannot be read is
                    // not trusted.
                    None => tracing::error!(name, "trusted item cannot be read and is not trusted"),
                }
            }
            self.material.publish_added(items, change);
        }
        Ok(self.material.snapshot())
    }
}

/// The identity under which evidence is consumed that this workload shows.
fn single_use_id(item: &SingleUse, workload: &SpiffeId) -> [u8; 32] {
    match item.once {
        Once::ForAll => item.id,
        Once::ForEachWorkload => {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(&item.id);
            context.update(workload.as_str().as_bytes());
            let mut id = [0; 32];
            id.copy_from_slice(context.finish().as_ref());
            id
        }
    }
}

/// Whether an item of this name says what is not to be trusted any more, so that nothing may be
/// decided without it.
fn takes_back(name: &str) -> bool {
    let kind = name.split_once('/').map(|(kind, _)| kind);
    kind.and_then(TrustKind::parse)
        .is_some_and(|kind| matches!(kind, TrustKind::Crl | TrustKind::Tpm2Barred))
}
