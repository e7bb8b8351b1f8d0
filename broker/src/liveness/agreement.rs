//! This broker's part in the agreement on bounds (L3, L6): taking it at the start, taking a later
//! one while running, putting it back where a store has an older one, and changing it.

use std::sync::Arc;
use std::time::Duration;

use sundew_core::store::{AppendAfter, Store, StoreError};
use sundew_core::{Agreement, KeyFingerprint, Position, RootKey, SharedBounds};

use super::follower::LogFollower;
use super::revocation_log::RevocationLog;
use super::root_keys::RootKeyNames;
use crate::clock;

/// The place under which the agreement is tagged.
const PLACE: &[u8] = b"agreement";
/// Why a broker cannot take the agreement of its store, or change it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AgreementError {
    /// The agreement goes further than this broker's file allows.
    #[error("{0}: change the file, or the agreement with `sundew bounds set`")]
    Beyond(String),
    /// The agreement was changed by somebody else at the same time.
    #[error("the agreement was changed at the same time: look at `sundew bounds show`")]
    Raced,
    /// The agreement is under none of this broker's root keys.
    #[error(
        "the store is under another root key: the agreement of its brokers opens neither under \
         keys.root_key_file nor under keys.other_root_key_files, or it was altered"
    )]
    RootKey,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AgreementError {
    /// Returns an error that names everything in which the agreement goes beyond a broker's file,
    /// if there is anything.
    fn beyond(agreement: &Agreement, allowed: &SharedBounds) -> Option<Self> {
        let beyond = agreement.beyond(allowed);
        let texts: Vec<_> = beyond.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| Self::Beyond(texts.join("; ")))
    }
}

/// Reads the agreement of a store. An agreement that was edited, or made under another root key, is
/// an error.
async fn read(store: &dyn Store, root: &RootKey) -> Result<Option<Agreement>, AgreementError> {
    let read = read_by(store, root).await?;
    Ok(read.map(|(agreement, _)| agreement))
}

/// Reads the agreement like [`read`], and which root key it is under.
pub(super) async fn read_by(
    store: &dyn Store,
    root: &RootKey,
) -> Result<Option<(Agreement, KeyFingerprint)>, AgreementError> {
    let Some(bytes) = store.agreement().await? else {
        return Ok(None);
    };
    let opened = root.untag_by(&[PLACE], &bytes);
    let (record, key) = opened.map_err(|_| AgreementError::RootKey)?;
    let agreement = Agreement::decode(record)
        .map_err(|error| StoreError::Misconfigured(format!("agreement on bounds: {error}")))?;
    Ok(Some((agreement, key)))
}

/// Returns the conditions of an append above `floor`, for a command that works on a store itself.
pub(crate) async fn append_after(
    store: &dyn Store,
    root: &RootKey,
    floor: Position,
) -> Result<AppendAfter, StoreError> {
    let agreement = read(store, root).await?.map_or(0, |agreed| agreed.version);
    Ok(AppendAfter { agreement, floor })
}

/// Writes an agreement in the place of the one of version `expected`.
pub(super) async fn write(
    store: &dyn Store,
    root: &RootKey,
    expected: u64,
    agreement: &Agreement,
) -> Result<bool, StoreError> {
    let bytes = root.tag(&[PLACE], agreement.encode());
    store
        .replace_agreement(expected, agreement.version, &bytes)
        .await
}

/// Returns the agreement of a store, for a broker that starts and whose file allows these bounds.
/// A store without an agreement gets what the file has. A broker that has the store to itself
/// (`alone`) makes what its file has the agreement.
///
/// # Errors
///
/// [`AgreementError::Beyond`] if the agreement goes further than the file allows; an error of the
/// store.
pub(crate) async fn agree(
    store: &dyn Store,
    root: &RootKey,
    allowed: &SharedBounds,
    alone: bool,
) -> Result<Agreement, AgreementError> {
    loop {
        let Some(agreed) = read(store, root).await? else {
            let first = Agreement::first(*allowed);
            write(store, root, 0, &first).await?;
            // Of brokers that start together, one is the first.
            continue;
        };
        if alone && agreed.bounds != *allowed {
            let changed = agreed.changed(*allowed, clock::now_ms());
            write(store, root, agreed.version, &changed).await?;
            continue;
        }
        return match AgreementError::beyond(&agreed, allowed) {
            Some(beyond) => Err(beyond),
            None => Ok(agreed),
        };
    }
}

impl From<AgreementError> for StoreError {
    fn from(error: AgreementError) -> Self {
        match error {
            AgreementError::Store(error) => error,
            AgreementError::RootKey => Self::Corrupt(error.to_string()),
            AgreementError::Beyond(_) | AgreementError::Raced => {
                Self::Misconfigured(error.to_string())
            }
        }
    }
}

impl RevocationLog {
    /// Returns the agreement that this broker has taken.
    pub(crate) fn agreement(&self) -> Arc<Agreement> {
        self.agreement.load_full()
    }

