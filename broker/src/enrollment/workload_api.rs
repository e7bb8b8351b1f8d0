//! The SPIFFE Workload API on a Unix socket: X.509 and JWT profiles, for local processes that the
//! kernel vouches for.
//!
//! P1: an identity is issued to a process whose uid, gid, executable or its digest a registration
//! names. Served by a broker with an embedded CA, and by a node for what is delegated to it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use sundew_attestation::spiffe::{JwtBundle, JwtSvid, SpiffeId, TrustDomain};
use sundew_core::LocalSelector;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use sundew_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svid, X509svidRequest, X509svidResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::local_process::LocalProcess;
use crate::clock;

/// How often a stream looks whether what it serves has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// JWT-SVIDs that are made for one identity, and the burst of it.
const JWTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

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
    /// The keys that verify JWT-SVIDs, likewise.
    pub jwt: HashMap<String, Arc<JwtBundle>>,
}

/// What [`Identities`] answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

/// Where identities come from: the broker's own CA, or a broker that delegates to this node.
pub trait Identities: Send + Sync + 'static {
    /// The identities that are given out here.
    fn candidates(&self) -> Answer<'_, Vec<Candidate>>;
    /// A new SVID with its key, and when it ends, in milliseconds since the epoch.
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> Answer<'a, (X509svid, i64)>;
    /// A new JWT-SVID.
    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String]) -> Answer<'a, String>;
    /// The bundles of now.
    fn bundles(&self) -> Bundles;
    /// Puts on the record that a process got none.
    fn refused(&self, rpc: &'static str, process: &LocalProcess);
}

/// The service.
pub struct WorkloadApi<I> {
    identities: Arc<I>,
    issued: Arc<Mutex<HashMap<Holder, Issued>>>,
    jwts: Arc<DefaultKeyedRateLimiter<SpiffeId>>,
}

impl<I> Clone for WorkloadApi<I> {
    fn clone(&self) -> Self {
        Self {
            identities: Arc::clone(&self.identities),
            issued: Arc::clone(&self.issued),
            jwts: Arc::clone(&self.jwts),
        }
    }
}

/// A process, and one of its identities.
type Holder = (u32, String, SpiffeId);

/// What a process has. It gets the same again when it asks again, as clients do that open several
/// streams.
#[derive(Clone)]
struct Issued {
    svid: X509svid,
    renew_at_ms: i64,
    generation: u64,
}

type Svids = BTreeMap<SpiffeId, X509svid>;

/// The process that calls. SPIFFE Workload Endpoint, section 4.1: without its header the call may
/// come from a confused deputy.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<LocalProcess>, Status> {
    if request
        .metadata()
        .get("workload.spiffe.io")
        .map(tonic::metadata::MetadataValue::as_bytes)
        != Some(b"true")
    {
        return Err(Status::invalid_argument(
            "security header missing from request",
        ));
    }
    request
        .extensions()
        .get::<Arc<LocalProcess>>()
        .cloned()
        .ok_or_else(|| Status::unavailable("no peer"))
}

impl<I: Identities> WorkloadApi<I> {
    /// Serves these.
    pub fn new(identities: Arc<I>) -> Self {
        Self {
            identities,
            issued: Arc::default(),
            jwts: Arc::new(RateLimiter::keyed(Quota::per_second(JWTS_PER_SECOND))),
        }
    }

    /// The IDs that match the process, at least one.
    async fn matching(
        &self,
        rpc: &'static str,
        process: &Arc<LocalProcess>,
    ) -> Result<Vec<SpiffeId>, Status> {
        let candidates = self.identities.candidates().await?;
        let want_digest = candidates
            .iter()
            .any(|c| c.local.iter().any(|s| s.exe_sha256.is_some()));
        let looked_at = Arc::clone(process);
        let facts = tokio::task::spawn_blocking(move || looked_at.facts(want_digest))
            .await
            .unwrap_or_default();
        let matching = candidates
            .into_iter()
            .filter(|c| c.local.iter().any(|s| process.matches(s, &facts)));
        let ids: Vec<_> = matching.map(|c| c.id).collect();
        if ids.is_empty() {
            self.identities.refused(rpc, process);
            return Err(Status::permission_denied("no identity issued"));
        }
        Ok(ids)
    }

