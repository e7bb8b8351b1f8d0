//! CreateOrder: from what a dispatcher wants to an order with its ticket.

use std::sync::Arc;

use sundew_core::{
    Denial, KnownOrder, Order, OrderId, OrderOrigin, OrderRequest, Registration, TaskId, Ticket,
    Ttl,
};
use sundew_proto::v1;

use super::{Dispatch, MAX_ORDERS};
use crate::clock;
use crate::journal;
use crate::peer::Peer;
use crate::records::StoredOrder;
use crate::refusal::Refusal;
use crate::role::Dispatcher;
use crate::wire::{self, idempotency_key, spiffe_id};

/// Most labels of an order.
const MAX_LABELS: usize = 16;

impl Dispatch {
    /// Orders one task, and answers the ticket for it. A retry with the same key gets the same order
    /// and the same ticket, which is derived: the store has its hash only (P8).
    pub(crate) async fn create_order(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::CreateOrderRequest,
    ) -> Result<v1::CreateOrderResponse, Refusal> {
        let key = idempotency_key(request.idempotency_key.clone())?;
        let digest = digest(&request);
        let within = request.task_id.clone();
        let wanted = self.parse(request)?;
        // The position is noted before anything is decided: a rule that comes meanwhile is later than
        // the order, and covers it.
        let (position, now_ms) = (self.ledger.log.view()?.applied().0, clock::now_ms());
        let names: [&[u8]; 3] = [b"order", peer.id().as_str().as_bytes(), key.as_bytes()];
        let id = OrderId::of_task(TaskId::from_bytes(self.ledger.root().derive_name(&names)));
        let ticket = self.ticket(id, &key, now_ms);
        let origin = OrderOrigin {
            id,
            dispatcher: peer.id().clone(),
            svid_serial: peer.svid().serial().to_vec(),
            ticket: ticket.hash(),
            request: digest,
            position,
        };
        let order = if within.is_empty() {
            self.standing(&peer, origin, wanted, now_ms).await?
        } else {
            self.within(&peer, &within, origin, wanted, now_ms).await?
        };
        // AC-4A: looked at before anything is written, and again before anything is answered.
        self.ledger.require_claimable(&order)?;
        // P10: the journal comes before the store, so whatever can be claimed is on the record.
        self.ledger.journal.write(record(&order)).await?;
        let existing = self.ledger.records.create_order(&order, MAX_ORDERS).await?;
        let ticket = match &existing {
            None => ticket,
            Some(existing) => self.ticket(id, &key, existing.created_at_ms),
        };
        if existing.is_none() {
            self.ledger.require_claimable(&order)?;
            self.metrics.made.inc();
        }
        let stored = match existing {
            None => StoredOrder { order, claim: None },
            Some(_) => {
                let stored = self.ledger.records.order(id).await?;
                stored.ok_or(Refusal::NotFound("order"))?
            }
        };
        Ok(v1::CreateOrderResponse {
            order: Some(self.message(&stored).await?),
            ticket: ticket.expose().to_string(),
        })
    }

    /// An order by the role `dispatcher`, within its bounds.
    async fn standing(
        &self,
        peer: &Arc<Peer>,
        origin: OrderOrigin,
        wanted: OrderRequest,
        now_ms: i64,
    ) -> Result<KnownOrder, Refusal> {
        let dispatcher = self.operators.prove::<Dispatcher>(peer)?;
        let _ = dispatcher.ordering(&wanted.workload, &wanted.scopes)?;
        if self.operators.may_order_for(&wanted.workload, peer.id()) {
            return Err(Denial::OrderCircle.into());
        }
        let registration = self.registration(&wanted).await?;
        let order = Order::permit_standing(origin, wanted, &registration, now_ms)?;
        Ok(KnownOrder::new(order, None))
    }

    /// An order by an agent, within a live task of its own.
    async fn within(
        &self,
        peer: &Arc<Peer>,
        task: &str,
        origin: OrderOrigin,
        wanted: OrderRequest,
        now_ms: i64,
    ) -> Result<KnownOrder, Refusal> {
        let task = self.tasks.own_task(peer, task).await?;
        self.ledger.require_issuable(&task)?;
        let may = |above: &sundew_core::KnownTask| {
            self.operators
                .may_order_for(&wanted.workload, &above.workload)
        };
        if task.chain().any(may) {
            return Err(Denial::OrderCircle.into());
        }
        let own = self.ledger.records.workload(peer.id()).await?;
        let own = own.ok_or(Refusal::Unregistered)?;
        let registration = self.registration(&wanted).await?;
        let above = (task.known.as_ref(), &own.registration);
        let order = Order::permit_within(origin, wanted, above, &registration, now_ms)?;
        Ok(KnownOrder::new(order, Some(Arc::clone(&task.known))))
    }

