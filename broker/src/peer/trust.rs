//! The bundles that this broker trusts and its own SVID, as whole snapshots that are replaced and
//! never edited.
//!
//! Each source says all that it has: a trust domain that it no longer lists is withdrawn at once. A
//! source that fails keeps the last good state for a while, and health says so. What cannot be used
//! of a bundle or of a set of keys costs nothing else, and health says whose it is (I4, I5). The
//! next call of every open connection looks at a new generation.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use sundew_attestation::LeftOut;
use sundew_attestation::spiffe::BundleSet;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Bundles of one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Roots by trust domain.
    pub(crate) bundles: BundleSet,
    /// A number that grows with every change.
    pub(crate) generation: u64,
}

/// What has bundles. Of several that have one trust domain, the first counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Source {
    /// The CA of this broker.
    EmbeddedCa,
    /// The files that the configuration names.
    Files,
    /// The bundle endpoints of partners.
    Federation,
    /// A SPIFFE Workload API.
    WorkloadApi,
}

/// The bundles of all trust domains, and this broker's own certificate.
pub(crate) struct Trust {
    current: ArcSwap<Snapshot>,
    identity: ArcSwap<Option<Arc<CertifiedKey>>>,
    /// What each source has. Held while a snapshot is replaced.
    sources: Mutex<BTreeMap<Source, BundleSet>>,
    /// Reasons why sources do not work, by source.
    problems: Mutex<BTreeMap<String, String>>,
    /// What cannot be used of sources, those in bundles apart.
    left_out: Mutex<BTreeMap<String, LeftOut>>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Snapshot {
                bundles: BundleSet::default(),
                generation: 1,
            }),
            identity: ArcSwap::from_pointee(None),
            sources: Mutex::default(),
            problems: Mutex::default(),
            left_out: Mutex::default(),
        }
    }
}

impl Trust {
    /// The bundles of this moment.
    #[must_use]
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Takes everything that a source has in place of what it had. A trust domain that no source has
    /// is withdrawn: nobody of it is trusted any more.
    pub(crate) fn publish(&self, source: Source, bundles: impl Into<BundleSet>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(source, bundles.into());
        let (current, next) = (self.current(), BundleSet::first_of(sources.values()));
        if current.bundles.is_same(&next) {
            return;
        }
        tell_changes(&current.bundles, &next);
        self.current.store(Arc::new(Snapshot {
            bundles: next,
            generation: current.generation.wrapping_add(1),
        }));
    }

    /// The broker's own certificate and key.
    #[must_use]
    pub(crate) fn identity(&self) -> Option<Arc<CertifiedKey>> {
        self.identity.load().as_ref().clone()
    }

    /// Replaces the broker's own certificate and key.
    pub(crate) fn set_identity(&self, key: CertifiedKey) {
        self.identity.store(Arc::new(Some(Arc::new(key))));
    }

    /// Takes the broker's own certificate and key away: it was redacted by whoever gave it.
    pub(crate) fn drop_identity(&self) {
        if self.identity.swap(Arc::new(None)).is_some() {
            tracing::error!("own SVID was taken back");
        }
    }

    /// Notes that a source works, or why it does not. The log says it once, until that changes.
    pub(crate) fn report(&self, source: &str, result: Result<(), impl Display>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                if problems.remove(source).is_some() {
                    tracing::info!(source, "source works again");
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if problems.insert(source.to_owned(), problem.clone()).as_ref() != Some(&problem) {
                    tracing::error!(source, problem, "source failed");
                }
            }
        }
    }

    /// Notes what cannot be used of a source. The log says it once, until that changes.
    pub(crate) fn note_left_out(&self, source: &str, left_out: &LeftOut) {
        let mut noted = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if left_out.count() == 0 {
            noted.remove(source);
        } else if noted.insert(source.to_owned(), left_out.clone()).as_ref() != Some(left_out) {
            tracing::warn!(source, problem = %left_out, "parts cannot be used; the rest counts");
        }
    }

    /// Forgets a source that there is no more.
    pub(crate) fn forget(&self, source: &str) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.remove(source);
        drop(problems);
        self.note_left_out(source, &LeftOut::default());
    }

    /// What cannot be used, by whose it is.
    #[must_use]
    pub(crate) fn left_out(&self) -> BTreeMap<String, LeftOut> {
        let noted = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let of_bundles = current.bundles.iter().map(|bundle| {
            let whose = format!("bundle of {}", bundle.trust_domain());
            (whose, bundle.left_out().clone())
        });
        of_bundles
            .filter(|(_, left_out)| left_out.count() > 0)
            .chain(noted.clone())
            .collect()
    }

    /// Why a source does not work, if it does not.
    #[must_use]
    pub(crate) fn problem(&self, source: &str) -> Option<String> {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(source)
            .cloned()
    }

    /// When the broker's own SVID ends, in milliseconds since the epoch, if it has one.
    #[must_use]
    pub(crate) fn identity_until_ms(&self) -> Option<i64> {
        let identity = self.identity()?;
        not_after_ms(identity.cert.first()?)
    }

    /// When the last root of each trust domain's bundle ends, in milliseconds since the epoch.
    #[must_use]
    pub(crate) fn bundles_until_ms(&self) -> Vec<(String, i64)> {
        let current = self.current();
        let until = current.bundles.iter().map(|bundle| {
            let last = bundle.certificates().filter_map(not_after_ms).max();
            (bundle.trust_domain().to_string(), last.unwrap_or(0))
        });
        until.collect()
    }

    /// The sources that do not work, each with the reason, and what cannot be used of others, for
    /// health.
    #[must_use]
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = problems
            .iter()
            .map(|(source, problem)| format!("{source}: {problem}"));
        let left_out = self.left_out();
        failing
            .chain(
                left_out
                    .iter()
                    .map(|(whose, parts)| format!("{whose}: {parts}")),
            )
            .collect()
    }
}

/// When a certificate ends, in milliseconds since the epoch; `None` if it is none.
fn not_after_ms(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    Some(seconds.saturating_mul(1000))
}

/// Says in the log which trust domains have another bundle, and which have none any more.
fn tell_changes(current: &BundleSet, next: &BundleSet) {
    for bundle in next.iter() {
        let domain = bundle.trust_domain();
        if current.of(domain).is_some_and(|old| old.is_same(bundle)) {
            continue;
        }
        let roots = bundle.certificates().count();
        tracing::info!(trust_domain = %domain, roots, "trust bundle published");
        if bundle.left_out().count() > 0 {
            tracing::warn!(trust_domain = %domain, problem = %bundle.left_out(), "parts of the trust bundle cannot be used; the rest counts");
        }
    }
    let gone = current.iter().map(|bundle| bundle.trust_domain());
    for domain in gone.filter(|domain| next.of(domain).is_none()) {
        tracing::warn!(trust_domain = %domain, "trust domain is not trusted any more");
    }
}
