//! Evidence: from what a caller shows to the proof that it is attested, and what operators may see
//! of it.
//!
//! P2: a challenge is gone before this begins. P11: a caller hears nothing of what was found; an
//! operator can ask.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use sundew_attestation::jws::JwsError;
use sundew_attestation::kinds::oidc::OidcError;
use sundew_attestation::{
    AppraisalError, AppraisalPolicy, Attested, Binding, BindingPurpose, Circumstances, Counter,
    Finding, Presented, TrustItem, TrustKind, TrustMaterial, Voucher, appraise,
};
use sundew_core::store::{DocumentKind, StoreError};
use sundew_core::{SealError, TaskId, WorkloadRecord};
use sundew_proto::v1;

use crate::broker::{Broker, Role};
use crate::clock;
use crate::peer::{Channel, Peer};
use crate::refusal::Refusal;

/// Most attempts that are remembered, and most that are listed if nothing is said.
const MAX_ATTEMPTS: usize = 256;
const LISTED: usize = 20;
/// Kinds whose verification takes a millisecond or more: chains of P-384 and RSA-4096.
const HEAVY: [&str; 3] = ["nitro", "sev_snp", "tdx"];
/// How often a counter is tried again when another broker wrote it.
const ATTEMPTS: usize = 8;

/// The last attempts at evidence, in memory: an operator's help, not a record.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<VecDeque<Attempt>>);

/// One of them; what was wanted is written out when somebody asks.
struct Attempt {
    workload: Arc<WorkloadRecord>,
    purpose: BindingPurpose,
    rest: v1::EvidenceAttempt,
}

impl Attempts {
    fn note(&self, attempt: Attempt) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() == MAX_ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(attempt);
    }

    /// The latest first, of one workload or of all.
    fn list(&self, spiffe_id: &str, limit: usize) -> Vec<v1::EvidenceAttempt> {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = attempts.iter().rev().filter(|attempt| {
            spiffe_id.is_empty() || attempt.workload.registration.spiffe_id.as_str() == spiffe_id
        });
        asked.take(limit).map(Attempt::message).collect()
    }
}

impl Attempt {
    fn message(&self) -> v1::EvidenceAttempt {
        v1::EvidenceAttempt {
            spiffe_id: self.workload.registration.spiffe_id.to_string(),
            purpose: self.purpose.as_str().to_owned(),
            wanted: serde_json::to_string(policy(&self.workload, self.purpose).rules)
                .unwrap_or_default(),
            ..self.rest.clone()
        }
    }
}

/// What a registration wants for a purpose.
fn policy(workload: &WorkloadRecord, purpose: BindingPurpose) -> AppraisalPolicy<'_> {
    match purpose {
        BindingPurpose::Enroll => workload.registration.enrollment_policy(),
        BindingPurpose::BeginTask
        | BindingPurpose::GetSecret
        | BindingPurpose::Prove
        | BindingPurpose::ResumeTask => workload.registration.policy(),
    }
}

/// A piece of work for [`Broker::attest`]: who shows what, on which channel, for which challenge.
pub(crate) struct Showing<'a> {
    /// Whose registration says what is wanted.
    pub(crate) workload: &'a Arc<WorkloadRecord>,
    /// SubjectPublicKeyInfo of the key that it must be bound to, in DER.
    pub(crate) public_key: &'a [u8],
    /// The channel on which it is shown.
    pub(crate) channel: &'a Channel,
    /// The challenge; it is consumed already.
    pub(crate) nonce: &'a [u8],
    /// The evidence.
    pub(crate) evidence: &'a [v1::Evidence],
    /// What it is for.
    pub(crate) purpose: BindingPurpose,
}

impl Broker {
    /// Verifies and appraises the evidence, consumes what is good once, and compares what only
    /// grows.
    pub(crate) async fn attest(&self, showing: Showing<'_>) -> Result<Attested, Refusal> {
        let mut findings = Vec::new();
        let result = self.appraise(&showing, &mut findings).await;
        let rest = v1::EvidenceAttempt {
            at_ms: clock::now_ms(),
            shown: showing
                .evidence
                .iter()
                .take(16)
                .map(|piece| piece.kind.chars().take(32).collect())
                .collect(),
            findings: findings.into_iter().map(finding_message).collect(),
            refusal: result
                .as_ref()
                .err()
                .map(ToString::to_string)
                .unwrap_or_default(),
            assurance: result
                .as_ref()
                .map(|attested| attested.assurance().as_str().to_owned())
                .unwrap_or_default(),
            ..v1::EvidenceAttempt::default()
        };
        self.attempts.note(Attempt {
            workload: Arc::clone(showing.workload),
            purpose: showing.purpose,
            rest,
        });
        result
    }

