//! JWT-SVIDs from a Workload API.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::spiffe::{JwtsvidRequest, ValidateJwtsvidRequest};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::args::Connect;
use crate::client::status_error;
use crate::input::read_credential;
use crate::output::{Output, View, escape};

/// Prints a JWT-SVID. Fails for a process with several identities if none of them is chosen.
pub(super) async fn fetch(
    connect: &Connect,
    output: &Output,
    audience: Vec<String>,
    spiffe_id: Option<String>,
) -> Result<ExitCode> {
    let request = JwtsvidRequest {
        audience,
        spiffe_id: spiffe_id.unwrap_or_default(),
    };
    let svids = workload_api(connect)
        .await?
        .fetch_jwtsvid(with_workload_metadata(request)?)
        .await
        .map_err(status_error)?
        .into_inner()
        .svids;
    let [svid] = svids.as_slice() else {
        let ids: Vec<_> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
        bail!(
            "this process has several identities, choose one with --spiffe-id: {}",
            ids.join(" ")
        );
    };
    output.show(&JwtSvidView {
        spiffe_id: svid.spiffe_id.clone(),
        svid: svid.svid.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Verifies a JWT-SVID from standard input, and prints whose it is.
pub(super) async fn verify(
    connect: &Connect,
    output: &Output,
    audience: String,
) -> Result<ExitCode> {
    let request = ValidateJwtsvidRequest {
        audience,
        svid: read_credential("JWT-SVID")?.trim().to_owned(),
    };
    let spiffe_id = workload_api(connect)
        .await?
        .validate_jwtsvid(with_workload_metadata(request)?)
        .await
        .map_err(status_error)?
        .into_inner()
        .spiffe_id;
    output.show(&VerifiedJwtSvidView { spiffe_id })?;
    Ok(ExitCode::SUCCESS)
}

/// A JWT-SVID of this process.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct JwtSvidView {
    spiffe_id: String,
    svid: String,
}

impl View for JwtSvidView {
    const KIND: &'static str = "jwt_svid";

    fn lines(&self) -> Vec<String> {
        vec![self.svid.clone()]
    }
}

/// Whose a JWT-SVID is that was verified.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct VerifiedJwtSvidView {
    spiffe_id: String,
}

impl View for VerifiedJwtSvidView {
    const KIND: &'static str = "jwt_svid_verified";

    fn lines(&self) -> Vec<String> {
        vec![escape(&self.spiffe_id, 2048)]
    }
}

async fn workload_api(connect: &Connect) -> Result<SpiffeWorkloadApiClient<Channel>> {
    let socket = connect
        .endpoint_socket
        .clone()
        .context("no Workload API: set SPIFFE_ENDPOINT_SOCKET to its unix:///path")?;
    let endpoint = Endpoint::from_shared(socket.replacen("unix:///", "unix:/", 1))
        .with_context(|| socket.clone())?;
    Ok(SpiffeWorkloadApiClient::new(
        endpoint.connect().await.with_context(|| socket)?,
    ))
}

/// Returns a request with the header that a Workload API demands of every caller (SPIFFE Workload
/// Endpoint, section 4.1).
fn with_workload_metadata<T>(message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse()?);
    Ok(request)
}
