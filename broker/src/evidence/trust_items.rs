//! The use cases of registrars about trust material: to add, list and withdraw items.

use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{TrustItem, TrustKind, TrustMaterial};
use sundew_core::Selector;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use super::Evidence;
use super::withdrawal::{self, BegunOn};
use crate::clock;
use crate::journal::{self, Record};
use crate::ledger::{Change, Ledger, NoDependents};
use crate::material::{Material, MaterialConfig};
use crate::peer::Trust;
use crate::records::DocumentPlace;
use crate::refusal::Refusal;
use crate::response::Responses;
use crate::role::{Registrar, Unbounded};
use crate::wire::deletion;

/// Most items that may have been added.
const MAX_ADDED: usize = 4096;

/// Items that registrars add, and that activated TPM keys become.
pub(crate) struct TrustItems {
    pub(super) ledger: Ledger,
    /// Items that the configuration names, and where they come from.
    configured: Vec<MaterialConfig>,
    evidence: Arc<Evidence>,
    pub(super) material: Arc<Material>,
    pub(super) responses: Arc<Responses>,
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
        operator: Unbounded<Registrar>,
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
        let before = self.known().await;
        let mut barred = Vec::new();
        if let Some(replaced) = before.find(kind, item.name())
            && replaced.claim() != item.claim()
        {
            barred = self.bar(replaced, operator.id(), "replaced").await?;
        }
        let record = record.with("actor", operator.id());
        let by = (operator.id().as_str(), record);
        let mut added = self.trust_item(&item, request.content, by).await?;
        added.revocations.extend(barred);
        Ok(added)
    }

    /// Trusts an item from now on; answers whether it was created, changed, or unchanged, and the
    /// revocations of what rested on something that the item took away. `actor` is who wants that.
    pub(crate) async fn trust_item(
        &self,
        item: &TrustItem,
        content: Vec<u8>,
        (actor, record): (&str, Record),
    ) -> Result<v1::AddTrustResponse, Refusal> {
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
        // P4: what the item takes away ends what rests on it.
        let (plan, change) = if action == "unchanged" {
            (self.responses.left_of_plan(&name).await?, Change::Keep)
        } else {
            let trust = self.known().await;
            let losses = trust.losses(&trust.with_item(item.clone()), clock::now_ms());
            let selectors = self.resting_on(&losses).await?;
            let reason = format!("{name} {action}");
            let plan = self.responses.plan(&name, selectors, actor, &reason);
            // P10: on the record before any verifier trusts the item.
            let change = Change::Write(content, record.with("action", action));
            (plan.await?, change)
        };
        let put = self.ledger.put_document(place, &before, change, action);
        let put = put.await;
        self.material.changed();
        let Some(action) = put? else {
            self.responses.give_up(plan).await?;
            return Err(Refusal::Conflict("trusted item"));
        };
        let rules = self.responses.carry_out(plan).await?;
        Ok(v1::AddTrustResponse {
            action: action.to_owned(),
            revocations: revocations_of(rules),
        })
    }

    /// Returns what verifiers trust, or trusted last if something is missing that an operator may be
    /// about to mend.
    async fn known(&self) -> Arc<TrustMaterial> {
        let trusted = self.evidence.trusted().await;
        trusted.unwrap_or_else(|_| self.material.snapshot())
    }

    /// E10: keeps the TPM of a key that an operator takes back from activating that key or another
    /// one, and takes its other keys back. Anything but a TPM's key needs no bar: no machine brings
    /// it. Answers the revocations of what rested on the keys.
    async fn bar(
        &self,
        item: &TrustItem,
        actor: &SpiffeId,
        reason: &str,
    ) -> Result<Vec<v1::TrustRevocation>, Refusal> {
        let mut revocations = Vec::new();
        for name in withdrawal::bars(item) {
            let bar = TrustItem::parse(TrustKind::Tpm2Barred, &name, reason.as_bytes())
                .map_err(|e| Refusal::invalid("name", e))?;
            if self.known().await.find(bar.kind(), &name).is_some() {
                // A removal of before may have broken off in the middle.
                let left = self.responses.left_of_plan(&document_name(&bar)).await?;
                let rules = self.responses.carry_out(left).await?;
                revocations.extend(revocations_of(rules));
                continue;
            }
            let record = journal::record("tpm_barred")
                .with("name", &name)
                .with("actor", actor)
                .with("reason", reason);
            let by = (actor.as_str(), record);
            let barred = self.trust_item(&bar, reason.as_bytes().to_vec(), by);
            revocations.extend(barred.await?.revocations);
        }
        Ok(revocations)
    }

    /// Takes away an item on which nothing was begun.
    pub(super) async fn forget(&self, item: &TrustItem) -> Result<(), Refusal> {
        let name = document_name(item);
        let place = DocumentPlace::new(DocumentKind::Trust, &name);
        let record = journal::record("trust_removed")
            .with("kind", item.kind().as_str())
            .with("name", item.name());
        let forgotten = self.ledger.withdraw_document(place, record, &NoDependents);
        let forgotten = forgotten.await.map(drop);
        self.material.changed();
        forgotten
    }

    /// Lists everything that is trusted at this broker, with the source of each item.
    pub(crate) async fn list_trust(
        self: Arc<Self>,
        _: Unbounded<Registrar>,
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
        operator: Unbounded<Registrar>,
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
        let trusted = self.known().await;
        let mut barred = Vec::new();
        if let Some(item) = trusted.find(kind, &request.name) {
            barred = self.bar(item, operator.id(), reason).await?;
        }
        let begun = BegunOn {
            items: &self,
            kind,
            name: &request.name,
            actor: operator.id(),
            reason,
        };
        let withdrawn = self.ledger.withdraw_document(place, record, &begun).await;
        self.material.changed();
        let (existed, mut revocations) = withdrawn?;
        revocations.extend(barred);
        Ok(v1::RemoveTrustResponse {
            revocations,
            action: deletion(existed).to_owned(),
        })
    }
}

/// The rules that were put in force, as registrars see them.
fn revocations_of(rules: Vec<(Selector, String)>) -> Vec<v1::TrustRevocation> {
    let revocation = |(selector, id)| withdrawal::message(selector, id);
    rules.into_iter().filter_map(revocation).collect()
}

/// Reads the field `kind`.
fn kind(word: &str) -> Result<TrustKind, Refusal> {
    TrustKind::parse(word).ok_or_else(|| {
        let known: Vec<_> = TrustKind::ALL.iter().map(|kind| kind.as_str()).collect();
        Refusal::invalid("kind", format!("must be one of {}", known.join(", ")))
    })
}

/// The name of an item in the store: its kind and name.
pub(super) fn document_name(item: &TrustItem) -> String {
    format!("{}/{}", item.kind().as_str(), item.name())
}
