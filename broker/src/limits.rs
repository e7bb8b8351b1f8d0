//! Limits that are the same for every workload, and the rate at which each one may call (P12).

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

/// P12: one limiter for each workload, whatever number of connections it has. A connection looks
/// its limiter up once.
pub(crate) struct Limiters {
    quota: Quota,
    known: Mutex<HashMap<SpiffeId, Arc<DefaultDirectRateLimiter>>>,
}

impl Limiters {
    /// Limiters of the configured rate, with bursts of twice as many calls.
    pub(crate) fn new(limits: &CallLimits) -> Self {
        let burst =
            NonZeroU32::saturating_mul(limits.calls_per_second, NonZeroU32::MIN.saturating_add(1));
        Self {
            quota: Quota::per_second(limits.calls_per_second).allow_burst(burst),
            known: Mutex::default(),
        }
    }

    /// The limiter of a workload; a new one has a full bucket.
    pub(crate) fn of(&self, id: &SpiffeId) -> Arc<DefaultDirectRateLimiter> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            known
                .entry(id.clone())
                .or_insert_with(|| Arc::new(DefaultDirectRateLimiter::direct(self.quota))),
        )
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
