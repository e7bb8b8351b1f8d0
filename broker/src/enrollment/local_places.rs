//! The connections of a Workload API's socket: how many there are in all, and of one user.
//!
//! A7: one user of the machine does not take the places, or the file descriptors, of others. A few
//! users do not take them all either: the fewer places are left, the fewer one user may have.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};

use super::local_process::LocalConnection;
use super::sender::tell_senders;

/// Pause after the operating system gave no connection.
const RETRY_ACCEPT_AFTER: Duration = Duration::from_millis(50);

/// Limits on the connections of local processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalLimits {
    /// Most connections.
    pub connections: usize,
    /// Most connections of one user, who gets another one only as long as he has less than half of
    /// what is left.
    pub per_uid: usize,
}

impl Default for LocalLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            per_uid: 128,
        }
    }
}

/// The connections that are open, by user.
#[derive(Clone, Default)]
struct LocalPlaces(Arc<Mutex<HashMap<u32, OfOne>>>);

/// The connections of one user.
struct OfOne {
    count: usize,
    /// A8: files are read for one connection at a time.
    reading: Arc<Semaphore>,
}

/// The place of one connection, until it is dropped.
pub(super) struct LocalPlace {
    places: LocalPlaces,
    uid: u32,
    reading: Arc<Semaphore>,
}

impl LocalPlaces {
    fn taken(&self) -> MutexGuard<'_, HashMap<u32, OfOne>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, limits: LocalLimits, uid: u32) -> Option<LocalPlace> {
        let mut taken = self.taken();
        let counts = taken.values().map(|one| one.count);
        let all = counts.fold(0, usize::saturating_add);
        let own = taken.get(&uid).map_or(0, |one| one.count);
        let left = limits.connections.saturating_sub(all);
        if own >= limits.per_uid.min(left.div_ceil(2)) {
            return None;
        }
        let own = taken.entry(uid).or_insert_with(|| OfOne {
            count: 0,
            reading: Arc::new(Semaphore::new(1)),
        });
        own.count = own.count.saturating_add(1);
        Some(LocalPlace {
            places: self.clone(),
            uid,
            reading: Arc::clone(&own.reading),
        })
    }
}

impl LocalPlace {
    /// The place at which files are read for the user.
    pub(super) fn reading(&self) -> Arc<Semaphore> {
        Arc::clone(&self.reading)
    }
}

impl Drop for LocalPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.uid) {
            own.count = own.count.saturating_sub(1);
            if own.count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// Accepts until `connections` is dropped, within the default limits.
pub async fn accept(
    listener: UnixListener,
    connections: mpsc::Sender<io::Result<LocalConnection>>,
) {
    accept_within(LocalLimits::default(), listener, connections).await;
}

/// Accepts until `connections` is dropped.
pub async fn accept_within(
    limits: LocalLimits,
    listener: UnixListener,
    connections: mpsc::Sender<io::Result<LocalConnection>>,
) {
    // Kernels that hand this down to connections tell also who sent their first piece.
    if let Err(error) = tell_senders(&listener) {
        tracing::warn!(%error, "local socket: its senders are not told");
    }
    let places = LocalPlaces::default();
    let mut was_full = false;
    loop {
        let accepted = tokio::select! {
            () = connections.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let mut connection = match accepted.and_then(|(stream, _)| LocalConnection::new(stream)) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "local socket: accept failed");
                tokio::time::sleep(RETRY_ACCEPT_AFTER).await;
                continue;
            }
        };
        let uid = connection.process().uid();
        let place = places.take(limits, uid);
        // One line for each time that it gets full: whoever fills it does not fill the log.
        if place.is_none() && !was_full {
            tracing::warn!(uid, "local socket: too many connections");
        }
        was_full = place.is_none();
        if let Some(place) = place {
            connection.hold(place);
            drop(connections.send(Ok(connection)).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a7_one_user_leaves_places_for_others() {
        let places = LocalPlaces::default();
        let limits = LocalLimits {
            connections: 9,
            per_uid: 3,
        };
        let mut held: Vec<_> = (0..4).filter_map(|_| places.take(limits, 1)).collect();
        assert_eq!(held.len(), 3);
        for uid in 2..=7 {
            held.extend((0..4).filter_map(|_| places.take(limits, uid)));
        }
        assert_eq!(held.len(), 9);
        drop(held);
        assert!(places.taken().is_empty());
    }

    /// Nobody knows the four: they have no identity here.
    #[test]
    fn a7_four_users_leave_places_for_others() {
        let places = LocalPlaces::default();
        let limits = LocalLimits::default();
        let mut held = Vec::new();
        let mut counts = Vec::new();
        for uid in 1..=4 {
            let before = held.len();
            held.extend((0..200).filter_map(|_| places.take(limits, uid)));
            counts.push(held.len() - before);
        }
        assert_eq!(counts, [128, 128, 86, 57]);
        let again = (1..=4).filter_map(|uid| places.take(limits, uid));
        assert_eq!(again.count(), 0, "what is left is for others");
        let others: Vec<_> = (5..12).map(|uid| places.take(limits, uid)).collect();
        assert!(others.iter().all(Option::is_some));
    }
}
