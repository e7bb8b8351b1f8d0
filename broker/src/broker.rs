//! The broker: what its use cases share, and the way every call takes into one of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::{DefaultDirectRateLimiter, Quota};
use ring::rand::{SecureRandom as _, SystemRandom};
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Credential, Event, Keyring, LogEntry, Position, RootKey, SealError, TaskId};
use tokio::sync::{Notify, Semaphore};
use tonic::{Request, Response, Status};

use crate::attendance::Attendance;
use crate::ca::Ca;
use crate::clock;
use crate::evidence::Attempts;
use crate::journal::{self, Journal, Record};
use crate::lease::Leases;
use crate::liveness::Keeper;
use crate::material::{Material, MaterialConfig};
use crate::metrics::Metrics;
use crate::peer::{Caller, Peer};
use crate::records::Records;
use crate::refusal::Refusal;
use crate::to_the_end::ToTheEnd;
use crate::trust::Trust;

/// What an operator may do. Nothing is implied by having a certificate (AC-18).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May ask about anybody's tokens.
    Introspector,
    /// May register workloads and write secrets.
    Registrar,
    /// May look at tasks and revoke.
    Responder,
}

impl Role {
    /// The word for it, as in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Introspector => "introspector",
            Self::Registrar => "registrar",
            Self::Responder => "responder",
        }
    }
}

/// Limits that are the same for every workload.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// Calls per second and workload, with bursts of twice as many.
    pub calls_per_second: NonZeroU32,
    /// Calls that issue something served at a time; more are refused.
    pub issuing: usize,
    /// Longest purpose, in bytes.
    pub purpose_bytes: usize,
    /// Longest instruction, in bytes.
    pub instruction_bytes: usize,
    /// Largest secret, in bytes.
    pub secret_bytes: usize,
    /// No registration may allow longer tasks.
    pub longest_task: sundew_core::Ttl,
}

/// P12: one limiter per workload, whatever number of connections it has. A connection looks its own
/// up once.
pub struct Limiters {
    quota: Quota,
    known: Mutex<HashMap<SpiffeId, Arc<DefaultDirectRateLimiter>>>,
}

impl Limiters {
    /// Limiters of this rate, with bursts of twice as many calls.
    #[must_use]
    pub fn new(limits: &CallLimits) -> Self {
        let burst =
            NonZeroU32::saturating_mul(limits.calls_per_second, NonZeroU32::MIN.saturating_add(1));
        Self {
            quota: Quota::per_second(limits.calls_per_second).allow_burst(burst),
            known: Mutex::default(),
        }
    }

    fn of(&self, id: &SpiffeId) -> Arc<DefaultDirectRateLimiter> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            known
                .entry(id.clone())
                .or_insert_with(|| Arc::new(DefaultDirectRateLimiter::direct(self.quota))),
        )
    }

    /// Forgets those that no connection holds. A workload that comes back after that begins with a
    /// full bucket: one burst more for each time that this runs.
    pub(crate) fn forget(&self) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, limiter| Arc::strong_count(limiter) > 1);
    }
}

/// See the module. All fields are shared with the parts that serve them.
pub struct Broker {
    /// Typed records.
    pub records: Records,
    /// The view of the revocation log.
    pub keeper: Arc<Keeper>,
    /// The record.
    pub journal: Arc<Journal>,
    /// Bundles and own identity.
    pub trust: Arc<Trust>,
    /// What verifiers trust.
    pub material: Arc<Material>,
    /// Where the configuration says that some of it is.
    pub(crate) configured_material: Vec<MaterialConfig>,
    /// The last attempts at evidence.
    pub(crate) attempts: Attempts,
    /// Keys that seal secrets.
    pub keyring: Arc<ArcSwap<Keyring>>,
    /// Who may do what.
    pub operators: ArcSwap<BTreeMap<SpiffeId, BTreeSet<Role>>>,
    /// The embedded CA, if this broker has one.
    pub ca: Option<Ca>,
    /// Tasks attended at this broker.
    pub attendance: Attendance,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub limits: CallLimits,
    /// Audience that evidence for this broker must have, told to callers.
    pub audience: String,
    /// Calls by workload.
    pub limiters: Limiters,
    /// Engines and their leases.
    pub(crate) leases: Leases,
    /// Rings when there is a clean-up to do.
    pub(crate) new_action: Notify,
    /// Places for calls that issue something.
    pub(crate) issuing: Arc<Semaphore>,
    /// Places for enrollment by evidence.
    pub(crate) enrolling: Semaphore,
    /// Places for verifications that take long.
    pub(crate) verifying: Semaphore,
    /// Places for previews.
    pub(crate) previews: Arc<Semaphore>,
    /// Rings when a token named a key that its issuer's known keys do not have.
    pub unknown_key: Arc<tokio::sync::Notify>,
}

/// 16 random bytes in base64url: a correlation id, or an idempotency key that nobody knows.
pub(crate) fn random_name() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Refusal::Seal {
            what: "random name",
            cause: SealError::Random,
        })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

