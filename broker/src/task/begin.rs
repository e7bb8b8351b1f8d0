//! Challenge and BeginTask: from what a workload shows to a task with its first token.

use std::sync::Arc;

use sundew_attestation::{Attested, BindingPurpose};
use sundew_core::store::Reserved;
use sundew_core::{
    KnownTask, KnownToken, Registration, TaskId, TaskRecord, TaskRequest, permit_task,
};
use sundew_proto::v1;

use super::Tasks;
use super::delegate::DelegationParent;
use crate::clock;
use crate::evidence::attested_digests;
use crate::journal::{self, Record};
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::wire::{self, idempotency_key};

/// Longest claims of one task, in bytes.
const MAX_CLAIMS: usize = 16 << 10;

impl Tasks {
    /// A nonce for this connection, and what must be shown with it. Costs no store round trip once
    /// the registration is known.
    pub(crate) async fn challenge(
        self: Arc<Self>,
        peer: Arc<Peer>,
        _: v1::ChallengeRequest,
    ) -> Result<v1::ChallengeResponse, Refusal> {
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        let (nonce, expires_at_ms) = peer.channel().challenge()?;
        Ok(v1::ChallengeResponse {
            nonce: nonce.to_vec(),
            expires_at_ms,
            evidence_sets: evidence_sets(&workload.registration),
            audience: self.evidence.audience().to_owned(),
        })
    }

    /// Opens a task and mints its first token.
    pub(crate) async fn begin(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::BeginTaskRequest,
    ) -> Result<v1::BeginTaskResponse, Refusal> {
        // The nonce is gone from here on, whatever else is wrong.
        let challenged = peer.channel().consume(&request.nonce);
        let asked = self.parse(&request)?;
        if !challenged {
            return Err(Refusal::Challenge);
        }
        let (position, now_ms) = (self.ledger.log.view()?.applied().0, clock::now_ms());
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        let registration = &workload.registration;
        if !registration.scopes.covers_all(&asked.task.scopes) {
            // AC-10: refused before anything but the nonce is consumed.
            return Err(sundew_core::Denial::Scope.into());
        }
        let above = self.delegated(&request.grant, now_ms).await?;
        let attested = self
            .evidence
            .attest(super::presentation(
                &workload,
                &peer,
                &request.nonce,
                &request.evidence,
                BindingPurpose::BeginTask,
            ))
            .await?;
        let delegation = above.as_ref().map(|above| sundew_core::Delegation {
            grant: &above.grant,
            parent: above.parent.record(),
        });
        let permit = permit_task(
            registration,
            peer.svid(),
            &attested,
            asked.task,
            delegation,
            now_ms,
        )?;

        let id = TaskId::from_bytes(self.ledger.root().derive_name(&[
            b"task",
            peer.id().as_str().as_bytes(),
            asked.key.as_bytes(),
        ]));
        let credential = self.credential(id, "first", peer.svid().thumbprint());
        let hash = credential.hash();
        let ancestors: Vec<_> = above
            .iter()
            .flat_map(|above| above.parent.ancestors().iter().chain([&above.parent]))
            .map(Arc::clone)
            .collect();
        let task = TaskRecord {
            id,
            workload: peer.id().clone(),
            purpose: request.purpose,
            instruction: request.instruction,
            scopes: permit.scopes().clone(),
            audience: permit.task_audience().to_vec(),
            created_at_ms: now_ms,
            deadline_ms: permit.deadline_ms(),
            certificate: *peer.svid().thumbprint(),
            svid_serial: peer.svid().serial().to_vec(),
            position,
            grace_ms: registration.attendance_grace.as_ms(),
            registration: workload.version.clone(),
            request: asked.digest,
            evidence: attested_digests(&attested),
            claims: claims(&attested)?,
            ancestors: ancestors.iter().map(|ancestor| ancestor.id).collect(),
            depth_left: permit.depth_left(),
        };
        let task = Arc::new(KnownTask::new(task, ancestors));
        let token = super::new_token(
            &peer,
            &permit,
            id,
            &workload.version,
            position,
            now_ms,
            &asked.digest,
        );
        let token = KnownToken::new(token, hash.token_id(), Arc::clone(&task));
        // AC-4A: looked at before anything is written, and again before anything is answered.
        self.ledger.require_not_quarantined(&token)?;
        self.reserve(&task, registration.max_tasks, above.as_ref(), now_ms)
            .await?;
        self.ledger
            .journal
            .write(begun(&task, &token, &attested))
            .await?;
        let (task, token) = self.ledger.records.create_task(task, token, &hash).await?;
        self.ledger.require_usable(&task)?;
        self.ledger.require_not_quarantined(&token)?;
        Ok(v1::BeginTaskResponse {
            task: Some(wire::task_message(&*self.ledger.log.view()?, &task)),
            token: Some(super::token_message(&token, &credential)),
            attendance_grace_ms: task.grace_ms,
            evidence_at_secrets: registration.evidence_at_secrets,
        })
    }

