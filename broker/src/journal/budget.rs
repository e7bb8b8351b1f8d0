//! How much of the journal one workload may fill.
//!
//! A1, P12: a record of up to 64 KiB costs its caller one call. So the records by which something is
//! issued to a workload have a budget of bytes. Endings and operators' records are never counted.

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::{JournalError, Record};

/// The circumstance that names the workload of a record.
const WORKLOAD: &str = "workload";

/// The bytes of the journal that one workload may fill.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordBudget {
    /// In a minute, in bytes.
    pub per_minute: NonZeroU32,
    /// At once, by a workload that was quiet before, in bytes.
    pub burst: NonZeroU32,
}

/// The budgets of all workloads.
pub(super) struct Budgets(Option<DefaultKeyedRateLimiter<String>>);

impl Budgets {
    /// Budgets of this size; without one, nothing is counted.
    pub(super) fn new(budget: Option<RecordBudget>) -> Self {
        Self(budget.map(|RecordBudget { per_minute, burst }| {
            RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(burst))
        }))
    }

    /// Takes the bytes of a record out of the budget of the record's workload, or refuses it.
    pub(super) fn charge(&self, record: &Record, bytes: usize) -> Result<(), JournalError> {
        let (Some(budgets), Some(workload)) = (&self.0, record.field(WORKLOAD)) else {
            return Ok(());
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Some(bytes) = NonZeroU32::new(bytes) else {
            return Ok(());
        };
        match budgets.check_key_n(&workload.to_owned(), bytes) {
            Ok(Ok(())) => Ok(()),
            // The first is too much now, the second would be too much for ever.
            Ok(Err(_)) | Err(_) => Err(JournalError::Budget),
        }
    }

    /// Forgets the workloads whose budget is whole.
    pub(super) fn forget(&self) {
        if let Some(budgets) = &self.0 {
            budgets.retain_recent();
            budgets.shrink_to_fit();
        }
    }
}
