//! Whether a Workload API has an identity for this process.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use sundew_proto::spiffe::X509svidRequest;
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

/// How long a Workload API may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Fails if the API at this socket cannot be reached, or says that it has no identity for this
/// process; the error says what to do.
pub(super) async fn require_identity(socket: &str) -> Result<()> {
    let asked = tokio::time::timeout(ANSWERS_WITHIN, ask(socket)).await;
    asked.with_context(|| format!("{socket}: no answer within 5 seconds"))?
}

async fn ask(socket: &str) -> Result<()> {
    let endpoint = Endpoint::from_shared(socket.replacen("unix:///", "unix:/", 1));
    let endpoint = endpoint.with_context(|| socket.to_owned())?;
    let channel = endpoint.connect().await.map_err(|error| {
        anyhow!("{socket}: nobody serves a Workload API there ({error}); is the path right?")
    })?;
    let mut request = Request::new(X509svidRequest {});
    // SPIFFE Workload Endpoint, section 6.
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let answer = match client.fetch_x509svid(request).await {
        Ok(mut stream) => stream.get_mut().message().await.map(drop),
        Err(status) => Err(status),
    };
    match answer {
        Ok(()) => Ok(()),
        Err(status) if status.code() == Code::PermissionDenied => bail!(
            "{socket}: has no identity for this process, which runs as user {}; register a workload \
             whose `local` selector fits it, or set SUNDEW_SVID_DIR",
            rustix::process::getuid().as_raw()
        ),
        Err(status) => bail!("{socket}: {}", status.message()),
    }
}
