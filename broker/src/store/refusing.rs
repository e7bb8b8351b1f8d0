//! Since when a store has not taken writes, for the operator: what it has can be read meanwhile, so
//! nothing else shows it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sundew_core::store::StoreError;

use crate::clock;

/// When a store refused a write first since it took one, and why.
#[derive(Default)]
pub(super) struct Refusing(Mutex<Option<(Instant, String)>>);

impl Refusing {
    fn since(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a write was taken.
    pub(super) fn took(&self) {
        *self.since() = None;
    }

    /// Notes that a write was refused.
    pub(super) fn refused(&self, error: &StoreError) {
        self.since()
            .get_or_insert_with(|| (clock::monotonic(), error.to_string()));
    }

    /// What an operator should know; nothing if the last write was taken.
    pub(super) fn text(&self) -> Option<String> {
        let since = self.since();
        since.as_ref().map(|(since, error)| {
            let seconds = clock::since(*since).as_secs();
            format!("has taken no write for {seconds} s: {error}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_refuses_from_the_first_refusal_until_it_takes_a_write() {
        let refusing = Refusing::default();
        assert_eq!(refusing.text(), None);
        let _stopped = clock::testing::stop();
        refusing.refused(&StoreError::Full("no memory".to_owned()));
        clock::testing::advance(std::time::Duration::from_secs(3));
        refusing.refused(&StoreError::Full("again".to_owned()));
        let text = refusing.text().unwrap();
        assert!(
            text.contains("for 3 s") && text.contains("no memory"),
            "{text}"
        );
        refusing.took();
        assert_eq!(refusing.text(), None);
    }
}
