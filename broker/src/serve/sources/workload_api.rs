//! The broker's own SVID and the bundles that a SPIFFE Workload API streams.
//!
//! The messages are read one part at a time, and not by the `spiffe` client, which refuses all of a
//! response for one partner's bundle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sundew_attestation::spiffe::{
    BundleSet, ChosenSvid, ResponseError, SvidChoice, SvidEntry, WorkloadResponse,
};
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::spiffe::{X509svidRequest, X509svidResponse};
use tonic::metadata::MetadataValue;
use tonic::transport::{self, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use zeroize::Zeroizing;

use super::CHECK_INTERVAL;
use crate::clock;
use crate::material::fetch::innermost;
use crate::peer::Trust;
use crate::peer::files::certified;
use crate::peer::trust::Source;

/// The name of the Workload API as a source, in health.
const WORKLOAD_API: &str = "workload api";
/// Longest time for the first answer of the Workload API.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// Longest time after which the Workload API is asked anew: a stream that nobody writes to any more
/// looks like one on which nothing happens.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Largest response, in bytes.
const MAX_RESPONSE: usize = 16 << 20;

/// Why the Workload API did not give an SVID and bundles.
#[derive(Debug, thiserror::Error)]
enum WorkloadApiError {
    /// The API closed the stream.
    #[error("the connection was closed")]
    Closed,
    /// Nobody answers on the socket.
    #[error("{}: {}", .socket.display(), innermost(.cause))]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        cause: transport::Error,
    },
    /// The certificate and its key do not fit.
    #[error("{0}")]
    Pair(rustls::Error),
    /// The API has nothing for this broker any more.
    #[error("there is no identity for this broker: {0}")]
    Redacted(String),
    /// The response as a whole, or the SVID in it, is not usable.
    #[error("{0}")]
    Response(ResponseError),
    /// The API answered an error.
    #[error("{:?}: {}", .0.code(), .0.message())]
    Status(Status),
    /// The API did not answer.
    #[error("no answer within 10 seconds")]
    TimedOut,
}

impl From<Status> for WorkloadApiError {
    fn from(status: Status) -> Self {
        // Section 5.2.1: all that was given is redacted.
        if status.code() == Code::PermissionDenied {
            Self::Redacted(status.message().to_owned())
        } else {
            Self::Status(status)
        }
    }
}

/// A Workload API as the source of the own SVID and of bundles.
pub(in crate::serve) struct WorkloadApiSource {
    trust: Arc<Trust>,
    socket: PathBuf,
    choice: SvidChoice,
    limit: Duration,
    /// The moment of the last usable response.
    good_at: Instant,
}

impl WorkloadApiSource {
    /// A source that was not asked yet. While it fails, bundles are used for `limit`.
    pub(in crate::serve) fn new(
        trust: Arc<Trust>,
        socket: PathBuf,
        choice: SvidChoice,
        limit: Duration,
    ) -> Self {
        Self {
            trust,
            socket,
            choice,
            limit,
            good_at: clock::monotonic(),
        }
    }

    /// Follows the Workload API, for as long as it is polled.
    pub(in crate::serve) async fn follow(mut self) {
        loop {
            if let Err(error) = self.take_stream().await {
                if matches!(error, WorkloadApiError::Redacted(_)) {
                    self.withdraw();
                    self.trust.drop_identity();
                }
                self.failed(error);
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        }
    }

    /// Takes what one stream brings, until it is time to ask anew.
    async fn take_stream(&mut self) -> Result<(), WorkloadApiError> {
        let opened = tokio::time::timeout(FIRST_WITHIN, first(&self.socket)).await;
        let (first, mut stream) = opened.map_err(|_| WorkloadApiError::TimedOut)??;
        self.take(first);
        let began = clock::monotonic();
        let ask_every = ASK_EVERY.min(self.limit / 2);
        loop {
            let rest = ask_every.saturating_sub(clock::since(began));
            match tokio::time::timeout(rest, stream.message()).await {
                Ok(message) => self.take(message?.ok_or(WorkloadApiError::Closed)?),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Takes what a response says: everything counts from now on, and what is not in it is redacted
    /// (Workload API, section 4.4).
    fn take(&mut self, mut response: X509svidResponse) {
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
        let taken = match WorkloadResponse::read(&entries, federated, &self.choice) {
            Ok(taken) => taken,
            Err(error) => return self.failed(WorkloadApiError::Response(error)),
        };
        self.good_at = clock::monotonic();
        self.trust.publish(Source::WorkloadApi, taken.bundles);
        self.trust.note_left_out(WORKLOAD_API, &taken.left_out);
        let identity = match taken.svid {
            Ok(svid) => {
                let key = keys.get(svid.index).map(|key| key.to_vec());
                self.take_identity(svid, key.unwrap_or_default())
            }
            Err(error) => {
                if matches!(error, ResponseError::Absent { .. }) {
                    self.trust.drop_identity();
                }
                Err(WorkloadApiError::Response(error))
            }
        };
        self.trust.report(WORKLOAD_API, identity);
    }

    fn take_identity(&self, svid: ChosenSvid, key: Vec<u8>) -> Result<(), WorkloadApiError> {
        let same = self
            .trust
            .identity()
            .is_some_and(|own| own.cert == svid.chain);
        if !same {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            let own = certified(svid.chain, key).map_err(WorkloadApiError::Pair)?;
            self.trust.set_identity(own);
            tracing::info!(spiffe_id = %svid.id, "own SVID from the Workload API");
        }
        Ok(())
    }

    /// Notes why there was no usable response. AC-09: what it brought last is withdrawn after a
    /// while.
    fn failed(&self, error: WorkloadApiError) {
        self.trust.report(WORKLOAD_API, Err(error));
        if clock::since(self.good_at) > self.limit {
            self.withdraw();
        }
    }

    fn withdraw(&self) {
        self.trust
            .publish(Source::WorkloadApi, BundleSet::default());
    }
}

/// Opens a stream, and waits for its first response, which comes without delay (section 4.3).
async fn first(
    socket: &Path,
) -> Result<(X509svidResponse, Streaming<X509svidResponse>), WorkloadApiError> {
    let connect = |cause| WorkloadApiError::Connect {
        socket: socket.to_owned(),
        cause,
    };
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(connect)?;
    let channel = endpoint.connect().await.map_err(connect)?;
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    // The header that every caller sends (SPIFFE Workload Endpoint, section 4.1).
    let mut request = Request::new(X509svidRequest {});
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut stream = client.fetch_x509svid(request).await?.into_inner();
    let first = stream.message().await?.ok_or(WorkloadApiError::Closed)?;
    Ok((first, stream))
}

#[cfg(test)]
mod tests;
