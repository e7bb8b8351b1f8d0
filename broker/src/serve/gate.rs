//! The gate that every call passes on its way into a use case: the peer is good now, is within its
//! rate, and has the role; a refusal is on the record once (P10, P11).

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::detached::Detached;
use crate::clock;
use crate::ledger::Ledger;
use crate::limits::{IssuingPlace, Limiters, Unfinished, WorkloadLimiter};
use crate::peer::{Caller, Peer, Trust};
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::role::{Operators, RoleProof};
use crate::traces::{CallSpan, Traces};

/// The answer of a gRPC method.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// The methods that take authority away.
const ENDINGS: [&str; 4] = ["CancelOrder", "CompleteTask", "SuspendTask", "Revoke"];

/// Whether a method takes authority away.
pub(super) fn is_ending(rpc: &str) -> bool {
    ENDINGS.contains(&rpc)
}

/// The checks before a use case begins.
pub(super) struct Gate {
    /// P12: bounds the calls that issue something.
    pub(super) issue_permits: Arc<Semaphore>,
    pub(super) ledger: Ledger,
    pub(super) limiters: Limiters,
    pub(super) operators: Arc<Operators>,
    pub(super) refusals: RefusalRecorder,
    pub(super) traces: Traces,
    pub(super) trust: Arc<Trust>,
    /// P12: bounds what is held of messages that are not whole yet.
    pub(super) unfinished: Unfinished,
}

/// When a call came, from where if nothing else is known of the caller, and its span.
pub(super) struct Came {
    at: Instant,
    remote: Option<IpAddr>,
    span: CallSpan,
}

