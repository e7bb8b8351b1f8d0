//! The bundles that this broker trusts and its own SVID, as whole snapshots that are replaced and
//! never edited.
//!
//! A bad update keeps the last good snapshot, and health says so. The next call of every open
//! connection looks at a new generation.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use sundew_attestation::spiffe::{BundleSet, TrustBundle, TrustDomain};

/// Bundles of one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Roots by trust domain.
    pub(crate) bundles: BundleSet,
    /// A number that grows with every change.
    pub(crate) generation: u64,
}

/// The bundles of all trust domains, and this broker's own certificate.
pub(crate) struct Trust {
    current: ArcSwap<Snapshot>,
    identity: ArcSwap<Option<Arc<CertifiedKey>>>,
    /// Held while a snapshot is replaced.
    writing: Mutex<()>,
    /// Reasons why sources do not work, by source.
    problems: Mutex<BTreeMap<String, String>>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Snapshot {
                bundles: BundleSet::default(),
                generation: 1,
            }),
            identity: ArcSwap::from_pointee(None),
            writing: Mutex::new(()),
            problems: Mutex::default(),
        }
    }
}

impl Trust {
    /// The bundles of this moment.
    #[must_use]
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces the bundle of one trust domain, if it differs.
    pub(crate) fn publish(&self, bundle: TrustBundle) {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        if current
            .bundles
            .of(bundle.trust_domain())
            .is_some_and(|old| old.is_same(&bundle))
        {
            return;
        }
        tracing::info!(trust_domain = %bundle.trust_domain(), roots = bundle.certificates().count(), "trust bundle published");
        let mut bundles = current.bundles.clone();
        bundles.insert(bundle);
        self.current.store(Arc::new(Snapshot {
            bundles,
            generation: current.generation.wrapping_add(1),
        }));
    }

    /// Withdraws the trust in a trust domain: nobody of it is trusted any more.
    pub(crate) fn withdraw(&self, domain: TrustDomain) {
        match TrustBundle::from_der(domain, []) {
            Ok(empty) => self.publish(empty),
            Err(error) => tracing::error!(%error, "bundle could not be withdrawn"),
        }
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
                    tracing::error!(source, problem, "source failed; the last good state stays");
                }
            }
        }
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

    /// The sources that do not work, each with the reason, for health.
    #[must_use]
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems
            .iter()
            .map(|(source, problem)| format!("{source}: {problem}"))
            .collect()
    }
}
