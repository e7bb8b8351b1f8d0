//! The SVID and all bundles that a SPIFFE Workload API streams.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use spiffe::X509Source;
use sundew_core::client::{BundleSet, TrustBundle, TrustDomain};

use super::{Found, IdentitySource, Publisher, Svid, SvidError};
use crate::error::Error;

const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// Follows the Workload API at this socket, as `unix:/path` or `unix:///path`.
pub(super) async fn follow(socket: &str) -> Result<IdentitySource, Error> {
    let fail = |e: &dyn std::fmt::Display| Error::Identity(format!("{socket}: {e}"));
    let endpoint = socket.replacen("unix:///", "unix:/", 1);
    let built = tokio::time::timeout(
        FIRST_WITHIN,
        X509Source::builder().endpoint(&endpoint).build(),
    )
    .await;
    let source = built
        .map_err(|_| fail(&"no answer within 10 seconds"))?
        .map_err(|e| fail(&e))?;
    // Updates between the first look and the subscription must not be missed.
    let mut updates = source.updated();
    let (publisher, identities) = Publisher::begin(found(&source)).map_err(|e| fail(&e))?;
    tokio::spawn(async move {
        while updates.changed().await.is_ok() && !publisher.is_closed() {
            publisher.publish(found(&source));
        }
    });
    Ok(identities)
}

/// Takes the SVID and all bundles that the Workload API gives at this moment.
fn found(source: &X509Source) -> Found {
    Found {
        bundles: bundles(source),
        svid: svid(source),
    }
}

fn svid(source: &X509Source) -> Result<Svid, SvidError> {
    let svid = source.svid().map_err(SvidError::workload_api)?;
    let chain = svid
        .cert_chain()
        .iter()
        .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
        .collect();
    let key = PrivateKeyDer::try_from(svid.private_key().as_bytes().to_vec())
        .map_err(SvidError::workload_api)?;
    Ok(Svid { chain, key })
}

fn bundles(source: &X509Source) -> Result<BundleSet, SvidError> {
    let mut bundles = BundleSet::default();
    let set = source.bundle_set().map_err(SvidError::workload_api)?;
    for (domain, bundle) in set.iter() {
        let domain = TrustDomain::parse(domain.as_str()).map_err(SvidError::workload_api)?;
        let roots = bundle.authorities().iter().map(|c| c.as_bytes());
        bundles.insert(TrustBundle::from_der(domain, roots).map_err(SvidError::workload_api)?);
    }
    Ok(bundles)
}
