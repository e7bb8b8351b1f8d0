//! What a broker does between calls: follows its files and issuers, and keeps its house.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{StartError, start_error};
use crate::broker::Broker;
use crate::config::{Config, Identity};
use crate::{issuers, material, sources};

const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(5);
const RESEAL_EVERY: Duration = Duration::from_secs(30);

pub(super) fn start_sources(
    config: &Config,
    broker: &Arc<Broker>,
    look_now: &Arc<Notify>,
    background: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let trust = &broker.trust;
    for (domain, path) in &config.trust {
        // A bundle that is bad from the start is an error, not a wait (T85).
        trust.publish(sources::read_bundle(domain, path).map_err(|e| start_error("trust")(&e))?);
    }
    if !config.trust.is_empty() {
        background.spawn(sources::watch_bundles(
            Arc::clone(trust),
            config.trust.clone(),
            config.bundle_limit,
            Arc::clone(look_now),
        ));
    }
    match &config.identity {
        Identity::Files { certificate, key } => {
            trust.set_identity(
                sources::read_identity(certificate, key)
                    .map_err(|e| start_error("identity")(&e))?,
            );
            background.spawn(sources::watch_identity(
                Arc::clone(trust),
                certificate.clone(),
                key.clone(),
                Arc::clone(look_now),
            ));
        }
        Identity::WorkloadApi { socket } => {
            background.spawn(sources::follow_workload_api(
                Arc::clone(trust),
                socket.clone(),
                config.bundle_limit,
            ));
        }
        Identity::EmbeddedCa { svid_ttl, .. } => {
            let broker = Arc::clone(broker);
            let half = svid_ttl.to_std() / 2;
            let issue = move || {
                broker
                    .ca
                    .as_ref()
                    .map_or(Ok(()), |ca| sources::issue_own(&broker.trust, ca))
            };
            issue().map_err(|e| start_error("embedded CA")(&e))?;
            background.spawn(async move {
                loop {
                    tokio::time::sleep(half).await;
                    if let Err(error) = issue() {
                        tracing::error!(error, "own SVID could not be renewed");
                    }
                }
            });
        }
    }
    for issuer in &config.issuers {
        background.spawn(issuers::follow(
            issuer.clone(),
            Arc::clone(&broker.material),
            Arc::clone(trust),
            Arc::clone(&broker.unknown_key),
        ));
    }
    for item in &config.material {
        background.spawn(material::follow(
            item.clone(),
            Arc::clone(&broker.material),
            Arc::clone(trust),
        ));
    }
    Ok(())
}

pub(super) fn start_housekeeping(
    broker: &Arc<Broker>,
    worker: String,
    background: &mut JoinSet<()>,
) {
    background.spawn(Arc::clone(broker).keep_attendance());
    background.spawn(Arc::clone(broker).sweep());
    background.spawn(Arc::clone(broker).keep_leases());
    background.spawn(Arc::clone(broker).clean_up(worker));
    let housekeeper = Arc::clone(broker);
    background.spawn(async move {
        loop {
            tokio::time::sleep(HOUSEKEEPING_EVERY).await;
            housekeeper.limiters.forget();
            if let Err(error) = housekeeper.keeper.forget().await {
                tracing::debug!(%error, "housekeeping");
            }
        }
    });
    let sealer = Arc::clone(broker);
    background.spawn(async move {
        loop {
            match sealer.reseal().await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "secrets sealed anew under the active key"),
                Err(error) => tracing::warn!(%error, "secrets could not be sealed anew"),
            }
            tokio::time::sleep(RESEAL_EVERY).await;
        }
    });
}