    /// The registration of the workload that is to claim the order.
    async fn registration(&self, wanted: &OrderRequest) -> Result<Registration, Refusal> {
        let workload = self.ledger.records.workload(&wanted.workload).await?;
        let workload = workload.ok_or(Refusal::NotFound("workload"))?;
        Ok(workload.registration.clone())
    }

    /// The one ticket that an order has, for whoever knows its idempotency key. When the order was
    /// made is a part of it, so that a key that is used again after the order is gone gives another
    /// one.
    fn ticket(&self, id: OrderId, key: &str, created_at_ms: i64) -> Ticket {
        let parts: [&[u8]; 4] = [
            b"ticket",
            id.as_bytes(),
            key.as_bytes(),
            &created_at_ms.to_be_bytes(),
        ];
        Ticket::new(id, self.ledger.root().derive(&parts))
    }

    /// Reads what a caller asks, and refuses what is out of bounds.
    fn parse(&self, request: v1::CreateOrderRequest) -> Result<OrderRequest, Refusal> {
        let limits = &self.limits;
        if request.purpose.trim().is_empty() || request.purpose.len() > limits.purpose_bytes {
            return Err(Refusal::invalid(
                "purpose",
                format!("must be 1 to {} bytes", limits.purpose_bytes),
            ));
        }
        if request.instruction.len() > limits.instruction_bytes {
            return Err(Refusal::invalid(
                "instruction",
                format!("must be at most {} bytes", limits.instruction_bytes),
            ));
        }
        if request.labels.len() > MAX_LABELS || !request.labels.iter().all(|l| is_label(l)) {
            return Err(Refusal::invalid(
                "labels",
                "must be at most 16 words of at most 64 letters, digits and `-_.:/`",
            ));
        }
        // L3: rules stand as long as the longest task, so no order may last longer.
        let longest = self.ledger.log.agreement().bounds.max_task_ttl;
        let claimable = wire::ttl(request.claimable_ms)?.unwrap_or(Ttl::QUARTER_HOUR);
        Ok(OrderRequest {
            workload: spiffe_id(&request.spiffe_id)?,
            scopes: wire::scopes(&request.scopes)?,
            audience: wire::audience(request.audience)?,
            ttl: wire::ttl(request.ttl_ms)?.map_or(longest, |asked| asked.min(longest)),
            claimable,
            purpose: request.purpose,
            instruction: request.instruction,
            labels: request.labels,
            depth: request.depth,
            ends_on_reuse: !request.reuse_only_alarms,
        })
    }
}

fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b))
}

/// The digest of what a request asks: a key is good for one request.
fn digest(request: &v1::CreateOrderRequest) -> [u8; 32] {
    let texts = [
        request.spiffe_id.as_str(),
        &request.scopes.join("\n"),
        &request.audience.join("\n"),
        &request.purpose,
        &request.instruction,
        &request.labels.join("\n"),
        &request.task_id,
    ];
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for text in texts {
        context.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(text.as_bytes());
    }
    for number in [
        request.ttl_ms,
        request.claimable_ms,
        request.depth.into(),
        request.reuse_only_alarms.into(),
    ] {
        context.update(&number.to_be_bytes());
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The record of the journal that an order was made.
fn record(order: &Order) -> journal::Record {
    let mut record = journal::record("order_created")
        .with("order", order.id)
        .with("dispatcher", &order.dispatcher)
        .with("workload", &order.workload)
        .with("purpose", &order.purpose)
        .with("instruction", &order.instruction)
        .with("scopes", order.scopes.to_strings().join(" "))
        .with("audience", order.audience.join(" "))
        .with("labels", order.labels.join(" "))
        .with("claimable_until_ms", order.claimable_until_ms)
        .with("deadline_ms", order.deadline_ms);
    if let Some(parent) = order.parent {
        record = record.with("parent", parent);
    }
    record
}
