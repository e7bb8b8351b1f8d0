//! Records of orders, each in the place of its task.

use std::sync::Arc;

use sundew_core::store::{Claimed, Created, NewOrder, NewTask, OrderClaim};
use sundew_core::{ClaimRecord, KnownOrder, KnownTask, KnownToken, Order, OrderId, TokenHash};

use super::{RETAIN_TASK_AFTER_DEADLINE_MS, Records, Task, bytes_of};
use crate::clock;
use crate::refusal::Refusal;

/// An order with its claim, if somebody has claimed it.
pub(crate) struct StoredOrder {
    pub(crate) order: KnownOrder,
    pub(crate) claim: Option<ClaimRecord>,
}

/// What became of an attempt to claim an order.
pub(crate) enum ClaimedOrder {
    /// It was claimed before.
    Before(ClaimRecord),
    /// There is no such order.
    Gone,
    /// Its task has begun, with its first token.
    Now(Arc<Task>, Arc<KnownToken>),
}

impl Records {
    /// Writes an order, of which its dispatcher may have `limit`. Returns the one that an earlier call
    /// with this idempotency key has written, if there is one. Refuses if that was another request.
    pub(crate) async fn create_order(
        &self,
        order: &Order,
        limit: u32,
    ) -> Result<Option<Order>, Refusal> {
        let place: [&[u8]; 2] = [b"order", order.id.as_bytes()];
        let new = NewOrder {
            id: order.id,
            dispatcher: order.dispatcher.as_str(),
            record: self.root.tag(&place, order.encode()),
            listed_until_ms: order.claimable_until_ms,
            retain_until_ms: Self::retain_order_until_ms(order),
            limit,
            now_ms: clock::now_ms(),
        };
        match self.store.create_order(new).await? {
            None => Err(Refusal::OrderLimit),
            Some(Created::New) => Ok(None),
            Some(Created::Existing(bytes)) => {
                let existing = self.open("order", &place, &bytes, Order::decode)?;
                if existing.request != order.request || existing.dispatcher != order.dispatcher {
                    return Err(Refusal::Idempotency);
                }
                Ok(Some(existing))
            }
        }
    }

    /// Returns an order, if it exists. P4: one whose task above it does not exist any more is none,
    /// because nobody could say whether it is good.
    pub(crate) async fn order(&self, id: OrderId) -> Result<Option<StoredOrder>, Refusal> {
        let Some(stored) = self.store.order(id).await? else {
            return Ok(None);
        };
        let open = self.open(
            "order",
            &[b"order", id.as_bytes()],
            &stored.record,
            Order::decode,
        );
        let order = open?;
        let claim = match &stored.claim {
            Some(claim) => Some(self.open_claim(id, claim)?),
            None => None,
        };
        let parent = match order.parent {
            Some(parent) => match self.task(parent).await? {
                Some(parent) => Some(Arc::clone(&parent.known)),
                None if claim.is_none() => return Ok(None),
                None => None,
            },
            None => None,
        };
        let order = KnownOrder::new(order, parent);
        Ok(Some(StoredOrder { order, claim }))
    }

    fn open_claim(&self, id: OrderId, bytes: &[u8]) -> Result<ClaimRecord, Refusal> {
        self.open(
            "claim",
            &[b"claim", id.as_bytes()],
            bytes,
            ClaimRecord::decode,
        )
    }

    /// Claims an order by writing its task with its first token, in one step.
    pub(crate) async fn claim_order(
        &self,
        order: &Order,
        claim: &ClaimRecord,
        task: Arc<KnownTask>,
        (token, hash): (KnownToken, &TokenHash),
    ) -> Result<ClaimedOrder, Refusal> {
        let id = task.id;
        let place: [&[u8]; 2] = [b"claim", id.as_bytes()];
        let claim = OrderClaim {
            claim: self.root.tag(&place, claim.encode()),
            retain_until_ms: Self::retain_order_until_ms(order),
            task: NewTask {
                id,
                record: self.of_task(&task, &[b"task", id.as_bytes()], task.encode()),
                retain_until_ms: task
                    .deadline_ms
                    .saturating_add(RETAIN_TASK_AFTER_DEADLINE_MS),
                token: self.new_token(&token, hash),
            },
        };
        Ok(match self.store.claim_order(claim).await? {
            Claimed::Before(bytes) => ClaimedOrder::Before(self.open_claim(order.id, &bytes)?),
            Claimed::Gone => ClaimedOrder::Gone,
            Claimed::Now => {
                let task = Arc::new(Task {
                    known: task,
                    rotated_to: Vec::new(),
                });
                let token = Arc::new(token);
                self.tasks.insert(id, Arc::clone(&task), bytes_of(&task));
                self.tokens.insert(*hash, Arc::clone(&token));
                ClaimedOrder::Now(task, token)
            }
        })
    }

    /// An order outlives the latest end of its task, and with that all times in which its ticket could
    /// be shown: so no ticket that was used is ever one that nobody knows.
    fn retain_order_until_ms(order: &Order) -> i64 {
        order
            .deadline_ms
            .saturating_add(RETAIN_TASK_AFTER_DEADLINE_MS)
    }
}
