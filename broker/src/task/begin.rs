//! Challenge and BeginTask: the path of DESIGN "Begin and mint", step by step.

use std::collections::BTreeSet;
use std::sync::Arc;

use ring::rand::{SecureRandom as _, SystemRandom};
use sundew_attestation::jws::JwsError;
use sundew_attestation::kinds::oidc::OidcError;
use sundew_attestation::{AppraisalError, Attested, Binding, BindingPurpose, Presented};
use sundew_core::store::Reserved;
use sundew_core::{SealError, TaskId, TaskRecord, TaskRequest, TokenRecord, WorkloadRecord, permit_task};
use sundew_proto::v1;

use crate::broker::{Broker, idempotency_key};
use crate::clock;
use crate::journal::{self, Record};
use crate::peer::{CHALLENGE_LIFE, Peer};
use crate::refusal::Refusal;

impl Broker {
    /// A nonce for this connection, and what must be shown with it. Costs no store round trip once the registration is known.
    pub(crate) async fn challenge(self: Arc<Self>, peer: Arc<Peer>, _: v1::ChallengeRequest) -> Result<v1::ChallengeResponse, Refusal> {
        let workload = self.records.workload(peer.id()).await?.ok_or(Refusal::Unregistered)?;
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Refusal::Seal { what: "nonce", cause: SealError::Random })?;
        peer.issue(nonce);
        Ok(v1::ChallengeResponse {
            nonce: nonce.to_vec(),
            expires_at_ms: clock::now_ms().saturating_add(i64::try_from(CHALLENGE_LIFE.as_millis()).unwrap_or(0)),
            required_evidence: workload.registration.evidence.iter().map(|r| r.kind().to_owned()).collect(),
            audience: self.audience.clone(),
        })
    }

    /// P2: consumes the challenge, then verifies and appraises the evidence, then consumes what is good once.
    pub(crate) async fn attest(
        &self,
        workload: &WorkloadRecord,
        peer: &Peer,
        nonce: &[u8],
        evidence: &[v1::Evidence],
        purpose: BindingPurpose,
    ) -> Result<Attested, Refusal> {
        let binding = Binding::new(purpose, nonce, peer.svid().public_key(), peer.exporter());
        let presented: Vec<_> = evidence.iter().map(|e| Presented { kind: &e.kind, payload: &e.payload }).collect();
        let appraised =
            sundew_attestation::appraise(&workload.registration.evidence, &presented, peer.svid(), &binding, &self.material.load(), clock::now_ms());
        if let Err(AppraisalError::Oidc(OidcError::Jws(JwsError::UnknownKey))) = appraised {
            self.unknown_key.notify_waiters();
        }
        let appraised = appraised?;
        let mut consumed = BTreeSet::new();
        for item in appraised.single_use() {
            if self.records.store().consume(&item.id, item.until_ms).await? {
                consumed.insert(item.clone());
            }
        }
        Ok(appraised.confirm(&consumed)?)
    }

    /// Opens a task and mints its first token.
    pub(crate) async fn begin(self: Arc<Self>, peer: Arc<Peer>, request: v1::BeginTaskRequest) -> Result<v1::BeginTaskResponse, Refusal> {
        // The nonce is gone from here on, whatever else is wrong.
        let challenged = peer.consume(&request.nonce);
        let asked = self.parse(&request)?;
        if !challenged {
            return Err(Refusal::Challenge);
        }
        let (position, now_ms) = (self.keeper.view()?.applied().0, clock::now_ms());
        let workload = self.records.workload(peer.id()).await?.ok_or(Refusal::Unregistered)?;
        let registration = &workload.registration;
        if !registration.scopes.covers_all(&asked.task.scopes) {
            // AC-10: refused before anything but the nonce is consumed.
            return Err(sundew_core::Denial::Scope.into());
        }
        let attested = self.attest(&workload, &peer, &request.nonce, &request.evidence, BindingPurpose::BeginTask).await?;
        let permit = permit_task(registration, peer.svid(), &attested, asked.task, now_ms)?;

        let id = self.task_id(&peer, &asked.key);
        let credential = self.credential(id, "first", peer.svid().thumbprint());
        let hash = credential.hash();
        let evidence: Vec<String> = attested.claims().iter().map(|c| format!("{}:{}", c.kind, hex(&c.digest))).collect();
        let token = TokenRecord {
            task: id,
            workload: peer.id().clone(),
            scopes: permit.scopes().clone(),
            audience: asked.audience,
            issued_at_ms: now_ms,
            expires_at_ms: permit.token_expires_ms(),
            binding: permit.binding(),
            certificate: *peer.svid().thumbprint(),
            position,
            task_position: position,
            registration: workload.version.clone(),
            request: asked.digest,
        };
        let task = TaskRecord {
            id,
            workload: peer.id().clone(),
            purpose: request.purpose,
            instruction: request.instruction,
            scopes: permit.scopes().clone(),
            created_at_ms: now_ms,
            deadline_ms: permit.deadline_ms(),
            certificate: *peer.svid().thumbprint(),
            position,
            grace_ms: registration.attendance_grace.as_ms(),
            registration: workload.version.clone(),
            request: asked.digest,
            evidence,
        };
        let due_ms = now_ms.saturating_add(task.grace_ms).min(task.deadline_ms);
        match self.records.store().reserve_task(peer.id().as_str(), id, task.deadline_ms, due_ms, registration.max_tasks, now_ms).await? {
            Reserved::Full => return Err(Refusal::Full),
            Reserved::Taken => {}
        }
        self.journal.write(begun(&task, &token, &attested, &hash.token_id().to_string())).await?;
        let (task, token) = self.records.create_task(task, token, &hash).await?;
        self.usable(&task)?;
        let record = &task.record;
        Ok(v1::BeginTaskResponse {
            task: Some(self.task_message(record)?),
            token: Some(super::token_message(&token, &credential)),
            attendance_grace_ms: record.grace_ms,
        })
    }

    fn task_id(&self, peer: &Peer, key: &str) -> TaskId {
        let derived = self.root().derive(&[b"task", peer.id().as_str().as_bytes(), key.as_bytes()]);
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(derived) {
            *to = from;
        }
        TaskId::from_bytes(id)
    }

    fn parse(&self, request: &v1::BeginTaskRequest) -> Result<Asked, Refusal> {
        if request.purpose.trim().is_empty() || request.purpose.len() > self.limits.purpose_bytes {
            return Err(Refusal::invalid("purpose", format!("must be 1 to {} bytes", self.limits.purpose_bytes)));
        }
        if request.instruction.len() > self.limits.instruction_bytes {
            return Err(Refusal::invalid("instruction", format!("must be at most {} bytes", self.limits.instruction_bytes)));
        }
        let audience = super::audience(request.audience.clone())?;
        let task = TaskRequest { scopes: super::scopes(&request.scopes)?, ttl: super::ttl(request.ttl_ms)?, binding: super::binding(request.binding)? };
        let texts = [
            &request.purpose,
            &request.instruction,
            &task.scopes.to_strings().join(
                "
",
            ),
            &audience.join(
                "
",
            ),
        ];
        let digest = super::request_digest(&texts, &[request.ttl_ms, request.binding.into()]);
        Ok(Asked { key: idempotency_key(request.idempotency_key.clone())?, task, audience, digest })
    }

    pub(crate) fn task_message(&self, record: &TaskRecord) -> Result<v1::Task, Refusal> {
        let view = self.keeper.view()?;
        let outcome = match view.judge_task(record, clock::now_ms()) {
            sundew_core::Liveness::Alive => v1::Outcome::Unspecified,
            sundew_core::Liveness::Dead(sundew_core::Cause::TaskEnded(outcome)) => super::outcome_message(outcome),
            sundew_core::Liveness::Dead(sundew_core::Cause::Expired) => v1::Outcome::Expired,
            sundew_core::Liveness::Dead(sundew_core::Cause::Revoked | sundew_core::Cause::Suspended) => v1::Outcome::Revoked,
        };
        Ok(v1::Task {
            task_id: record.id.to_string(),
            spiffe_id: record.workload.to_string(),
            purpose: record.purpose.clone(),
            instruction: record.instruction.clone(),
            scopes: record.scopes.to_strings(),
            created_at_ms: record.created_at_ms,
            deadline_ms: record.deadline_ms,
            outcome: outcome.into(),
            suspended: view.is_suspended(record.id),
            registration_version: record.registration.clone(),
        })
    }
}

struct Asked {
    key: String,
    task: TaskRequest,
    audience: Vec<String>,
    digest: [u8; 32],
}

fn begun(task: &TaskRecord, token: &TokenRecord, attested: &Attested, token_id: &str) -> Record {
    let mut record = journal::record("task_begun")
        .with("task", task.id)
        .with("workload", &task.workload)
        .with("purpose", &task.purpose)
        .with("instruction", &task.instruction)
        .with("scopes", task.scopes.to_strings().join(" "))
        .with("deadline_ms", task.deadline_ms)
        .with("registration", &task.registration)
        .with("evidence", task.evidence.join(" "))
        .with("token_id", token_id)
        .with("token_binding", format!("{:?}", token.binding).to_lowercase())
        .with("token_expires_ms", token.expires_at_ms);
    for claims in attested.claims() {
        record = record.with(format!("fresh.{}", claims.kind), claims.fresh);
        for name in ["digest", "sub", "repository_id", "project_id", "jti"] {
            if let Some(values) = claims.values.get(name) {
                record = record.with(format!("claim.{}.{name}", claims.kind), values.join(" "));
            }
        }
    }
    record
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
