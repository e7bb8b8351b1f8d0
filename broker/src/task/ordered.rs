//! Tasks that were ordered: what a ticket gives, and what it means when it is shown again.

use subtle::ConstantTimeEq as _;
use sundew_attestation::hex;
use sundew_core::{
    ClaimRecord, Delegation, Denial, KnownOrder, Liveness, Outcome, TaskOrder, Ticket,
};
use sundew_proto::v1;

use super::delegate::DelegationParent;
use super::new_task::NewTask;
use super::{Tasks, ending};
use crate::clock;
use crate::journal;
use crate::peer::Peer;
use crate::records::{ClaimedOrder, StoredOrder};
use crate::refusal::Refusal;
use crate::wire::idempotency_key;

/// An order whose ticket the caller has shown.
pub(super) struct Ordered {
    order: KnownOrder,
}

impl Ordered {
    pub(super) fn order(&self) -> &KnownOrder {
        &self.order
    }

    /// What the task keeps of the order.
    pub(super) fn of_task(&self) -> TaskOrder {
        TaskOrder {
            dispatcher: self.order.dispatcher.clone(),
            labels: self.order.labels.clone(),
        }
    }
}

/// The ceiling of a task by the task above it.
pub(super) fn delegation(above: &DelegationParent) -> Delegation<'_> {
    Delegation {
        grant: &above.grant,
        parent: above.parent.record(),
    }
}

impl Tasks {
    /// Reads the ticket of a request, if it has one, and puts what the dispatcher says in the place of
    /// what the agent says (P10). P11: a ticket of nobody's, and one that is for somebody else, are
    /// refused alike. One that was used by another request is an alarm.
    pub(super) async fn ordered(
        &self,
        peer: &Peer,
        request: &mut v1::BeginTaskRequest,
        asked: &[u8; 32],
    ) -> Result<Option<Ordered>, Refusal> {
        if request.order_ticket.is_empty() {
            return Ok(None);
        }
        if !request.grant.is_empty() {
            return Err(Refusal::invalid("grant", "an order goes without a grant"));
        }
        let ticket = Ticket::parse(&request.order_ticket).ok_or(Denial::Order)?;
        let stored = self.ledger.records.order(ticket.order()).await?;
        let StoredOrder { order, claim } = stored.ok_or(Denial::Order)?;
        if !bool::from(order.ticket.as_slice().ct_eq(&ticket.hash())) {
            return Err(Denial::Order.into());
        }
        let is_retry = match &claim {
            Some(claim) if claim.workload == *peer.id() && claim.request == *asked => true,
            Some(claim) => return Err(self.used_again(peer, &order, claim).await),
            None => false,
        };
        if !is_retry {
            if order.workload != *peer.id() {
                return Err(Denial::Order.into());
            }
            self.ledger.require_claimable(&order)?;
        }
        request.purpose.clone_from(&order.purpose);
        request.instruction.clone_from(&order.instruction);
        if request.scopes.is_empty() {
            request.scopes = order.scopes.to_strings();
        }
        Ok(Some(Ordered { order }))
    }

    /// Claims an order by storing its task with its first token, in one step of the store.
    pub(super) async fn claim(
        &self,
        peer: &Peer,
        ordered: &Ordered,
        claim: ClaimRecord,
        new: NewTask,
    ) -> Result<super::new_task::Stored, Refusal> {
        let (hash, certificate) = (new.credential.hash(), new.token.certificate);
        let order = &ordered.order;
        let records = &self.ledger.records;
        let claimed = records.claim_order(order, &claim, new.task, (new.token, &hash));
        match claimed.await? {
            ClaimedOrder::Now(task, token) => {
                self.orders.claimed.inc();
                // P4: what canceled the order meanwhile keeps its task from ever being answered.
                self.ledger.require_claimable(order)?;
                Ok((task, token, new.credential))
            }
            ClaimedOrder::Before(before) if before.request == claim.request => {
                let task = records.read_task(order.id.task()).await?;
                let task = task.ok_or(Refusal::NotFound("task"))?;
                self.begun_before(task, &certificate).await
            }
            ClaimedOrder::Before(before) => Err(self.used_again(peer, order, &before).await),
            ClaimedOrder::Gone => Err(Denial::Order.into()),
        }
    }

