//! The SPIFFE Workload API on a Unix socket: X.509 profile, for local processes that the kernel vouches for.
//!
//! P1: an identity is issued to a process whose uid, gid, executable or its digest a registration names. Served by a broker with an embedded
//! CA, and by a node for what is delegated to it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::LocalSelector;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use sundew_proto::spiffe::{X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::local_process::LocalProcess;

/// How often a stream looks whether what it serves has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most SVIDs remembered.
const MAX_ISSUED: usize = 4096;

/// What a local process may get.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The identity.
    pub id: SpiffeId,
    /// The processes that may get it.
    pub local: Vec<LocalSelector>,
}

/// The bundles of a moment.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    /// Another one for other bundles.
    pub generation: u64,
    /// Concatenated DER of the roots, by trust domain as `spiffe://<name>`.
    pub by_domain: HashMap<String, Vec<u8>>,
}

/// What [`Identities`] answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

/// Where identities come from: the broker's own CA, or a broker that delegates to this node.
pub trait Identities: Send + Sync + 'static {
    /// The identities that are given out here.
    fn candidates(&self) -> Answer<'_, Vec<Candidate>>;
    /// A new SVID with its key, and when it ends, in milliseconds since the epoch.
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> Answer<'a, (X509svid, i64)>;
    /// The bundles of now.
    fn bundles(&self) -> Bundles;
    /// Puts on the record that a process got none.
    fn refused(&self, process: &LocalProcess);
}

/// The service.
pub struct WorkloadApi<I> {
    identities: Arc<I>,
    issued: Arc<Mutex<HashMap<Holder, Issued>>>,
}

impl<I> Clone for WorkloadApi<I> {
    fn clone(&self) -> Self {
        Self { identities: Arc::clone(&self.identities), issued: Arc::clone(&self.issued) }
    }
}

/// A process, and one of its identities.
type Holder = (u32, String, SpiffeId);

/// What a process has. It gets the same again when it asks again, as clients do that open several streams.
#[derive(Clone)]
struct Issued {
    svid: X509svid,
    renew_at_ms: i64,
    generation: u64,
}

type Svids = BTreeMap<SpiffeId, X509svid>;

/// The process that calls. SPIFFE Workload Endpoint, section 4.1: without its header the call may come from a confused deputy.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<LocalProcess>, Status> {
    if request.metadata().get("workload.spiffe.io").map(tonic::metadata::MetadataValue::as_bytes) != Some(b"true") {
        return Err(Status::invalid_argument("security header missing from request"));
    }
    request.extensions().get::<Arc<LocalProcess>>().cloned().ok_or_else(|| Status::unavailable("no peer"))
}

impl<I: Identities> WorkloadApi<I> {
    /// Serves these.
    pub fn new(identities: Arc<I>) -> Self {
        Self { identities, issued: Arc::default() }
    }

    /// The IDs that match the process.
    async fn matching(&self, process: &Arc<LocalProcess>) -> Result<Vec<SpiffeId>, Status> {
        let candidates = self.identities.candidates().await?;
        let want_digest = candidates.iter().any(|c| c.local.iter().any(|s| s.exe_sha256.is_some()));
        let looked_at = Arc::clone(process);
        let facts = tokio::task::spawn_blocking(move || looked_at.facts(want_digest)).await.unwrap_or_default();
        let matching = candidates.into_iter().filter(|c| c.local.iter().any(|s| process.matches(s, &facts)));
        Ok(matching.map(|c| c.id).collect())
    }

    /// What the process has for this identity, or a new SVID; with the time to renew it, half of its life.
    async fn svid_for(&self, process: &LocalProcess, id: &SpiffeId, generation: u64) -> Result<Issued, Status> {
        let holder = process.name().map(|(pid, started)| (pid, started, id.clone()));
        let now_ms = clock::now_ms();
        let known = |issued: &HashMap<Holder, Issued>| issued.get(holder.as_ref()?).filter(|i| now_ms < i.renew_at_ms && i.generation == generation).cloned();
        if let Some(issued) = known(&self.lock()) {
            return Ok(issued);
        }
        let (svid, not_after_ms) = self.identities.issue(id).await?;
        // Half of its life: there is time to come back if renewal fails.
        let fresh = Issued { svid, renew_at_ms: now_ms.saturating_add(not_after_ms.saturating_sub(now_ms) / 2), generation };
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

    async fn serve_svids(self, process: Arc<LocalProcess>, answers: mpsc::Sender<Result<X509svidResponse, Status>>) -> Result<(), Status> {
        let (mut svids, mut renew_at_ms, mut generation) = (Svids::new(), 0, 0);
        loop {
            let ids = self.matching(&process).await?;
            if ids.is_empty() {
                self.identities.refused(&process);
                return Err(Status::permission_denied("no identity issued"));
            }
            let bundles = self.identities.bundles();
            let trust = bundles.generation;
            let stale = clock::now_ms() >= renew_at_ms || trust != generation || !svids.keys().eq(ids.iter());
            if stale {
                svids.clear();
                renew_at_ms = i64::MAX;
                for id in ids {
                    let issued = self.svid_for(&process, &id, trust).await?;
                    renew_at_ms = renew_at_ms.min(issued.renew_at_ms);
                    svids.insert(id, issued.svid);
                }
                generation = trust;
                let own: Vec<_> = svids.keys().map(|id| id.trust_domain().id()).collect();
                let federated_bundles = bundles.by_domain.into_iter().filter(|(domain, _)| !own.contains(domain)).collect();
                let response = X509svidResponse { svids: svids.values().cloned().collect(), crl: Vec::new(), federated_bundles };
                if answers.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = answers.closed() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !process.lives() {
                return Ok(());
            }
        }
    }

    async fn serve_bundles(self, process: Arc<LocalProcess>, answers: mpsc::Sender<Result<X509BundlesResponse, Status>>) {
        let mut generation = None;
        while process.lives() {
            let current = self.identities.bundles();
            if generation != Some(current.generation) {
                generation = Some(current.generation);
                let bundles = current.by_domain.into_iter().collect();
                if answers.send(Ok(X509BundlesResponse { crl: Vec::new(), bundles })).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = answers.closed() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

#[tonic::async_trait]
impl<I: Identities> SpiffeWorkloadApi for WorkloadApi<I> {
    type FetchX509SVIDStream = ReceiverStream<Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = ReceiverStream<Result<X509BundlesResponse, Status>>;

    async fn fetch_x509svid(&self, request: Request<X509svidRequest>) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let process = caller(&request)?;
        let (answers, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(status) = service.serve_svids(process, answers.clone()).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_x509_bundles(&self, request: Request<X509BundlesRequest>) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let process = caller(&request)?;
        // Bundles go to those who get an identity, as the specification has it.
        if self.matching(&process).await?.is_empty() {
            return Err(Status::permission_denied("no identity issued"));
        }
        let (answers, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().serve_bundles(process, answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
