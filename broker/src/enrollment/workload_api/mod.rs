//! The SPIFFE Workload API on a Unix socket: X.509 and JWT profiles, for local processes that the
//! kernel vouches for.
//!
//! P1: an identity is issued to a process whose uid, gid, executable or its digest a registration
//! names. Served by a broker with an embedded CA, and by a node for what is delegated to it.

mod call_error;
mod jwt_svids;
pub mod secrets;
mod x509_svids;

use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sundew_attestation::spiffe::{JwtBundle, SpiffeId};
use sundew_core::LocalSelector;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use sundew_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::local_process::LocalProcess;
pub(in crate::enrollment) use call_error::CallError;
use x509_svids::{Holder, Issued};

/// JWT-SVIDs per second that are made for one identity; a burst may be as large.
const JWTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

/// Calls per second of one user (A7), and how many at once: programs of a machine start together.
const CALLS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const CALLS_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(499);

/// An identity that local processes may get here.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The identity.
    pub id: SpiffeId,
    /// The processes that may get it.
    pub local: Vec<LocalSelector>,
    /// When the registration was applied, in milliseconds since the epoch. What was issued before may
    /// have ended with that (E9).
    pub applied_at_ms: i64,
    /// Whether nobody may get it now: a quarantine covers it, for example (I1).
    pub is_withheld: bool,
}

/// Why a process gets no identity.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoIdentity {
    /// No registration says that the process has one.
    #[error("no registration matches the process")]
    Unmatched,
    /// Each identity that the process has is withheld.
    #[error("a quarantine or a rule covers each registration that matches the process")]
    Withheld,
}

/// The bundles of one moment.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    /// A number that differs for other bundles.
    pub generation: u64,
    /// Concatenated DER of the roots, by trust domain as `spiffe://<name>`.
    pub by_domain: HashMap<String, Vec<u8>>,
    /// The keys that verify JWT-SVIDs, by trust domain as `spiffe://<name>`.
    pub jwt: HashMap<String, Arc<JwtBundle>>,
}

/// The answer of [`Identities`], or the status that the process gets.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

/// A source of identities: the broker's own CA, or a broker that delegates to this node.
pub trait Identities: Send + Sync + 'static {
    /// Answers the identities that are given out here.
    fn candidates(&self) -> Answer<'_, Vec<Candidate>>;
    /// Issues an SVID with its key; answers it and the time when it ends, in milliseconds since the
    /// epoch.
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> Answer<'a, (X509svid, i64)>;
    /// Issues a JWT-SVID for this audience.
    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String]) -> Answer<'a, String>;
    /// Answers the bundles of this moment.
    fn bundles(&self) -> Bundles;
    /// Puts on the record that no identity was given to a process, and why.
    fn refused(&self, rpc: &'static str, process: &LocalProcess, why: NoIdentity);
}

/// The service, over one source of identities.
pub struct WorkloadApi<I> {
    identities: Arc<I>,
    /// SVIDs that processes have, for a while.
    issued: Arc<Mutex<HashMap<Holder, Issued>>>,
    jwts: Arc<DefaultKeyedRateLimiter<SpiffeId>>,
    /// The calls of each user.
    calls: Arc<DefaultKeyedRateLimiter<u32>>,
}

impl<I> Clone for WorkloadApi<I> {
    fn clone(&self) -> Self {
        Self {
            identities: Arc::clone(&self.identities),
            issued: Arc::clone(&self.issued),
            jwts: Arc::clone(&self.jwts),
            calls: Arc::clone(&self.calls),
        }
    }
}

/// Answers the process that calls. Without the header of the SPIFFE Workload Endpoint, section 4.1,
/// the call may come from a confused deputy, and is refused.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<LocalProcess>, Status> {
    if request
        .metadata()
        .get("workload.spiffe.io")
        .map(tonic::metadata::MetadataValue::as_bytes)
        != Some(b"true")
    {
        return Err(CallError::HeaderMissing.into());
    }
    process_of(request)
}

/// Answers the process that calls.
fn process_of<T>(request: &Request<T>) -> Result<Arc<LocalProcess>, Status> {
    let process = request.extensions().get::<Arc<LocalProcess>>();
    process.cloned().ok_or_else(|| CallError::NoPeer.into())
}

impl<I: Identities> WorkloadApi<I> {
    /// A service that gives out these identities.
    pub fn new(identities: Arc<I>) -> Self {
        Self {
            identities,
            issued: Arc::default(),
            jwts: Arc::new(RateLimiter::keyed(Quota::per_second(JWTS_PER_SECOND))),
            calls: Arc::new(RateLimiter::keyed(
                Quota::per_second(CALLS_PER_SECOND).allow_burst(CALLS_AT_ONCE),
            )),
        }
    }

    /// Answers the process that calls, unless its user calls too often: whoever has no identity here
    /// may call too, and each call is looked at.
    fn admit<T>(&self, request: &Request<T>) -> Result<Arc<LocalProcess>, Status> {
        let process = caller(request)?;
        self.count_call(&process)?;
        Ok(process)
    }

    /// Refuses a call of a user that calls too often.
    fn count_call(&self, process: &LocalProcess) -> Result<(), Status> {
        let counted = self.calls.check_key(&process.uid());
        counted.map_err(|_| CallError::RateLimit.into())
    }

    /// Answers the IDs of all identities that the process may have, at least one, each with the time
    /// when its registration was applied.
    async fn matching(
        &self,
        rpc: &'static str,
        process: &Arc<LocalProcess>,
    ) -> Result<Vec<(SpiffeId, i64)>, Status> {
        let candidates = self.identities.candidates().await?;
        let want_digest = candidates
            .iter()
            .any(|c| c.local.iter().any(|s| s.exe_sha256.is_some()));
        let facts = Arc::clone(process).facts(want_digest).await;
        let (withheld, given): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .filter(|c| c.local.iter().any(|s| process.matches(s, &facts)))
            .partition(|c| c.is_withheld);
        if given.is_empty() {
            let why = match withheld.is_empty() {
                true => NoIdentity::Unmatched,
                false => NoIdentity::Withheld,
            };
            self.identities.refused(rpc, process, why);
            return Err(CallError::NoIdentity.into());
        }
        let named = given.into_iter().map(|c| (c.id, c.applied_at_ms));
        Ok(named.collect())
    }
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
        let svids = self.svids("FetchX509SVID", self.admit(&request)?);
        Ok(Response::new(ReceiverStream::new(svids)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let bundles = |current: Bundles| X509BundlesResponse {
            crl: Vec::new(),
            bundles: current.by_domain.into_iter().collect(),
        };
        self.stream_bundles("FetchX509Bundles", self.admit(&request)?, bundles)
            .await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let process = self.admit(&request)?;
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
        self.stream_bundles("FetchJWTBundles", self.admit(&request)?, bundles)
            .await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let process = self.admit(&request)?;
        self.matching("ValidateJWTSVID", &process).await?;
        self.validated(request.get_ref()).map(Response::new)
    }
}
