//! Proving anew: where a registration asks for it, a running task shows fresh evidence every so
//! often.
//!
//! P1, P5: a task that does not is suspended when the evidence is due, and ended after as long
//! again. The time of the last proof is in a ticket that any broker can read and that an agent
//! cannot make: closing a stream and opening another, here or elsewhere, gains nothing.

use sundew_attestation::{Attested, BindingPurpose, Nonce};
use sundew_core::{Event, Outcome};
use sundew_proto::v1;

use super::{Tasks, ending};
use crate::clock;
use crate::evidence::attested_digests;
use crate::journal;
use crate::ledger::Ledger;
use crate::peer::{Peer, new_nonce};
use crate::records::Task;
use crate::refusal::Refusal;

/// Longest time between the request for evidence and the time when it is due, in milliseconds.
const LEAD_MS: i64 = 30_000;

/// The last proof of a task, as far as its stream knows.
pub(super) struct Proof {
    /// When the task was proven, in milliseconds since the epoch.
    at_ms: i64,
    /// The challenge for the next proof, if the agent was asked for it and has not answered. L17: it
    /// is the stream's own, so that no other challenge of the connection takes it away.
    challenge: Option<Nonce>,
    /// Whether the agent was asked for the next proof.
    wanted: bool,
}

impl Proof {
    /// Notes that the task was proven just now.
    pub(super) fn renew(&mut self) {
        *self = Self {
            at_ms: clock::now_ms(),
            challenge: None,
            wanted: false,
        };
    }

    /// Takes the stream's challenge out if this nonce is it. P2: the challenge is gone, whatever
    /// happens next.
    fn consume(&mut self, nonce: &[u8]) -> bool {
        let is_it = |own: &mut Nonce| subtle::ConstantTimeEq::ct_eq(own.as_slice(), nonce).into();
        self.challenge.take_if(is_it).is_some()
    }
}

impl Tasks {
    /// Reads a ticket. Without a ticket, the task was last proven when it was begun.
    pub(super) fn proof(&self, task: &Task, ticket: &[u8]) -> Result<Proof, Refusal> {
        let at_ms = match ticket {
            [] => task.created_at_ms,
            ticket => self
                .ledger
                .records
                .open("proof", &[b"proof", task.id.as_bytes()], ticket, |bytes| {
                    bytes.try_into().map(i64::from_be_bytes)
                })
                .map_err(|_| Refusal::invalid("proof", "is not of this task"))?,
        };
        Ok(Proof {
            at_ms,
            challenge: None,
            wanted: false,
        })
    }

    /// Makes a ticket that says that the task was proven now.
    pub(super) fn proof_ticket(&self, task: &Task) -> Vec<u8> {
        self.ledger.root().tag_under(
            task.root_key(),
            &[b"proof", task.id.as_bytes()],
            clock::now_ms().to_be_bytes().to_vec(),
        )
    }

    /// Looks whether evidence is due: suspends or ends a task that is late. Answers the request for
    /// evidence if the agent is to get one now.
    pub(super) async fn look_at_proof(
        &self,
        task: &Task,
        proof: &mut Proof,
        suspended: bool,
    ) -> Result<Option<v1::ProofWanted>, Refusal> {
        let workload = self
            .ledger
            .records
            .workload(&task.workload)
            .await?
            .ok_or(Refusal::Unregistered)?;
        let Some(every) = workload.registration.prove_every else {
            return Ok(None);
        };
        let now_ms = self.ledger.log.ending_time_ms();
        let due_ms = proof.at_ms.saturating_add(every.as_ms());
        if now_ms >= due_ms.saturating_add(every.as_ms()) {
            ending::end_task(&self.ledger, task, Outcome::Revoked, None).await?;
        } else if now_ms >= due_ms && !suspended {
            self.suspend_unproven(task, "evidence is due").await?;
        } else if now_ms >= due_ms.saturating_sub(LEAD_MS.min(every.as_ms() / 2))
            && !proof.wanted
            && !suspended
        {
            let nonce = new_nonce()?;
            (proof.challenge, proof.wanted) = (Some(nonce), true);
            return Ok(Some(v1::ProofWanted {
                nonce: nonce.to_vec(),
                evidence_sets: super::begin::evidence_sets(&workload.registration),
                audience: self.evidence.audience().to_owned(),
                due_ms,
            }));
        }
        Ok(None)
    }

    /// Takes fresh evidence for a running task; answers whether it was good enough. Evidence that
    /// is not suspends the task at once: something has changed for the worse.
    pub(super) async fn prove(
        &self,
        peer: &Peer,
        task: &Task,
        proof: &mut Proof,
        prove: v1::Prove,
    ) -> Result<bool, Refusal> {
        // P2: the nonce is gone from here on, whatever else is wrong. An agent that proves itself
        // without being asked takes a challenge of the connection.
        let challenged = proof.consume(&prove.nonce) || peer.channel().consume(&prove.nonce);
        self.ledger.require_usable(task)?;
        let result = if challenged {
            self.attest_again(
                peer,
                task,
                &prove.nonce,
                &prove.evidence,
                BindingPurpose::Prove,
            )
            .await
        } else {
            Err(Refusal::Challenge)
        };
        match result {
            Ok(attested) => {
                let record = journal::record("task_proven")
                    .with("task", task.id)
                    .with("workload", &task.workload);
                self.ledger
                    .journal
                    .write(record.with("evidence", attested_digests(&attested).join(" ")))
                    .await?;
                Ok(true)
            }
            Err(
                refusal @ (Refusal::Appraisal(_)
                | Refusal::EvidenceChanged(_)
                | Refusal::Challenge
                | Refusal::Denied(_)),
            ) => {
                // On the record once, like every refusal; the stream goes on and says that the task
                // is suspended.
                drop(self.refusals.refuse("Attend", Some(peer), &refusal));
                self.suspend_unproven(task, "evidence was not enough")
                    .await?;
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    /// Takes evidence for a task that has begun. It must be good enough for the present
    /// registration, and have the claims that the task was begun on, but for those that change by
    /// themselves, so that a rule about a claim still finds the task.
    pub(super) async fn attest_again(
        &self,
        peer: &Peer,
        task: &Task,
        nonce: &[u8],
        evidence: &[v1::Evidence],
        purpose: BindingPurpose,
    ) -> Result<Attested, Refusal> {
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        let attested = self
            .evidence
            .attest(super::presentation(
                &workload, peer, nonce, evidence, purpose,
            ))
            .await?;
        if workload.registration.require_fresh_evidence && !attested.is_fresh() {
            return Err(sundew_core::Denial::NotFresh.into());
        }
        let now = super::claims::claims(&attested)?;
        super::claims::require_same(&task.claims, &now)?;
        Ok(attested)
    }

    /// Suspends a task for want of evidence.
    async fn suspend_unproven(&self, task: &Task, reason: &str) -> Result<(), Refusal> {
        // A stream with a stale view does not know that it suspended the task a moment ago (L7).
        if self.ledger.log.latest_view().is_suspended(task) {
            return Ok(());
        }
        let record = journal::record("task_suspended")
            .with("task", task.id)
            .with("workload", &task.workload)
            .with("reason", reason);
        self.ledger
            .end(
                Event::Suspended(task.id),
                Ledger::retain_until_ms(task),
                record,
            )
            .await
            .map(drop)
    }
}
