//! Challenge and BeginTask: from what a workload shows to a task with its first token.

use std::sync::Arc;

use sundew_attestation::{BindingPurpose, hex};
use sundew_core::store::Reserved;
use sundew_core::{
    ClaimRecord, Credential, Denial, KnownTask, KnownToken, Liveness, Registration, TaskRequest,
    permit_task,
};
use sundew_proto::v1;

use super::Tasks;
use super::delegate::DelegationParent;
use super::new_task::{Decision, NewTask, Stored, journal_record};
use super::ordered::{asked, delegation};
use crate::clock;
use crate::peer::Peer;
use crate::records::Task;
use crate::refusal::Refusal;
use crate::wire::{self, idempotency_key};

/// The properties of a task that a caller asks for.
struct BeginTaskParams {
    /// The idempotency key.
    key: String,
    task: TaskRequest,
    /// The digest of what is asked: a key is good for one request.
    digest: [u8; 32],
}

impl Tasks {
    /// Answers a nonce for this connection, and the sets of evidence of which one must be shown
    /// with it. Costs no store round trip once the registration is known.
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
        mut request: v1::BeginTaskRequest,
    ) -> Result<v1::BeginTaskResponse, Refusal> {
        // P2: the nonce is gone from here on, whatever else is wrong.
        let challenged = peer.channel().consume(&request.nonce);
        let claim = asked(&request)?;
        let is_ordered = !request.order_ticket.is_empty();
        let params = (!is_ordered).then(|| self.parse(&request)).transpose()?;
        if !challenged {
            return Err(Refusal::Challenge);
        }
        // The position is noted before anything is decided: a rule that comes meanwhile is later
        // than the task, and covers it.
        let (position, now_ms) = (self.ledger.log.view()?.applied().0, clock::now_ms());
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        let registration = &workload.registration;
        let ordered = self.ordered(&peer, &mut request, &claim).await?;
        let mut params = match params {
            Some(params) => params,
            None => self.parse(&request)?,
        };
        if ordered.is_some() {
            params.digest = claim;
        }
        if !registration.scopes.covers_all(&params.task.scopes) {
            // AC-10: refused before anything but the nonce is consumed.
            return Err(Denial::Scope.into());
        }
        let parent = match ordered.as_ref().map(|ordered| ordered.order().grant()) {
            Some(None) => None,
            Some(Some(grant)) => Some(self.below(grant, now_ms).await?),
            None => self.delegated(&request.grant, now_ms).await?,
        };
        let shown = super::presentation(
            &workload,
            &peer,
            &request.nonce,
            &request.evidence,
            BindingPurpose::BeginTask,
        );
        let attested = self.evidence.attest(shown).await?;
        let permit = permit_task(
            registration,
            peer.svid(),
            &attested,
            params.task,
            (
                ordered.as_ref().map(|ordered| &**ordered.order()),
                parent.as_ref().map(delegation),
            ),
            now_ms,
        )?;
        let decision = Decision {
            attested: &attested,
            now_ms,
            ordered: ordered.as_ref(),
            parent: parent.as_ref(),
            permit: &permit,
            position,
            workload: &workload,
        };
        let new = self.new_task(&peer, request, &params.key, &params.digest, &decision)?;
        self.open(&peer, new, registration, &decision).await
    }

    /// Reserves a place for the task, puts it on the record, stores it, and answers its first token
    /// if nothing has ended it meanwhile.
    async fn open(
        &self,
        peer: &Peer,
        new: NewTask,
        registration: &Registration,
        decision: &Decision<'_>,
    ) -> Result<v1::BeginTaskResponse, Refusal> {
        // AC-4A: looked at before anything is written, and again before anything is answered.
        // A key of a task that has ended begins none, and nothing goes on the record.
        self.ledger.require_usable(&new.task)?;
        self.ledger.require_token_issuable(&new.token)?;
        let answered = self.begun_under_other_key(&new).await?;
        if let Some((task, token, credential)) = answered {
            return self.answer(&task, &token, &credential, registration);
        }
        let reserved = self
            .reserve(
                &new.task,
                registration.max_tasks,
                decision.parent,
                decision.now_ms,
            )
            .await?;
        let place = Arc::clone(&new.task);
        let created = self.create(peer, new, decision, reserved).await;
        if created.is_err() {
            self.give_back(&place).await;
        }
        let (task, token, credential) = created?;
        self.answer(&task, &token, &credential, registration)
    }

    fn answer(
        &self,
        task: &Task,
        token: &KnownToken,
        credential: &Credential,
        registration: &Registration,
    ) -> Result<v1::BeginTaskResponse, Refusal> {
        Ok(v1::BeginTaskResponse {
            task: Some(wire::task_message(&*self.ledger.log.view()?, task)),
            token: Some(super::token_message(token, credential)),
            attendance_grace_ms: task.grace_ms,
            evidence_at_secrets: registration.evidence_at_secrets,
        })
    }

    /// Puts a task with its first token on the record and into the store. Whoever held a place
    /// before may have begun it: then nothing begins, and nothing goes on the record again.
    async fn create(
        &self,
        peer: &Peer,
        new: NewTask,
        decision: &Decision<'_>,
        reserved: Reserved,
    ) -> Result<Stored, Refusal> {
        if reserved == Reserved::Held
            && let Some(existing) = self.ledger.records.read_task(new.task.id).await?
        {
            // AC-9D: whoever is late to claim an order has shown a ticket that was used.
            if let Some(ordered) = decision.ordered
                && existing.require_request_of(&new.task).is_err()
            {
                return Err(self.claimed_before(peer, ordered).await);
            }
            existing.require_request_of(&new.task)?;
            return self.begun_before(existing, &new.token.certificate).await;
        }
        // P10: the journal comes before the store, so whatever can be used is on the record.
        self.ledger
            .journal
            .write(journal_record(&new.task, &new.token, decision.attested))
            .await?;
        let (task, token, credential) = match decision.ordered {
            None => self.store_task(new).await?,
            Some(ordered) => {
                let claim = ClaimRecord {
                    workload: peer.id().clone(),
                    svid_serial: hex(peer.svid().serial()),
                    remote: peer.remote().to_string(),
                    claimed_at_ms: decision.now_ms,
                    request: new.task.request,
                };
                self.claim(peer, ordered, claim, new).await?
            }
        };
        self.ledger.require_usable(&task)?;
        self.ledger.require_token_issuable(&token)?;
        Ok((task, token, credential))
    }

    /// L15: gives the place of a task back that did not begin, unless an earlier call with the same
    /// key has begun it and it lives.
    async fn give_back(&self, place: &KnownTask) {
        let released = match self.ledger.records.task(place.id).await {
            Ok(Some(task)) => {
                // A suspended task lives. Without a fresh view, nobody knows.
                let lives = self.ledger.log.view().map_or(true, |view| {
                    view.task_liveness(&task, clock::now_ms()) == Liveness::Alive
                });
                if lives {
                    return;
                }
                self.ledger.release(&task).await
            }
            Ok(None) => self.ledger.release_places(place).await,
            // Nobody knows; the sweep looks at it when it is due.
            Err(_) => return,
        };
        if let Err(error) = released {
            tracing::debug!(%error, task = %place.id, "the place of a task that did not begin stays");
        }
    }

    /// Takes a place among the workload's tasks, and one among the tasks below the parent, if there
    /// is a parent (P12). Answers whether it had the former before.
    async fn reserve(
        &self,
        task: &KnownTask,
        limit: u32,
        above: Option<&DelegationParent>,
        now_ms: i64,
    ) -> Result<Reserved, Refusal> {
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
                Reserved::Held | Reserved::Taken => {}
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
                // The task does not begin, so its place below the parent is free again.
                if let Some(above) = above {
                    store
                        .release_task(&above.parent.id.to_string(), task.id)
                        .await?;
                }
                Err(Refusal::TaskLimit)
            }
            reserved @ (Reserved::Held | Reserved::Taken) => Ok(reserved),
        }
    }

    /// Reads what a caller asks, and refuses what is out of bounds.
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
        // Read before the position is noted: what is longer than before is stamped above every rule
        // of the time before.
        let longest = self.ledger.log.agreement().bounds.max_task_ttl;
        let task = TaskRequest {
            scopes: wire::scopes(&request.scopes)?,
            // L3: rules stand as long as the longest task, so no registration may allow a longer one.
            ttl: Some(wire::ttl(request.ttl_ms)?.map_or(longest, |asked| asked.min(longest))),
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

/// The sets of kinds of evidence that a registration asks for; one of the sets must be shown.
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
