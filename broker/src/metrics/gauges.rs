//! What is read of the rooms when somebody asks for the metrics.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Most engines and trust domains that have labels of their own. T84: operators name them; the bound
/// is for an operator whose names are made by a machine.
const MAX_NAMED: usize = 100;

/// The label of parts that were left out: whose they are. The configuration names the issuers, and
/// the configuration or the Workload API the trust domains.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct LeftOut {
    source: String,
}

/// The label of an engine, which a registrar names.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Engine {
    engine: String,
}

/// The label of a bundle. The configuration or the Workload API names trust domains.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Bundle {
    trust_domain: String,
}

/// Leases of one engine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaseReadings {
    /// All of them.
    pub(crate) all: u64,
    /// Those that the store says are to be removed now.
    pub(crate) due: u64,
    /// Those that should be gone: due now, or put off because the removal failed.
    pub(crate) overdue: u64,
    /// For how long this broker has seen the oldest of these.
    pub(crate) oldest_overdue: Duration,
}

/// What is read when somebody asks for the metrics.
pub(crate) struct Readings {
    /// When the last root of each bundle ends, in milliseconds since the epoch, by trust domain.
    pub(crate) bundles_until_ms: Vec<(String, i64)>,
    /// Clean-ups after revocations that may not be done yet, and for how long the oldest of them has
    /// been known.
    pub(crate) cleanups: (usize, Duration),
    /// Documents of the store that are older than what is known, that are missing, or that do not
    /// open.
    pub(crate) documents_altered: usize,
    /// Endings that hold here and that the store has not taken.
    pub(crate) endings_pending: usize,
    /// The room that is left for the journal, in bytes.
    pub(crate) journal_free: u64,
    /// The length of the journal, in bytes.
    pub(crate) journal_length: u64,
    /// The number of segments of the journal.
    pub(crate) journal_segments: usize,
    /// Whether segments do not end, or do not go, as they should.
    pub(crate) journal_upkeep_fails: bool,
    /// Whether every record can be written.
    pub(crate) journal_writable: bool,
    /// Credentials in other systems, by engine.
    pub(crate) leases: Vec<(String, LeaseReadings)>,
    /// How far this broker is behind the end of the revocation log, in positions.
    pub(crate) log_behind: u64,
    /// What an operator should know, as many as `/readyz` has lines of it.
    pub(crate) problems: usize,
    /// Whether the broker is ready.
    pub(crate) ready: bool,
    /// When the broker's own SVID ends, in milliseconds since the epoch; `None` if there is none.
    pub(crate) svid_until_ms: Option<i64>,
    /// How long ago the last sweep for tasks that are due ended, or the broker started.
    pub(crate) sweep_age: Duration,
    /// Tasks that have not ended, of all brokers.
    pub(crate) tasks: u64,
    /// Tasks that are attended at this broker.
    pub(crate) tasks_attended: usize,
    /// How many parts of a bundle or of a set of keys cannot be used, by whose it is.
    pub(crate) trust_left_out: Vec<(String, usize)>,
    /// How long ago the heartbeat was sent that renewed the view, or the broker started.
    pub(crate) view_age: Duration,
    /// Whether the view of the revocation log is fresh.
    pub(crate) view_fresh: bool,
}

/// How a number is read.
type Number = fn(&Readings) -> i64;

/// The numbers without labels: name, help, and how they are read.
const NUMBERS: [(&str, &str, Number); 14] = [
    (
        "cleanups_open",
        "Clean-ups after revocations that may not be done yet",
        |r| count(r.cleanups.0),
    ),
    (
        "documents_altered",
        "Documents of the store that are old, missing or edited",
        |r| count(r.documents_altered),
    ),
    (
        "endings_pending",
        "Endings that hold here and that the store has not taken yet",
        |r| count(r.endings_pending),
    ),
    ("journal_bytes", "Length of the journal", |r| {
        number(r.journal_length)
    }),
    (
        "journal_free_bytes",
        "Room that is left for the journal on its disk",
        |r| number(r.journal_free),
    ),
    (
        "journal_segments",
        "Segments of the journal in its folder",
        |r| count(r.journal_segments),
    ),
    (
        "journal_upkeep_failing",
        "1 while a segment cannot be ended, archived or removed that should be",
        |r| r.journal_upkeep_fails.into(),
    ),
    (
        "journal_writable",
        "1 while every record can be written; 0 while nothing can be issued",
        |r| r.journal_writable.into(),
    ),
    (
        "log_behind",
        "Entries of the revocation log that this broker has not applied yet",
        |r| number(r.log_behind),
    ),
    (
        "problems",
        "What an operator should know: the lines of /readyz",
        |r| count(r.problems),
    ),
    ("ready", "1 while the broker is ready", |r| r.ready.into()),
    (
        "tasks",
        "Tasks that have not ended, of all brokers of the store",
        |r| number(r.tasks),
    ),
    (
        "tasks_attended",
        "Tasks that are attended at this broker",
        |r| count(r.tasks_attended),
    ),
    (
        "view_fresh",
        "1 while the view of the revocation log is fresh",
        |r| r.view_fresh.into(),
    ),
];

/// How a time is read, in seconds.
type Time = fn(&Readings) -> f64;

