//! The SVID and all bundles that a SPIFFE Workload API streams.
//!
//! A response is everything that counts from then on. One bundle or entry that cannot be used costs
//! no other (I5).

use std::time::Duration;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sundew_core::client::{ResponseError, SvidChoice, SvidEntry, WorkloadResponse};
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::spiffe::{X509svidRequest, X509svidResponse};
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};
use zeroize::Zeroizing;

use super::{Found, IdentitySource, Publisher, Svid, SvidError};
use crate::error::Error;

const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// Pause before the API is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The largest response, in bytes.
const MAX_RESPONSE: usize = 16 << 20;

/// Follows the Workload API at this socket, as `unix:/path` or `unix:///path`.
pub(super) async fn follow(socket: &str, choice: SvidChoice) -> Result<IdentitySource, Error> {
    let fail = |e: &dyn std::fmt::Display| Error::Identity(format!("{socket}: {e}"));
    let endpoint =
        Endpoint::from_shared(socket.replacen("unix:///", "unix:/", 1)).map_err(|e| fail(&e))?;
    // Whoever begins may be there before the API, or before its own registration.
    let mut last = None;
    let begun = timeout(FIRST_WITHIN, async {
        loop {
            match begin(&endpoint, &choice).await {
                Ok(begun) => return begun,
                Err(problem) => last = Some(problem),
            }
            sleep(RETRY_AFTER).await;
        }
    })
    .await;
    let (publisher, identities, mut stream) = begun.map_err(|_| match last {
        Some(problem) => fail(&problem),
        None => fail(&"no answer within 10 seconds"),
    })?;
    tokio::spawn(async move {
        while !publisher.is_closed() {
            if let Err(problem) = take(&publisher, &mut stream, &choice).await {
                tracing::warn!(%problem, "Workload API; the last good SVID and bundles stay");
            }
            stream = loop {
                sleep(RETRY_AFTER).await;
                if publisher.is_closed() {
                    return;
                }
                match timeout(FIRST_WITHIN, open(&endpoint)).await {
                    Ok(Ok(stream)) => break stream,
                    Ok(Err(problem)) => tracing::debug!(%problem, "Workload API"),
                    Err(_) => tracing::debug!("Workload API: no answer within 10 seconds"),
                }
            };
        }
    });
    Ok(identities)
}

type Stream = Streaming<X509svidResponse>;

/// Opens a stream, and begins with its first response.
async fn begin(
    endpoint: &Endpoint,
    choice: &SvidChoice,
) -> Result<(Publisher, IdentitySource, Stream), SvidError> {
    let mut stream = open(endpoint).await?;
    let first = next(&mut stream).await?;
    let (publisher, identities) = Publisher::begin(found(first, choice)?)?;
    Ok((publisher, identities, stream))
}

/// Hands out what a stream brings, until it ends or nobody listens any more.
async fn take(
    publisher: &Publisher,
    stream: &mut Stream,
    choice: &SvidChoice,
) -> Result<(), SvidError> {
    while !publisher.is_closed() {
        publisher.publish(found(next(stream).await?, choice)?);
    }
    Ok(())
}

async fn open(endpoint: &Endpoint) -> Result<Stream, SvidError> {
    let channel = endpoint.connect().await.map_err(SvidError::workload_api)?;
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    // The header that every caller sends (SPIFFE Workload Endpoint, section 4.1).
    let mut request = Request::new(X509svidRequest {});
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let answer = client.fetch_x509svid(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| refused(&status))
}

async fn next(stream: &mut Stream) -> Result<X509svidResponse, SvidError> {
    let message = stream.message().await.map_err(|status| refused(&status))?;
    message.ok_or_else(|| SvidError::workload_api("the connection was closed"))
}

fn refused(status: &tonic::Status) -> SvidError {
    SvidError::workload_api(format!("{:?}: {}", status.code(), status.message()))
}

/// Takes the SVID and all bundles of a response.
fn found(mut response: X509svidResponse, choice: &SvidChoice) -> Result<Found, SvidError> {
    // The keys are taken out, so that all of them are wiped.
    let svids = response.svids.iter_mut();
    let keys: Vec<_> = svids
        .map(|svid| Zeroizing::new(std::mem::take(&mut svid.x509_svid_key)))
        .collect();
    let svids = response.svids.iter();
    let entries: Vec<_> = svids
        .map(|svid| SvidEntry {
            spiffe_id: &svid.spiffe_id,
            chain: &svid.x509_svid,
            bundle: &svid.bundle,
            hint: &svid.hint,
        })
        .collect();
    let federated = response.federated_bundles.iter();
    let federated = federated.map(|(name, roots)| (name.as_str(), roots.as_slice()));
    let read =
        WorkloadResponse::read(&entries, federated, choice).map_err(SvidError::workload_api)?;
    if read.left_out.count() > 0 {
        tracing::warn!(problem = %read.left_out, "parts of the response cannot be used; the rest counts");
    }
    let svid = read.svid.map(|chosen| {
        let key = keys.get(chosen.index).map(|key| key.to_vec());
        Svid {
            chain: chosen.chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.unwrap_or_default())),
        }
    });
    Ok(Found {
        bundles: Ok(read.bundles),
        svid: svid.map_err(|problem: ResponseError| SvidError::workload_api(problem)),
    })
}
