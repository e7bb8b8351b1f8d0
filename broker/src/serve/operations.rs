//! Health and metrics over plain HTTP, on a listener of their own (T44).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::allowed_hosts::{self, AllowedHosts};
use super::broker::{Broker, Ground};
use crate::clock;
use crate::journal::Journal;
use crate::lease::Leases;
use crate::liveness::RevocationLog;
use crate::metrics::{LeaseReadings, Metrics, Readings};
use crate::peer::Trust;
use crate::records::Records;
use crate::registry::Registry;
use crate::response::Responses;
use crate::task::Tasks;

/// What is told of a broker that has not started: the alarm of one that answers nothing holds.
const STARTING: &str = "# TYPE sundew_view_fresh gauge\nsundew_view_fresh 0\n# EOF\n";

/// The rooms that health and metrics are read from; `None` until the broker has started.
pub(super) type CurrentHealth = watch::Receiver<Option<Health>>;

/// The rooms that know how the broker is.
#[derive(Clone)]
pub(super) struct Health {
    journal: Arc<Journal>,
    leases: Arc<Leases>,
    log: Arc<RevocationLog>,
    metrics: Arc<Metrics>,
    records: Arc<Records>,
    registry: Arc<Registry>,
    responses: Arc<Responses>,
    tasks: Arc<Tasks>,
    trust: Arc<Trust>,
}

impl Health {
    /// The health of a broker that has started.
    pub(super) fn new(ground: &Ground, broker: &Broker) -> Self {
        Self {
            journal: Arc::clone(&ground.ledger.journal),
            leases: Arc::clone(&broker.leases),
            log: Arc::clone(&ground.ledger.log),
            metrics: Arc::clone(&ground.metrics),
            records: Arc::clone(&ground.ledger.records),
            registry: Arc::clone(&broker.registry),
            responses: Arc::clone(&broker.responses),
            tasks: Arc::clone(&broker.tasks),
            trust: Arc::clone(&ground.trust),
        }
    }

    /// Everything that keeps the broker from answering, or that an operator should know, one line
    /// each; empty if all is well.
    fn problems(&self) -> Vec<String> {
        let mut problems = self.trust.problems();
        problems.extend(
            self.log
                .degraded_reason()
                .map(|reason| format!("revocation log: {reason}")),
        );
        if self.trust.identity().is_none() {
            problems.push("own SVID: there is none yet".to_owned());
        }
        let pending = self.log.pending();
        if pending > 0 {
            problems.push(format!(
                "revocation log: {pending} endings hold here and wait for the store"
            ));
        }
        problems.extend(journal_line(&self.journal));
        problems.extend(upkeep_line(&self.journal));
        let of_store = self.records.store().problem();
        problems.extend(of_store.map(|problem| format!("store: {problem}")));
        problems.extend(self.leases.problems());
        problems.extend(self.records.document_problems());
        problems.extend(self.registry.problems_of_registrations());
        let view = self.log.latest_view();
        let is_over = |task| view.outcome(task).is_some();
        problems.extend(self.records.task_problems(is_over));
        problems
    }

    /// How much cannot be used of what is trusted, by whose it is.
    fn trust_left_out(&self) -> Vec<(String, usize)> {
        let left_out = self.trust.left_out().into_iter();
        left_out
            .map(|(whose, parts)| (whose, parts.count()))
            .collect()
    }

    /// What metrics tell of this moment.
    fn readings(&self) -> Readings {
        let journal = self.journal.state();
        let (sweep_age, tasks) = self.tasks.swept();
        let leases = self.leases.counts().into_iter().map(|counts| {
            let readings = LeaseReadings {
                all: counts.all,
                due: counts.due,
                overdue: counts.overdue.0,
                oldest_overdue: counts.overdue.1,
            };
            (counts.engine, readings)
        });
        Readings {
            bundles_until_ms: self.trust.bundles_until_ms(),
            cleanups: self.responses.open_cleanups(),
            documents_altered: self.records.altered_documents(),
            endings_pending: self.log.pending(),
            journal_free: journal.free,
            journal_length: journal.bytes,
            journal_segments: journal.segments,
            journal_upkeep_fails: journal.upkeep_problem.is_some(),
            journal_writable: journal.problem.is_none(),
            leases: leases.collect(),
            log_behind: self.log.behind(),
            problems: self.problems().len(),
            ready: self.is_ready(),
            svid_until_ms: self.trust.identity_until_ms(),
            sweep_age,
            tasks,
            tasks_attended: self.tasks.attendance().count(),
            trust_left_out: self.trust_left_out(),
            view_age: self.log.view_age(),
            view_fresh: self.log.view().is_ok(),
        }
    }

    /// A source that fails while the last good state serves is for the operator, not for the load
    /// balancer. A1: a broker that cannot put on the record what it issues is not ready.
    fn is_ready(&self) -> bool {
        self.log.view().is_ok()
            && self.trust.identity().is_some()
            && self.journal.state().problem.is_none()
    }
}

/// What keeps the journal from taking every record, with its length and the room that is left.
pub(super) fn journal_line(journal: &Journal) -> Option<String> {
    let state = journal.state();
    let problem = state.problem?;
    Some(format!(
        "journal: {problem} ({} bytes written, room for {} bytes)",
        state.bytes, state.free
    ))
}

/// What keeps the journal's segments from ending, or from going, as they should.
pub(super) fn upkeep_line(journal: &Journal) -> Option<String> {
    let problem = journal.state().upkeep_problem?;
    Some(format!("journal: upkeep: {problem}"))
}

/// Serves until `shutdown` resolves, to those that ask for one of these hosts.
pub(super) async fn serve(
    listener: TcpListener,
    hosts: AllowedHosts,
    current: CurrentHealth,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(current)
        .layer(from_fn_with_state(hosts, allowed_hosts::require));
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn ready(State(current): State<CurrentHealth>) -> (StatusCode, String) {
    let health = current.borrow().clone();
    let Some(health) = health else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "starting: waiting for the store\n".to_owned(),
        );
    };
    let problems = health.problems();
    let status = if health.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let text = if problems.is_empty() {
        "ready\n".to_owned()
    } else {
        problems.join("\n") + "\n"
    };
    (status, text)
}

async fn metrics(State(current): State<CurrentHealth>) -> impl IntoResponse {
    let health = current.borrow().clone();
    let text = health.map(|health| health.metrics.render(&health.readings(), clock::now_ms()));
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text.unwrap_or_else(|| STARTING.to_owned()),
    )
}
