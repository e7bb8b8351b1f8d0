//! Connections whose handshake has not ended.
//!
//! A3: before a handshake nobody is known, so nothing can be kept for operators. Instead, the number
//! of pending connections is bounded, and when there are too many, the oldest one of the host that
//! has most of them gives way. An honest caller is done long before, and nobody waits for a silent
//! one.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::places::host;

/// The pending connections of a listener.
pub(super) struct PendingConnections {
    most: usize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    next: u64,
    count: usize,
    by_host: HashMap<IpAddr, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// A connection that is pending until this is dropped.
pub(super) struct Pending {
    all: Arc<PendingConnections>,
    host: IpAddr,
    number: u64,
    /// Resolves when the connection is to give way.
    gives_way: oneshot::Receiver<()>,
}

impl PendingConnections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; another one gives way if there are too many.
    pub(super) fn add(self: &Arc<Self>, remote: SocketAddr) -> Pending {
        let host = host(remote.ip());
        let (sender, gives_way) = oneshot::channel();
        let mut known = self.known();
        let number = known.next;
        known.next = known.next.wrapping_add(1);
        known
            .by_host
            .entry(host)
            .or_default()
            .push_back((number, sender));
        known.count = known.count.saturating_add(1);
        if known.count > self.most {
            let oldest = known
                .by_host
                .values_mut()
                .max_by_key(|of_host| of_host.len())
                .and_then(VecDeque::pop_front);
            if let Some((_, oldest)) = oldest {
                known.count = known.count.saturating_sub(1);
                let _ = oldest.send(());
            }
        }
        drop(known);
        Pending {
            all: Arc::clone(self),
            host,
            number,
            gives_way,
        }
    }
}

impl Pending {
    /// Resolves when the connection is to give way to another one.
    pub(super) async fn gives_way(&mut self) {
        if (&mut self.gives_way).await.is_err() {
            // It is not on the list any more, and nobody can ask it to.
            std::future::pending().await
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut known = self.all.known();
        let Some(of_host) = known.by_host.get_mut(&self.host) else {
            return;
        };
        let before = of_host.len();
        of_host.retain(|(number, _)| *number != self.number);
        let gone = before.saturating_sub(of_host.len());
        if of_host.is_empty() {
            known.by_host.remove(&self.host);
        }
        known.count = known.count.saturating_sub(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a3_the_oldest_of_the_host_with_most_gives_way() {
        let all = PendingConnections::new(4);
        let at = |host: u8| SocketAddr::from(([10, 0, 0, host], 1));
        let mut quiet = all.add(at(1));
        let mut loud: Vec<_> = (0..3).map(|_| all.add(at(2))).collect();
        let _third = all.add(at(3));
        loud[0].gives_way().await;
        let now = std::time::Duration::ZERO;
        assert!(
            tokio::time::timeout(now, quiet.gives_way()).await.is_err()
                && tokio::time::timeout(now, loud[1].gives_way())
                    .await
                    .is_err()
        );
        drop((quiet, loud, _third));
        assert_eq!(all.known().count, 0);
        assert!(all.known().by_host.is_empty());
    }
}
