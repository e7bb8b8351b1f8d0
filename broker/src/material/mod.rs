//! The material that verifiers trust at this broker: issuers, items that the configuration names,
//! and items that registrars added to the store.
//!
//! Verifiers get immutable snapshots and do no I/O. A bad update keeps the last good snapshot, and
//! health says so. P4: a broker that has seen a withdrawal in the log does not use the item that
//! was withdrawn: it reads the snapshot anew before it uses it.

pub(crate) mod fetch;
mod follow;
pub(crate) mod issuers;
mod pace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_attestation::{TrustItem, TrustKind, TrustMaterial};
use sundew_core::{Changed, Event};

use crate::liveness::Subscriber;

/// How often it is looked whether a file has changed.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// An item that verifiers trust, from the configuration.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaterialConfig {
    /// The kind of the item, which says which verifier uses it.
    pub kind: TrustKind,
    /// The name of the item, unique among those of its kind.
    pub name: String,
    /// The file that has the item; it is watched.
    pub file: Option<PathBuf>,
    /// The https URL that has the item; it is fetched in the background.
    pub url: Option<String>,
    /// PEM of the CA of the URL, if it is not a public one.
    pub ca_file: Option<PathBuf>,
}

impl MaterialConfig {
    /// The place that the item comes from, as health and lists name it.
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

/// The material, as snapshots.
pub(crate) struct Material {
    current: ArcSwap<TrustMaterial>,
    parts: Mutex<Parts>,
    /// The number of the last change in the store that was heard of.
    changes: AtomicU64,
    /// The number of the change up to which the store was read.
    read: AtomicU64,
}

/// The items by where they come from.
#[derive(Default)]
struct Parts {
    configured: Named,
    added: Named,
}

impl Material {
    /// Material with the issuers of the configuration only; nothing was read from the store yet.
    #[must_use]
    pub(crate) fn new(issuers: TrustMaterial) -> Self {
        Self {
            current: ArcSwap::from_pointee(issuers),
            parts: Mutex::default(),
            changes: AtomicU64::new(1),
            read: AtomicU64::new(0),
        }
    }

    /// The snapshot of this moment. It may be older than what the log says, as long as
    /// [`Material::unread`] answers a change.
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

    /// Notes that added items changed in the store: they are to be read anew before they are used.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The number of the change up to which the store must be read, if it was not.
    #[must_use]
    pub(crate) fn unread(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::Acquire);
        (self.read.load(Ordering::Acquire) < changes).then_some(changes)
    }

    /// Takes over items that were read from the store after change number `change` was heard of.
    pub(crate) fn publish_added(&self, items: impl IntoIterator<Item = TrustItem>, change: u64) {
        let added = items
            .into_iter()
            .map(|item| ((item.kind(), item.name().to_owned()), Arc::new(item)))
            .collect();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        // Items that were read later must not be replaced by items that were read earlier.
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

    /// Publishes all items. An item of the configuration hides an added one of its kind and name.
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

    /// Says whether an item of this kind and name comes from the configuration.
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
        // The next call that needs the items reads them anew.
        if matches!(event, Event::Changed(Changed::Trust)) {
            self.changed();
        }
    }

    fn on_gap(self: Arc<Self>) {
        self.changed();
    }
}
