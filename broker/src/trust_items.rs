//! What registrars do with trust material: add, list, withdraw.

use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{TrustItem, TrustKind};
use sundew_core::store::{DocumentKind, StoreError};
use sundew_core::{Changed, Selector};
use sundew_proto::v1;

use crate::broker::{Broker, Role};
use crate::journal::{self, Record};
use crate::peer::Peer;
use crate::refusal::Refusal;

/// Most items that were added.
const MAX_ADDED: usize = 4096;

impl Broker {
    /// Adds an item, or replaces it.
    pub(crate) async fn add_trust(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::AddTrustRequest,
    ) -> Result<v1::AddTrustResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
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
            .trust_item(&item, request.content, record.with("actor", peer.id()))
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
            .records
            .store()
            .document(DocumentKind::Trust, &name)
            .await?;
        let after = self.root().tag(&[b"trust", name.as_bytes()], content);
        let action = match &before {
            Some(before) if *before == after => return Ok("unchanged"),
            Some(_) => "changed",
            None => "created",
        };
        if before.is_none()
            && self
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
        self.journal.write(record.with("action", action)).await?;
        if !self
            .records
            .store()
            .replace_document(DocumentKind::Trust, &name, before.as_deref(), Some(&after))
            .await?
        {
            return Err(Refusal::Store(StoreError::Unavailable(
                "the item is being changed by others".to_owned(),
            )));
        }
        self.material.changed();
        self.changed(Changed::Trust).await?;
        Ok(action)
    }

    /// Everything that is trusted at this broker, with where it comes from.
    pub(crate) async fn list_trust(
        self: Arc<Self>,
        peer: Arc<Peer>,
        _: v1::ListTrustRequest,
    ) -> Result<v1::ListTrustResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
        let trust = self.trusted().await?;
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
        for config in &self.configured_material {
            let problem = self.trust.trouble(&config.source()).unwrap_or_default();
            match items
                .iter_mut()
                .find(|item| item.kind == config.kind.as_str() && item.name == config.name)
            {
                Some(item) if self.material.is_configured(config.kind, &config.name) => {
                    (item.source, item.problem) = (config.source(), problem)
                }
                // It was never read: what it would have been is not trusted.
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

    /// Withdraws an item. AC-0A: what rests on it dies. P4: once this answers, no broker takes it
    /// for a new task, and no task that was begun on it is alive: whoever has seen the last
    /// rules has seen the withdrawal, which stands before them in the log. The same rules stand
    /// before it too, so that a broker that dies in between leaves an item that can be withdrawn
    /// again, and no task that nothing ends.
    pub(crate) async fn remove_trust(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::RemoveTrustRequest,
    ) -> Result<v1::RemoveTrustResponse, Refusal> {
        self.require(&peer, Role::Registrar)?;
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
        let trust = self.trusted().await?;
        let item = trust
            .items()
            .find(|item| item.kind() == kind && item.name() == request.name)
            .ok_or(Refusal::Absent("trusted item"))?;
        let name = document_name(item);
        let before = self
            .records
            .store()
            .document(DocumentKind::Trust, &name)
            .await?
            .ok_or(Refusal::Absent("trusted item"))?;
        let record = journal::record("trust_removed")
            .with("kind", kind.as_str())
            .with("name", item.name())
            .with("digest", item.digest());
        self.journal
            .write(record.with("actor", peer.id()).with("reason", reason))
            .await?;
        self.end_what_rests_on(item, peer.id(), reason).await?;
        if !self
            .records
            .store()
            .replace_document(DocumentKind::Trust, &name, Some(&before), None)
            .await?
        {
            return Err(Refusal::Absent("trusted item"));
        }
        self.material.changed();
        self.changed(Changed::Trust).await?;
        Ok(v1::RemoveTrustResponse {
            revocations: self.end_what_rests_on(item, peer.id(), reason).await?,
        })
    }

    async fn end_what_rests_on(
        &self,
        item: &TrustItem,
        actor: &SpiffeId,
        reason: &str,
    ) -> Result<Vec<v1::TrustRevocation>, Refusal> {
        let mut revocations = Vec::new();
        for (name, bytes) in self
            .records
            .store()
            .documents(DocumentKind::Workload)
            .await?
        {
            let registration = self.records.open_workload(&name, &bytes)?.registration;
            for claim in registration.policy().rests_on(item) {
                let selector = Selector {
                    claims: claim.into_iter().collect(),
                    ..Selector::workload(registration.spiffe_id.clone())
                };
                let id = self
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

fn kind(word: &str) -> Result<TrustKind, Refusal> {
    TrustKind::parse(word).ok_or_else(|| {
        let known: Vec<_> = TrustKind::ALL.iter().map(|kind| kind.as_str()).collect();
        Refusal::invalid("kind", format!("must be one of {}", known.join(", ")))
    })
}

fn document_name(item: &TrustItem) -> String {
    format!("{}/{}", item.kind().as_str(), item.name())
}