    /// A place among the workload's tasks, and among those that are delegated from the parent
    /// (P12).
    async fn reserve(
        &self,
        task: &KnownTask,
        limit: u32,
        above: Option<&DelegationParent>,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let due_ms = now_ms.saturating_add(task.grace_ms).min(task.deadline_ms);
        let store = self.ledger.records.store();
        if let Some(above) = above {
            let parent = above.parent.id.to_string();
            match store
                .reserve_task(
                    &parent,
                    task.id,
                    task.deadline_ms,
                    due_ms,
                    above.most_children,
                    now_ms,
                )
                .await?
            {
                Reserved::Full => return Err(Refusal::TaskLimit),
                Reserved::Taken => {}
            }
        }
        match store
            .reserve_task(
                task.workload.as_str(),
                task.id,
                task.deadline_ms,
                due_ms,
                limit,
                now_ms,
            )
            .await?
        {
            Reserved::Full => {
                if let Some(above) = above {
                    store
                        .release_task(&above.parent.id.to_string(), task.id)
                        .await?;
                }
                Err(Refusal::TaskLimit)
            }
            Reserved::Taken => Ok(()),
        }
    }

    fn parse(&self, request: &v1::BeginTaskRequest) -> Result<BeginTaskParams, Refusal> {
        if request.purpose.trim().is_empty() || request.purpose.len() > self.limits.purpose_bytes {
            return Err(Refusal::invalid(
                "purpose",
                format!("must be 1 to {} bytes", self.limits.purpose_bytes),
            ));
        }
        if request.instruction.len() > self.limits.instruction_bytes {
            return Err(Refusal::invalid(
                "instruction",
                format!("must be at most {} bytes", self.limits.instruction_bytes),
            ));
        }
        let task = TaskRequest {
            scopes: wire::scopes(&request.scopes)?,
            ttl: wire::ttl(request.ttl_ms)?,
            binding: wire::binding(request.binding)?,
            audience: wire::audience(request.audience.clone())?,
        };
        let texts = [
            &request.purpose,
            &request.instruction,
            &task.scopes.to_strings().join("\n"),
            &task.audience.join("\n"),
            &request.grant,
        ];
        let digest = super::request_digest(&texts, &[request.ttl_ms, request.binding.into()]);
        Ok(BeginTaskParams {
            key: idempotency_key(request.idempotency_key.clone())?,
            task,
            digest,
        })
    }
}

struct BeginTaskParams {
    key: String,
    task: TaskRequest,
    digest: [u8; 32],
}

/// What a registration wants to see: one of these sets.
pub(super) fn evidence_sets(registration: &Registration) -> Vec<v1::EvidenceSet> {
    let sets = registration.policy().alternatives().unwrap_or_default();
    sets.iter()
        .map(|set| v1::EvidenceSet {
            kinds: set
                .iter()
                .map(|requirement| requirement.kind().to_owned())
                .collect(),
        })
        .collect()
}

/// Claims that are another for each piece of evidence.
const VOLATILE: [&str; 12] = [
    "aio",
    "at_hash",
    "clock_safe",
    "exp",
    "iat",
    "jti",
    "nbf",
    "nonce",
    "reset_count",
    "restart_count",
    "rh",
    "uti",
];

/// What rules may later be about: all verified claims but those that are another for each piece of
/// evidence.
pub(super) fn claims(attested: &Attested) -> Result<Vec<String>, Refusal> {
    let mut all = Vec::new();
    for claims in attested.claims() {
        for (name, values) in claims
            .values
            .iter()
            .filter(|(name, _)| !VOLATILE.contains(&name.as_str()))
        {
            all.extend(
                values
                    .iter()
                    .map(|value| format!("{}.{name}={value}", claims.kind)),
            );
        }
    }
    // A claim that is left out is one that no rule finds, so none is.
    if all.iter().map(String::len).sum::<usize>() > MAX_CLAIMS {
        return Err(Refusal::invalid(
            "evidence",
            format!("its claims are longer than {MAX_CLAIMS} bytes"),
        ));
    }
    Ok(all)
}

fn begun(task: &KnownTask, token: &KnownToken, attested: &Attested) -> Record {
    let mut record = journal::record("task_begun")
        .with("task", task.id)
        .with("workload", &task.workload)
        .with("purpose", &task.purpose)
        .with("instruction", &task.instruction)
        .with("scopes", task.scopes.to_strings().join(" "))
        .with("deadline_ms", task.deadline_ms)
        .with("registration", &task.registration)
        .with("evidence", task.evidence.join(" "))
        .with("token_id", token.id())
        .with("token_binding", token.binding.as_str())
        .with("token_expires_ms", token.expires_at_ms);
    if !task.record().ancestors.is_empty() {
        record = record.with("ancestors", super::join_spaces(&task.record().ancestors));
    }
    record = record.with("assurance", attested.assurance().as_str());
    for claims in attested.claims() {
        record = record.with(format!("fresh.{}", claims.kind), claims.fresh);
        for name in [
            "digest",
            "sub",
            "repository_id",
            "project_id",
            "jti",
            "key",
            "measurement",
            "mrtd",
            "pcr0",
            "accountId",
            "instanceId",
        ] {
            if let Some(values) = claims.values.get(name) {
                record = record.with(format!("claim.{}.{name}", claims.kind), values.join(" "));
            }
        }
    }
    record
}
