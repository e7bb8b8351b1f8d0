//! Where bundles and the broker's own SVID come from: watched files, a SPIFFE Workload API, or the
//! embedded CA.
//!
//! A source that fails keeps the last good state until the bundle limit, then its trust domain is
//! withdrawn (AC-09).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sundew_attestation::spiffe::{SpiffeId, TrustBundle, TrustDomain};
use tokio::sync::Notify;

use crate::ca::Ca;
use crate::clock;
use crate::peer::Trust;
use crate::peer::files::{certified, read_bundle, read_identity};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits for the next look, or for somebody who asks for it now.
async fn next_look(now: &Notify) {
    let _ = tokio::time::timeout(LOOK_EVERY, now.notified()).await;
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
            let source = format!("bundle of {domain}");
            match read_bundle(domain, path) {
                Ok(bundle) => {
                    trust.publish(bundle);
                    trust.report(&source, Ok(()));
                    good_at.insert(domain.clone(), clock::monotonic());
                }
                Err(problem) => {
                    if good_at
                        .get(domain)
                        .is_none_or(|at| clock::since(*at) > limit)
                    {
                        trust.withdraw(domain.clone());
                    }
                    trust.report(&source, Err(problem));
                }
            }
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
        match read_identity(&certificate, &key) {
            Ok(identity) => {
                if seen.as_ref() != Some(&identity.cert) {
                    tracing::info!(file = %certificate.display(), "own SVID loaded");
                    seen = Some(identity.cert.clone());
                    trust.set_identity(identity);
                }
                trust.report("own SVID", Ok(()));
            }
            Err(problem) => trust.report("own SVID", Err(problem)),
        }
        next_look(&now).await;
    }
}

/// Follows a SPIFFE Workload API: own SVID and all bundles, for as long as it is polled.
pub(super) async fn follow_workload_api(trust: Arc<Trust>, socket: PathBuf, limit: Duration) {
    let source_name = "workload api";
    let endpoint = format!("unix:{}", socket.display());
    let mut good_at = clock::monotonic();
    loop {
        let built = tokio::time::timeout(
            Duration::from_secs(10),
            spiffe::X509Source::builder().endpoint(&endpoint).build(),
        )
        .await;
        let problem = match built {
            Ok(Ok(source)) => {
                let mut updates = source.updated();
                loop {
                    // The client keeps what it has when the API goes away, and does not tell.
                    let answers = tokio::net::UnixStream::connect(&socket)
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string());
                    match answers.and_then(|()| take_from(&trust, &source)) {
                        Ok(()) => {
                            good_at = clock::monotonic();
                            trust.report(source_name, Ok(()));
                        }
                        Err(problem) => {
                            trust.report(source_name, Err(problem));
                            if clock::since(good_at) > limit {
                                withdraw_all(&trust);
                            }
                        }
                    }
                    tokio::select! {
                        changed = updates.changed() => if changed.is_err() { break },
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
                "the connection was closed".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within 10 seconds".to_owned(),
        };
        trust.report(source_name, Err(problem));
        if clock::since(good_at) > limit {
            withdraw_all(&trust);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn withdraw_all(trust: &Trust) {
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

fn take_from(trust: &Trust, source: &spiffe::X509Source) -> Result<(), String> {
    if !source.is_healthy() {
        return Err("the Workload API does not answer".to_owned());
    }
    let svid = source.svid().map_err(|e| e.to_string())?;
    let chain: Vec<_> = svid
        .cert_chain()
        .iter()
        .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
        .collect();
    let same = trust.identity().is_some_and(|own| own.cert == chain);
    if !same {
        let key = PrivateKeyDer::try_from(svid.private_key().as_bytes().to_vec())?;
        trust.set_identity(certified(chain, key).map_err(|e| e.to_string())?);
        tracing::info!(spiffe_id = %svid.spiffe_id(), "own SVID from the Workload API");
    }
    for (domain, bundle) in source.bundle_set().map_err(|e| e.to_string())?.iter() {
        let domain = TrustDomain::parse(domain.as_str()).map_err(|e| e.to_string())?;
        let bundle =
            TrustBundle::from_der(domain, bundle.authorities().iter().map(|c| c.as_bytes()))
                .map_err(|e| e.to_string())?;
        trust.publish(bundle);
    }
    Ok(())
}

/// The broker's own ID under the embedded CA.
pub(super) fn own_id(
    domain: &TrustDomain,
) -> Result<SpiffeId, sundew_attestation::spiffe::IdError> {
    SpiffeId::parse(&format!("{}/sundew/broker", domain.id()))
}

/// Issues the broker's own SVID, and publishes the CA's bundle.
pub(super) fn issue_own(trust: &Trust, ca: &Ca) -> Result<(), String> {
    let id = own_id(ca.trust_domain()).map_err(|e| e.to_string())?;
    let (svid, key) = ca.issue_with_key(&id).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::try_from(key.expose().to_vec())?;
    trust.set_identity(certified(svid.chain, key).map_err(|e| e.to_string())?);
    trust.publish(ca.bundle().map_err(|e| e.to_string())?);
    Ok(())
}
