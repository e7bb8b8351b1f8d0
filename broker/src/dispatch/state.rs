//! How an order stands, as a message.

use sundew_core::{Cause, Liveness, Outcome};
use sundew_proto::v1;

use super::Dispatch;
use crate::clock;
use crate::records::StoredOrder;
use crate::refusal::Refusal;
use crate::wire::outcome_message;

impl Dispatch {
    /// An order as a message, as the view says at this moment.
    pub(super) async fn message(&self, stored: &StoredOrder) -> Result<v1::Order, Refusal> {
        let StoredOrder { order, claim } = stored;
        let task = order.id.task();
        let (state, outcome) = match claim {
            None => (self.unclaimed(stored)?, None),
            Some(_) => match self.outcome(stored).await? {
                None => (v1::OrderState::Claimed, None),
                ended => (v1::OrderState::Ended, ended),
            },
        };
        let outcome = outcome.map_or(v1::Outcome::Unspecified, outcome_message);
        Ok(v1::Order {
            order_id: order.id.to_string(),
            dispatcher: order.dispatcher.to_string(),
            spiffe_id: order.workload.to_string(),
            scopes: order.scopes.to_strings(),
            audience: order.audience.clone(),
            purpose: order.purpose.clone(),
            instruction: order.instruction.clone(),
            labels: order.labels.clone(),
            created_at_ms: order.created_at_ms,
            claimable_until_ms: order.claimable_until_ms,
            deadline_ms: order.deadline_ms,
            state: state.into(),
            task_id: claim.as_ref().map(|_| task.to_string()).unwrap_or_default(),
            outcome: outcome.into(),
            claimed_at_ms: claim
                .as_ref()
                .map(|claim| claim.claimed_at_ms)
                .unwrap_or_default(),
            parent_task_id: order.parent.map(|id| id.to_string()).unwrap_or_default(),
        })
    }

    fn unclaimed(&self, stored: &StoredOrder) -> Result<v1::OrderState, Refusal> {
        let view = self.ledger.log.view()?;
        Ok(match view.order_liveness(&stored.order, clock::now_ms()) {
            Liveness::Alive => v1::OrderState::Open,
            Liveness::Dead(Cause::Expired) => v1::OrderState::Expired,
            Liveness::Dead(Cause::TaskEnded(Outcome::Canceled)) => v1::OrderState::Canceled,
            Liveness::Dead(_) => v1::OrderState::Revoked,
        })
    }

    /// How the task of a claimed order ended, if it did. The record of a task is gone a while after
    /// its end, and then the log says how it ended for as long as that matters.
    async fn outcome(&self, stored: &StoredOrder) -> Result<Option<Outcome>, Refusal> {
        let id = stored.order.id.task();
        let task = self.ledger.records.look_at_task(id).await?;
        let view = self.ledger.log.view()?;
        if let Some(outcome) = view.outcome(id) {
            return Ok(Some(outcome));
        }
        Ok(match task {
            None => Some(Outcome::Expired),
            Some(task) => match view.task_liveness(&task, clock::now_ms()) {
                Liveness::Alive => None,
                Liveness::Dead(cause) => Some(cause.outcome()),
            },
        })
    }
}
