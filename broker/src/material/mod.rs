//! What verifiers trust at this broker: issuers, what its configuration names, and what registrars
//! added to the store.
//!
//! Verifiers get immutable snapshots and do no I/O. A bad update keeps the last good one and says
//! so. P4: what was withdrawn is not used by a broker that has seen the withdrawal in the log: the
//! snapshot is then read anew before it is used.

mod fetch;
mod follow;
pub(crate) mod issuers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_attestation::{TrustItem, TrustKind, TrustMaterial};
use sundew_core::{Changed, Event};

use crate::liveness::Subscriber;

/// How often a document that is fetched is fetched again.
const FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// How often it is looked whether a file has changed.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Something that verifiers trust, from the configuration.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaterialConfig {
    /// What it is for.
    pub kind: TrustKind,
    /// Its name, unique among those of its kind.
    pub name: String,
    /// Where it is: a file, watched.
    pub file: Option<PathBuf>,
    /// Where it is: an https URL, fetched in the background.
    pub url: Option<String>,
    /// PEM of the CA of the URL, if it is not a public one.
    pub ca_file: Option<PathBuf>,
}

impl MaterialConfig {
    /// The place that it comes from, as health and lists name it.
    #[must_use]
    pub(crate) fn source(&self) -> String {
        match (&self.file, &self.url) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(url)) => url.clone(),
            (None, None) => String::new(),
        }
    }
}

pub(crate) use follow::follow;
pub use issuers::IssuerConfig;

type Named = BTreeMap<(TrustKind, String), Arc<TrustItem>>;

/// What verifiers trust, as snapshots.
pub(crate) struct Material {
    current: ArcSwap<TrustMaterial>,
    parts: Mutex<Parts>,
    changes: AtomicU64,
    read: AtomicU64,
}

#[derive(Default)]
struct Parts {
    configured: Named,
    added: Named,
}

impl Material {
    /// With the issuers of the configuration; nothing was read from the store yet.
    #[must_use]
    pub(crate) fn new(issuers: TrustMaterial) -> Self {
        Self {
            current: ArcSwap::from_pointee(issuers),
            parts: Mutex::default(),
            changes: AtomicU64::new(1),
            read: AtomicU64::new(0),
        }
    }

    /// The snapshot of this moment, which may be older than what the log says; see
    /// [`Material::unread`].
    #[must_use]
    pub(crate) fn snapshot(&self) -> Arc<TrustMaterial> {
        self.current.load_full()
    }

    /// Changes the issuers.
    pub(crate) fn update_issuers(&self, change: impl Fn(&mut TrustMaterial)) {
        self.current.rcu(|current| {
            let mut next = TrustMaterial::clone(current);
            change(&mut next);
            next
        });
    }

    /// What was added changed in the store: it is to be read anew before it is used.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The change up to which everything must be read, if it is not.
    #[must_use]
    pub(crate) fn unread(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::Acquire);
        (self.read.load(Ordering::Acquire) < changes).then_some(changes)
    }

    /// Takes over what was read from the store after change number `change` was heard of.
    pub(crate) fn publish_added(&self, items: impl IntoIterator<Item = TrustItem>, change: u64) {
        let added = items
            .into_iter()
            .map(|item| ((item.kind(), item.name().to_owned()), Arc::new(item)))
            .collect();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        // What was read later must not be replaced by what was read earlier.
        if self.read.load(Ordering::Acquire) <= change {
            parts.added = added;
            self.publish(&parts);
            self.read.fetch_max(change, Ordering::AcqRel);
        }
    }

    /// Takes over an item of the configuration.
    pub(crate) fn publish_configured(&self, item: TrustItem) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts
            .configured
            .insert((item.kind(), item.name().to_owned()), Arc::new(item));
        self.publish(&parts);
    }

    /// An item of the configuration stands over an added one of the same name.
    fn publish(&self, parts: &Parts) {
        self.update_issuers(|next| {
            next.replace_items(
                parts
                    .added
                    .values()
                    .chain(parts.configured.values())
                    .map(Arc::clone),
            )
        });
    }

    /// Whether an item of this kind and name comes from the configuration.
    #[must_use]
    pub(crate) fn is_configured(&self, kind: TrustKind, name: &str) -> bool {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .configured
            .contains_key(&(kind, name.to_owned()))
    }
}

impl Subscriber for Material {
    fn on_event(self: Arc<Self>, event: &Event) {
        // Read anew by the next call that needs it.
        if matches!(event, Event::Changed(Changed::Trust)) {
            self.changed();
        }
    }

    fn on_gap(self: Arc<Self>) {
        self.changed();
    }
}
