//! Leases whose credentials should be gone, and for how long they have been seen (O3).
//!
//! A removal that failed is due again later and later, so what the store calls due now comes and
//! goes, and does not say that something is wrong.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sundew_core::LeaseId;

use crate::clock;

/// How many leases an engine had lately.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LeaseCounts {
    pub(crate) engine: String,
    /// All of them.
    pub(crate) all: u64,
    /// Those that the store said were due.
    pub(crate) due: u64,
    /// Those whose credentials should be gone, and for how long the oldest of them has been seen.
    pub(crate) overdue: (u64, Duration),
}

/// The leases that were overdue when all were looked at last, with when this broker saw each first.
#[derive(Default)]
pub(super) struct Overdue(HashMap<LeaseId, (String, Instant)>);

impl Overdue {
    /// Takes what is overdue now in place of what was: each lease with its engine.
    pub(super) fn replace(&mut self, now: impl IntoIterator<Item = (LeaseId, String)>) {
        let seen = clock::monotonic();
        let before = std::mem::take(&mut self.0);
        let since = |id: &LeaseId| before.get(id).map_or(seen, |(_, since)| *since);
        self.0 = now
            .into_iter()
            .map(|(id, engine)| (id, (engine, since(&id))))
            .collect();
    }

    /// Notes that the credential of a lease could not be removed.
    pub(super) fn note(&mut self, id: LeaseId, engine: &str) {
        let since = || (engine.to_owned(), clock::monotonic());
        self.0.entry(id).or_insert_with(since);
    }

    /// Notes that the credential of a lease is gone.
    pub(super) fn remove(&mut self, id: &LeaseId) {
        self.0.remove(id);
    }

    /// The number of overdue leases of an engine, and for how long the oldest has been seen.
    pub(super) fn of(&self, engine: &str) -> (u64, Duration) {
        let ages = self.0.values().filter(|(of, _)| of == engine);
        ages.fold((0, Duration::ZERO), |(count, oldest), (_, since)| {
            (
                u64::saturating_add(count, 1),
                oldest.max(clock::since(*since)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o3_the_age_of_an_overdue_lease_does_not_begin_anew_while_its_removal_fails() {
        let _stopped = clock::testing::stop();
        let id = |n| LeaseId::from_bytes([n; 16]);
        let mut overdue = Overdue::default();
        overdue.replace([(id(1), "db".to_owned())]);
        let minute = Duration::from_secs(60);
        clock::testing::advance(minute);
        overdue.replace([(id(1), "db".to_owned()), (id(2), "db".to_owned())]);
        assert_eq!(overdue.of("db"), (2, minute));
        assert_eq!(overdue.of("other"), (0, Duration::ZERO));
        overdue.note(id(1), "db");
        assert_eq!(overdue.of("db"), (2, minute));
        overdue.remove(&id(1));
        assert_eq!(overdue.of("db"), (1, Duration::ZERO));
        overdue.replace([]);
        assert_eq!(overdue.of("db"), (0, Duration::ZERO));
    }
}
