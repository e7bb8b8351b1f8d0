//! From a configuration to a running broker, and back.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_core::store::{Store, StoreError};
use sundew_core::{Changed, Event, Keyring, LogEntry, RootKey};
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use sundew_proto::v1::access_service_server::AccessServiceServer;
use sundew_proto::v1::agent_service_server::AgentServiceServer;
use sundew_proto::v1::enrollment_service_server::EnrollmentServiceServer;
use sundew_proto::v1::registry_service_server::RegistryServiceServer;
use sundew_proto::v1::response_service_server::ResponseServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server as Grpc;

use crate::attendance::Attendance;
use crate::broker::{Broker, Limiters};
use crate::ca::Ca;
use crate::clock;
use crate::config::{Config, Identity, StoreConfig, read_private};
use crate::evidence::Attempts;
use crate::grpc::{Enrollment, Services};
use crate::issuers;
use crate::journal::Journal;
use crate::lease::Leases;
use crate::liveness::Keeper;
use crate::local_process;
use crate::material::Material;
use crate::metrics::{HandshakeRecorder, Metrics};
use crate::operations;
use crate::own_identities::OwnIdentities;
use crate::records::Records;
use crate::response::PREVIEWS;
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::{RedisSettings, RedisStore};
use crate::tls::{self, Clients};
use crate::trust::Trust;
use crate::workload_api::WorkloadApi;

mod background;

/// Enrollments by evidence that are looked at, at a time.
const ENROLLING: usize = 4;
/// How long open calls may take to end at shutdown.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Why a broker did not start: one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

fn start_error(what: &str) -> impl Fn(&dyn std::fmt::Display) -> StartError + use<> {
    let what = what.to_owned();
    move |cause| StartError(format!("{what}: {cause}"))
}

/// A running broker.
pub struct Server {
    broker: Arc<Broker>,
    workloads: SocketAddr,
    enrollment: Option<SocketAddr>,
    operations: SocketAddr,
    look_now: Arc<Notify>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    background: JoinSet<()>,
}

impl Server {
    /// Starts; answers when the broker listens. It answers calls once its view of the revocation
    /// log is fresh.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let (current, current_broker) = watch::channel(None);
        let mut listeners = JoinSet::new();
        let mut background = JoinSet::new();
        let operations = bind(config.listen.operations).await?;
        let operations_address = address(&operations)?;
        let stopping = stopping(stopped.clone());
        listeners.spawn(async move {
            if let Err(error) = operations::serve(operations, current_broker, stopping).await {
                tracing::error!(%error, "operations listener ended");
            }
        });

        let root = read_private(&config.root_key_file)
            .map_err(|e| start_error("keys.root_key_file")(&e))?;
        let root =
            Arc::new(RootKey::parse(&root).map_err(|e| start_error("keys.root_key_file")(&e))?);
        let store = open_store(&config.store).await?;
        let metrics = Arc::new(Metrics::default());
        let trust = Arc::new(Trust::default());
        let mut endings = Vec::new();
        let now_ms = clock::now_ms();
        // A quarantine may be as old as the journal is.
        let journal = Journal::open(&config.journal, |record| {
            let entry = record
                .field("entry")
                .and_then(|entry| LogEntry::decode(entry.as_bytes()).ok());
            endings.extend(entry.filter(|entry| entry.until_ms > now_ms));
        });
        let journal = Arc::new(journal.map_err(|e| start_error("journal")(&e))?);

        let ca = match &config.identity {
            Identity::EmbeddedCa {
                trust_domain,
                svid_ttl,
            } => Some(
                Ca::open(store.as_ref(), &root, trust_domain.clone(), *svid_ttl)
                    .await
                    .map_err(|e| start_error("embedded CA")(&e))?,
            ),
            Identity::Files { .. } | Identity::WorkloadApi { .. } => None,
        };
        let this: Arc<OnceLock<Weak<Broker>>> = Arc::default();
        let keeper = Arc::new(keeper(&config, &store, &root, &journal, &this)?);
        keeper.remember(endings);
        let broker = Arc::new(Broker {
            records: Records::new(Arc::clone(&store), root),
            keeper: Arc::clone(&keeper),
            journal,
            trust: Arc::clone(&trust),
            material: Arc::new(Material::new(issuers::without_keys(&config.issuers))),
            configured_material: config.material.clone(),
            attempts: Attempts::default(),
            keyring: Arc::new(ArcSwap::from_pointee(
                Keyring::generate().map_err(|e| start_error("keyring")(&e))?,
            )),
            operators: ArcSwap::from_pointee(config.operators.clone()),
            ca,
            attendance: Attendance::default(),
            metrics,
            limits: config.limits,
            audience: config
                .issuers
                .first()
                .map(|i| i.audience.clone())
                .unwrap_or_default(),
            limiters: Limiters::new(&config.limits),
            leases: Leases::default(),
            new_action: Notify::new(),
            issuing: Arc::new(Semaphore::new(config.limits.issuing)),
            enrolling: Semaphore::new(ENROLLING),
            verifying: Semaphore::new(
                std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
            ),
            previews: Arc::new(Semaphore::new(PREVIEWS)),
            unknown_key: Arc::default(),
        });
        let _ = this.set(Arc::downgrade(&broker));
        broker
            .reload_keyring()
            .await
            .map_err(|e| start_error("keyring")(&e))?;
        broker
            .reload_engines()
            .await
            .map_err(|e| start_error("engines")(&e))?;
        broker
            .trusted()
            .await
            .map_err(|e| start_error("trust material")(&e))?;