    /// Answers somebody whose ticket was used while the evidence was verified.
    pub(super) async fn claimed_before(&self, peer: &Peer, ordered: &Ordered) -> Refusal {
        match self.ledger.records.order(ordered.order.id).await {
            Ok(Some(StoredOrder {
                order,
                claim: Some(claim),
            })) => self.used_again(peer, &order, &claim).await,
            Ok(_) => Denial::Order.into(),
            Err(error) => error,
        }
    }

    /// Answers that a ticket was used before. That is an alarm, once for each who shows it: who has
    /// claimed the order first, and who shows its ticket now, are on the record. If the order says
    /// so, the task ends: nobody knows which of the two the dispatcher had meant.
    async fn used_again(&self, peer: &Peer, order: &KnownOrder, claim: &ClaimRecord) -> Refusal {
        let refusal = Refusal::TicketUsed {
            order: order.id,
            by: claim.workload.clone(),
        };
        match self.alarm(peer, order, claim).await {
            Ok(()) => refusal,
            Err(error) => error,
        }
    }

    async fn alarm(
        &self,
        peer: &Peer,
        order: &KnownOrder,
        claim: &ClaimRecord,
    ) -> Result<(), Refusal> {
        let parts: [&[u8]; 3] = [
            b"ticket-reused",
            order.id.as_bytes(),
            peer.id().as_str().as_bytes(),
        ];
        let name = self.ledger.root().derive(&parts);
        let until_ms = order
            .deadline_ms
            .max(clock::now_ms().saturating_add(60_000));
        if self.ledger.records.store().consume(&name, until_ms).await? {
            self.orders.reused.inc();
            // Before the record, which may fail: nobody is told twice.
            tracing::error!(
                order = %order.id,
                claimed_by = %claim.workload,
                shown_by = %peer.id(),
                "the ticket of an order was shown again"
            );
            let record = journal::record("ticket_reused")
                .with("order", order.id)
                .with("task", order.id.task())
                .with("dispatcher", &order.dispatcher)
                .with("claimed_by", &claim.workload)
                .with("claimed_by_svid", &claim.svid_serial)
                .with("claimed_from", &claim.remote)
                .with("claimed_at_ms", claim.claimed_at_ms)
                .with("shown_by", peer.id())
                .with("shown_by_svid", hex(peer.svid().serial()))
                .with("shown_from", peer.remote())
                .with("ends_task", order.ends_on_reuse);
            self.ledger.journal.write(record).await?;
        }
        if !order.ends_on_reuse {
            return Ok(());
        }
        let Some(task) = self.ledger.records.task(order.id.task()).await? else {
            return Ok(());
        };
        let liveness = self
            .ledger
            .log
            .latest_view()
            .task_liveness(&task, clock::now_ms());
        if liveness == Liveness::Alive {
            ending::end_task(&self.ledger, &task, Outcome::Revoked, None).await?;
        }
        Ok(())
    }

    /// Ends the task that came of an order, as its dispatcher says; answers how it ended.
    pub(crate) async fn end_ordered(
        &self,
        order: &KnownOrder,
        dispatcher: &str,
    ) -> Result<(), Refusal> {
        let task = self.ledger.records.task(order.id.task()).await?;
        let task = task.ok_or(Refusal::NotFound("task"))?;
        let (ledger, actor) = (&self.ledger, Some(dispatcher));
        ending::end_task(ledger, &task, Outcome::Canceled, actor).await?;
        Ok(())
    }
}

/// The digest by which a retry of a claim is told from another claim: whoever has no idempotency key
/// of its own never repeats a request.
pub(super) fn asked(request: &v1::BeginTaskRequest) -> Result<[u8; 32], Refusal> {
    let key = idempotency_key(request.idempotency_key.clone())?;
    let texts = [
        &request.order_ticket,
        &key,
        &request.scopes.join("\n"),
        &request.audience.join("\n"),
    ];
    let numbers = [request.ttl_ms, request.binding.into()];
    Ok(super::request_digest(&texts, &numbers))
}
