//! The use cases of registrars about trust material: to add, list and withdraw items.

use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{TrustItem, TrustKind};
use sundew_core::store::DocumentKind;
use sundew_core::{SealError, Selector, WorkloadRecord};
use sundew_proto::v1;

use super::Evidence;
use crate::journal::{self, Record};
use crate::ledger::{Change, Dependents, Ledger};
use crate::material::{Material, MaterialConfig};
use crate::peer::Trust;
use crate::records::{Before, DocumentPlace};
use crate::refusal::Refusal;
use crate::response::Responses;
use crate::role::{Operator, Registrar};
use crate::wire::deletion;

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
        let place = DocumentPlace::new(DocumentKind::Trust, &name);
        let before = self.ledger.before_change(place).await?;
        let action = match &before.document {
            Some(document) if document.body() == content => "unchanged",
            Some(_) => "changed",
            None => "created",
        };
        if !before.is_stored() {
            let store = self.ledger.records.store();
            if store.documents(DocumentKind::Trust).await?.len() >= MAX_ADDED {
                return Err(Refusal::invalid(
                    "name",
                    format!("there are {MAX_ADDED} items already: remove some that are not needed"),
                ));
            }
        }
        let change = if action == "unchanged" {
            Change::Keep
        } else {
            // P10: on the record before any verifier trusts the item.
            Change::Write(content, record.with("action", action))
        };
        let put = self.ledger.put_document(place, &before, change, action);
        let put = put.await;
        self.material.changed();
        put?.ok_or(Refusal::Conflict("trusted item"))
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
        let name = format!("{}/{}", kind.as_str(), request.name);
        let place = DocumentPlace::new(DocumentKind::Trust, &name);
        let record = journal::record("trust_removed")
            .with("kind", kind.as_str())
            .with("name", &request.name)
            .with("actor", operator.id())
            .with("reason", reason);
        let begun = BegunOn {
            items: &self,
            kind,
            name: &request.name,
            actor: operator.id(),
            reason,
        };
        let withdrawn = self.ledger.withdraw_document(place, record, &begun).await;
        self.material.changed();
        let (existed, revocations) = withdrawn?;
        Ok(v1::RemoveTrustResponse {
            revocations,
            action: deletion(existed).to_owned(),
        })
    }

    /// Revokes what was begun on an item, by one rule for each registration and claim that names
    /// it.
    async fn end_what_rests_on(
        &self,
        item: &TrustItem,
        reach: Reach,
        actor: &SpiffeId,
        reason: &str,
    ) -> Result<Vec<v1::TrustRevocation>, Refusal> {
        let mut revocations = Vec::new();
        let documents = self
            .ledger
            .records
            .documents(DocumentKind::Workload)
            .await?;
        for (name, document) in documents {
            let record = document.and_then(|document| document.decode(WorkloadRecord::decode));
            // What a registration that cannot be read wants is not known, so all of it may rest on
            // the item.
            let (workload, claims) = match record {
                Ok(WorkloadRecord { registration, .. }) => {
                    let mut claims = registration.policy().affected_claims(item);
                    if reach == Reach::Kind && !claims.is_empty() {
                        claims = vec![None];
                    }
                    (registration.spiffe_id, claims)
                }
                Err(_) => match SpiffeId::parse(&name) {
                    Ok(workload) => (workload, vec![None]),
                    Err(_) => continue,
                },
            };
            for claim in claims {
                let selector = Selector {
                    claims: claim.into_iter().collect(),
                    ..Selector::workload(workload.clone())
                };
                let reason = format!("{} withdrawn: {reason}", document_name(item));
                let id = self.responses.revoke_for(selector, actor, &reason).await?;
                revocations.push(v1::TrustRevocation {
                    spiffe_id: workload.to_string(),
                    revocation_id: id,
                });
            }
        }
        Ok(revocations)
    }
}

/// What is ended with an item.
#[derive(Clone, Copy, PartialEq)]
enum Reach {
    /// Tasks that were begun on the item.
    Item,
    /// Tasks of every workload that may have been begun on an item of this kind.
    Kind,
}

/// Everything that was begun on an item.
struct BegunOn<'a> {
    items: &'a TrustItems,
    kind: TrustKind,
    name: &'a str,
    actor: &'a SpiffeId,
    reason: &'a str,
}

impl Dependents for BegunOn<'_> {
    type Ended = Vec<v1::TrustRevocation>;
    async fn end(&self, before: &Before) -> Result<Self::Ended, Refusal> {
        // Only the item says what rests on it. Once it is gone, everything of it has ended.
        if !before.is_expected() {
            return Ok(Vec::new());
        }
        let parse = |content: &[u8]| TrustItem::parse(self.kind, self.name, content).ok();
        let stored = before.document.as_ref().or(before.leftover.as_ref());
        let stored = stored.and_then(|document| parse(document.body()));
        let trusted = self.items.material.snapshot();
        let trusted = trusted
            .items()
            .find(|item| item.kind() == self.kind && item.name() == self.name);
        let (item, reach) = match (stored, trusted) {
            (Some(item), _) if before.has_last_content() => (Arc::new(item), Reach::Item),
            (_, Some(item)) => (Arc::clone(item), Reach::Item),
            // L22: tasks were begun on something newer than what somebody has put back, or on
            // something that is gone, and this does not say on what.
            (stored, None) => {
                let item = stored.or_else(|| parse(b"lost")).ok_or(Refusal::Seal {
                    what: "trust",
                    cause: SealError::Opening,
                })?;
                (Arc::new(item), Reach::Kind)
            }
        };
        let rules = self
            .items
            .end_what_rests_on(&item, reach, self.actor, self.reason);
        rules.await
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
