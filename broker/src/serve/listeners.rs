//! The listeners: binding them, serving on them, and ending them.

use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sundew_proto::envoy::secret_discovery_service_server::SecretDiscoveryServiceServer;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use sundew_proto::v1::access_service_server::AccessServiceServer;
use sundew_proto::v1::agent_service_server::AgentServiceServer;
use sundew_proto::v1::dispatch_service_server::DispatchServiceServer;
use sundew_proto::v1::enrollment_service_server::EnrollmentServiceServer;
use sundew_proto::v1::local_service_server::LocalServiceServer;
use sundew_proto::v1::owner_service_server::OwnerServiceServer;
use sundew_proto::v1::registry_service_server::RegistryServiceServer;
use sundew_proto::v1::response_service_server::ResponseServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService as _;
use tonic::transport::Server as Grpc;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use super::allowed_hosts::AllowedHosts;
use super::broker::{Broker, Ground};
use super::bundle_endpoint;
use super::config::{BundleEndpoint, Config, LocalLimits};
use super::gate::Gate;
use super::grpc::{AnonymousEnrollment, Services};
use super::handshake_recorder::HandshakeRecorder;
use super::local_calls::local_grpc;
use super::open_calls::OpenCalls;
use super::operations::{self, CurrentHealth};
use super::sources::watch_certificate;
use super::start_error::{StartError, during};
use super::stopping::Stopping;
use crate::ca::Ca;
use crate::enrollment::local_process;
use crate::enrollment::workload_api::{WorkloadApi, secrets};
use crate::enrollment::{Enrollment, LocalUsers, OwnIdentities, Owner, OwnerSocket};
use crate::peer::accept::accept;
use crate::peer::files::read_identity;
use crate::peer::{Clients, Connection, Trust};

/// Longest time for open calls to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for open calls of local processes to end at shutdown.
const LOCAL_DRAIN_TIMEOUT: Duration = Duration::from_millis(250);
/// The services of which gRPC's health service tells.
const HEALTHY: [&str; 2] = [
    AgentServiceServer::<Services>::NAME,
    AccessServiceServer::<Services>::NAME,
];
/// Largest message on the enrollment listener, in bytes.
const ENROLLMENT_MESSAGE: usize = 256 << 10;
/// Largest message on the Workload API's socket, in bytes.
const WORKLOAD_API_MESSAGE: usize = 4 << 10;
/// What a caller may send of a call, and over a connection, before somebody has read it, in bytes.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;

/// The addresses of the listeners.
pub(super) struct Addresses {
    pub(super) enrollment: Option<SocketAddr>,
    pub(super) operations: SocketAddr,
    pub(super) workloads: SocketAddr,
}

/// The connections of a listener whose handshake has ended, and its address.
type Accepted = (mpsc::Receiver<std::io::Result<Connection>>, SocketAddr);

/// The listeners that serve, what runs beside them, and the way to stop both.
pub(super) struct Listeners {
    stop: watch::Sender<bool>,
    serving: JoinSet<()>,
    background: JoinSet<()>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            stop: watch::Sender::new(false),
            serving: JoinSet::new(),
            background: JoinSet::new(),
        }
    }
}

impl Listeners {
    /// The work that runs for as long as the broker does, and is ended with it.
    pub(super) fn background(&mut self) -> &mut JoinSet<()> {
        &mut self.background
    }

    /// Serves one listener until it ends, and says why it ended if that was not asked for.
    fn spawn_listener<E: Display>(
        &mut self,
        name: &'static str,
        serve: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let stopping = self.stopping();
        self.serving.spawn(async move {
            match serve.await {
                Ok(()) if stopping.is_asked() => tracing::debug!(listener = name, "stopped"),
                Ok(()) => tracing::error!(listener = name, "listener ended by itself"),
                Err(error) => tracing::error!(listener = name, %error, "listener ended"),
            }
        });
    }

    /// Says when the broker is asked to stop.
    fn stopping(&self) -> Stopping {
        Stopping::new(&self.stop)
    }

    /// Serves health and metrics; answers their address.
    pub(super) async fn serve_operations(
        &mut self,
        address: SocketAddr,
        hosts: AllowedHosts,
        health: CurrentHealth,
    ) -> Result<SocketAddr, StartError> {
        let (listener, address) = bind("listen.operations", address).await?;
        let served = operations::serve(listener, hosts, health, self.stopping().asked());
        self.spawn_listener("operations", served);
        Ok(address)
    }

