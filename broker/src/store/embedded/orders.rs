//! Orders in the embedded store.

use sundew_core::OrderId;
use sundew_core::store::{Claimed, Created, NewOrder, OrderClaim, StoreError, StoredOrder};

use super::EmbeddedStore;
use super::operation::{self, kind::Kind};
use super::state::State;
use super::tokens::new_token;

impl EmbeddedStore {
    pub(super) async fn write_order(
        &self,
        order: NewOrder<'_>,
    ) -> Result<Option<Created>, StoreError> {
        let id = order.id;
        let durable = {
            let mut state = self.lock();
            if let Some(found) = state.orders.get(&id) {
                return Ok(Some(Created::Existing(found.record.clone())));
            }
            let now_ms = order.now_ms;
            let limit = usize::try_from(order.limit).unwrap_or(usize::MAX);
            let own = state.orders.values().filter(|known| {
                known.dispatcher == order.dispatcher && known.listed_until_ms > now_ms
            });
            if own.count() >= limit {
                return Ok(None);
            }
            let change = operation::NewOrder {
                id: id.as_bytes().to_vec(),
                dispatcher: order.dispatcher.to_owned(),
                record: order.record,
                listed_until_ms: order.listed_until_ms,
                retain_until_ms: order.retain_until_ms,
                claim: None,
            };
            self.commit(&mut state, Kind::Order(change))?
        };
        self.settled_or(durable, |state| drop(state.orders.remove(&id)))
            .await?;
        Ok(Some(Created::New))
    }

    pub(super) fn read_order(&self, order: OrderId) -> Option<StoredOrder> {
        self.lock().orders.get(&order).map(|order| StoredOrder {
            record: order.record.clone(),
            claim: order.claim.clone(),
        })
    }

    pub(super) async fn write_claim(&self, claim: OrderClaim<'_>) -> Result<Claimed, StoreError> {
        let task = claim.task.id;
        let order = OrderId::of_task(task);
        let (durable, retained_until_ms) = {
            let mut state = self.lock();
            let Some(known) = state.orders.get(&order) else {
                return Ok(Claimed::Gone);
            };
            if let Some(before) = &known.claim {
                return Ok(Claimed::Before(before.clone()));
            }
            let retained_until_ms = known.retain_until_ms;
            if state.tasks.contains_key(&task) {
                return Ok(Claimed::Gone);
            }
            // One operation, so that a restart finds both or none.
            let change = operation::Claim {
                claim: claim.claim,
                retain_until_ms: claim.retain_until_ms,
                task: Some(operation::NewTask {
                    id: task.as_bytes().to_vec(),
                    record: claim.task.record,
                    retain_until_ms: claim.task.retain_until_ms,
                    token: Some(new_token(task, claim.task.token)),
                }),
            };
            let durable = self.commit(&mut state, Kind::Claim(change))?;
            (durable, retained_until_ms)
        };
        let undo = |state: &mut State| {
            state.tasks.remove(&task);
            if let Some(known) = state.orders.get_mut(&order) {
                (known.claim, known.retain_until_ms) = (None, retained_until_ms);
            }
        };
        self.settled_or(durable, undo).await?;
        Ok(Claimed::Now)
    }

    pub(super) fn list_orders(&self, dispatcher: Option<&str>, limit: usize) -> Vec<OrderId> {
        let state = self.lock();
        let is_of = |of: &str| dispatcher.is_none_or(|dispatcher| dispatcher == of);
        let orders = state.orders.iter();
        let mut listed: Vec<_> = orders
            .filter(|(_, order)| is_of(&order.dispatcher) && order.listed_until_ms > 0)
            .map(|(id, order)| (order.listed_until_ms, *id))
            .collect();
        listed.sort_unstable_by(|one, other| other.cmp(one));
        listed.into_iter().take(limit).map(|(_, id)| id).collect()
    }

    pub(super) fn unlist_order(&self, order: OrderId) -> Result<(), StoreError> {
        let unlisted = operation::Unlisted {
            order: order.as_bytes().to_vec(),
        };
        self.commit_unwatched(&mut self.lock(), Kind::Unlisted(unlisted))
    }
}
