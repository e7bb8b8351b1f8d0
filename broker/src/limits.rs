//! Limits that are the same for every workload: how often each one may call, and how many of its
//! calls may be open (P12).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use governor::{DefaultDirectRateLimiter, Quota};
use sundew_attestation::spiffe::SpiffeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits on calls.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// Calls per second and workload, with bursts of twice as many.
    pub calls_per_second: NonZeroU32,
    /// Longest instruction, in bytes.
    pub instruction_bytes: usize,
    /// Calls at a time that issue something; more are refused.
    pub issuing: usize,
    /// Open calls of one workload, streams among them; more are refused.
    pub open_calls: usize,
    /// Longest purpose, in bytes.
    pub purpose_bytes: usize,
    /// Largest secret, in bytes.
    pub secret_bytes: usize,
    /// Tokens of one task at a time (A2).
    pub tokens_per_task: u32,
}

/// P12: a place among the calls that issue something. It is held until the call has run to its end,
/// or until it waits for somebody who has a queue of his own (A4).
#[must_use]
pub(crate) struct IssuingPlace {
    _permit: OwnedSemaphorePermit,
}

impl IssuingPlace {
    /// Takes a place, if one is free.
    pub(crate) fn take(places: &Arc<Semaphore>) -> Option<Self> {
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        Some(Self { _permit: permit })
    }
}

/// Of how many places for open calls there is one more for endings.
const PLACES_FOR_AN_ENDING: usize = 16;

/// P12: what one workload may do, whatever number of connections it has.
pub(crate) struct WorkloadLimiter {
    rate: DefaultDirectRateLimiter,
    open_calls: Arc<Semaphore>,
    /// Places for what takes authority away, when the others are taken.
    endings: Arc<Semaphore>,
}

impl WorkloadLimiter {
    /// Counts another call. Says whether the workload is within its rate.
    pub(crate) fn is_within_rate(&self) -> bool {
        self.rate.check().is_ok()
    }

    /// Takes a place for a call that is open, if one is free.
    pub(crate) fn open_call(&self, is_ending: bool) -> Option<OwnedSemaphorePermit> {
        let free = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        free(&self.open_calls).or_else(|| is_ending.then(|| free(&self.endings))?)
    }
}

/// The limiter of each workload. A connection looks its limiter up once.
pub(crate) struct Limiters {
    quota: Quota,
    open_calls: usize,
    known: Mutex<HashMap<SpiffeId, Arc<WorkloadLimiter>>>,
}

impl Limiters {
    /// Limiters of the configured rate, with bursts of twice as many calls.
    pub(crate) fn new(limits: &CallLimits) -> Self {
        let burst =
            NonZeroU32::saturating_mul(limits.calls_per_second, NonZeroU32::MIN.saturating_add(1));
        Self {
            quota: Quota::per_second(limits.calls_per_second).allow_burst(burst),
            open_calls: limits.open_calls,
            known: Mutex::default(),
        }
    }

    /// The limiter of a workload; a new one has a full bucket.
    pub(crate) fn of(&self, id: &SpiffeId) -> Arc<WorkloadLimiter> {
        let new = || {
            let endings = self.open_calls.div_ceil(PLACES_FOR_AN_ENDING);
            Arc::new(WorkloadLimiter {
                rate: DefaultDirectRateLimiter::direct(self.quota),
                open_calls: Arc::new(Semaphore::new(self.open_calls)),
                endings: Arc::new(Semaphore::new(endings)),
            })
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(id.clone()).or_insert_with(new))
    }

    /// Forgets the limiters that no connection holds. A workload that comes back after that begins
    /// with a full bucket, so it gains one burst at most for each time that this runs.
    pub(crate) fn forget(&self) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, limiter| Arc::strong_count(limiter) > 1);
    }
}
