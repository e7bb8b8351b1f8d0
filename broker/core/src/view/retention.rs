//! The part of the view that forgets entries once they cannot matter any more.

use super::View;
use crate::log::{Event, FOR_EVER_MS};
use crate::position::Position;

impl View {
    /// Forgets every entry that cannot kill anything alive at `now_ms` or later, in milliseconds
    /// since the epoch.
    ///
    /// The log drops such entries by itself, with one exception: a quarantine, which is kept until
    /// it is lifted. The positions of the lifted quarantines that are forgotten now are returned,
    /// so that the caller can drop them from the log together with what lifted them.
    pub fn forget(&mut self, now_ms: i64) -> Vec<Position> {
        self.endings
            .retain(|_, ending| ending.retain_until_ms > now_ms);
        self.suspensions
            .retain(|_, suspension| suspension.retain_until_ms > now_ms);
        let lifted = &mut self.lifted;
        let mut positions = Vec::new();
        self.entries.retain(|id, own| {
            let is_over = match own.entry.event {
                // A lift is kept as long as its quarantine: the quarantine alone would come back.
                Event::Lifted(rule) => lifted.get(&rule).is_none_or(|until| *until <= now_ms),
                Event::Rule { .. } if own.entry.retain_until_ms >= FOR_EVER_MS => {
                    lifted.get(id).is_some_and(|until| *until <= now_ms)
                }
                Event::Changed(_)
                | Event::Ended { .. }
                | Event::Floor
                | Event::Resumed(_)
                | Event::Rule { .. }
                | Event::Suspended(_) => own.entry.retain_until_ms <= now_ms,
            };
            if is_over && own.entry.retain_until_ms > now_ms {
                positions.push(own.position);
            }
            !is_over
        });
        let entries = &self.entries;
        self.rules.retain(|id| entries.contains_key(id));
        lifted.retain(|rule, until| *until > now_ms || entries.contains_key(rule));
        positions
    }
}
