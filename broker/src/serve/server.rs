//! Starting and stopping a broker.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::allowed_hosts::AllowedHosts;
use super::background;
use super::broker::{Broker, Ground};
use super::config::{Config, StoreConfig};
use super::gate::Gate;
use super::ledger_opening::{Opened, open_ledger};
use super::listeners::{Addresses, Listeners};
use super::operations::Health;
use super::sources::TrustFiles;
use super::start_error::{StartError, during};
use crate::ca::Ca;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::peer::Trust;
use crate::traces::Traces;

/// How often a starting broker is asked whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(5);

/// A running broker.
pub struct Server {
    addresses: Addresses,
    ca: Option<Arc<Ca>>,
    /// The configuration of the start.
    config: Config,
    gate: Arc<Gate>,
    ledger: Ledger,
    listeners: Listeners,
    /// Notified when files are to be looked at now.
    look_now: Arc<Notify>,
    trust: Arc<Trust>,
    /// Says which files have bundles.
    trust_files: watch::Sender<TrustFiles>,
}

impl Server {
    /// Starts a broker; answers when it listens. The broker answers calls once its view of the
    /// revocation log is fresh.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let mut listeners = Listeners::default();
        // Health answers from the first moment on, also while the store is waited for.
        let (health, current_health) = watch::channel(None);
        let hosts = AllowedHosts::new(&config.listen.operations_hosts);
        let operations = listeners
            .serve_operations(config.listen.operations, hosts, current_health)
            .await?;

        let metrics = Arc::new(Metrics::default());
        let Opened {
            ca,
            mut follower,
            ledger,
            store,
        } = open_ledger(&config, &metrics).await?;

        let ground = Ground::new(&config, ca, ledger.clone(), metrics);
        let traces = match &config.traces {
            None => Traces::off(),
            Some(traces) => {
                let on = Traces::on(traces, ground.metrics.spans());
                let (traces, sending) = on.map_err(during("traces"))?;
                // It ends with the gate, after everything that makes spans.
                tokio::spawn(sending.run());
                traces
            }
        };
        let (broker, gate) = Broker::build(&config, &ground, traces)?;
        let (broker, gate) = (Arc::new(broker), Arc::new(gate));
        broker.load().await?;
        broker.subscribe_to(&mut follower, &ground);

        let look_now = Arc::new(Notify::new());
        let background = listeners.background();
        let (trust_files, files) = watch::channel(config.trust.clone());
        background::start_sources(&config, &ground, &look_now, files, background)?;
        // A broker that shares its store waits for endings that only others know.
        ledger.log.open_after(match config.store {
            StoreConfig::Redis(_) => ledger.log.longest_freshness(),
            StoreConfig::Embedded(_) => Duration::ZERO,
        });
        background.spawn(follower.run());
        let segments = config.journal.segments.clone();
        background::start_housekeeping(&broker, &gate, &ledger, segments, background);

        let addresses = listeners
            .serve_callers(&config, &ground, &broker, &gate, operations)
            .await?;
        health.send_replace(Some(Health::new(&ground, &broker)));
        // The sender stays alive with the server: health needs it.
        listeners
            .background()
            .spawn(async move { health.closed().await });
        tracing::info!(workloads = %addresses.workloads, operations = %operations, store, "broker listens");
        Ok(Self {
            addresses,
            ca: ground.ca,
            config,
            gate,
            ledger,
            listeners,
            look_now,
            trust: ground.trust,
            trust_files,
        })
    }

    /// The embedded CA, if this broker has one.
    #[must_use]
    pub fn ca(&self) -> Option<&Ca> {
        self.ca.as_deref()
    }

    /// The address of the listener for workloads and operators.
    #[must_use]
    pub fn workloads(&self) -> SocketAddr {
        self.addresses.workloads
    }

    /// The address of the listener for callers without an SVID, if there is one.
    #[must_use]
    pub fn enrollment(&self) -> Option<SocketAddr> {
        self.addresses.enrollment
    }

    /// The address of health and metrics.
    #[must_use]
    pub fn operations(&self) -> SocketAddr {
        self.addresses.operations
    }

    /// Takes over what can change while running: operators, and the files that have bundles. All
    /// files are looked at at once. Log and health say which other sections were changed and need a
    /// restart. A configuration that could not be read changes nothing, and health shows why.
    pub fn reload(&self, config: Result<Config, impl Display>) {
        let taken = config
            .map_err(|error| error.to_string())
            .and_then(|config| {
                let others = self.config.sections_for_a_restart(&config);
                self.gate.operators.replace(config.operators);
                self.trust_files.send_replace(config.trust);
                tracing::info!("operators and trust reloaded");
                if others.is_empty() {
                    return Ok(());
                }
                Err(format!(
                    "changed, and taken at a restart only: {}",
                    others.join(", ")
                ))
            });
        self.trust.report("configuration", taken);
        self.look_now.notify_waiters();
    }

    /// Waits until the view is fresh, so that calls are answered.
    pub async fn ready(&self) {
        while self.ledger.log.view().is_err() || self.trust.identity().is_none() {
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    /// Stops listening, lets open calls end for 10 seconds at most, and leaves the list of brokers.
    pub async fn stop(self) {
        self.listeners.stop().await;
        self.gate.refusals.counts().write_all();
        self.gate.traces.stop().await;
        self.ledger.log.leave().await;
        tracing::info!("broker stopped");
    }
}
