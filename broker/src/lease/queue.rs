//! Who waits for a target (A4).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sundew_attestation::spiffe::SpiffeId;

/// The most calls that wait for one target at a time.
const MOST: usize = 256;
/// The most of them that are of one workload.
const MOST_OF_ONE: usize = 64;

/// The calls that wait for one target. A target that does not answer holds up these calls and no
/// others, and no workload takes all of the places.
#[derive(Default)]
pub(super) struct TargetQueue {
    /// The number of calls of each workload that has any.
    waiting: Mutex<HashMap<SpiffeId, usize>>,
}

/// A place among the calls that wait for a target. It is free again when this is dropped.
pub(super) struct TargetPlace {
    queue: Arc<TargetQueue>,
    workload: SpiffeId,
}

impl TargetQueue {
    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a call of a workload. Returns `None` if the workload or the target has none
    /// left.
    pub(super) fn take(self: &Arc<Self>, workload: &SpiffeId) -> Option<TargetPlace> {
        let mut waiting = self.lock();
        let of_workload = waiting.get(workload).copied().unwrap_or(0);
        if of_workload >= MOST_OF_ONE || waiting.values().sum::<usize>() >= MOST {
            return None;
        }
        waiting.insert(workload.clone(), of_workload.saturating_add(1));
        Some(TargetPlace {
            queue: Arc::clone(self),
            workload: workload.clone(),
        })
    }
}

impl Drop for TargetPlace {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        if let Some(count) = waiting.get_mut(&self.workload) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                waiting.remove(&self.workload);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_no_workload_takes_all_places_of_a_target_and_none_is_lost() {
        let queue: Arc<TargetQueue> = Arc::default();
        let workload = |n: usize| SpiffeId::parse(&format!("spiffe://test.example/{n}")).unwrap();
        let take = |n| queue.take(&workload(n));
        let mut places: Vec<_> = (0..MOST_OF_ONE).map(|_| take(0).unwrap()).collect();
        assert!(take(0).is_none());
        for n in 1..MOST / MOST_OF_ONE {
            places.extend((0..MOST_OF_ONE).map(|_| take(n).unwrap()));
        }
        assert!(take(9).is_none());
        places.pop();
        drop(take(9).unwrap());
        places.clear();
        assert!(queue.lock().is_empty());
    }
}
