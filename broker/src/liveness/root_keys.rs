//! The root keys of the brokers of a store.
//!
//! Whoever writes must be understood by all others: a key comes to every broker as an accepted one,
//! before the first broker makes it its active one.

use serde::{Deserialize, Serialize};
use sundew_core::RootKey;
use sundew_core::store::{Store, StoreError};

use super::agreement::{AgreementError, about_all, read_by};
use super::revocation_log::{RevocationLog, lock};

/// The names of the root keys that a broker has.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct RootKeyNames {
    /// The key under which it writes.
    pub(crate) active: String,
    /// The keys that it accepts beside that one.
    pub(crate) others: Vec<String>,
}

impl RootKeyNames {
    /// The names of these keys.
    pub(crate) fn of(root: &RootKey) -> Self {
        let mut names = root.names().map(|name| name.to_string());
        Self {
            active: names.next().unwrap_or_default(),
            others: names.collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.active == name || self.others.iter().any(|other| other == name)
    }
}

/// Why a broker may not begin to write under its active root key.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RootKeyError {
    /// The store failed, or is under another key.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// Another broker could not read what this one writes.
    #[error(
        "broker {broker} does not have the root key {key}: name its file in \
         keys.other_root_key_files of that broker, and restart it, before any broker makes it \
         the active one"
    )]
    New {
        /// The other broker.
        broker: String,
        /// The active key of this one.
        key: String,
    },
    /// This broker could not read what another one writes.
    #[error(
        "broker {broker} writes under the root key {key}, which this broker does not have: name \
         its file in keys.other_root_key_files"
    )]
    Unknown {
        /// The other broker.
        broker: String,
        /// The active key of that broker.
        key: String,
    },
}

/// Refuses to let a broker begin that could not read what another one writes, or that another one
/// could not read. A broker of a version that tells no keys has one: that under which the agreement
/// is.
pub(crate) async fn require_known_keys(
    store: &dyn Store,
    root: &RootKey,
) -> Result<(), RootKeyError> {
    let own = RootKeyNames::of(root);
    let agreed = read_by(store, root).await?;
    let former = agreed.map_or_else(|| own.active.clone(), |(_, key)| key.to_string());
    let reports = about_all(store).await.map_err(AgreementError::from)?;
    let mut lacking = None;
    for (broker, about) in reports {
        let keys = about.and_then(|about| about.root_keys);
        let keys = keys.unwrap_or_else(|| RootKeyNames {
            active: former.clone(),
            others: Vec::new(),
        });
        if !own.has(&keys.active) {
            let key = keys.active;
            return Err(RootKeyError::Unknown { broker, key });
        }
        if !keys.has(&own.active) {
            let key = own.active.clone();
            lacking = Some(RootKeyError::New { broker, key });
        }
    }
    lacking.map_or(Ok(()), Err)
}

impl RevocationLog {
    /// Looks at what root keys the other brokers have. P7: a broker that could not read what another
    /// one writes answers nothing, until it has that key or the other one is gone. Two that start
    /// at the same moment see each other only here.
    pub(crate) async fn look_at_root_keys(&self) -> Result<(), StoreError> {
        let looked = require_known_keys(self.store.as_ref(), &self.root).await;
        let problem = match looked {
            Ok(()) => None,
            Err(
                error @ (RootKeyError::Unknown { .. }
                | RootKeyError::Agreement(AgreementError::RootKey)),
            ) => Some(error.to_string()),
            Err(RootKeyError::Agreement(error)) => return Err(error.into()),
            Err(error @ RootKeyError::New { .. }) => {
                tracing::error!(%error, "another broker answers nothing");
                None
            }
        };
        *lock(&self.unknown_root_key) = problem;
        Ok(())
    }

    /// Returns why this broker could not read what another one writes, if so.
    pub(super) fn unknown_root_key(&self) -> Option<String> {
        lock(&self.unknown_root_key).clone()
    }
}
