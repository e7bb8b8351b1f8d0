//! SVIDs of the embedded CA for processes on the broker's own machine, and for processes on nodes.

use std::sync::Arc;

use sundew_attestation::spiffe::{SpiffeId, TrustBundle};
use sundew_core::store::DocumentKind;
use sundew_core::{AskedIdentity, Registration, WorkloadRecord};
use sundew_proto::spiffe::X509svid;
use sundew_proto::v1;

use super::Enrollment;
use super::local_process::LocalProcess;
use super::workload_api::{Answer, Bundles, Candidate, Identities, NoIdentity};
use crate::ca::Shown;
use crate::clock;
use crate::evidence::node;
use crate::journal::{self, RefusalKind};
use crate::peer::Peer;
use crate::records::Task;
use crate::refusal::Refusal;
use crate::wire::audience;

/// The broker's own CA as a source of identities.
pub(crate) struct OwnIdentities(pub(crate) Arc<Enrollment>);

impl Identities for OwnIdentities {
    fn candidates(&self) -> Answer<'_, Vec<Candidate>> {
        Box::pin(async move {
            self.0
                .served_by(None)
                .await
                .map_err(|refusal| self.0.refusals.refuse("FetchX509SVID", None, &refusal))
        })
    }

    fn issue<'a>(&'a self, id: &'a SpiffeId) -> Answer<'a, (X509svid, i64)> {
        Box::pin(async move {
            self.0
                .issue_local(id)
                .await
                .map_err(|refusal| self.0.refusals.refuse("FetchX509SVID", None, &refusal))
        })
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String]) -> Answer<'a, String> {
        Box::pin(async move {
            let result = match self.0.issue_permits.try_acquire() {
                Ok(_place) => {
                    let of = (Shown::LocalProcess, "local process");
                    self.0.issue_jwt(id, audience, of).await
                }
                Err(_) => Err(Refusal::Overload),
            };
            result.map_err(|refusal| self.0.refusals.refuse("FetchJWTSVID", None, &refusal))
        })
    }

    fn bundles(&self) -> Bundles {
        let current = self.0.trust.current();
        let roots = |bundle: &TrustBundle| bundle.certificates().flat_map(|c| c.to_vec()).collect();
        // I5: some clients refuse a whole response for one bundle that is empty. Without it, its trust
        // domain is redacted for them.
        Bundles {
            generation: current.generation,
            by_domain: current
                .bundles
                .iter()
                .filter(|bundle| !bundle.is_empty())
                .map(|bundle| (bundle.trust_domain().id(), roots(bundle)))
                .collect(),
            jwt: current
                .bundles
                .iter()
                .filter_map(|bundle| Some((bundle.trust_domain().id(), Arc::clone(bundle.jwt()?))))
                .filter(|(_, jwt)| !jwt.is_empty())
                .collect(),
        }
    }

    fn refused(&self, rpc: &'static str, process: &LocalProcess, why: NoIdentity) {
        let reason = why.to_string();
        let kind = RefusalKind {
            event: "refused",
            rpc: Some(rpc),
            class: "process",
            caller: format!("uid {}", process.uid()),
        };
        self.0.refusals.take(kind, &reason, "", || {
            journal::record("refused")
                .with("rpc", rpc)
                .with("reason", &reason)
                .with("uid", process.uid())
                .with("gid", process.gid())
        });
    }
}

impl Enrollment {
    /// Lists the identities that a node gives to its local processes; without a node, those that
    /// this broker gives to the processes of its own machine. What a quarantine forbids is withheld
    /// (I1).
    async fn served_by(&self, node: Option<&SpiffeId>) -> Result<Vec<Candidate>, Refusal> {
        let ca = self.own_ca()?;
        let mut candidates = Vec::new();
        let is_forbidden = |id: &SpiffeId| {
            let view = self.ledger.log.latest_view();
            let asked = AskedIdentity {
                id: Some(id),
                ..AskedIdentity::default()
            };
            view.forbids_identity(&asked, clock::now_ms())
        };
        let records = &self.ledger.records;
        for (_, document) in records.readable_documents(DocumentKind::Workload).await? {
            let WorkloadRecord {
                registration,
                applied_at_ms,
                ..
            } = document.decode(WorkloadRecord::decode)?;
            let Registration {
                spiffe_id: id,
                mut local,
                ..
            } = registration;
            // I2: nodes of earlier versions do not look themselves whether a selector pins anything.
            local.retain(|selector| selector.node.as_ref() == node && selector.problem().is_none());
            if id.trust_domain() == ca.trust_domain() && !local.is_empty() {
                let is_withheld = is_forbidden(&id);
                candidates.push(Candidate {
                    id,
                    local,
                    applied_at_ms,
                    is_withheld,
                });
            }
        }
        Ok(candidates)
    }

