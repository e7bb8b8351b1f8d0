//! Metrics. T84: labels come from closed sets, never from callers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The labels of a call.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Call {
    rpc: &'static str,
    code: &'static str,
}

/// The label of a handshake.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Handshake {
    result: &'static str,
}

/// The label of parts that were left out: whose they are. The configuration names the issuers, and
/// the configuration or the Workload API the trust domains.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct LeftOut {
    source: String,
}

/// The label of an SVID of an operator that the owner of the state was given.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OwnerSvid {
    way: &'static str,
}

/// The result of a TLS handshake.
pub(crate) enum HandshakeResult {
    /// The caller was let in.
    Accepted,
    /// The caller was not let in.
    Refused,
}

/// What is read when somebody asks for the metrics.
pub(crate) struct Readings {
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
    /// Credentials in other systems, and those of them that are due.
    pub(crate) leases: (u64, u64),
    /// How many parts of a bundle or of a set of keys cannot be used, by whose it is.
    pub(crate) trust_left_out: Vec<(String, usize)>,
    /// Whether the view of the revocation log is fresh.
    pub(crate) view_fresh: bool,
}

/// The journal's metrics.
#[derive(Default)]
struct JournalMetrics {
    length: Gauge,
    free: Gauge,
    segments: Gauge,
    upkeep_fails: Gauge,
    writable: Gauge,
    refusals_counted: Counter,
}

impl JournalMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "journal_bytes",
            "Length of the journal",
            Gauge::clone(&self.length),
        );
        registry.register(
            "journal_free_bytes",
            "Room that is left for the journal on its disk",
            Gauge::clone(&self.free),
        );
        registry.register(
            "journal_writable",
            "1 while every record can be written; 0 while nothing can be issued",
            Gauge::clone(&self.writable),
        );
        registry.register(
            "journal_segments",
            "Segments of the journal in its folder",
            Gauge::clone(&self.segments),
        );
        registry.register(
            "journal_upkeep_failing",
            "1 while a segment cannot be ended, archived or removed that should be",
            Gauge::clone(&self.upkeep_fails),
        );
        registry.register(
            "refusals_counted",
            "Refusals that are on the record as a count",
            Counter::clone(&self.refusals_counted),
        );
    }
}

/// The broker's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    handshakes: Family<Handshake, Counter>,
    endings: Counter,
    pending: Gauge,
    fresh: Gauge,
    leases: Gauge,
    leases_due: Gauge,
    documents_altered: Gauge,
    trust_left_out: Family<LeftOut, Gauge>,
    journal: JournalMetrics,
    owner_svids: Family<OwnerSvid, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sundew");
        let metrics = (
            Family::default(),
            Family::default(),
            Counter::default(),
            Gauge::default(),
            Gauge::default(),
        );
        let (leases, leases_due) = (Gauge::default(), Gauge::default());
        let documents_altered = Gauge::default();
        registry.register(
            "documents_altered",
            "Documents of the store that are old, missing or edited",
            Gauge::clone(&documents_altered),
        );
        registry.register(
            "leases",
            "Credentials in other systems that are not removed yet",
            Gauge::clone(&leases),
        );
        registry.register(
            "leases_due",
            "Those of them that should be gone",
            Gauge::clone(&leases_due),
        );
        registry.register(
            "calls",
            "Calls by RPC and gRPC status code",
            Family::clone(&metrics.0),
        );
        registry.register(
            "handshakes",
            "TLS handshakes by result",
            Family::clone(&metrics.1),
        );
        registry.register(
            "endings",
            "Endings and rules appended to the revocation log",
            Counter::clone(&metrics.2),
        );
        registry.register(
            "endings_pending",
            "Endings that hold here and that the store has not taken yet",
            Gauge::clone(&metrics.3),
        );
        registry.register(
            "view_fresh",
            "1 while the view of the revocation log is fresh",
            Gauge::clone(&metrics.4),
        );
        let trust_left_out = Family::default();
        registry.register(
            "trust_left_out",
            "Roots and keys that cannot be used, by whose they are",
            Family::clone(&trust_left_out),
        );
        let journal = JournalMetrics::default();
        journal.register(&mut registry);
        let owner_svids = Family::default();
        registry.register(
            "owner_svids",
            "SVIDs of operators that the owner of the broker's state was given; each is an alarm",
            Family::clone(&owner_svids),
        );
        Self {
            registry,
            journal,
            owner_svids,
            calls: metrics.0,
            handshakes: metrics.1,
            endings: metrics.2,
            pending: metrics.3,
            fresh: metrics.4,
            leases,
            leases_due,
            documents_altered,
            trust_left_out,
        }
    }
}

impl Metrics {
    /// Counts a call by its gRPC status code.
    pub(crate) fn call(&self, rpc: &'static str, code: &'static str) {
        self.calls.get_or_create(&Call { rpc, code }).inc();
    }

    /// Counts a TLS handshake.
    pub(crate) fn handshake(&self, result: HandshakeResult) {
        let result = match result {
            HandshakeResult::Accepted => "accepted",
            HandshakeResult::Refused => "refused",
        };
        self.handshakes.get_or_create(&Handshake { result }).inc();
    }

    /// Counts a refusal that is on the record as a count.
    pub(crate) fn refusal_counted(&self) {
        self.journal.refusals_counted.inc();
    }

    /// The number of SVIDs of operators that the owner of the state was given: the first one
    /// (`bootstrap`), or one for an emergency (`break_glass`).
    pub(crate) fn owner_svids(&self, way: &'static str) -> Counter {
        self.owner_svids.get_or_create(&OwnerSvid { way }).clone()
    }

    /// The counter of endings, for those who append them.
    pub(crate) fn endings(&self) -> Counter {
        self.endings.clone()
    }

    /// Renders all metrics in the text format of Prometheus (OpenMetrics 1.0). `pending` counts the
    /// endings that wait for the store, `leases` all leases and those of them that are due.
    #[must_use]
    pub(crate) fn render(&self, readings: &Readings) -> String {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.leases.set(number(readings.leases.0));
        self.leases_due.set(number(readings.leases.1));
        self.documents_altered
            .set(i64::try_from(readings.documents_altered).unwrap_or(i64::MAX));
        self.pending
            .set(i64::try_from(readings.endings_pending).unwrap_or(i64::MAX));
        self.fresh.set(i64::from(readings.view_fresh));
        self.journal.length.set(number(readings.journal_length));
        self.journal.free.set(number(readings.journal_free));
        self.journal
            .segments
            .set(i64::try_from(readings.journal_segments).unwrap_or(i64::MAX));
        self.journal
            .upkeep_fails
            .set(i64::from(readings.journal_upkeep_fails));
        self.journal
            .writable
            .set(i64::from(readings.journal_writable));
        self.trust_left_out.clear();
        for (source, count) in &readings.trust_left_out {
            let source = source.clone();
            self.trust_left_out
                .get_or_create(&LeftOut { source })
                .set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        let mut out = String::new();
        if prometheus_client::encoding::text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }
}