impl Gate {
    /// Serves a call of a workload.
    pub(super) async fn serve<R, Q, A, F>(
        &self,
        rpc: &'static str,
        room: &Arc<R>,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<R>, Arc<Peer>, Q) -> F,
    ) -> Answer<A>
    where
        F: Future<Output = Result<A, Refusal>>,
        Q: 'static,
        A: 'static,
    {
        let came = self.came(rpc, &request, None);
        let peer = match request.extensions().get::<Caller>() {
            Some(Caller::Workload(peer)) => Some(Arc::clone(peer)),
            Some(Caller::Anonymous(..)) | None => None,
        };
        let result = match self.admit(rpc, peer.as_ref()).await {
            Ok(peer) => use_case(Arc::clone(room), peer, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        };
        self.answer(rpc, peer.as_deref(), came, result)
    }

    /// Serves a call of an operator. The use case gets the proof that it asks for.
    pub(super) async fn serve_as<P, R, Q, A, F>(
        &self,
        rpc: &'static str,
        room: &Arc<R>,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<R>, P, Q) -> F,
    ) -> Answer<A>
    where
        P: RoleProof,
        F: Future<Output = Result<A, Refusal>>,
        Q: 'static,
        A: 'static,
    {
        self.serve(rpc, room, request, |room, peer, body| async move {
            let proof = P::of(self.operators.prove(&peer)?)?;
            let done = use_case(room, proof, body).await;
            done.map_err(Refusal::for_operator)
        })
        .await
    }

    /// Serves a use case that must run to its end when the caller hangs up.
    pub(super) async fn serve_detached<R, Q, A, F>(
        &self,
        rpc: &'static str,
        room: &Arc<R>,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<R>, Arc<Peer>, Q) -> F,
    ) -> Answer<A>
    where
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
        Q: 'static,
        A: Send + 'static,
    {
        self.serve(rpc, room, request, |room, peer, body| {
            Detached::new(use_case(room, peer, body))
        })
        .await
    }

    /// Serves a use case of operators that must run to its end when the caller hangs up.
    pub(super) async fn serve_detached_as<P, R, Q, A, F>(
        &self,
        rpc: &'static str,
        room: &Arc<R>,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<R>, P, Q) -> F,
    ) -> Answer<A>
    where
        P: RoleProof,
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
        Q: 'static,
        A: Send + 'static,
    {
        self.serve_as(rpc, room, request, |room, operator, body| {
            Detached::new(use_case(room, operator, body))
        })
        .await
    }

    /// Serves a use case that issues something, to its end. P12: issuing has a budget of its own,
    /// so that endings and introspection are served under overload; a call beyond the budget is
    /// refused at once.
    pub(super) async fn serve_issuing<R, Q, A, F>(
        &self,
        rpc: &'static str,
        room: &Arc<R>,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<R>, Arc<Peer>, Q) -> F,
    ) -> Answer<A>
    where
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
        Q: 'static,
        A: Send + 'static,
    {
        self.serve_in_place(rpc, room, request, |room, peer, body, place| {
            let work = use_case(room, peer, body);
            async move {
                // The place is held until the use case has run to its end, whether or not the
                // caller is still there.
                let _place = place;
                work.await
            }
        })
        .await
    }

    /// Serves a use case that issues something, like [`serve_issuing`](Self::serve_issuing), and
    /// hands it its place, so that it can give the place back before it waits for somebody else (A4).
    pub(super) async fn serve_in_place<R, Q, A, F>(
        &self,
        rpc: &'static str,
        room: &Arc<R>,
        request: Request<Q>,
        use_case: impl FnOnce(Arc<R>, Arc<Peer>, Q, IssuingPlace) -> F,
    ) -> Answer<A>
    where
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
        Q: 'static,
        A: Send + 'static,
    {
        let place = IssuingPlace::take(&self.issue_permits);
        self.serve_detached(rpc, room, request, |room, peer, body| {
            let work = place.map(|place| use_case(room, peer, body, place));
            async move { work.ok_or(Refusal::Overload)?.await }
        })
        .await
    }

    /// A call that came now. Its span has who calls, and the task that the request names.
    pub(super) fn came<Q: 'static>(
        &self,
        rpc: &'static str,
        request: &Request<Q>,
        remote: Option<IpAddr>,
    ) -> Came {
        let mut span = self.traces.begin(rpc, request.metadata());
        if let Some(Caller::Workload(peer)) = request.extensions().get::<Caller>() {
            span.of_workload(peer.id());
        }
        span.of_task(request.get_ref());
        Came {
            at: clock::monotonic(),
            remote,
            span,
        }
    }

    /// Answers the peer if it may call now; refuses callers without an SVID, with one that is not
    /// good any more, or above their rate. An ending needs nobody's word (L7).
    async fn admit(
        &self,
        rpc: &'static str,
        peer: Option<&Arc<Peer>>,
    ) -> Result<Arc<Peer>, Refusal> {
        let peer = peer.ok_or(Refusal::Unauthenticated)?;
        peer.check(&self.trust, clock::now_ms())?;
        if !self.limiter(peer).is_within_rate() {
            return Err(Refusal::RateLimit);
        }
        // A stream of attendance looks at it by itself, again and again.
        if !is_ending(rpc) && rpc != "Attend" {
            self.ledger
                .require_grounds(peer.id(), peer.grounds())
                .await?;
        }
        Ok(Arc::clone(peer))
    }

    /// The limiter of the peer's workload.
    pub(super) fn limiter<'a>(&self, peer: &'a Peer) -> &'a WorkloadLimiter {
        peer.limiter(|| self.limiters.of(peer.id()))
    }

    /// Turns the result of a use case into what a caller without an SVID hears.
    pub(super) fn answer_anonymous<A: 'static>(
        &self,
        rpc: &'static str,
        came: Came,
        result: Result<A, Refusal>,
    ) -> Answer<A> {
        self.answer(rpc, None, came, result)
    }

    /// Turns the result of a use case into what the caller hears, of whom the SVID or at least the
    /// address may be known.
    fn answer<A: 'static>(
        &self,
        rpc: &'static str,
        peer: Option<&Peer>,
        mut came: Came,
        result: Result<A, Refusal>,
    ) -> Answer<A> {
        self.refusals.took(rpc, came.at);
        match result {
            Ok(answer) => {
                self.refusals.answered(rpc);
                came.span.of_task(&answer);
                came.span.answered();
                Ok(Response::new(answer))
            }
            Err(refusal) => {
                let refused = self.refusals.refuse_at(rpc, peer, came.remote, &refusal);
                let code = refused.status.code();
                came.span.refused(code, refused.class, &refused.correlation);
                Err(refused.status)
            }
        }
    }
}
