//! Connections from the command line to a broker.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::response_service_client::ResponseServiceClient;
use sundew_sdk::{
    Agent, AnonymousConnection, BundleSet, Connection, Identity, IdentitySource, Settings,
    SpiffeId, TrustBundle, TrustDomain,
};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::args::Connect;

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

/// Returns an agent that shows whatever evidence the environment lets it collect.
pub(crate) async fn agent(connect: &Connect) -> Result<Agent> {
    Ok(Agent::builder(settings(connect)).build().await?)
}

/// Opens a connection for a caller that shows its SVID and no evidence.
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
///
/// The line ends with the correlation id under which the broker's journal has the reason, if the
/// broker sent an id and the caller cannot mend the request by reading the message.
pub(crate) fn status_error(status: Status) -> anyhow::Error {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::{settings, status_error};
    use crate::args::Connect;

    #[test]
    fn a_status_says_what_to_do_next() {
        for (code, text) in [
            (Code::Cancelled, "m — `sundew doctor` finds out more"),
            (Code::FailedPrecondition, "m"),
            (Code::InvalidArgument, "m"),
            (
                Code::PermissionDenied,
                "m — the broker's journal has the reason",
            ),
            (Code::Unavailable, "m — `sundew doctor` finds out more"),
            (Code::Unknown, "m — `sundew doctor` finds out more"),
        ] {
            assert_eq!(status_error(Status::new(code, "m")).to_string(), text);
        }
    }

    #[test]
    fn a_correlation_id_is_shown_where_the_message_alone_does_not_help() {
        let status = |code| {
            let metadata = HashMap::from([("correlation_id".to_owned(), "c-1".to_owned())]);
            let details = ErrorDetails::with_error_info("reason", "sundew", metadata);
            Status::with_error_details(code, "m", details)
        };
        assert_eq!(
            status_error(status(Code::PermissionDenied)).to_string(),
            "m — the broker's journal has the reason (correlation id c-1)"
        );
        assert_eq!(status_error(status(Code::InvalidArgument)).to_string(), "m");
    }

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