impl Broker {
    /// The way of every call: the peer is good now, within its rate, and a refusal is on the record
    /// once (P10, P11).
    pub(crate) async fn serve<Q, A, F>(
        self: &Arc<Self>,
        rpc: &'static str,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<Self>, Arc<Peer>, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Refusal>>,
    {
        let peer = match request.extensions().get::<Caller>() {
            Some(Caller::Workload(peer)) => Some(Arc::clone(peer)),
            Some(Caller::Anonymous(_)) | None => None,
        };
        let result = match self.admit(peer.as_ref()) {
            Ok(peer) => use_case(Arc::clone(self), peer, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        };
        self.answer(rpc, peer.as_deref(), result)
    }

    /// The same for what must run to its end when the caller hangs up.
    pub(crate) async fn serve_to_the_end<Q, A, F>(
        self: &Arc<Self>,
        rpc: &'static str,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<Self>, Arc<Peer>, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
        A: Send + 'static,
    {
        self.serve(rpc, request, |broker, peer, body| {
            ToTheEnd::new(use_case(broker, peer, body))
        })
        .await
    }

    /// The same for what issues something. P12: that has a budget of its own, so that under
    /// overload endings and introspection are served and what cannot be issued soon is refused
    /// at once.
    pub(crate) async fn serve_issuing<Q, A, F>(
        self: &Arc<Self>,
        rpc: &'static str,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<Self>, Arc<Peer>, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
        A: Send + 'static,
    {
        let place = Arc::clone(&self.issuing).try_acquire_owned();
        self.serve_to_the_end(rpc, request, |broker, peer, body| {
            let work = place
                .ok()
                .map(|place| (place, use_case(broker, peer, body)));
            async move {
                // The place is held until the use case has run to its end, whether or not the
                // caller is still there.
                let (_place, work) = work.ok_or(Refusal::Overload)?;
                work.await
            }
        })
        .await
    }

    pub(crate) fn admit(&self, peer: Option<&Arc<Peer>>) -> Result<Arc<Peer>, Refusal> {
        let peer = peer.ok_or(Refusal::Unauthenticated)?;
        peer.check(&self.trust, clock::now_ms())?;
        if peer
            .limiter(|| self.limiters.of(peer.id()))
            .check()
            .is_err()
        {
            return Err(Refusal::RateLimit);
        }
        Ok(Arc::clone(peer))
    }

    pub(crate) fn answer<A>(
        &self,
        rpc: &'static str,
        peer: Option<&Peer>,
        result: Result<A, Refusal>,
    ) -> Result<Response<A>, Status> {
        match result {
            Ok(answer) => {
                self.metrics.call(rpc, "Ok");
                Ok(Response::new(answer))
            }
            Err(refusal) => Err(self.refuse(rpc, peer, &refusal)),
        }
    }

    pub(crate) fn refuse(
        &self,
        rpc: &'static str,
        peer: Option<&Peer>,
        refusal: &Refusal,
    ) -> Status {
        let correlation = random_name().unwrap_or_default();
        let status = refusal.status(&correlation);
        self.metrics.call(rpc, code_name(status.code()));
        let mut record = journal::record("refused")
            .with("rpc", rpc)
            .with("reason", refusal)
            .with("correlation", &correlation);
        if let Some(peer) = peer {
            record = record.with("peer", peer.id()).with("remote", peer.remote());
        }
        self.journal.note(record);
        status
    }

    /// AC-18: a role is a line of the configuration, and nothing else.
    pub(crate) fn require(&self, peer: &Peer, role: Role) -> Result<(), Refusal> {
        let granted = self
            .operators
            .load()
            .get(peer.id())
            .is_some_and(|roles| roles.contains(&role));
        if granted {
            Ok(())
        } else {
            Err(Refusal::Role(role.as_str()))
        }
    }

    /// P4, P10: puts an ending on the record and appends it. Once this answers, nobody answers
    /// "active" for what it covers.
    pub(crate) async fn end(
        &self,
        event: Event,
        until_ms: i64,
        record: Record,
    ) -> Result<(LogEntry, Position), Refusal> {
        self.end_as(Keeper::entry(event, until_ms)?, record).await
    }

    /// The same for an entry that has its name already.
    pub(crate) async fn end_as(
        &self,
        entry: LogEntry,
        record: Record,
    ) -> Result<(LogEntry, Position), Refusal> {
        let text = String::from_utf8_lossy(&entry.encode()).into_owned();
        self.journal.write(record.with("entry", text)).await?;
        self.metrics.ending();
        let position = self.keeper.append(entry.clone()).await?;
        Ok((entry, position))
    }

    /// The one token that a task has for an idempotency key: derived, so that a retry gets the same
    /// and nothing is stored.
    pub(crate) fn credential(&self, task: TaskId, key: &str, certificate: &[u8; 32]) -> Credential {
        Credential::new(
            task,
            self.root()
                .derive(&[b"token", task.as_bytes(), key.as_bytes(), certificate]),
        )
    }

    /// The root key.
    pub(crate) fn root(&self) -> &RootKey {
        self.records.root()
    }
}

/// An idempotency key: 1 to 128 characters that print, or one that nobody else has.
pub(crate) fn idempotency_key(given: String) -> Result<String, Refusal> {
    if given.is_empty() {
        return random_name();
    }
    if given.len() > 128 || !given.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::invalid(
            "idempotency_key",
            "must be 1 to 128 printable ASCII characters",
        ));
    }
    Ok(given)
}

/// T84: a closed set of labels.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
