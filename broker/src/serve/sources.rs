//! Sources of bundles and of the broker's own SVID: watched files, or a SPIFFE Workload API.
//!
//! A source that fails keeps the last good state until the bundle limit, then its trust domain is
//! withdrawn (AC-09).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sundew_attestation::spiffe::{BundleError, IdError, TrustBundle, TrustDomain};
use tokio::sync::Notify;

use crate::clock;
use crate::peer::Trust;
use crate::peer::files::{certified, read_bundle, read_identity};

/// The name of the Workload API as a source, in health.
const WORKLOAD_API: &str = "workload api";
/// Longest time for the first answer of the Workload API.
const WORKLOAD_API_TIMEOUT: Duration = Duration::from_secs(10);
/// How often files, and the socket of the Workload API, are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Waits for the next look, or for somebody who asks for it now.
async fn next_look(now: &Notify) {
    let _ = tokio::time::timeout(CHECK_INTERVAL, now.notified()).await;
}

/// Why the Workload API did not give an SVID and bundles.
#[derive(Debug, thiserror::Error)]
enum WorkloadApiError {
    /// The bundle of a trust domain is not usable.
    #[error("{0}")]
    Bundle(BundleError),
    /// The client has no SVID or no bundles.
    #[error("{0}")]
    Client(spiffe::X509SourceError),
    /// The API closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// Nobody listens on the socket.
    #[error("{0}")]
    Connect(io::Error),
    /// The private key is none that is known.
    #[error("{0}")]
    Key(&'static str),
    /// The client gave up.
    #[error("the Workload API does not answer")]
    NoAnswer,
    /// The certificate and its key do not fit.
    #[error("{0}")]
    Pair(rustls::Error),
    /// The API did not answer when the client began.
    #[error("no answer within 10 seconds")]
    TimedOut,
    /// A trust domain has no valid name.
    #[error("{0}")]
    TrustDomain(IdError),
}

/// Keeps the bundles of files up to date, for as long as it is polled.
pub(super) async fn watch_bundles(
    trust: Arc<Trust>,
    files: BTreeMap<TrustDomain, PathBuf>,
    limit: Duration,
    now: Arc<Notify>,
) {
    let mut good_at = BTreeMap::new();
    loop {
        for (domain, path) in &files {
            let read = read_bundle(domain, path).map(|bundle| trust.publish(bundle));
            if read.is_ok() {
                good_at.insert(domain.clone(), clock::monotonic());
            } else if good_at
                .get(domain)
                .is_none_or(|at| clock::since(*at) > limit)
            {
                // AC-09: from here on, nobody of this trust domain is let in.
                trust.withdraw(domain.clone());
            }
            trust.report(&format!("bundle of {domain}"), read);
        }
        next_look(&now).await;
    }
}

/// Keeps the broker's own SVID of files up to date, for as long as it is polled.
pub(super) async fn watch_identity(
    trust: Arc<Trust>,
    certificate: PathBuf,
    key: PathBuf,
    now: Arc<Notify>,
) {
    let mut seen = None;
    loop {
        let read = read_identity(&certificate, &key).map(|identity| {
            if seen.as_ref() != Some(&identity.cert) {
                tracing::info!(file = %certificate.display(), "own SVID loaded");
                seen = Some(identity.cert.clone());
                trust.set_identity(identity);
            }
        });
        trust.report("own SVID", read);
        next_look(&now).await;
    }
}

/// Follows a SPIFFE Workload API: own SVID and all bundles, for as long as it is polled.
pub(super) async fn follow_workload_api(trust: Arc<Trust>, socket: PathBuf, limit: Duration) {
    let endpoint = format!("unix:{}", socket.display());
    let mut good_at = clock::monotonic();
    loop {
        let built = tokio::time::timeout(
            WORKLOAD_API_TIMEOUT,
            spiffe::X509Source::builder().endpoint(&endpoint).build(),
        )
        .await;
        let error = match built {
            Ok(Ok(source)) => {
                take_updates(&trust, &socket, &source, limit, &mut good_at).await;
                WorkloadApiError::Closed
            }
            Ok(Err(error)) => WorkloadApiError::Client(error),
            Err(_) => WorkloadApiError::TimedOut,
        };
        trust.report(WORKLOAD_API, Err(error));
        withdraw_after(&trust, limit, good_at);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Takes over what a client of the Workload API has, until the client ends. `good_at` is the moment
/// when that worked last.
async fn take_updates(
    trust: &Trust,
    socket: &Path,
    source: &spiffe::X509Source,
    limit: Duration,
    good_at: &mut Instant,
) {
    let mut updates = source.updated();
    loop {
        // The client keeps what it has when the API goes away, and does not tell.
        let answers = tokio::net::UnixStream::connect(socket)
            .await
            .map(drop)
            .map_err(WorkloadApiError::Connect);
        let taken = answers.and_then(|()| take_from(trust, source));
        let is_good = taken.is_ok();
        if is_good {
            *good_at = clock::monotonic();
        }
        trust.report(WORKLOAD_API, taken);
        if !is_good {
            withdraw_after(trust, limit, *good_at);
        }
        tokio::select! {
            changed = updates.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}

/// Withdraws all trust domains once their bundles were last good longer ago than `limit`.
fn withdraw_after(trust: &Trust, limit: Duration, good_at: Instant) {
    if clock::since(good_at) <= limit {
        return;
    }
    let domains: Vec<_> = trust
        .current()
        .bundles
        .iter()
        .map(|b| b.trust_domain().clone())
        .collect();
    domains
        .into_iter()
        .for_each(|domain| trust.withdraw(domain));
}

/// Takes over the SVID and the bundles that the client has at this moment.
fn take_from(trust: &Trust, source: &spiffe::X509Source) -> Result<(), WorkloadApiError> {
    if !source.is_healthy() {
        return Err(WorkloadApiError::NoAnswer);
    }
    let svid = source.svid().map_err(WorkloadApiError::Client)?;
    let chain: Vec<_> = svid
        .cert_chain()
        .iter()
        .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
        .collect();
    let same = trust.identity().is_some_and(|own| own.cert == chain);
    if !same {
        let key = PrivateKeyDer::try_from(svid.private_key().as_bytes().to_vec())
            .map_err(WorkloadApiError::Key)?;
        trust.set_identity(certified(chain, key).map_err(WorkloadApiError::Pair)?);
        tracing::info!(spiffe_id = %svid.spiffe_id(), "own SVID from the Workload API");
    }
    let bundles = source.bundle_set().map_err(WorkloadApiError::Client)?;
    for (domain, bundle) in bundles.iter() {
        let domain = TrustDomain::parse(domain.as_str()).map_err(WorkloadApiError::TrustDomain)?;
        let roots = bundle.authorities().iter().map(|c| c.as_bytes());
        let bundle = TrustBundle::from_der(domain, roots).map_err(WorkloadApiError::Bundle)?;
        trust.publish(bundle);
    }
    Ok(())
}