    /// Issues an SVID with its key for a process on the broker's own machine; answers when the SVID
    /// ends, in milliseconds since the epoch.
    async fn issue_local(&self, id: &SpiffeId) -> Result<(X509svid, i64), Refusal> {
        let ca = self.own_ca()?;
        let permit = ca.permit(id, Shown::LocalProcess, &[]).await?;
        let (svid, key) = ca.issue_with_key(&permit)?;
        self.record_svid(id, &svid, "local process").await?;
        ca.confirm(&permit).await?;
        let concatenated = |list: &[rustls_pki_types::CertificateDer<'static>]| {
            list.iter().flat_map(|c| c.to_vec()).collect()
        };
        let message = X509svid {
            spiffe_id: id.to_string(),
            x509_svid: concatenated(&svid.chain),
            x509_svid_key: key.expose().to_vec(),
            bundle: concatenated(&svid.bundle),
            hint: String::new(),
        };
        Ok((message, svid.not_after_ms))
    }

    /// Refuses callers that are not a node. P1: a node is a workload with a live task that may
    /// serve, for which it has presented evidence. Answers that task.
    async fn node(&self, peer: &Peer, task_id: &str) -> Result<Arc<Task>, Refusal> {
        let task = self.tasks.own_task(peer, task_id).await?;
        node::require_serves(&self.ledger, &task)?;
        Ok(task)
    }

    /// Lists the identities that a node may give to its local processes.
    pub(crate) async fn list_entries(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ListEntriesRequest,
    ) -> Result<v1::ListEntriesResponse, Refusal> {
        self.node(&peer, &request.task_id).await?;
        let entries = self.served_by(Some(peer.id())).await?;
        let given = entries.into_iter().filter(|entry| !entry.is_withheld);
        let jwt = self.trust.current();
        let jwt_bundle = |bundle: &Arc<TrustBundle>| {
            Some((
                bundle.trust_domain().id(),
                bundle.jwt()?.document().to_vec(),
            ))
        };
        let entry = |candidate: Candidate| v1::NodeEntry {
            spiffe_id: candidate.id.to_string(),
            selectors: candidate
                .local
                .iter()
                .map(|selector| serde_json::to_string(selector).unwrap_or_default())
                .collect(),
            applied_at_ms: candidate.applied_at_ms,
        };
        Ok(v1::ListEntriesResponse {
            entries: given.map(entry).collect(),
            jwt_bundles: jwt.bundles.iter().filter_map(jwt_bundle).collect(),
        })
    }

    /// Issues an SVID for a process on a node. The node says which identity the process has, among
    /// those that are delegated to the node.
    pub(crate) async fn issue_entry(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::IssueEntryRequest,
    ) -> Result<v1::IssueEntryResponse, Refusal> {
        let (id, node) = self
            .entry(&peer, &request.task_id, &request.spiffe_id)
            .await?;
        let shown = Shown::Node(&node);
        let permit = self.own_ca()?.permit(&id, shown, &[]).await?;
        let grounds = peer.id().as_str();
        Ok(v1::IssueEntryResponse {
            svid: Some(self.issue(&permit, &request.csr, grounds).await?),
        })
    }

    /// Issues a JWT-SVID for a process on a node.
    pub(crate) async fn issue_entry_jwt(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::IssueEntryJwtRequest,
    ) -> Result<v1::IssueEntryJwtResponse, Refusal> {
        let (id, node) = self
            .entry(&peer, &request.task_id, &request.spiffe_id)
            .await?;
        let audience = audience(request.audience)?;
        let of = (Shown::Node(&node), peer.id().as_str());
        Ok(v1::IssueEntryJwtResponse {
            svid: self.issue_jwt(&id, &audience, of).await?,
        })
    }

    /// Reads the ID of an identity; refuses one that is not delegated to the node that asks (P1).
    /// Answers the task of the node beside it.
    async fn entry(
        &self,
        peer: &Peer,
        task_id: &str,
        spiffe_id: &str,
    ) -> Result<(SpiffeId, Arc<Task>), Refusal> {
        let node = self.node(peer, task_id).await?;
        let id = SpiffeId::parse(spiffe_id).map_err(|e| Refusal::invalid("spiffe_id", e))?;
        let workload = self.own_ca()?.registration(&id).await?;
        let mut local = workload.registration.local.iter();
        if local.any(|selector| selector.node.as_ref() == Some(peer.id())) {
            Ok((id, node))
        } else {
            Err(Refusal::NotFound("entry of this node"))
        }
    }

    /// Issues a JWT-SVID. P8: it is a bearer token, so the registration has to name the audience.
    /// P4: a quarantine covers it like any token.
    async fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        (shown, grounds): (Shown<'_>, &str),
    ) -> Result<String, Refusal> {
        let ca = self.own_ca()?;
        if audience.is_empty() {
            return Err(Refusal::invalid("audience", "must be given"));
        }
        let workload = ca.registration(id).await?;
        if !audience
            .iter()
            .all(|name| workload.registration.jwt_svid_audiences.contains(name))
        {
            return Err(sundew_core::Denial::Audience.into());
        }
        let permit = ca.permit(id, shown, audience).await?;
        let issued = ca.issue_jwt(&permit)?;
        let record = journal::record("jwt_svid_issued")
            .with("workload", id)
            .with("audience", audience.join(" "))
            .with("grounds", grounds);
        self.ledger
            .journal
            .write(
                record
                    .with("jti", &issued.id)
                    .with("expires_at_ms", issued.expires_at_ms),
            )
            .await?;
        ca.confirm(&permit).await?;
        Ok(issued.token)
    }
}