/// The times without labels: name, help, and how they are read.
const TIMES: [(&str, &str, Time); 4] = [
    (
        "cleanup_oldest_age",
        "For how long the oldest clean-up that may not be done has been known; 0 without one",
        |r| super::seconds(r.cleanups.1),
    ),
    (
        "svid_expiry_timestamp",
        "When the broker's own SVID ends, since the epoch; 0 while there is none",
        |r| timestamp(r.svid_until_ms.unwrap_or(0)),
    ),
    (
        "sweep_age",
        "How long ago tasks that are due were last looked for and ended",
        |r| super::seconds(r.sweep_age),
    ),
    (
        "view_age",
        "How long ago the heartbeat was sent that renewed the view of the revocation log",
        |r| super::seconds(r.view_age),
    ),
];

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A time in milliseconds since the epoch, in seconds.
fn timestamp(ms: i64) -> f64 {
    match u64::try_from(ms) {
        Ok(ms) => super::seconds(Duration::from_millis(ms)),
        Err(_) => 0.0,
    }
}

/// The gauges.
pub(super) struct Gauges {
    numbers: Vec<(Gauge, Number)>,
    times: Vec<(Seconds, Time)>,
    tokens_unexpired: Gauge,
    bundles_until: Family<Bundle, Seconds>,
    leases: Family<Engine, Gauge>,
    leases_due: Family<Engine, Gauge>,
    leases_overdue: Family<Engine, Gauge>,
    lease_oldest: Family<Engine, Seconds>,
    trust_left_out: Family<LeftOut, Gauge>,
}

impl Gauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut gauges = Self {
            numbers: Vec::new(),
            times: Vec::new(),
            tokens_unexpired: Gauge::default(),
            bundles_until: Family::default(),
            leases: Family::default(),
            leases_due: Family::default(),
            leases_overdue: Family::default(),
            lease_oldest: Family::default(),
            trust_left_out: Family::default(),
        };
        for (name, help, read) in NUMBERS {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauges.numbers.push((gauge, read));
        }
        for (name, help, read) in TIMES {
            let gauge = Seconds::default();
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
            gauges.times.push((gauge, read));
        }
        gauges.register_labeled(registry);
        gauges
    }

    fn register_labeled(&self, registry: &mut Registry) {
        registry.register(
            "tokens_unexpired",
            "Tokens that were issued here since the start and have not expired; those of tasks that \
             have ended among them",
            self.tokens_unexpired.clone(),
        );
        registry.register_with_unit(
            "bundle_expiry_timestamp",
            "When the last root of a trust bundle ends, since the epoch",
            Unit::Seconds,
            self.bundles_until.clone(),
        );
        registry.register(
            "leases",
            "Credentials in other systems that are not removed yet, by engine",
            self.leases.clone(),
        );
        registry.register(
            "leases_due",
            "Those of them that are to be removed now",
            self.leases_due.clone(),
        );
        registry.register(
            "leases_overdue",
            "Those of them that should be gone: due now, or put off because the removal failed",
            self.leases_overdue.clone(),
        );
        registry.register_with_unit(
            "lease_oldest_overdue_age",
            "For how long this broker has seen the oldest overdue one; 0 without one",
            Unit::Seconds,
            self.lease_oldest.clone(),
        );
        registry.register(
            "trust_left_out",
            "Roots and keys that cannot be used, by whose they are",
            self.trust_left_out.clone(),
        );
    }

    /// Sets every gauge.
    pub(super) fn set(&self, readings: &Readings, tokens_unexpired: u64) {
        for (gauge, read) in &self.numbers {
            gauge.set(read(readings));
        }
        for (gauge, read) in &self.times {
            gauge.set(read(readings));
        }
        self.tokens_unexpired.set(number(tokens_unexpired));
        self.bundles_until.clear();
        let mut bundles: Vec<_> = readings.bundles_until_ms.iter().collect();
        // Those that end soon are the ones to know of.
        bundles.sort_by_key(|(_, until_ms)| *until_ms);
        for (trust_domain, until_ms) in bundles.into_iter().take(MAX_NAMED) {
            let trust_domain = trust_domain.clone();
            self.bundles_until
                .get_or_create(&Bundle { trust_domain })
                .set(timestamp(*until_ms));
        }
        self.set_leases(&readings.leases);
        self.trust_left_out.clear();
        for (source, parts) in readings.trust_left_out.iter().take(MAX_NAMED) {
            let source = source.clone();
            self.trust_left_out
                .get_or_create(&LeftOut { source })
                .set(count(*parts));
        }
    }

    fn set_leases(&self, readings: &[(String, LeaseReadings)]) {
        self.leases.clear();
        self.leases_due.clear();
        self.leases_overdue.clear();
        self.lease_oldest.clear();
        let mut engines: Vec<_> = readings.iter().collect();
        engines.sort_by_key(|(_, leases)| std::cmp::Reverse(leases.oldest_overdue));
        for (engine, leases) in engines.into_iter().take(MAX_NAMED) {
            let engine = engine.clone();
            let label = Engine { engine };
            let oldest = super::seconds(leases.oldest_overdue);
            self.leases.get_or_create(&label).set(number(leases.all));
            let due = self.leases_due.get_or_create(&label);
            due.set(number(leases.due));
            let overdue = self.leases_overdue.get_or_create(&label);
            overdue.set(number(leases.overdue));
            self.lease_oldest.get_or_create(&label).set(oldest);
        }
    }
}
