//! The use cases of registrars about trust material: to add, list and withdraw items.

use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{TrustItem, TrustKind};
use sundew_core::store::DocumentKind;
use sundew_core::{Changed, Selector};
use sundew_proto::v1;

use super::Evidence;
use crate::journal::{self, Record};
use crate::ledger::Ledger;
use crate::material::{Material, MaterialConfig};
use crate::peer::Trust;
use crate::refusal::Refusal;
use crate::response::Responses;
use crate::role::{Operator, Registrar};

/// Most items that may have been added.
const MAX_ADDED: usize = 4096;

/// Items that registrars add, and that activated TPM keys become.
pub(crate) struct TrustItems {
    ledger: Ledger,
    /// Items that the configuration names, and where they come from.
    configured: Vec<MaterialConfig>,
    evidence: Arc<Evidence>,
    material: Arc<Material>,
    responses: Arc<Responses>,
    trust: Arc<Trust>,
}

impl TrustItems {
    /// A room that shares the material of `evidence`; `responses` ends what rested on an item that
    /// is withdrawn.
    pub(crate) fn new(
        ledger: Ledger,
        configured: Vec<MaterialConfig>,
        evidence: Arc<Evidence>,
        responses: Arc<Responses>,
    ) -> Self {
        Self {
            ledger,
            configured,
            material: Arc::clone(&evidence.material),
            trust: Arc::clone(&evidence.trust),
            evidence,
            responses,
        }
    }

    /// Adds an item, or replaces it.
    pub(crate) async fn add_trust(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::AddTrustRequest,
    ) -> Result<v1::AddTrustResponse, Refusal> {
        let kind = kind(&request.kind)?;
        let item = TrustItem::parse(kind, &request.name, &request.content)
            .map_err(|e| Refusal::invalid("content", e))?;
        if item.is_endorsed() {
            return Err(Refusal::invalid(
                "content",
                "`endorsement` is what a TPM has shown: `sundew attest activate` on its host",
            ));
        }
        let record = journal::record("trust_added")
            .with("kind", kind.as_str())
            .with("name", item.name())
            .with("digest", item.digest());
        let action = self
            .trust_item(&item, request.content, record.with("actor", operator.id()))
            .await?;
        Ok(v1::AddTrustResponse {
            action: action.to_owned(),
        })
    }

