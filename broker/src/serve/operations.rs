//! Health and metrics over plain HTTP, on a listener of their own (T44).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::broker::{Broker, Ground};
use crate::lease::Leases;
use crate::liveness::RevocationLog;
use crate::metrics::Metrics;
use crate::peer::Trust;

/// The rooms that health and metrics are read from; `None` until the broker has started.
pub(super) type CurrentHealth = watch::Receiver<Option<Health>>;

/// The rooms that know how the broker is.
#[derive(Clone)]
pub(super) struct Health {
    leases: Arc<Leases>,
    log: Arc<RevocationLog>,
    metrics: Arc<Metrics>,
    trust: Arc<Trust>,
}

impl Health {
    /// The health of a broker that has started.
    pub(super) fn new(ground: &Ground, broker: &Broker) -> Self {
        Self {
            leases: Arc::clone(&broker.leases),
            log: Arc::clone(&ground.ledger.log),
            metrics: Arc::clone(&ground.metrics),
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
        problems.extend(self.leases.problems());
        problems
    }

    /// Says whether the broker answers calls. A source that fails while its last good state serves
    /// is for the operator to see, not for the load balancer.
    fn is_ready(&self) -> bool {
        self.log.view().is_ok() && self.trust.identity().is_some()
    }
}

/// Serves until `shutdown` resolves.
pub(super) async fn serve(
    listener: TcpListener,
    current: CurrentHealth,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(current);
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
    let text = health.map(|health| {
        health.metrics.render(
            health.log.pending(),
            health.log.view().is_ok(),
            health.leases.counts(),
        )
    });
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text.unwrap_or_default(),
    )
}
