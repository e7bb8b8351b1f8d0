//! The part of the view that decides whether an order can be claimed still (P4).

use super::{Cause, Liveness, View};
use crate::order::KnownOrder;

impl View {
    /// Returns whether an order that nobody has claimed can be claimed at `now_ms`, in milliseconds
    /// since the epoch: nothing has ended it, no rule has hit it, and the task from within which it
    /// was made lives.
    pub fn order_liveness(&self, order: &KnownOrder, now_ms: i64) -> Liveness {
        if let Some(cause) = self.ending(&order.id.task()) {
            return Liveness::Dead(cause);
        }
        if now_ms >= order.claimable_until_ms {
            return Liveness::Dead(Cause::Expired);
        }
        if self
            .rules
            .is_killed(&self.with_counted_position(order.subject()), None)
        {
            return Liveness::Dead(Cause::Revoked);
        }
        match order.parent() {
            Some(parent) => self.task_liveness(parent, now_ms),
            None => Liveness::Alive,
        }
    }

    /// Returns whether a quarantine forbids that an order is made or claimed.
    #[must_use]
    pub fn is_order_quarantined(&self, order: &KnownOrder) -> bool {
        self.rules.any_quarantine()
            && (self.rules.is_quarantined(&order.subject())
                || order
                    .parent()
                    .is_some_and(|parent| self.is_quarantined(parent)))
    }
}