    /// Returns how long a view is fresh after it was renewed.
    pub(super) fn freshness(&self) -> Duration {
        self.agreement.load().bounds.freshness.to_std()
    }

    /// L6: returns how long a view of any broker may be fresh by the agreement that this broker has
    /// taken: longer than its own, for a time after a shorter bound was agreed on.
    pub(crate) fn longest_freshness(&self) -> Duration {
        let agreement = self.agreement.load();
        agreement
            .longest_freshness(self.forgetting_time_ms())
            .to_std()
    }

    /// Returns the time until which a rule of this moment must stand if its targets may not be
    /// known, in milliseconds since the epoch. No task that the rule could cover lives longer.
    pub(crate) fn rule_stands_until_ms(&self) -> i64 {
        let agreement = self.agreement.load();
        agreement.rule_stands_until_ms(&self.allowed, clock::now_ms())
    }

    /// Returns why this broker may not answer under the agreement that it has taken, if so.
    pub(super) fn beyond(&self) -> Option<AgreementError> {
        AgreementError::beyond(&self.agreement.load(), &self.allowed)
    }

    /// Returns what each broker on the list says of itself, if it is of a version that does, by the
    /// name of the broker.
    pub(crate) async fn about_all(&self) -> Result<Vec<(String, Option<About>)>, StoreError> {
        about_all(self.store.as_ref()).await
    }

    /// Makes these bounds the agreement of all brokers, in the place of the version that this
    /// broker has taken, and returns the new agreement. Brokers take it with their next heartbeat.
    ///
    /// # Errors
    ///
    /// [`AgreementError::Beyond`] if the file of this broker does not allow the bounds;
    /// [`AgreementError::Raced`] if somebody else changed the agreement; an error of the store.
    pub(crate) async fn change_agreement(
        &self,
        bounds: SharedBounds,
    ) -> Result<Agreement, AgreementError> {
        let before = self.agreement();
        let changed = before.changed(bounds, clock::now_ms());
        if let Some(beyond) = AgreementError::beyond(&changed, &self.allowed) {
            return Err(beyond);
        }
        let expected = before.version;
        if write(self.store.as_ref(), &self.root, expected, &changed).await? {
            Ok(changed)
        } else {
            Err(AgreementError::Raced)
        }
    }

    /// Returns what this broker says of itself, for `sundew bounds show`.
    pub(crate) fn about(&self) -> String {
        let about = About {
            allowed: self.allowed,
            root_keys: Some(RootKeyNames::of(&self.root)),
            version: self.agreement.load().version,
        };
        serde_json::to_string(&about).unwrap_or_default()
    }
}

/// What a broker says of itself.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct About {
    /// The bounds that the broker's file allows.
    pub(crate) allowed: SharedBounds,
    /// The root keys that the broker has; `None` of a version that tells none.
    #[serde(default)]
    pub(crate) root_keys: Option<RootKeyNames>,
    /// The version of the agreement that the broker has taken.
    pub(crate) version: u64,
}

/// Returns what [`RevocationLog::about_all`] does, of the brokers of a store.
pub(super) async fn about_all(
    store: &dyn Store,
) -> Result<Vec<(String, Option<About>)>, StoreError> {
    let about = |(broker, text): (String, String)| (broker, serde_json::from_str(&text).ok());
    let reports = store.reports().await?;
    Ok(reports.into_iter().map(about).collect())
}

impl LogFollower {
    /// Settles a difference between the agreement that this broker has taken and the one that the
    /// store has, of version `stored`. A later one is taken. An older one, or none, is replaced by
    /// this broker's: the store has lost it, or somebody has put old bytes back.
    pub(super) async fn settle_agreement(&self, stored: u64) -> Result<(), StoreError> {
        let log = &self.log;
        let known = log.agreement();
        if stored < known.version {
            tracing::error!(
                stored,
                known = known.version,
                "the store has an older agreement on bounds; putting the known one back"
            );
            write(log.store.as_ref(), &log.root, stored, &known).await?;
            return Ok(());
        }
        let agreed = read(log.store.as_ref(), &log.root).await?;
        let agreed = agreed
            .filter(|agreed| agreed.version > known.version)
            .ok_or_else(|| {
                StoreError::Corrupt("the agreement on bounds is not what it says".to_owned())
            })?;
        tracing::info!(
            version = agreed.version,
            freshness = %agreed.bounds.freshness,
            max_clock_skew = %agreed.bounds.max_clock_skew,
            max_task_ttl = %agreed.bounds.max_task_ttl,
            replicas = agreed.bounds.replicas,
            "brokers have agreed on other bounds"
        );
        // The view was renewed under the former bound. Nothing rests on it, and nothing is begun
        // under the new one, until a heartbeat has told the new bound to all others, and everything
        // before that heartbeat was applied.
        log.change_window(|window| window.fresh_until = None);
        log.agreement.store(Arc::new(agreed));
        Ok(())
    }
}
