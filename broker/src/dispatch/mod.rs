//! The use cases of dispatchers: to order tasks for others, to hear what becomes of them, and to
//! cancel them.
//!
//! P3: what is ordered is within the bounds of the dispatcher's role, or within a live task of an
//! agent's. P4: a cancellation is an entry of the revocation log. Nobody orders for itself, nor for
//! whoever may order for it. Orders are claimed in the room of tasks.

mod create;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use sundew_core::{Event, OrderId, Outcome};
use sundew_proto::v1;

use crate::clock;
use crate::journal;
use crate::ledger::Ledger;
use crate::limits::CallLimits;
use crate::metrics::OrderMetrics;
use crate::peer::Peer;
use crate::records::StoredOrder;
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::role::{Dispatcher, Operators, Responder, RoleProof as _, Unbounded};
use crate::task::Tasks;

/// P12: most orders of one dispatcher whose time to be claimed has not ended.
const MAX_ORDERS: u32 = 10_000;
/// Most orders in one list.
const MAX_LISTED: u32 = 1000;
/// Orders in a list whose caller names no limit.
const DEFAULT_LISTED: u32 = 100;
/// How long the ending of an order stays in the log after its deadline, in milliseconds.
const RETAIN_AFTER_DEADLINE_MS: i64 = 60_000;

/// The room of orders.
pub(crate) struct Dispatch {
    ledger: Ledger,
    limits: CallLimits,
    metrics: OrderMetrics,
    operators: Arc<Operators>,
    refusals: RefusalRecorder,
    tasks: Arc<Tasks>,
}

/// The rooms that [`Dispatch`] uses, and who has which role.
pub(crate) struct DispatchUse {
    pub(crate) operators: Arc<Operators>,
    pub(crate) refusals: RefusalRecorder,
    pub(crate) tasks: Arc<Tasks>,
}

impl Dispatch {
    /// A room of orders whose texts are as long as those of tasks.
    pub(crate) fn new(
        ledger: Ledger,
        limits: CallLimits,
        metrics: OrderMetrics,
        uses: DispatchUse,
    ) -> Self {
        let DispatchUse {
            operators,
            refusals,
            tasks,
        } = uses;
        Self {
            ledger,
            limits,
            metrics,
            operators,
            refusals,
            tasks,
        }
    }

    /// Lists orders: the caller's own, or those of all dispatchers for responders.
    pub(crate) async fn list_orders(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ListOrdersRequest,
    ) -> Result<v1::ListOrdersResponse, Refusal> {
        let limit = match request.limit {
            0 => DEFAULT_LISTED,
            limit if limit <= MAX_LISTED => limit,
            _ => return Err(Refusal::invalid("limit", "at most 1000")),
        };
        if request.all {
            let responder = self.operators.prove::<Responder>(&peer)?;
            let _ = Unbounded::of(responder)?;
        } else {
            self.require_may_have_ordered(&peer).await?;
        }
        let of = (!request.all).then(|| peer.id().as_str());
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let store = self.ledger.records.store();
        let mut ids = store.orders(of, limit.saturating_add(1)).await?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        let mut orders = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(stored) = self.ledger.records.order(id).await? {
                orders.push(self.message(&stored).await?);
            }
        }
        Ok(v1::ListOrdersResponse { orders, more })
    }

    /// Cancels an order that nobody has claimed, and ends the task that came of it if so asked.
    pub(crate) async fn cancel_order(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::CancelOrderRequest,
    ) -> Result<v1::CancelOrderResponse, Refusal> {
        let stored = self.own_order(&peer, &request.order_id).await?;
        let order = &stored.order;
        if stored.claim.is_none() {
            self.cancel(&peer, &stored).await?;
        } else if request.end_task {
            self.tasks.end_ordered(order, peer.id().as_str()).await?;
        }
        let stored = self.own_order(&peer, &request.order_id).await?;
        Ok(v1::CancelOrderResponse {
            order: Some(self.message(&stored).await?),
        })
    }

    /// P4: puts the end of the task that has not begun into the log. Whoever claims the order at this
    /// moment has begun a task that is dead.
    async fn cancel(&self, peer: &Peer, stored: &StoredOrder) -> Result<(), Refusal> {
        let order = &stored.order;
        let task = order.id.task();
        let before = {
            let view = self.ledger.log.latest_view();
            view.ended_entry(&task)
        };
        if let Some(by) = before {
            self.ledger.confirm(by).await?;
            return Ok(());
        }
        let record = journal::record("order_canceled")
            .with("order", order.id)
            .with("dispatcher", peer.id())
            .with("workload", &order.workload);
        let retain = order.deadline_ms.max(clock::now_ms());
        let until_ms = retain.saturating_add(RETAIN_AFTER_DEADLINE_MS);
        let outcome = Outcome::Canceled;
        let ended = self
            .ledger
            .end(Event::Ended { task, outcome }, until_ms, record);
        ended.await?;
        self.metrics.canceled.inc();
        let store = self.ledger.records.store();
        let released = store.release_order(order.dispatcher.as_str(), order.id);
        if let Err(error) = released.await {
            tracing::debug!(%error, "a canceled order stays on the lists until its time is over");
        }
        Ok(())
    }

    /// Refuses whoever cannot have ordered anything: neither a dispatcher nor a workload.
    async fn require_may_have_ordered(&self, peer: &Arc<Peer>) -> Result<(), Refusal> {
        let Err(lacking) = self.operators.prove::<Dispatcher>(peer) else {
            return Ok(());
        };
        let workload = self.ledger.records.workload(peer.id()).await?;
        workload.map(drop).ok_or(lacking)
    }

    /// The caller's own order. Unknown and not yours are refused alike (P11).
    async fn own_order(&self, peer: &Peer, id: &str) -> Result<StoredOrder, Refusal> {
        let id = OrderId::parse(id).map_err(|e| Refusal::invalid("order_id", e))?;
        let stored = self.ledger.records.order(id).await?;
        stored
            .filter(|stored| stored.order.dispatcher == *peer.id())
            .ok_or(Refusal::NotFound("order"))
    }
}
