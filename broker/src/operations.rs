//! Health and metrics over plain HTTP, on a listener of their own (T44).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::broker::Broker;

/// The broker, once there is one.
pub(crate) type Current = watch::Receiver<Option<Arc<Broker>>>;

/// Everything that keeps a broker from answering, or that an operator should know; empty if all is
/// well.
#[must_use]
pub fn troubles(broker: &Broker) -> Vec<String> {
    let mut troubles = broker.trust.troubles();
    troubles.extend(
        broker
            .keeper
            .trouble()
            .map(|t| format!("revocation log: {t}")),
    );
    if broker.trust.identity().is_none() {
        troubles.push("own SVID: there is none yet".to_owned());
    }
    let pending = broker.keeper.pending();
    if pending > 0 {
        troubles.push(format!(
            "revocation log: {pending} endings hold here and wait for the store"
        ));
    }
    troubles.extend(broker.leases.troubles());
    troubles
}

/// Serves until `shutdown` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    current: Current,
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

async fn ready(State(current): State<Current>) -> (StatusCode, String) {
    let broker = current.borrow().clone();
    let Some(broker) = broker else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "starting: waiting for the store\n".to_owned(),
        );
    };
    let troubles = troubles(&broker);
    // A source that fails while the last good state serves is for the operator, not for the load
    // balancer.
    let ready = broker.keeper.view().is_ok() && broker.trust.identity().is_some();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        if troubles.is_empty() {
            "ready\n".to_owned()
        } else {
            troubles.join("\n") + "\n"
        },
    )
}

async fn metrics(State(current): State<Current>) -> impl IntoResponse {
    let broker = current.borrow().clone();
    let text = broker
        .map(|broker| {
            broker.metrics.render(
                broker.keeper.pending(),
                broker.keeper.view().is_ok(),
                broker.leases.counts(),
            )
        })
        .unwrap_or_default();
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
}
