//! A task before it is stored: its record, its first token, and what the journal says of both.

use std::sync::Arc;

use sundew_attestation::Attested;
use sundew_core::{
    Credential, KnownTask, KnownToken, OrderId, Permit, Position, Registration, TaskId, TaskRecord,
    WorkloadRecord,
};
use sundew_proto::v1;

use super::Tasks;
use super::claims::claims_of;
use super::delegate::DelegationParent;
use super::ordered::Ordered;
use crate::clock;
use crate::evidence::attested_digests;
use crate::journal::{self, Record};
use crate::peer::Peer;
use crate::records::{CreatedTask, Task};
use crate::refusal::Refusal;

/// The name of a task's first token among its tokens.
const FIRST: &str = "first";

/// Claims that the journal has with the beginning of a task: they tell workloads of one kind apart.
const JOURNALED: [&str; 11] = [
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
];

/// The decision to begin a task, and everything that it rests on.
pub(super) struct Decision<'a> {
    pub(super) attested: &'a Attested,
    pub(super) now_ms: i64,
    pub(super) ordered: Option<&'a Ordered>,
    pub(super) parent: Option<&'a DelegationParent>,
    pub(super) permit: &'a Permit,
    /// The position of the view on which it was decided.
    pub(super) position: Position,
    pub(super) workload: &'a WorkloadRecord,
}

/// A task that was stored, with its first token and its credential.
pub(super) type Stored = (Arc<Task>, Arc<KnownToken>, Credential);

/// A task that is not stored yet, with its first token.
pub(super) struct NewTask {
    pub(super) credential: Credential,
    /// The IDs that the task has if it began under another root key.
    pub(super) other_ids: Vec<TaskId>,
    pub(super) task: Arc<KnownTask>,
    pub(super) token: KnownToken,
}

impl Tasks {
    /// Stores a new task with its first token. Answers those that count: a retry gets what the first
    /// call got, if its token is good still.
    pub(super) async fn store_task(
        &self,
        new: NewTask,
    ) -> Result<(Arc<Task>, Arc<KnownToken>, Credential), Refusal> {
        let (hash, certificate) = (new.credential.hash(), new.token.certificate);
        let records = &self.ledger.records;
        match records.create_task(new.task, new.token, &hash).await? {
            CreatedTask::New(task, token) => Ok((task, token, new.credential)),
            CreatedTask::Existing(task) => self.begun_before(task, &certificate).await,
        }
    }

    /// Answers a retry with what the first call got, if that is good still. The certificate is that
    /// of the retry.
    pub(super) async fn begun_before(
        &self,
        task: Arc<Task>,
        certificate: &[u8; 32],
    ) -> Result<(Arc<Task>, Arc<KnownToken>, Credential), Refusal> {
        // A task that has ended has no tokens any more.
        self.ledger.require_usable(&task)?;
        // The first token is bound to the certificate of the first call.
        let credential = self.credential((task.record(), task.root_key()), FIRST, certificate);
        let first = self
            .ledger
            .records
            .token(task.id, &credential.hash())
            .await?;
        let first = first.filter(|token| clock::now_ms() < token.expires_at_ms);
        let first = first.ok_or(Refusal::Idempotency)?;
        self.ledger.require_token_issuable(&first)?;
        Ok((task, first, credential))
    }

    /// Answers a retry of a call that began a task under another root key, in a rotation. Such a task
    /// that has ended begins no other one.
    pub(super) async fn begun_under_other_key(
        &self,
        new: &NewTask,
    ) -> Result<Option<(Arc<Task>, Arc<KnownToken>, Credential)>, Refusal> {
        for id in &new.other_ids {
            if let Some(ending) = self.ledger.log.view()?.ending(id) {
                return Err(Refusal::TaskDead(ending));
            }
            if let Some(existing) = self.ledger.records.read_task(*id).await? {
                existing.require_request_of(&new.task)?;
                let begun = self.begun_before(existing, &new.token.certificate);
                return begun.await.map(Some);
            }
        }
        Ok(None)
    }

    /// Makes the records of a task that is allowed to begin. `key` names the task among those of
    /// its workload: a retry with the same key gets the same task and the same token.
    pub(super) fn new_task(
        &self,
        peer: &Peer,
        request: v1::BeginTaskRequest,
        key: &str,
        request_digest: &[u8; 32],
        decision: &Decision<'_>,
    ) -> Result<NewTask, Refusal> {
        let Decision {
            attested,
            now_ms,
            ordered,
            parent,
            permit,
            position,
            workload,
        } = *decision;
        // The ID is derived, so that a retry finds the task that the first attempt stored.
        let names = self.ledger.root().derive_name_each(&[
            b"task",
            peer.id().as_str().as_bytes(),
            key.as_bytes(),
        ]);
        let mut ids = names.into_iter().map(TaskId::from_bytes);
        let mut id = ids.next().ok_or(Refusal::Internal("no root key"))?;
        let mut other_ids: Vec<_> = ids.collect();
        if let Some(ordered) = ordered {
            // An order is for one task, which has its name.
            id = ordered.order().id.task();
            other_ids.clear();
        }
        let ancestors: Vec<_> = parent
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
            grace_ms: grace_ms(&workload.registration),
            registration: workload.version.clone(),
            request: *request_digest,
            evidence: attested_digests(attested),
            claims: claims_of(attested, peer)?,
            ancestors: ancestors.iter().map(|ancestor| ancestor.id).collect(),
            depth_left: permit.depth_left(),
            order: ordered.map(Ordered::of_task),
        };
        let root_key = self.ledger.root().active();
        let credential = self.credential((&task, root_key), FIRST, peer.svid().thumbprint());
        let task = Arc::new(KnownTask::new(task, ancestors, root_key));
        let token = super::new_token(
            peer,
            permit,
            id,
            &workload.version,
            position,
            now_ms,
            request_digest,
        );
        let token = KnownToken::new(token, credential.hash().token_id(), Arc::clone(&task));
        Ok(NewTask {
            credential,
            other_ids,
            task,
            token,
        })
    }
}

/// How long a task may be unattended, in milliseconds. P1, L9: only who attends is asked for evidence.
/// So a task that must prove itself is unattended for half as long again as it may be unproven at
/// most: longer than that, so that whoever is silent on a stream is still told how its task ended.
fn grace_ms(registration: &Registration) -> i64 {
    let grace_ms = registration.attendance_grace.as_ms();
    registration
        .prove_every
        .map(|every| every.as_ms().saturating_add(every.as_ms() / 2))
        .map_or(grace_ms, |longest_ms| grace_ms.min(longest_ms))
}

/// The record of the journal that a task with this first token was begun.
pub(super) fn journal_record(task: &KnownTask, token: &KnownToken, attested: &Attested) -> Record {
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
    if let Some(order) = &task.record().order {
        record = record
            .with("order", OrderId::of_task(task.id))
            .with("dispatcher", &order.dispatcher)
            .with("labels", order.labels.join(" "));
    }
    record = record.with("assurance", attested.assurance().as_str());
    for claims in attested.claims() {
        record = record.with(format!("fresh.{}", claims.kind), claims.fresh);
        for name in JOURNALED {
            if let Some(values) = claims.values.get(name) {
                record = record.with(format!("claim.{}.{name}", claims.kind), values.join(" "));
            }
        }
    }
    record
}