    /// Trusts an item from now on; answers whether it was created, changed, or unchanged.
    pub(crate) async fn trust_item(
        &self,
        item: &TrustItem,
        content: Vec<u8>,
        record: Record,
    ) -> Result<&'static str, Refusal> {
        if self.material.is_configured(item.kind(), item.name()) {
            return Err(Refusal::invalid(
                "name",
                "this broker's configuration has an item of this kind and name",
            ));
        }
        let name = document_name(item);
        let before = self
            .ledger
            .records
            .store()
            .document(DocumentKind::Trust, &name)
            .await?;
        let after = self
            .ledger
            .root()
            .tag(&[b"trust", name.as_bytes()], content);
        let action = match &before {
            Some(before) if *before == after => return Ok("unchanged"),
            Some(_) => "changed",
            None => "created",
        };
        if before.is_none()
            && self
                .ledger
                .records
                .store()
                .documents(DocumentKind::Trust)
                .await?
                .len()
                >= MAX_ADDED
        {
            return Err(Refusal::invalid(
                "name",
                format!("there are {MAX_ADDED} items already: remove some that are not needed"),
            ));
        }
        // P10: on the record before any verifier trusts the item.
        self.ledger
            .journal
            .write(record.with("action", action))
            .await?;
        if !self
            .ledger
            .records
            .store()
            .replace_document(DocumentKind::Trust, &name, before.as_deref(), Some(&after))
            .await?
        {
            return Err(Refusal::Conflict("trusted item"));
        }
        self.material.changed();
        self.ledger.announce(Changed::Trust).await?;
        Ok(action)
    }

    /// Lists everything that is trusted at this broker, with the source of each item.
    pub(crate) async fn list_trust(
        self: Arc<Self>,
        _: Operator<Registrar>,
        _: v1::ListTrustRequest,
    ) -> Result<v1::ListTrustResponse, Refusal> {
        let trust = self.evidence.trusted().await?;
        let mut items: Vec<_> = trust
            .items()
            .map(|item| v1::TrustItem {
                kind: item.kind().as_str().to_owned(),
                name: item.name().to_owned(),
                digest: item.digest(),
                not_after_ms: item.not_after_ms().unwrap_or(0),
                source: "added".to_owned(),
                problem: String::new(),
            })
            .collect();
        for config in &self.configured {
            let problem = self.trust.problem(&config.source()).unwrap_or_default();
            match items
                .iter_mut()
                .find(|item| item.kind == config.kind.as_str() && item.name == config.name)
            {
                Some(item) if self.material.is_configured(config.kind, &config.name) => {
                    (item.source, item.problem) = (config.source(), problem)
                }
                // The item was never read, so whatever it will be is not trusted yet.
                Some(_) | None => items.push(v1::TrustItem {
                    kind: config.kind.as_str().to_owned(),
                    name: config.name.clone(),
                    source: config.source(),
                    problem: if problem.is_empty() {
                        "not read yet".to_owned()
                    } else {
                        problem
                    },
                    ..v1::TrustItem::default()
                }),
            }
        }
        Ok(v1::ListTrustResponse { items })
    }

    /// Withdraws an item, and revokes the tasks that rest on it (AC-0A). P4: once this answers, no
    /// broker takes the item for a new task, and no task that was begun on it is alive.
    pub(crate) async fn remove_trust(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::RemoveTrustRequest,
    ) -> Result<v1::RemoveTrustResponse, Refusal> {
        let kind = kind(&request.kind)?;
        let reason = request.reason.trim();
        if reason.is_empty() || reason.len() > 1024 {
            return Err(Refusal::invalid("reason", "must be 1 to 1024 bytes"));
        }
        if self.material.is_configured(kind, &request.name) {
            return Err(Refusal::invalid(
                "name",
                "it comes from this broker's configuration: take it out there, and revoke what rests on it",
            ));
        }
        let trust = self.evidence.trusted().await?;
        let item = trust
            .items()
            .find(|item| item.kind() == kind && item.name() == request.name)
            .ok_or(Refusal::NotFound("trusted item"))?;
        let name = document_name(item);
        let before = self
            .ledger
            .records
            .store()
            .document(DocumentKind::Trust, &name)
            .await?
            .ok_or(Refusal::NotFound("trusted item"))?;
        let record = journal::record("trust_removed")
            .with("kind", kind.as_str())
            .with("name", item.name())
            .with("digest", item.digest());
        self.ledger
            .journal
            .write(record.with("actor", operator.id()).with("reason", reason))
            .await?;
        // These rules come before the withdrawal, so that a broker that dies in between leaves an
        // item that can be withdrawn again, and no task that nothing ends. They come once more
        // after it: whoever has seen the last rules in the log has seen the withdrawal before them,
        // so no task is begun on the item after its rule.
        self.end_what_rests_on(item, operator.id(), reason).await?;
        if !self
            .ledger
            .records
            .store()
            .replace_document(DocumentKind::Trust, &name, Some(&before), None)
            .await?
        {
            return Err(Refusal::NotFound("trusted item"));
        }
        self.material.changed();
        self.ledger.announce(Changed::Trust).await?;
        Ok(v1::RemoveTrustResponse {
            revocations: self.end_what_rests_on(item, operator.id(), reason).await?,
        })
    }

    /// Revokes what was begun on an item, by one rule for each registration and claim that names
    /// it.
    async fn end_what_rests_on(
        &self,
        item: &TrustItem,
        actor: &SpiffeId,
        reason: &str,
    ) -> Result<Vec<v1::TrustRevocation>, Refusal> {
        let mut revocations = Vec::new();
        for (name, bytes) in self
            .ledger
            .records
            .store()
            .documents(DocumentKind::Workload)
            .await?
        {
            let registration = self
                .ledger
                .records
                .open_workload(&name, &bytes)?
                .registration;
            for claim in registration.policy().affected_claims(item) {
                let selector = Selector {
                    claims: claim.into_iter().collect(),
                    ..Selector::workload(registration.spiffe_id.clone())
                };
                let id = self
                    .responses
                    .revoke_for(
                        selector,
                        actor,
                        &format!("{} withdrawn: {reason}", document_name(item)),
                    )
                    .await?;
                revocations.push(v1::TrustRevocation {
                    spiffe_id: registration.spiffe_id.to_string(),
                    revocation_id: id,
                });
            }
        }
        Ok(revocations)
    }
}

/// Reads the field `kind`.
fn kind(word: &str) -> Result<TrustKind, Refusal> {
    TrustKind::parse(word).ok_or_else(|| {
        let known: Vec<_> = TrustKind::ALL.iter().map(|kind| kind.as_str()).collect();
        Refusal::invalid("kind", format!("must be one of {}", known.join(", ")))
    })
}

/// The name of an item in the store: its kind and name.
fn document_name(item: &TrustItem) -> String {
    format!("{}/{}", item.kind().as_str(), item.name())
}
