//! Delegate, and what a task below another one needs of it.

use std::sync::Arc;

use sundew_core::{Denial, Grant, GrantRequest, KnownTask};
use sundew_proto::v1;

use super::Tasks;
use crate::clock;
use crate::journal;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::wire::{self, spiffe_id};

/// The parent of a task that is about to begin, and the grant that allows the task.
pub(super) struct DelegationParent {
    pub(super) grant: Grant,
    pub(super) parent: Arc<KnownTask>,
    /// P12: most tasks that the parent may have below it at a time.
    pub(super) most_children: u32,
}

impl Tasks {
    /// Lets another workload open tasks below a task of the caller's. The grant is tagged and not
    /// stored, so that any broker recognises it.
    pub(crate) async fn delegate(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::DelegateRequest,
    ) -> Result<v1::DelegateResponse, Refusal> {
        let wanted = GrantRequest {
            delegate: spiffe_id(&request.delegate)?,
            scopes: wire::scopes(&request.scopes)?,
            audience: wire::audience(request.audience)?,
            ttl: wire::ttl(request.ttl_ms)?,
            depth: request.depth,
        };
        let task = self.own_task(&peer, &request.task_id).await?;
        self.ledger.require_issuable(&task)?;
        let workload = self
            .ledger
            .records
            .workload(peer.id())
            .await?
            .ok_or(Refusal::Unregistered)?;
        let grant = Grant::permit(
            &workload.registration,
            task.record(),
            wanted,
            clock::now_ms(),
        )?;
        let record = journal::record("delegated")
            .with("task", task.id)
            .with("workload", peer.id())
            .with("delegate", &grant.delegate)
            .with("scopes", grant.scopes.to_strings().join(" "))
            .with("audience", grant.audience.join(" "))
            .with("depth", grant.depth)
            .with("expires_ms", grant.expires_at_ms);
        self.ledger.journal.write(record).await?;
        // P4: a task that ended or was quarantined meanwhile gives no grant.
        self.ledger.require_issuable(&task)?;
        Ok(v1::DelegateResponse {
            grant: grant.to_text(self.ledger.root(), task.root_key()),
            expires_at_ms: grant.expires_at_ms,
        })
    }

    /// Reads a grant; answers its parent, if both are good now (P4). Policy decides later whether
    /// the grant is the caller's. An empty text is no grant.
    pub(super) async fn delegated(
        &self,
        text: &str,
        now_ms: i64,
    ) -> Result<Option<DelegationParent>, Refusal> {
        if text.is_empty() {
            return Ok(None);
        }
        let grant = Grant::parse(self.ledger.root(), text)
            .map_err(|_| Refusal::Denied(Denial::Delegation))?;
        self.below(grant, now_ms).await.map(Some)
    }

    /// Answers the task that a grant names, if both are good now (P4).
    pub(super) async fn below(
        &self,
        grant: Grant,
        now_ms: i64,
    ) -> Result<DelegationParent, Refusal> {
        if now_ms >= grant.expires_at_ms {
            return Err(Denial::NoTime.into());
        }
        let parent = self
            .ledger
            .records
            .task(grant.parent)
            .await?
            .ok_or(Refusal::NotFound("task"))?;
        self.ledger.require_issuable(&parent)?;
        let owner = self
            .ledger
            .records
            .workload(&parent.workload)
            .await?
            .ok_or(Refusal::Unregistered)?;
        if owner.registration.max_delegation_depth == 0 {
            return Err(Denial::Delegation.into());
        }
        Ok(DelegationParent {
            grant,
            parent: Arc::clone(&parent.known),
            most_children: owner.registration.max_delegated_tasks,
        })
    }
}
