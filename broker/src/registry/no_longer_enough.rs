//! Registrations of a time when less was enough (I2): what they pin nothing with holds for nobody,
//! and operators hear of them by name.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sundew_core::WorkloadRecord;
use sundew_core::store::DocumentKind;

use super::Registry;
use crate::refusal::Refusal;

/// Most registrations that health names one by one.
const MOST_NAMED: usize = 20;

/// What is no longer enough, by the name of the registration.
#[derive(Default)]
pub(super) struct NoLongerEnough(Mutex<BTreeMap<String, String>>);

impl NoLongerEnough {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a registration that was applied or deleted.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }
}

impl Registry {
    /// Looks at every registration, and logs those that were not known to be affected.
    pub(crate) async fn look_for_no_longer_enough(&self) -> Result<(), Refusal> {
        let trust = self.evidence.trusted().await?;
        let records = &self.ledger.records;
        let mut found = BTreeMap::new();
        for (name, document) in records.readable_documents(DocumentKind::Workload).await? {
            let registration = document.decode(WorkloadRecord::decode)?.registration;
            let why = registration.no_longer_enough(&trust).join("; ");
            if !why.is_empty() {
                found.insert(name, why);
            }
        }
        let mut known = self.no_longer_enough.lock();
        for (name, why) in &found {
            if known.get(name) != Some(why) {
                tracing::warn!(
                    workload = name,
                    why,
                    "a part of this registration holds for nobody"
                );
            }
        }
        *known = found;
        Ok(())
    }

    /// Returns the registrations of which a part holds for nobody, for operators, one line each.
    pub(crate) fn problems_of_registrations(&self) -> Vec<String> {
        let known = self.no_longer_enough.lock();
        let line = |(name, why): (&String, &String)| format!("registration {name}: {why}");
        let mut lines: Vec<_> = known.iter().take(MOST_NAMED).map(line).collect();
        let more = known.len().saturating_sub(MOST_NAMED);
        if more > 0 {
            lines.push(format!(
                "{more} more registrations of which a part holds for nobody"
            ));
        }
        lines
    }
}
