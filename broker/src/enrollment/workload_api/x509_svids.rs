//! The X.509 profile: SVIDs that are renewed as long as their process lives, and streams of
//! bundles.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use sundew_proto::spiffe::{X509svid, X509svidResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Bundles, Identities, WorkloadApi};
use crate::clock;
use crate::enrollment::local_process::LocalProcess;

/// How often a stream looks whether what it serves has changed.
const CHANGE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Most SVIDs remembered.
const MAX_ISSUED: usize = 4096;

/// A process by its ID and start, and one of its identities.
pub(super) type Holder = (u32, String, SpiffeId);

/// An SVID that a process has. The process gets the same SVID when it asks again, as clients do
/// that open several streams.
#[derive(Clone)]
pub(super) struct Issued {
    svid: X509svid,
    /// In milliseconds since the epoch.
    renew_at_ms: i64,
    /// When the registration was applied, in milliseconds since the epoch.
    applied_at_ms: i64,
    generation: u64,
}

type Svids = BTreeMap<SpiffeId, X509svid>;

impl<I: Identities> WorkloadApi<I> {
    /// Answers the SVID that the process has for this identity, or a new one; with the time to
    /// renew it, half of its life. E9: one from before the registration was applied may have ended.
    async fn svid_for(
        &self,
        process: &LocalProcess,
        (id, applied_at_ms): (&SpiffeId, i64),
        generation: u64,
    ) -> Result<Issued, Status> {
        let holder = process
            .name()
            .map(|(pid, started)| (pid, started, id.clone()));
        let now_ms = clock::now_ms();
        let known = |issued: &HashMap<Holder, Issued>| {
            issued
                .get(holder.as_ref()?)
                .filter(|i| now_ms < i.renew_at_ms && i.generation == generation)
                .filter(|i| i.applied_at_ms == applied_at_ms)
                .cloned()
        };
        if let Some(issued) = known(&self.lock()) {
            return Ok(issued);
        }
        let (svid, not_after_ms) = self.identities.issue(id).await?;
        // Half of its life: there is time to come back if renewal fails.
        let fresh = Issued {
            svid,
            renew_at_ms: now_ms.saturating_add(not_after_ms.saturating_sub(now_ms) / 2),
            applied_at_ms,
            generation,
        };
        if let Some(holder) = holder {
            let mut issued = self.lock();
            issued.retain(|_, i| now_ms < i.renew_at_ms);
            if issued.len() < MAX_ISSUED {
                issued.insert(holder, fresh.clone());
            }
        }
        Ok(fresh)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Issued>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The SVIDs of a process, now and whenever they change; the last answer may be why there are none.
    pub(super) fn svids(
        &self,
        rpc: &'static str,
        process: Arc<LocalProcess>,
    ) -> mpsc::Receiver<Result<X509svidResponse, Status>> {
        let (answers, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            let served = service.serve_svids(rpc, process, answers.clone());
            if let Err(status) = served.await {
                let _ = answers.send(Err(status)).await;
            }
        });
        receiver
    }

    /// Sends the SVIDs of a process, and sends them anew when one is to be renewed or when
    /// identities or bundles changed, until the process or its stream ends.
    async fn serve_svids(
        self,
        rpc: &'static str,
        process: Arc<LocalProcess>,
        answers: mpsc::Sender<Result<X509svidResponse, Status>>,
    ) -> Result<(), Status> {
        let (mut svids, mut renew_at_ms, mut generation) = (Svids::new(), 0, 0);
        let mut served = Vec::new();
        loop {
            let ids = self.matching(rpc, &process).await?;
            let bundles = self.identities.bundles();
            let trust = bundles.generation;
            let stale = clock::now_ms() >= renew_at_ms || trust != generation || served != ids;
            // A response replaces all SVIDs of the process, so all are sent when one is stale.
            if stale {
                svids.clear();
                renew_at_ms = i64::MAX;
                for (id, applied_at_ms) in &ids {
                    let issued = self.svid_for(&process, (id, *applied_at_ms), trust).await?;
                    renew_at_ms = renew_at_ms.min(issued.renew_at_ms);
                    svids.insert(id.clone(), issued.svid);
                }
                served = ids;
                generation = trust;
                let own: Vec<_> = svids.keys().map(|id| id.trust_domain().id()).collect();
                let federated_bundles = bundles
                    .by_domain
                    .into_iter()
                    .filter(|(domain, _)| !own.contains(domain))
                    .collect();
                let response = X509svidResponse {
                    svids: svids.values().cloned().collect(),
                    crl: Vec::new(),
                    federated_bundles,
                };
                if answers.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = answers.closed() => return Ok(()),
                () = tokio::time::sleep(CHANGE_CHECK_INTERVAL) => {}
            }
            if !process.lives() {
                return Ok(());
            }
        }
    }

    /// Sends the bundles to a process, and sends them again whenever one changes. As the
    /// specification has it, only processes that get an identity get bundles.
    pub(super) async fn stream_bundles<A: Send + 'static>(
        &self,
        rpc: &'static str,
        process: Arc<LocalProcess>,
        message: impl Fn(Bundles) -> A + Send + 'static,
    ) -> Result<Response<ReceiverStream<Result<A, Status>>>, Status> {
        self.matching(rpc, &process).await?;
        let (answers, receiver) = mpsc::channel(1);
        let identities = Arc::clone(&self.identities);
        tokio::spawn(async move {
            let mut generation = None;
            while process.lives() {
                let current = identities.bundles();
                if generation != Some(current.generation) {
                    generation = Some(current.generation);
                    if answers.send(Ok(message(current))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = answers.closed() => return,
                    () = tokio::time::sleep(CHANGE_CHECK_INTERVAL) => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