        let look_now = Arc::new(Notify::new());
        background::start_sources(&config, &broker, &look_now, &mut background)?;
        let shared = matches!(config.store, StoreConfig::Redis { .. });
        keeper.open_after(if shared {
            config.bounds.freshness
        } else {
            Duration::ZERO
        });
        background.spawn({
            let keeper = Arc::clone(&keeper);
            async move { keeper.run().await }
        });
        background::start_housekeeping(&broker, keeper.broker().to_owned(), &mut background);

        let observer = Arc::new(HandshakeRecorder {
            metrics: Arc::clone(&broker.metrics),
            journal: Arc::clone(&broker.journal),
        });
        let listener = bind(config.listen.workloads).await?;
        let workloads = address(&listener)?;
        let (connections, incoming) = mpsc::channel(64);
        background.spawn(tls::accept(
            listener,
            Arc::clone(&trust),
            Clients::WithSvid,
            config.connections,
            Arc::<HandshakeRecorder>::clone(&observer),
            connections,
        ));
        listeners.spawn(serve_workloads(
            config.clone(),
            Arc::clone(&broker),
            incoming,
            stopped.clone(),
        ));
        let mut enrollment = None;
        if let Some(place) = config.listen.enrollment {
            let listener = bind(place).await?;
            enrollment = Some(address(&listener)?);
            let (connections, incoming) = mpsc::channel(16);
            background.spawn(tls::accept(
                listener,
                trust,
                Clients::Anonymous,
                config.connections,
                observer,
                connections,
            ));
            let service = EnrollmentServiceServer::new(Enrollment(Arc::clone(&broker)))
                .max_decoding_message_size(config.message_bytes.min(256 << 10));
            let served = grpc(&config)
                .add_service(service)
                .serve_with_incoming_shutdown(
                    ReceiverStream::new(incoming),
                    self::stopping(stopped.clone()),
                );
            listeners.spawn(async move { drop(served.await) });
        }
        if let Some(path) = &config.listen.workload_api {
            let listener = local_process::bind(path).map_err(|e| {
                start_error(&format!("listen.workload_api: {}", path.display()))(&e)
            })?;
            let (connections, incoming) = mpsc::channel(16);
            background.spawn(local_process::accept(listener, connections));
            let service = SpiffeWorkloadApiServer::new(WorkloadApi::new(Arc::new(OwnIdentities(
                Arc::clone(&broker),
            ))))
            .max_decoding_message_size(4 << 10);
            let served = Grpc::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(
                    ReceiverStream::new(incoming),
                    self::stopping(stopped),
                );
            listeners.spawn(async move { drop(served.await) });
        }
        current.send_replace(Some(Arc::clone(&broker)));
        // The sender stays alive with the server: health needs it.
        background.spawn(async move {
            current.closed().await;
        });
        tracing::info!(%workloads, operations = %operations_address, store = store.describe(), "broker listens");
        Ok(Self {
            broker,
            workloads,
            enrollment,
            operations: operations_address,
            look_now,
            stop,
            listeners,
            background,
        })
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where agents connect.
    #[must_use]
    pub fn workloads(&self) -> SocketAddr {
        self.workloads
    }

    /// Where those without an SVID connect.
    #[must_use]
    pub fn enrollment(&self) -> Option<SocketAddr> {
        self.enrollment
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// Takes over what can change while running: operators now; files are looked at at once. The
    /// rest needs a restart.
    pub fn reload(&self, config: Result<Config, String>) {
        match config {
            Ok(config) => {
                self.broker.operators.store(Arc::new(config.operators));
                self.broker.trust.report("configuration", Ok(()));
                tracing::info!("configuration reloaded");
            }
            Err(problem) => self.broker.trust.report("configuration", Err(problem)),
        }
        self.look_now.notify_waiters();
    }

    /// Waits until the view is fresh, so that calls are answered.
    pub async fn ready(&self) {
        while self.broker.keeper.view().is_err() || self.broker.trust.identity().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops listening, lets open calls end for 10 seconds at most, and leaves the list of brokers.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(DRAIN_WITHIN, async {
            while self.listeners.join_next().await.is_some() {}
        })
        .await;
        if drained.is_err() {
            tracing::warn!("some calls did not end in time");
        }
        self.background.shutdown().await;
        self.broker.keeper.leave().await;
        tracing::info!("broker stopped");
    }
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|e| start_error(&format!("cannot listen on {address}"))(&e))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener
        .local_addr()
        .map_err(|e| start_error("listener")(&e))
}

