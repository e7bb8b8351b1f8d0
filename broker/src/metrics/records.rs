//! What goes on the record: what is issued, how tasks end, and what becomes of leases. Whatever is
//! issued is on the record first (P10), so nothing is left out here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sundew_core::{Outcome, Record};

/// All outcomes of tasks.
const OUTCOMES: [Outcome; 6] = [
    Outcome::Abandoned,
    Outcome::Canceled,
    Outcome::Completed,
    Outcome::Expired,
    Outcome::Failed,
    Outcome::Revoked,
];
/// Tokens that expire within so long of each other are counted together, in milliseconds.
const EXPIRE_TOGETHER_MS: i64 = 1000;

/// The label of what was issued.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Issued {
    what: &'static str,
}

/// The label of a task that ended.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// The label of a removal of a lease's credential.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Removal {
    result: &'static str,
}

/// The metrics of what goes on the record.
pub(crate) struct RecordMetrics {
    issued: Family<Issued, Counter>,
    ended: Family<Ended, Counter>,
    removals: Family<Removal, Counter>,
    /// The number of tokens by when they expire.
    unexpired: Mutex<BTreeMap<i64, u64>>,
}

impl RecordMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            issued: Family::default(),
            ended: Family::default(),
            removals: Family::default(),
            unexpired: Mutex::default(),
        };
        registry.register(
            "issued",
            "What was issued here, by what it is",
            metrics.issued.clone(),
        );
        registry.register(
            "tasks_ended",
            "Tasks whose end was put on the record here, by outcome",
            metrics.ended.clone(),
        );
        registry.register(
            "lease_removals",
            "Credentials of leases that were removed here, or could not be for the first time",
            metrics.removals.clone(),
        );
        // So that a rate is known from the first one on.
        for what in [
            "task",
            "token",
            "secret",
            "grant",
            "x509_svid",
            "jwt_svid",
            "join_token",
        ] {
            drop(metrics.issued.get_or_create(&Issued { what }));
        }
        for outcome in OUTCOMES {
            let outcome = outcome.as_str();
            drop(metrics.ended.get_or_create(&Ended { outcome }));
        }
        for result in ["removed", "failed"] {
            drop(metrics.removals.get_or_create(&Removal { result }));
        }
        metrics
    }

    /// Counts a record that was taken.
    pub(crate) fn count(&self, record: &Record) {
        let field = |wanted: &str| {
            let mut fields = record.fields.iter();
            fields.find_map(|(name, value)| (name == wanted).then_some(value.as_str()))
        };
        let issued = |what| {
            self.issued.get_or_create(&Issued { what }).inc();
        };
        let removal = |result| {
            self.removals.get_or_create(&Removal { result }).inc();
        };
        match record.event.as_str() {
            "task_begun" => {
                issued("task");
                issued("token");
                self.token_until(field("token_expires_ms"));
            }
            "token_minted" => {
                issued("token");
                self.token_until(field("token_expires_ms"));
            }
            "secret_read" => issued("secret"),
            "delegated" => issued("grant"),
            "svid_issued" | "operator_svid_issued" => issued("x509_svid"),
            "jwt_svid_issued" => issued("jwt_svid"),
            "join_token_created" => issued("join_token"),
            "task_ended" => {
                let outcome = field("outcome").unwrap_or_default();
                let known = OUTCOMES.iter().find(|known| known.as_str() == outcome);
                let outcome = known.map_or("other", |known| known.as_str());
                self.ended.get_or_create(&Ended { outcome }).inc();
            }
            "lease_removed" => removal("removed"),
            "lease_removal_failed" => removal("failed"),
            _ => {}
        }
    }

    /// The number of tokens that were issued here and have not expired at `now_ms`, in milliseconds
    /// since the epoch.
    pub(super) fn tokens_unexpired(&self, now_ms: i64) -> u64 {
        let mut unexpired = self.unexpired();
        *unexpired = unexpired.split_off(&now_ms.div_euclid(EXPIRE_TOGETHER_MS));
        unexpired.values().copied().fold(0, u64::saturating_add)
    }

    fn token_until(&self, expires_ms: Option<&str>) {
        let Some(expires_ms) = expires_ms.and_then(|ms| ms.parse::<i64>().ok()) else {
            return;
        };
        let mut unexpired = self.unexpired();
        let count = unexpired
            .entry(expires_ms.div_euclid(EXPIRE_TOGETHER_MS))
            .or_default();
        *count = count.saturating_add(1);
    }

    fn unexpired(&self) -> MutexGuard<'_, BTreeMap<i64, u64>> {
        self.unexpired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> (Registry, RecordMetrics) {
        let mut registry = Registry::default();
        let metrics = RecordMetrics::register(&mut registry);
        (registry, metrics)
    }

    fn text(registry: &Registry) -> String {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, registry).unwrap();
        out
    }

    #[test]
    fn o3_tokens_are_counted_until_they_expire() {
        let (_, metrics) = metrics();
        for expires_ms in [5_000, 5_900, 9_000] {
            let record = Record::new("token_minted", 0).with("token_expires_ms", expires_ms);
            metrics.count(&record);
        }
        assert_eq!(metrics.tokens_unexpired(4_999), 3);
        assert_eq!(metrics.tokens_unexpired(6_000), 1);
        assert_eq!(metrics.tokens_unexpired(10_000), 0);
    }

    /// What stands in a record may be a caller's; no label is.
    #[test]
    fn t84_o3_an_outcome_that_is_none_makes_no_new_label_value() {
        let (registry, metrics) = metrics();
        metrics.count(&Record::new("task_ended", 0).with("outcome", "expired"));
        metrics.count(&Record::new("task_ended", 0).with("outcome", "hostile-1"));
        metrics.count(&Record::new("hostile-2", 0).with("outcome", "hostile-3"));
        let text = text(&registry);
        assert!(text.contains("tasks_ended_total{outcome=\"expired\"} 1"));
        assert!(text.contains("tasks_ended_total{outcome=\"other\"} 1"));
        assert!(!text.contains("hostile"), "{text}");
    }
}
