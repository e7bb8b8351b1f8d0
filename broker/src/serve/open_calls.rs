//! The open calls of each workload (P12). A call holds memory from its first header to its end, and
//! the use case behind it does not begin before its message is there: one that is sent by half would
//! hold it for as long as its caller likes. So calls are counted before anything of them is read, and
//! their messages are charged until they are whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Bytes, Service, http};
use tower::Layer;

use super::gate::{Gate, is_ending};
use super::messages::Charged;
use crate::peer::{Caller, Peer};
use crate::refusal::Refusal;

/// What refusals that concern no RPC of their own are recorded with.
const ANY_RPC: &str = "any";

/// Bytes of an ending that are never refused for what others send.
const FREE_FOR_AN_ENDING: usize = 1024;

/// Lets in as many open calls of each workload as it may have, and as many bytes of their messages.
#[derive(Clone)]
pub(super) struct OpenCalls {
    gate: Arc<Gate>,
    /// The longest message, in bytes.
    longest: usize,
}

impl OpenCalls {
    /// Counts with the limiters of this gate.
    pub(super) fn new(gate: &Arc<Gate>, longest: usize) -> Self {
        Self {
            gate: Arc::clone(gate),
            longest,
        }
    }

    /// Takes a place for a call, until it is dropped.
    fn place(&self, peer: &Peer, is_ending: bool) -> Result<OwnedSemaphorePermit, Status> {
        self.gate.limiter(peer).open_call(is_ending).ok_or_else(|| {
            let refusals = &self.gate.refusals;
            refusals.refuse(ANY_RPC, Some(peer), &Refusal::OpenCalls)
        })
    }

    /// A call whose messages are charged to its caller.
    fn charged(&self, request: http::Request<Body>, is_ending: bool) -> http::Request<Body> {
        let caller = request.extensions().get::<Caller>().cloned();
        let unfinished = &self.gate.unfinished;
        let budgets = match &caller {
            Some(Caller::Workload(peer)) => {
                let own = Arc::clone(&self.gate.limiter(peer).unfinished);
                let all = match self.gate.operators.is_operator(peer.id()) {
                    true => &unfinished.of_operators,
                    false => &unfinished.of_workloads,
                };
                vec![own, Arc::clone(all)]
            }
            Some(Caller::Anonymous(..)) | None => vec![Arc::clone(&unfinished.of_anonymous)],
        };
        let gate = Arc::clone(&self.gate);
        let refuse = move |refusal: &Refusal| {
            let (peer, remote) = match &caller {
                Some(Caller::Workload(peer)) => (Some(&**peer), None),
                Some(Caller::Anonymous(_, remote)) => (None, Some(*remote)),
                None => (None, None),
            };
            let refused = gate.refusals.refuse_at(ANY_RPC, peer, remote, refusal);
            refused.status
        };
        let free = if is_ending { FREE_FOR_AN_ENDING } else { 0 };
        let longest = self.longest;
        request.map(|body| Body::new(Charged::new(body, budgets, (free, longest), refuse)))
    }
}

impl<S> Layer<S> for OpenCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            open_calls: self.clone(),
        }
    }
}

/// A service whose open calls are counted.
#[derive(Clone)]
pub(super) struct Counted<S> {
    inner: S,
    open_calls: OpenCalls,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next();
        let is_ending = is_ending(method.unwrap_or_default());
        let place = match request.extensions().get::<Caller>() {
            Some(Caller::Workload(peer)) => self.open_calls.place(peer, is_ending).map(Some),
            // Their connections are few, and each has few.
            Some(Caller::Anonymous(..)) | None => Ok(None),
        };
        match place {
            Ok(place) => {
                let charged = self.open_calls.charged(request, is_ending);
                let answer = self.inner.call(charged);
                let held = |body| {
                    Body::new(Held {
                        body,
                        _place: place,
                    })
                };
                Box::pin(async move { Ok(answer.await?.map(held)) })
            }
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

/// The body of an answer, which holds the place of its call until its end.
struct Held {
    body: Body,
    _place: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