async fn open_store(config: &StoreConfig) -> Result<Arc<dyn Store>, StartError> {
    let store: Arc<dyn Store> = match config {
        StoreConfig::Embedded(path) => {
            EmbeddedStore::open(path).map_err(|e| start_error("store")(&e))?
        }
        StoreConfig::Redis {
            url,
            password_file,
            ca_file,
            client,
            timeout,
            replicas,
            durability,
        } => {
            let fail = |key: &str| start_error(&format!("store.{key}"));
            let private = |path: &std::path::PathBuf| {
                read_private(path).map(|bytes| sundew_core::SecretBytes::new(bytes.to_vec()))
            };
            let public = |path: &std::path::PathBuf| {
                std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
            };
            let password = password_file
                .as_ref()
                .map(private)
                .transpose()
                .map_err(|e| fail("password_file")(&e))?;
            let ca = ca_file
                .as_ref()
                .map(public)
                .transpose()
                .map_err(|e| fail("ca_file")(&e))?;
            let client = match client {
                None => None,
                Some((certificate, key)) => Some((
                    public(certificate).map_err(|e| fail("certificate_file")(&e))?,
                    private(key).map_err(|e| fail("key_file")(&e))?,
                )),
            };
            RedisStore::new(RedisSettings {
                url: url.clone(),
                password,
                ca,
                client,
                timeout: *timeout,
                replicas: *replicas,
                durability: *durability,
            })
        }
    };
    loop {
        match store.check().await {
            Ok(()) => return Ok(store),
            // T63: a store that is not there yet is waited for; one that can never do is an error.
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(%error, store = store.describe(), "waiting for the store");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(start_error("store")(&error)),
        }
    }
}

fn keeper(
    config: &Config,
    store: &Arc<dyn Store>,
    root: &Arc<RootKey>,
    journal: &Arc<Journal>,
    this: &Arc<OnceLock<Weak<Broker>>>,
) -> Result<Keeper, StartError> {
    let name = crate::broker::random_name().map_err(|e| start_error("broker name")(&e))?;
    let (changing, emptied) = (Arc::clone(this), Arc::clone(this));
    let broker = |this: &OnceLock<Weak<Broker>>| this.get().and_then(Weak::upgrade);
    let on_change = move |event: &Event| {
        let Some(broker) = broker(&changing) else {
            return;
        };
        match event {
            Event::Changed(Changed::Workload(id)) => broker.records.forget_workload(id),
            // Read anew by the next call that needs it.
            Event::Changed(Changed::Trust) => broker.material.changed(),
            Event::Changed(Changed::Engines) => {
                tokio::spawn(async move {
                    if let Err(error) = broker.reload_engines().await {
                        tracing::error!(%error, "engines could not be read anew");
                    }
                });
            }
            Event::Changed(Changed::Keyring) => {
                tokio::spawn(async move {
                    if let Err(error) = broker.reload_keyring().await {
                        tracing::error!(%error, "keyring could not be read anew");
                    }
                });
            }
            Event::Ended { .. }
            | Event::Rule { .. }
            | Event::Lifted(_)
            | Event::Suspended(_)
            | Event::Resumed(_)
            | Event::Floor => {
                broker.attendance.tell(event);
                broker.leases.hear(event);
            }
        }
    };
    let on_emptied = move || {
        if let Some(broker) = broker(&emptied) {
            broker.records.forget();
            broker.material.changed();
            tokio::spawn(async move {
                let again = async {
                    broker.reload_keyring().await?;
                    broker.reload_engines().await
                };
                if let Err(error) = again.await {
                    tracing::error!(%error, "keyring and engines could not be read anew");
                }
            });
        }
    };
    Ok(Keeper::new(
        Arc::clone(store),
        Arc::clone(root),
        name,
        config.bounds,
        Arc::clone(journal),
        on_change,
        on_emptied,
    ))
}

fn grpc(config: &Config) -> Grpc {
    // T80: floods are cut by these limits. No grace with the age: it would leave out the GOAWAY.
    Grpc::builder()
        .max_connection_age(config.connection_age)
        .max_concurrent_streams(config.streams)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_pending_accept_reset_streams(Some(64))
        .http2_max_header_list_size(16 << 10)
        .tcp_nodelay(true)
}

async fn serve_workloads(
    config: Config,
    broker: Arc<Broker>,
    incoming: mpsc::Receiver<std::io::Result<tls::Connection>>,
    stopped: watch::Receiver<bool>,
) {
    let services = Services(broker);
    let most = config.message_bytes;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<Services>>().await;
    health.set_serving::<AccessServiceServer<Services>>().await;
    let reflection = config.listen.reflection.then(|| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sundew_proto::DESCRIPTOR)
            .build_v1()
    });
    let reflection = reflection.transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "reflection is off");
        None
    });
    let router = grpc(&config)
        .add_service(health_service)
        .add_service(AgentServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(AccessServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(RegistryServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(ResponseServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(EnrollmentServiceServer::new(services).max_decoding_message_size(most))
        .add_optional_service(reflection);
    if let Err(error) = router
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping(stopped))
        .await
    {
        tracing::error!(%error, "workload listener ended");
    }
}
