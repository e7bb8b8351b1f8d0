//! Limits that are the same for every workload: how often each one may call, and how many of its
//! calls may be open (P12).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use governor::{DefaultDirectRateLimiter, Quota};
use sundew_attestation::spiffe::SpiffeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits on calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
    /// Bytes of messages that are not whole yet, of all callers.
    pub unfinished_bytes: usize,
    /// Tokens of one task at a time (A2).
    pub tokens_per_task: u32,
}

impl CallLimits {
    /// What one workload may have of [`unfinished_bytes`](Self::unfinished_bytes), and each sort of
    /// caller at least.
    fn part_of_unfinished(&self) -> usize {
        self.unfinished_bytes / 4
    }
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

/// Bytes that may be held at a time.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    held: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
        })
    }

    pub(crate) fn take(&self, bytes: usize) -> bool {
        let more = |held: usize| Some(held.saturating_add(bytes)).filter(|sum| *sum <= self.limit);
        let (taken, seen) = (Ordering::AcqRel, Ordering::Acquire);
        self.held.fetch_update(taken, seen, more).is_ok()
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The bytes of messages that are not whole yet, by who may take them: nobody takes an operator's.
pub(crate) struct Unfinished {
    pub(crate) of_anonymous: Arc<Budget>,
    pub(crate) of_operators: Arc<Budget>,
    pub(crate) of_workloads: Arc<Budget>,
}

impl Unfinished {
    pub(crate) fn new(limits: &CallLimits) -> Self {
        let part = limits.part_of_unfinished();
        Self {
            of_anonymous: Budget::new(part),
            of_operators: Budget::new(part),
            of_workloads: Budget::new(part.saturating_mul(2)),
        }
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
    /// The workload's part of [`Unfinished`].
    pub(crate) unfinished: Arc<Budget>,
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
    /// What one workload may have of unfinished messages, in bytes.
    unfinished: usize,
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
            unfinished: limits.part_of_unfinished(),
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
                unfinished: Budget::new(self.unfinished),
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
