//! Connections from the command line to a broker.

mod workload_api;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::dispatch_service_client::DispatchServiceClient;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::response_service_client::ResponseServiceClient;
use sundew_sdk::{
    Agent, AnonymousConnection, BundleSet, Connection, Identity, IdentitySource, Settings,
    SpiffeId, TrustBundle, TrustDomain,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::args::Connect;
use crate::failure::CallError;
use crate::output::note;

/// What to do where no broker is named.
const NO_BROKER: &str = "no broker: set --broker or SUNDEW_BROKER to its host:port";

/// Returns the settings of the SDK for a command line.
///
/// `clap` has read the flags of `Connect`, or the environment variables behind them. Only what is
/// needed for evidence comes straight from the environment, because no flag sets it.
pub(crate) fn settings(connect: &Connect) -> Settings {
    Settings {
        broker: connect.broker.clone(),
        broker_id: connect.broker_id.clone(),
        svid_dir: connect.svid_dir.clone(),
        endpoint_socket: connect.endpoint_socket.clone(),
        ..Settings::from_env()
    }
}

/// Returns an agent that shows whatever evidence the environment lets it collect. Agents wait for
/// their identity for a while: they may be there before their registration.
pub(crate) async fn agent(connect: &Connect) -> Result<Agent> {
    let settings = settings(connect);
    note_missing_identity(&settings).await;
    Ok(Agent::builder(settings).build().await?)
}

/// Says at once, and once, why an agent has to wait for its identity, if it has to (C6).
pub(crate) async fn note_missing_identity(settings: &Settings) {
    if let (None, Some(socket)) = (&settings.svid_dir, &settings.endpoint_socket)
        && let Err(error) = workload_api::require_identity(socket).await
    {
        note(&format!("sundew: {error:#}; waiting for it for 10 seconds"));
    }
}

/// Opens a connection for a caller that shows its SVID and no evidence.
pub(crate) async fn connection(connect: &Connect) -> Result<Connection> {
    let settings = settings(connect);
    let broker = settings.broker.clone().context(NO_BROKER)?;
    let identity = open_identity(&settings).await?;
    Ok(Connection::open(
        &broker,
        broker_id(connect, &identity)?,
        identity,
    )?)
}

/// Opens a connection to each broker for which the address stands, with the address of each: the name
/// of a Kubernetes service without an address of its own stands for all of them.
pub(crate) async fn each_broker(connect: &Connect) -> Result<Vec<(String, Connection)>> {
    let settings = settings(connect);
    let broker = settings.broker.clone().context(NO_BROKER)?;
    let identity = open_identity(&settings).await?;
    let found = tokio::net::lookup_host(&broker).await;
    let found: BTreeSet<_> = found.with_context(|| broker.clone())?.collect();
    let addresses = match found.len() {
        0 | 1 => vec![broker],
        _ => found.iter().map(ToString::to_string).collect(),
    };
    let mut connections = Vec::new();
    for address in addresses {
        let id = broker_id(connect, &identity)?;
        let connection = Connection::open(&address, id, std::sync::Arc::clone(&identity))?;
        connections.push((address, connection));
    }
    Ok(connections)
}

/// Returns the SVID with which commands connect. C6: where a Workload API has none, that is said at
/// once, and not after the time for which an agent waits for its registration.
pub(crate) async fn open_identity(settings: &Settings) -> Result<std::sync::Arc<Identity>> {
    match (&settings.svid_dir, &settings.endpoint_socket) {
        (None, None) => bail!(
            "no identity: set --svid-dir or SUNDEW_SVID_DIR to a folder with svid.pem, key.pem and \
             bundle.pem, or SPIFFE_ENDPOINT_SOCKET to a Workload API"
        ),
        (None, Some(socket)) => workload_api::require_identity(socket).await?,
        (Some(_), _) => {}
    }
    Ok(IdentitySource::open(settings).await?.current())
}

/// Opens a connection to a broker's enrollment listener, for a caller that has no SVID yet.
///
/// `place` is the listener's `host:port`, and `bundle` a PEM file with the trust domain's roots.
pub(crate) fn enrollment_connection(
    place: &str,
    bundle: &Path,
    trust_domain: &str,
) -> Result<AnonymousConnection> {
    let domain = TrustDomain::parse(trust_domain).map_err(|e| anyhow!("--trust-domain: {e}"))?;
    let roots = std::fs::read(bundle).with_context(|| bundle.display().to_string())?;
    let roots =
        TrustBundle::parse(domain, &roots).map_err(|e| anyhow!("{}: {e}", bundle.display()))?;
    let expected = SpiffeId::parse(&format!("{}/sundew/broker", roots.trust_domain().id()))
        .map_err(|e| anyhow!("{e}"))?;
    let mut bundles = BundleSet::default();
    bundles.insert(roots);
    Ok(AnonymousConnection::open(place, expected, bundles)?)
}

/// Returns the SPIFFE ID that the broker must show: `/sundew/broker` in the trust domain of
/// `identity`, unless the command line names another one.
pub(crate) fn broker_id(connect: &Connect, identity: &Identity) -> Result<SpiffeId> {
    let id = connect
        .broker_id
        .clone()
        .unwrap_or_else(|| format!("{}/sundew/broker", identity.id().trust_domain().id()));
    SpiffeId::parse(&id).map_err(|e| anyhow!("--broker-id: {e}"))
}

pub(crate) async fn access(connect: &Connect) -> Result<AccessServiceClient<Channel>> {
    Ok(AccessServiceClient::new(
        connection(connect).await?.channel(),
    ))
}

pub(crate) async fn agent_service(connect: &Connect) -> Result<AgentServiceClient<Channel>> {
    Ok(AgentServiceClient::new(
        connection(connect).await?.channel(),
    ))
}

pub(crate) async fn dispatch(connect: &Connect) -> Result<DispatchServiceClient<Channel>> {
    Ok(DispatchServiceClient::new(
        connection(connect).await?.channel(),
    ))
}

pub(crate) async fn registry(connect: &Connect) -> Result<RegistryServiceClient<Channel>> {
    Ok(RegistryServiceClient::new(
        connection(connect).await?.channel(),
    ))
}

pub(crate) async fn response(connect: &Connect) -> Result<ResponseServiceClient<Channel>> {
    Ok(ResponseServiceClient::new(
        connection(connect).await?.channel(),
    ))
}

/// Returns a gRPC status as an error of one line that says what to do next.
pub(crate) fn status_error(status: Status) -> anyhow::Error {
    CallError::new(&status).into()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::settings;
    use crate::args::Connect;

    #[test]
    fn the_command_line_alone_says_how_to_connect() {
        let connect = Connect {
            broker: Some("broker.test:1".to_owned()),
            broker_id: None,
            svid_dir: Some(PathBuf::from("/svid")),
            endpoint_socket: None,
        };
        let settings = settings(&connect);
        assert_eq!(settings.broker.as_deref(), Some("broker.test:1"));
        assert_eq!(settings.broker_id, None);
        assert_eq!(settings.svid_dir, Some(PathBuf::from("/svid")));
        assert_eq!(settings.endpoint_socket, None);
    }
}