    /// Serves workloads and operators, those without an SVID, and local processes, as configured.
    pub(super) async fn serve_callers(
        &mut self,
        config: &Config,
        ground: &Ground,
        broker: &Arc<Broker>,
        gate: &Arc<Gate>,
        operations: SocketAddr,
    ) -> Result<Addresses, StartError> {
        let (incoming, workloads) = self
            .accept(
                ("listen.workloads", config.listen.workloads),
                Clients::WithSvid,
                config,
                (ground, gate),
            )
            .await?;
        let stopping = self.stopping();
        let services = Services::new(broker, gate, stopping.clone());
        let (router, mut health) =
            workload_services(config, services, OpenCalls::new(gate, config.message_bytes)).await;
        let served =
            router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping.asked());
        // Whoever watches the health hears no more, and the stream ends.
        self.background.spawn(async move {
            stopping.asked().await;
            for service in HEALTHY {
                health.clear_service_status(service).await;
            }
        });
        self.spawn_listener("workloads", served);

        let mut enrollment = None;
        if let Some(address) = config.listen.enrollment {
            let (incoming, address) = self
                .accept(
                    ("listen.enrollment", address),
                    Clients::Anonymous,
                    config,
                    (ground, gate),
                )
                .await?;
            enrollment = Some(address);
            let service = EnrollmentServiceServer::new(AnonymousEnrollment::new(broker, gate))
                .max_decoding_message_size(config.message_bytes.min(ENROLLMENT_MESSAGE));
            let served = bounded(config)
                .layer(OpenCalls::new(gate, ENROLLMENT_MESSAGE))
                .add_service(service)
                .serve_with_incoming_shutdown(
                    ReceiverStream::new(incoming),
                    self.stopping().asked(),
                );
            self.spawn_listener("enrollment", served);
        }
        if let (Some(endpoint), Some(ca)) = (&config.bundle_endpoint, &ground.ca) {
            self.serve_bundle(endpoint, ca, config, (ground, gate))
                .await?;
        }
        if let Some(path) = &config.listen.workload_api {
            let users = LocalUsers::new(Arc::clone(&ground.trust));
            self.serve_workload_api(path, config.local_connections, &broker.enrollment, users)?;
        }
        if ground.ca.is_some() {
            self.serve_owner(
                &config.owner_socket(),
                config.local_connections,
                &broker.owner,
            );
        }
        Ok(Addresses {
            enrollment,
            operations,
            workloads,
        })
    }

    /// Serves the bundle of the embedded CA to partners.
    async fn serve_bundle(
        &mut self,
        endpoint: &BundleEndpoint,
        ca: &Arc<Ca>,
        config: &Config,
        (ground, gate): (&Ground, &Arc<Gate>),
    ) -> Result<(), StartError> {
        let mut shown = Arc::clone(&ground.trust);
        if let Some(files) = &endpoint.certificate {
            let first = read_identity(&files.0, &files.1).map_err(during("bundle_endpoint"))?;
            // Nobody is let in by it: it holds the certificate alone.
            shown = Arc::default();
            shown.set_identity(first);
            let web = Arc::clone(&shown);
            self.background.spawn(watch_certificate(
                Arc::clone(&ground.trust),
                "certificate of the bundle endpoint",
                files.clone(),
                Arc::default(),
                move |next| web.set_identity(next),
            ));
        }
        let callers = (&shown, Clients::Http);
        let (connections, address) = self
            .accept_as(
                ("bundle_endpoint.listen", endpoint.listen),
                callers,
                config,
                (ground, gate),
            )
            .await?;
        let incoming = bundle_endpoint::Incoming {
            address,
            connections,
        };
        let stopped = self.stopping().asked();
        let served = bundle_endpoint::serve(incoming, Arc::clone(ca), stopped);
        self.spawn_listener("bundle endpoint", served);
        Ok(())
    }

    /// Binds a TLS listener, and accepts on it for as long as the broker runs.
    async fn accept(
        &mut self,
        place: (&str, SocketAddr),
        clients: Clients,
        config: &Config,
        of: (&Ground, &Arc<Gate>),
    ) -> Result<Accepted, StartError> {
        let callers = (&of.0.trust, clients);
        self.accept_as(place, callers, config, of).await
    }

    /// Accepts like [`accept`](Self::accept), with the certificate that `trust` holds.
    async fn accept_as(
        &mut self,
        (name, address): (&str, SocketAddr),
        (trust, clients): (&Arc<Trust>, Clients),
        config: &Config,
        (ground, gate): (&Ground, &Arc<Gate>),
    ) -> Result<Accepted, StartError> {
        let (listener, address) = bind(name, address).await?;
        let (connections, incoming) = mpsc::channel(64);
        let observer = HandshakeRecorder {
            gate: Arc::clone(gate),
            metrics: Arc::clone(&ground.metrics),
        };
        self.background.spawn(accept(
            listener,
            Arc::clone(trust),
            clients,
            config.connections,
            Arc::new(observer),
            connections,
        ));
        Ok((incoming, address))
    }

    /// Serves the SPIFFE Workload API on a Unix socket.
    fn serve_workload_api(
        &mut self,
        path: &Path,
        limits: LocalLimits,
        enrollment: &Arc<Enrollment>,
        users: LocalUsers,
    ) -> Result<(), StartError> {
        let part = format!("listen.workload_api: {}", path.display());
        let listener = local_process::bind(path).map_err(during(&part))?;
        let (connections, incoming) = mpsc::channel(16);
        self.background
            .spawn(local_process::accept_within(limits, listener, connections));
        let identities = Arc::new(OwnIdentities(Arc::clone(enrollment)));
        let api = WorkloadApi::new(identities);
        let secrets = SecretDiscoveryServiceServer::new(api.clone())
            .max_decoding_message_size(secrets::MAX_REQUEST);
        let service =
            SpiffeWorkloadApiServer::new(api).max_decoding_message_size(WORKLOAD_API_MESSAGE);
        let served = local_grpc()
            .add_service(service)
            .add_service(secrets)
            .add_service(
                LocalServiceServer::new(users).max_decoding_message_size(WORKLOAD_API_MESSAGE),
            )
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), self.stopping().asked());
        // Its streams of SVIDs and bundles never end by themselves (L18).
        let stopping = self.stopping();
        self.spawn_listener("workload_api", async move {
            tokio::select! {
                served = served => served,
                () = async {
                    stopping.asked().await;
                    tokio::time::sleep(LOCAL_DRAIN_TIMEOUT).await;
                } => Ok(()),
            }
        });
        Ok(())
    }

    /// Serves the owner of the broker's state, on a socket among that state. A broker goes on without
    /// it: a path may be too long for a socket.
    fn serve_owner(&mut self, path: &Path, limits: LocalLimits, owner: &Arc<Owner>) {
        let listener = match OwnerSocket::bind(path) {
            Ok(listener) => listener,
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "`sundew operator` finds no socket of this broker");
                return;
            }
        };
        let (connections, incoming) = mpsc::channel(16);
        self.background
            .spawn(local_process::accept_within(limits, listener, connections));
        let service = OwnerServiceServer::new(OwnerSocket(Arc::clone(owner)))
            .max_decoding_message_size(ENROLLMENT_MESSAGE);
        let served = local_grpc()
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), self.stopping().asked());
        self.spawn_listener("owner", served);
    }

    /// Stops listening, lets open calls end for a while, and ends what runs beside them.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
            while self.serving.join_next().await.is_some() {}
        })
        .await;
        if drained.is_err() {
            tracing::warn!("some calls did not end in time");
        }
        self.background.shutdown().await;
    }
}

