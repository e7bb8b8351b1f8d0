//! Orders in Redis: each in the slot of its task, so that it is claimed by the step that begins the
//! task; and the lists of orders, which serve listing and limits only.

use std::collections::HashMap;
use std::sync::Arc;

use ::redis::{Script, cmd};
use sundew_core::store::{
    Claimed, Created, NewOrder, OrderClaim, Reserved, StoreError, StoredOrder,
};
use sundew_core::{OrderId, TaskId};

use super::call::Call;
use super::executor::Executor;
use super::keys::{
    ORDERS, nonsense, order_key, orders_key, task_key, task_of, token_value, tokens_key,
};

/// The orders.
pub(super) struct Orders {
    executor: Arc<Executor>,
    claim: Script,
    create: Script,
    reserve: Script,
}

impl Orders {
    pub(super) fn new(executor: Arc<Executor>) -> Self {
        Self {
            executor,
            claim: Script::new(include_str!("claim_order.lua")),
            create: Script::new(include_str!("create_order.lua")),
            reserve: Script::new(include_str!("reserve_task.lua")),
        }
    }

    async fn list_on(
        &self,
        list: &str,
        order: &NewOrder<'_>,
        limit: u32,
    ) -> Result<Reserved, StoreError> {
        let call = Call::new(&self.reserve, &[list])
            .arg(&order.id.as_bytes()[..])
            .arg(order.listed_until_ms)
            .arg(limit)
            .arg(order.now_ms);
        match self.executor.script::<i64>(&call).await? {
            0 => Ok(Reserved::Full),
            1 => Ok(Reserved::Taken),
            2 => Ok(Reserved::Held),
            _ => Err(nonsense("reserve_task answered another number")),
        }
    }

    /// Writes an order, on the lists first: an order that nobody can list must not exist.
    pub(super) async fn create(&self, order: NewOrder<'_>) -> Result<Option<Created>, StoreError> {
        let own = orders_key(order.dispatcher);
        if self.list_on(&own, &order, order.limit).await? == Reserved::Full {
            return Ok(None);
        }
        let _ = self.list_on(ORDERS, &order, u32::MAX).await?;
        let call = Call::new(&self.create, &[&order_key(order.id)])
            .arg(order.record.as_slice())
            .arg(order.retain_until_ms);
        let existing: Option<Vec<u8>> = self.executor.write(&call).await?;
        Ok(Some(existing.map_or(Created::New, Created::Existing)))
    }

    pub(super) async fn read(&self, order: OrderId) -> Result<Option<StoredOrder>, StoreError> {
        let mut fields: HashMap<Vec<u8>, Vec<u8>> = self
            .executor
            .query(cmd("HGETALL").arg(order_key(order)))
            .await?;
        let claim = fields.remove(b"claim".as_slice());
        let record = fields.remove(b"record".as_slice());
        Ok(record.map(|record| StoredOrder { record, claim }))
    }

    /// Claims an order. What a failover takes back could be claimed again, so a majority has it
    /// first, as it has an ending.
    pub(super) async fn claim(&self, claim: OrderClaim<'_>) -> Result<Claimed, StoreError> {
        let task = &claim.task;
        let keys = [
            &*order_key(OrderId::of_task(task.id)),
            &task_key(task.id),
            &tokens_key(task.id),
        ];
        let call = Call::new(&self.claim, &keys)
            .arg(claim.claim.as_slice())
            .arg(claim.retain_until_ms)
            .arg(task.record.as_slice())
            .arg(task.retain_until_ms)
            .arg(&task.token.hash.token_id().as_bytes()[..])
            .arg(token_value(&task.token))
            .arg(task.token.retain_until_ms);
        let before: Option<Vec<u8>> = self.executor.write_to_majority(&call).await?;
        Ok(match before {
            None => Claimed::Now,
            Some(nothing) if nothing.is_empty() => Claimed::Gone,
            Some(claim) => Claimed::Before(claim),
        })
    }

    /// Lists orders that may be claimed still, those that come last first.
    pub(super) async fn list(
        &self,
        dispatcher: Option<&str>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        let key = dispatcher.map_or_else(|| ORDERS.to_owned(), orders_key);
        let mut command = cmd("ZRANGE");
        command
            .arg(key)
            .arg(0)
            .arg(limit.saturating_sub(1))
            .arg("REV");
        let members: Vec<Vec<u8>> = self.executor.query(&command).await?;
        let tasks = members.iter().filter_map(|member| task_of(member).ok());
        Ok(tasks.map(OrderId::of_task).collect::<Vec<_>>())
    }

    /// Takes an order off the lists.
    pub(super) async fn release(&self, dispatcher: &str, order: OrderId) -> Result<(), StoreError> {
        let task: TaskId = order.task();
        for list in [orders_key(dispatcher), ORDERS.to_owned()] {
            let mut command = cmd("ZREM");
            command.arg(list).arg(&task.as_bytes()[..]);
            self.executor.query::<i64>(&command).await?;
        }
        Ok(())
    }
}
