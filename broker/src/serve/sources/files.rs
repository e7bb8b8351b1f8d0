//! Bundles and the broker's own SVID in files, which are looked at every second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::sign::CertifiedKey;
use sundew_attestation::spiffe::{BundleSet, TrustBundle, TrustDomain};
use tokio::sync::{Notify, watch};

use super::{CHECK_INTERVAL, next_look};
use crate::clock;
use crate::peer::Trust;
use crate::peer::files::{FileError, read_bundle, read_identity};
use crate::peer::trust::Source;

/// Trust domain to the file that has its bundle.
pub(in crate::serve) type TrustFiles = BTreeMap<TrustDomain, PathBuf>;

/// The bundles of files, each with the moment when its file was good last.
pub(in crate::serve) struct FileBundles {
    trust: Arc<Trust>,
    limit: Duration,
    good: BTreeMap<TrustDomain, (Instant, Arc<TrustBundle>)>,
}

impl FileBundles {
    /// Takes no bundle yet. One whose file fails is used for `limit`.
    pub(in crate::serve) fn new(trust: Arc<Trust>, limit: Duration) -> Self {
        Self {
            trust,
            limit,
            good: BTreeMap::new(),
        }
    }

    /// Reads all files, and takes what is good of them in place of what there was. A trust domain
    /// without a file is withdrawn. The answer is why the first bad one was not taken.
    pub(in crate::serve) fn look(&mut self, files: &TrustFiles) -> Result<(), FileError> {
        let source = |domain: &TrustDomain| format!("bundle of {domain}");
        let is_gone = |domain: &TrustDomain| !files.contains_key(domain);
        for (domain, _) in self.good.extract_if(.., |domain, _| is_gone(domain)) {
            self.trust.forget(&source(&domain));
        }
        let (mut bundles, mut first_error) = (BundleSet::default(), None);
        for (domain, path) in files {
            let read = read_bundle(domain, path).map(|bundle| {
                let good = (clock::monotonic(), Arc::new(bundle));
                self.good.insert(domain.clone(), good);
            });
            self.trust.report(&source(domain), read.as_ref().copied());
            first_error = first_error.or(read.err());
            match self.good.get(domain) {
                Some((at, bundle)) if clock::since(*at) <= self.limit => {
                    bundles.insert(Arc::clone(bundle));
                }
                // AC-09: from here on, nobody of this trust domain is let in.
                Some(_) | None => bundles.insert(TrustBundle::empty(domain.clone())),
            }
        }
        self.trust.publish(Source::Files, bundles);
        first_error.map_or(Ok(()), Err)
    }

    /// Keeps the bundles up to date, for as long as it is polled. What `files` says counts at once.
    pub(in crate::serve) async fn watch(
        mut self,
        mut files: watch::Receiver<TrustFiles>,
        now: Arc<Notify>,
    ) {
        loop {
            let current = files.borrow_and_update().clone();
            // Health says what is bad.
            let _ = self.look(&current);
            tokio::select! {
                Ok(()) = files.changed() => {}
                () = now.notified() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
        }
    }
}

/// Keeps a certificate of files up to date, for as long as it is polled: `source` names it in health,
/// and `set` takes it.
pub(in crate::serve) async fn watch_certificate(
    trust: Arc<Trust>,
    source: &'static str,
    (certificate, key): (PathBuf, PathBuf),
    now: Arc<Notify>,
    set: impl Fn(CertifiedKey) + Send,
) {
    let mut seen = None;
    loop {
        let read = read_identity(&certificate, &key).map(|identity| {
            if seen.as_ref() != Some(&identity.cert) {
                tracing::info!(file = %certificate.display(), "{source} loaded");
                seen = Some(identity.cert.clone());
                set(identity);
            }
        });
        trust.report(source, read);
        next_look(&now).await;
    }
}

#[cfg(test)]
mod tests;
