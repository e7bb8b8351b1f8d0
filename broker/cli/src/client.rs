//! The way from the command line to a broker.

use anyhow::{Context as _, Result, anyhow};
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::response_service_client::ResponseServiceClient;
use sundew_sdk::{Agent, Connection, IdentitySource, Settings, SpiffeId};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::args::Connect;

/// What the environment and the flags say.
pub(crate) fn settings(connect: &Connect) -> Settings {
    let mut settings = Settings::from_env();
    settings.broker.clone_from(&connect.broker);
    settings.broker_id.clone_from(&connect.broker_id);
    settings.svid_dir.clone_from(&connect.svid_dir);
    settings
        .endpoint_socket
        .clone_from(&connect.endpoint_socket);
    settings
}

/// An agent, with whatever evidence the environment lets it collect.
pub(crate) async fn agent(connect: &Connect) -> Result<Agent> {
    Ok(Agent::builder(settings(connect)).build().await?)
}

/// A connection for operators: no evidence is collected.
pub(crate) async fn connection(connect: &Connect) -> Result<Connection> {
    let settings = settings(connect);
    let broker = settings
        .broker
        .clone()
        .context("no broker: set --broker or SUNDEW_BROKER to its host:port")?;
    let identity = IdentitySource::open(&settings).await?.current();
    Ok(Connection::open(
        &broker,
        broker_id(connect, &identity)?,
        identity,
    )?)
}

/// The ID that the broker must have.
pub(crate) fn broker_id(connect: &Connect, identity: &sundew_sdk::Identity) -> Result<SpiffeId> {
    let id = connect
        .broker_id
        .clone()
        .unwrap_or_else(|| format!("{}/sundew/broker", identity.id().trust_domain().id()));
    SpiffeId::parse(&id).map_err(|e| anyhow!("--broker-id: {e}"))
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

pub(crate) async fn access(connect: &Connect) -> Result<AccessServiceClient<Channel>> {
    Ok(AccessServiceClient::new(
        connection(connect).await?.channel(),
    ))
}

/// A status as one line that says what to do next.
pub(crate) fn explained(status: Status) -> anyhow::Error {
    let correlation = status
        .get_details_error_info()
        .and_then(|info| info.metadata.get("correlation_id").cloned());
    let unreachable = matches!(
        status.code(),
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
    );
    let next = if status.code() == tonic::Code::PermissionDenied {
        " — the broker's journal has the reason"
    } else if unreachable {
        " — `sundew doctor` finds out more"
    } else {
        ""
    };
    match correlation.filter(|_| status.code() != tonic::Code::InvalidArgument) {
        Some(id) => anyhow!("{}{next} (correlation id {id})", status.message()),
        None => anyhow!("{}{next}", status.message()),
    }
}