/// Binds a listener; answers it with its address, in which the port is never 0.
/// `key` is the setting that says where.
async fn bind(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(during(&format!("{key}: cannot listen on {address}")))?;
    let address = listener.local_addr().map_err(during("listener"))?;
    Ok((listener, address))
}

/// A gRPC server whose connections are bounded (T80: floods are cut by these limits).
fn bounded(config: &Config) -> Grpc {
    // No grace with the age: it would leave out the GOAWAY.
    Grpc::builder()
        .max_connection_age(config.connection_age)
        .max_concurrent_streams(config.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_pending_accept_reset_streams(Some(64))
        .http2_max_header_list_size(16 << 10)
        .tcp_nodelay(true)
}

/// The services on the listener for workloads and operators, and what their health is told to.
async fn workload_services(
    config: &Config,
    services: Services,
    open_calls: OpenCalls,
) -> (Router<Stack<OpenCalls, Identity>>, HealthReporter) {
    let most = config.message_bytes;
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in HEALTHY {
        health
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let reflection = config.listen.reflection.then(|| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sundew_proto::DESCRIPTOR)
            .build_v1()
    });
    let reflection = reflection.transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "reflection is off");
        None
    });
    let router = bounded(config)
        .layer(open_calls)
        .add_service(health_service)
        .add_service(AgentServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(AccessServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(DispatchServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(RegistryServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(ResponseServiceServer::new(services.clone()).max_decoding_message_size(most))
        .add_service(EnrollmentServiceServer::new(services).max_decoding_message_size(most))
        .add_optional_service(reflection);
    (router, health)
}
