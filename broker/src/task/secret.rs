//! GetSecret: a stored secret, to the bound caller, while the task lives (AC-60).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_attestation::BindingPurpose;
use sundew_core::{Cause, Denial, Scope, SealError};
use sundew_proto::v1;

use super::Tasks;
use crate::evidence::attested_digests;
use crate::journal;
use crate::lease::RunningEngine;
use crate::limits::IssuingPlace;
use crate::peer::Peer;
use crate::records::Task;
use crate::refusal::Refusal;

impl Tasks {
    /// Hands out a secret: one that is stored, or one that an engine makes for the task. `place` is
    /// held until the secret is handed out, or until an engine's target is waited for.
    pub(crate) async fn secret(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::GetSecretRequest,
        place: IssuingPlace,
    ) -> Result<v1::GetSecretResponse, Refusal> {
        let scope = Scope::of_secret(&request.name).map_err(|e| Refusal::invalid("name", e))?;
        // P2: the nonce is gone from here on, whatever else is wrong.
        let challenged = !request.nonce.is_empty() && peer.channel().consume(&request.nonce);
        let task = self.own_task(&peer, &request.task_id).await?;
        self.ledger.require_issuable(&task)?;
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        if !task.scopes.covers(&scope) || !workload.registration.scopes.covers(&scope) {
            return Err(Denial::Scope.into());
        }
        let mut evidence = None;
        if workload.registration.evidence_at_secrets {
            if !challenged {
                return Err(Refusal::Challenge);
            }
            let attested = self
                .attest_again(
                    &peer,
                    &task,
                    &request.nonce,
                    &request.evidence,
                    BindingPurpose::GetSecret,
                )
                .await?;
            evidence = Some(attested_digests(&attested).join(" "));
        }
        let mut made = self.leases.engine_of(&request.name);
        let mut stored = if made.is_some() {
            None
        } else {
            self.secrets.read(&request.name).await?
        };
        if made.is_none() && stored.is_none() {
            // The engine may have been put at another broker just now.
            self.leases.reload_engines().await?;
            made = self.leases.engine_of(&request.name);
        }
        if let Some((engine, role)) = made {
            return self
                .made_secret(&task, &request.name, (&engine, &role), evidence, place)
                .await;
        }
        let stored = stored.take().ok_or(Refusal::NotFound("secret"))?;
        let sealed = STANDARD.decode(&stored.sealed).map_err(|_| Refusal::Seal {
            what: "secret",
            cause: SealError::Opening,
        })?;
        let value = self.secrets.open(&request.name, &sealed).await?;
        let record = journal::record("secret_read")
            .with("task", task.id)
            .with("workload", peer.id())
            .with("secret", &request.name)
            .with("version", stored.version)
            .with_some("evidence", evidence)
            .with("registration", &workload.version);
        // P10: the secret is on the record before it leaves. P5: it leaves only if that
        // may still be given after all that waiting.
        self.ledger.journal.write(record).await?;
        self.ledger.require_issuable(&task)?;
        Ok(v1::GetSecretResponse {
            value: value.expose().to_vec(),
            version: stored.version,
            expires_at_ms: task.deadline_ms,
            lease: None,
        })
    }

    /// Hands out a secret that is made for this task, and removed at its target when the task ends.
    async fn made_secret(
        &self,
        task: &Task,
        name: &str,
        (engine, role): (&RunningEngine, &str),
        evidence: Option<String>,
        place: IssuingPlace,
    ) -> Result<v1::GetSecretResponse, Refusal> {
        let record = journal::record("secret_read")
            .with("task", task.id)
            .with("workload", &task.workload)
            .with("secret", name)
            .with_some("evidence", evidence);
        let id = self.leases.lease_id(task, name);
        self.ledger.journal.write(record.with("lease", id)).await?;
        let lease = self
            .leases
            .lease(&task.known, id, engine, role, place)
            .await?;
        // If the task ended or was suspended meanwhile, also if it was resumed since, its lease is
        // due, and nobody gets the credential; neither if it is quarantined.
        self.ledger.require_issuable(task)?;
        if id != self.leases.lease_id(task, name) {
            return Err(Refusal::TaskDead(Cause::Suspended));
        }
        Ok(v1::GetSecretResponse {
            value: lease.url.clone().into_bytes(),
            version: 1,
            expires_at_ms: lease.expires_at_ms,
            lease: Some(lease),
        })
    }
}