    async fn appraise(
        &self,
        showing: &Showing<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<Attested, Refusal> {
        let Showing {
            workload,
            public_key,
            channel,
            nonce,
            evidence,
            purpose,
        } = *showing;
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
            // P12: not on a thread that others wait for, and not on more of them than half.
            let _place = self
                .verifying
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
            if self
                .records
                .store()
                .consume(&item.id, item.until_ms)
                .await?
            {
                consumed.insert(item.clone());
            }
        }
        Ok(appraised.confirm(&consumed, &counted, &vouched)?)
    }

    /// Whether a node's word counts now: the task that it names is its own, under the certificate
    /// that it signed with, alive, and one that serves.
    async fn vouches(&self, voucher: &Voucher) -> Result<bool, Refusal> {
        let Ok(id) = TaskId::parse(&voucher.task) else {
            return Ok(false);
        };
        let Some(task) = self.records.read_task(id).await? else {
            return Ok(false);
        };
        let is_its_own = task.workload == voucher.node
            && (task.certificate == voucher.certificate
                || task.rotated_to.contains(&voucher.certificate));
        match self.usable(&task).and_then(|()| self.serves(&task)) {
            Ok(()) => Ok(is_its_own),
            Err(Refusal::TaskDead(_) | Refusal::Denied(_) | Refusal::Quarantined) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Remembers how far a source of evidence has counted; says whether it has not been set back
    /// (T29).
    async fn advance(&self, counter: &Counter) -> Result<bool, Refusal> {
        let name = format!("counter/{}", sundew_attestation::hex(&counter.source));
        let place: [&[u8]; 2] = [b"counter", &counter.source];
        for _ in 0..ATTEMPTS {
            let before = self
                .records
                .store()
                .document(DocumentKind::Meta, &name)
                .await?;
            let known = match &before {
                Some(bytes) => self.records.open("counter", &place, bytes, |record| {
                    record.try_into().map(u128::from_be_bytes)
                })?,
                None => 0,
            };
            if counter.value <= known {
                return Ok(counter.value.saturating_add(counter.slack) >= known);
            }
            let after = self
                .root()
                .tag(&place, counter.value.to_be_bytes().to_vec());
            if self
                .records
                .store()
                .replace_document(DocumentKind::Meta, &name, before.as_deref(), Some(&after))
                .await?
            {
                return Ok(true);
            }
        }
        Err(Refusal::Store(StoreError::Unavailable(
            "the counter is being changed by others".to_owned(),
        )))
    }

    /// What verifiers trust now: read anew if the log says that it changed.
    pub(crate) async fn trusted(&self) -> Result<Arc<TrustMaterial>, Refusal> {
        if let Some(change) = self.material.unread() {
            let mut items = Vec::new();
            for (name, bytes) in self.records.store().documents(DocumentKind::Trust).await? {
                let content = self.records.open(
                    "trust",
                    &[b"trust", name.as_bytes()],
                    &bytes,
                    |content| Ok::<_, SealError>(content.to_vec()),
                )?;
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

    /// What was shown, found and wanted lately: for the platform team and for responders.
    pub(crate) async fn explain_evidence(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ExplainEvidenceRequest,
    ) -> Result<v1::ExplainEvidenceResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => LISTED,
            limit if limit <= MAX_ATTEMPTS => limit,
            _ => return Err(Refusal::invalid("limit", format!("at most {MAX_ATTEMPTS}"))),
        };
        Ok(v1::ExplainEvidenceResponse {
            attempts: self.attempts.list(&request.spiffe_id, limit),
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(512).collect()
}

pub(crate) fn finding_message(finding: Finding) -> v1::EvidenceFinding {
    let (claims, fresh) = finding
        .claims
        .map(|claims| (claims.values, claims.fresh))
        .unwrap_or_default();
    v1::EvidenceFinding {
        kind: finding.kind.to_owned(),
        problem: finding.problem.unwrap_or_default(),
        // P12: what is remembered of an attempt is bounded, whatever was measured.
        claims: claims
            .into_iter()
            .take(64)
            .map(|(name, values)| v1::Claim {
                name: shortened(&name),
                values: values.iter().take(16).map(|v| shortened(v)).collect(),
            })
            .collect(),
        fresh,
    }
}
