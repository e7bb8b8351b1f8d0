//! The places of connections whose handshake has succeeded: how many there are in all, of one
//! workload, and from one remote host.
//!
//! A3: nobody takes the places of others, and some places are only for operators.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sundew_attestation::spiffe::SpiffeId;

use super::accept::ListenerLimits;

/// The limit that a connection would be over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The listener has as many connections as it may have.
    #[error("too many connections")]
    All,
    /// The remote host has as many connections as it may have.
    #[error("too many connections of this remote host")]
    Remote,
    /// The workload has as many connections as it may have.
    #[error("too many connections of this workload")]
    Workload,
}

/// The connections of a listener that are open.
pub(super) struct Places {
    limits: ListenerLimits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    others_than_operators: usize,
    by_remote: HashMap<IpAddr, usize>,
    by_workload: HashMap<SpiffeId, usize>,
}

/// The place of one connection, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    is_operator: bool,
    remote: IpAddr,
    workload: Option<SpiffeId>,
}

impl Places {
    pub(super) fn new(limits: ListenerLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            taken: Mutex::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection of this workload, or of nobody who is known. The limit of
    /// remote hosts is not held against operators: who shares their address must not lock them out.
    pub(super) fn take(
        self: &Arc<Self>,
        remote: SocketAddr,
        workload: Option<&SpiffeId>,
        is_operator: bool,
    ) -> Result<Place, PlaceError> {
        let limits = &self.limits;
        let remote = host(remote.ip());
        let mut taken = self.taken();
        let for_others = limits.connections.saturating_sub(limits.for_operators);
        if taken.all >= limits.connections
            || !is_operator && taken.others_than_operators >= for_others
        {
            return Err(PlaceError::All);
        }
        let of_workload = workload.and_then(|id| taken.by_workload.get(id));
        if of_workload.is_some_and(|count| *count >= limits.per_workload) {
            return Err(PlaceError::Workload);
        }
        let from_remote = taken.by_remote.get(&remote);
        if !is_operator && from_remote.is_some_and(|count| *count >= limits.per_remote) {
            return Err(PlaceError::Remote);
        }
        taken.all = taken.all.saturating_add(1);
        if !is_operator {
            taken.others_than_operators = taken.others_than_operators.saturating_add(1);
            add(&mut taken.by_remote, remote);
        }
        if let Some(id) = workload {
            add(&mut taken.by_workload, id.clone());
        }
        Ok(Place {
            places: Arc::clone(self),
            is_operator,
            remote,
            workload: workload.cloned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if !self.is_operator {
            taken.others_than_operators = taken.others_than_operators.saturating_sub(1);
            subtract(&mut taken.by_remote, &self.remote);
        }
        if let Some(id) = &self.workload {
            subtract(&mut taken.by_workload, id);
        }
    }
}

/// A remote host: of IPv6, the network that one host usually has.
pub(super) fn host(remote: IpAddr) -> IpAddr {
    match remote.to_canonical() {
        IpAddr::V6(remote) => {
            let [a, b, c, d, ..] = remote.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        remote @ IpAddr::V4(_) => remote,
    }
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(1);
}

fn subtract<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Arc<Places> {
        Places::new(ListenerLimits {
            connections: 10,
            for_operators: 2,
            handshakes: 1,
            pending: 1,
            per_remote: 6,
            per_workload: 4,
        })
    }

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap()
    }

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 1))
    }

    #[test]
    fn a3_one_workload_and_one_host_leave_places_for_others_and_all_leave_some_for_operators() {
        let places = places();
        let take = |host, path, operator| places.take(at(host), Some(&id(path)), operator);
        let mut held: Vec<_> = (0..4).map(|_| take(1, "loud", false).unwrap()).collect();
        assert_eq!(take(2, "loud", false).err(), Some(PlaceError::Workload));
        held.extend((0..2).map(|_| take(1, "b", false).unwrap()));
        assert_eq!(take(1, "c", false).err(), Some(PlaceError::Remote));
        held.push(take(1, "operator", true).unwrap());
        held.extend((0..2).map(|_| take(2, "c", false).unwrap()));
        assert_eq!(take(3, "d", false).err(), Some(PlaceError::All));
        held.push(take(3, "operator", true).unwrap());
        assert_eq!(take(3, "operator", true).err(), Some(PlaceError::All));
        // Places come back.
        held.clear();
        let taken = places.taken();
        assert_eq!((taken.all, taken.others_than_operators), (0, 0));
        assert!(taken.by_remote.is_empty() && taken.by_workload.is_empty());
    }
}