    /// What the process has for this identity, or a new SVID; with the time to renew it, half of
    /// its life.
    async fn svid_for(
        &self,
        process: &LocalProcess,
        id: &SpiffeId,
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

    async fn serve_svids(
        self,
        process: Arc<LocalProcess>,
        answers: mpsc::Sender<Result<X509svidResponse, Status>>,
    ) -> Result<(), Status> {
        let (mut svids, mut renew_at_ms, mut generation) = (Svids::new(), 0, 0);
        loop {
            let ids = self.matching("FetchX509SVID", &process).await?;
            let bundles = self.identities.bundles();
            let trust = bundles.generation;
            let stale = clock::now_ms() >= renew_at_ms
                || trust != generation
                || !svids.keys().eq(ids.iter());
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
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !process.lives() {
                return Ok(());
            }
        }
    }

    /// Bundles go to those who get an identity, as the specification has it; again whenever one
    /// changes.
    async fn stream_bundles<A: Send + 'static>(
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
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn jwt_svids(
        &self,
        process: &Arc<LocalProcess>,
        request: JwtsvidRequest,
    ) -> Result<Vec<Jwtsvid>, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience: must be given"));
        }
        let audience = crate::wire::audience(request.audience)
            .map_err(|_| Status::invalid_argument("audience: must be at most 8 names"))?;
        let ids = self.matching("FetchJWTSVID", process).await?;
        let (mut svids, mut refused) =
            (Vec::new(), Status::permission_denied("no identity issued"));
        for id in ids
            .iter()
            .filter(|id| request.spiffe_id.is_empty() || id.as_str() == request.spiffe_id)
        {
            // P12: each is signed and put on the record.
            if self.jwts.check_key(id).is_err() {
                return Err(Status::resource_exhausted("too many requests"));
            }
            match self.identities.issue_jwt(id, &audience).await {
                Ok(svid) => svids.push(Jwtsvid {
                    spiffe_id: id.to_string(),
                    svid,
                    hint: String::new(),
                }),
                // Another identity of the process may be allowed to.
                Err(status) if status.code() == tonic::Code::PermissionDenied => refused = status,
                Err(status) => return Err(status),
            }
        }
        if svids.is_empty() {
            Err(refused)
        } else {
            Ok(svids)
        }
    }

    fn validated(
        &self,
        request: &ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let bundles = self.identities.bundles();
        let of = |domain: &TrustDomain| bundles.jwt.get(&domain.id()).map(AsRef::as_ref);
        let svid = JwtSvid::verify(
            request.svid.as_bytes(),
            &request.audience,
            of,
            clock::now_ms(),
        )
        .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let claims = Struct {
            fields: svid
                .claims()
                .iter()
                .map(|(name, value)| (name.clone(), well_known(value)))
                .collect(),
        };
        Ok(ValidateJwtsvidResponse {
            spiffe_id: svid.id().to_string(),
            claims: Some(claims),
        })
    }
}

/// `google.protobuf.Value`, whose numbers are all `double`.
fn well_known(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(well_known).collect(),
        }),
        serde_json::Value::Object(members) => Kind::StructValue(Struct {
            fields: members
                .iter()
                .map(|(name, value)| (name.clone(), well_known(value)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[tonic::async_trait]
impl<I: Identities> SpiffeWorkloadApi for WorkloadApi<I> {
    type FetchX509SVIDStream = ReceiverStream<Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = ReceiverStream<Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = ReceiverStream<Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
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

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let bundles = |current: Bundles| X509BundlesResponse {
            crl: Vec::new(),
            bundles: current.by_domain.into_iter().collect(),
        };
        self.stream_bundles("FetchX509Bundles", caller(&request)?, bundles)
            .await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let process = caller(&request)?;
        let svids = self.jwt_svids(&process, request.into_inner()).await?;
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let bundles = |current: Bundles| JwtBundlesResponse {
            bundles: current
                .jwt
                .iter()
                .map(|(domain, bundle)| (domain.clone(), bundle.document().to_vec()))
                .collect(),
        };
        self.stream_bundles("FetchJWTBundles", caller(&request)?, bundles)
            .await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let process = caller(&request)?;
        self.matching("ValidateJWTSVID", &process).await?;
        self.validated(request.get_ref()).map(Response::new)
    }
}
