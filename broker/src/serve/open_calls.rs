//! The open calls of each workload (P12). A call holds memory from its first header to its end, and
//! the use case behind it does not begin before its message is there: one that is sent by half would
//! hold it for as long as its caller likes. So calls are counted before anything of them is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Bytes, Service, http};
use tower::Layer;

use super::gate::Gate;
use crate::peer::{Caller, Peer};
use crate::refusal::Refusal;

/// What refusals that concern no RPC of their own are recorded with.
const ANY_RPC: &str = "any";
/// The methods that take authority away.
const ENDINGS: [&str; 3] = ["/CompleteTask", "/SuspendTask", "/Revoke"];

/// Lets in as many open calls of each workload as it may have.
#[derive(Clone)]
pub(super) struct OpenCalls(Arc<Gate>);

impl OpenCalls {
    /// Counts with the limiters of this gate.
    pub(super) fn new(gate: &Arc<Gate>) -> Self {
        Self(Arc::clone(gate))
    }

    /// Takes a place for a call, until it is dropped.
    fn place(&self, peer: &Peer, path: &str) -> Result<OwnedSemaphorePermit, Status> {
        let is_ending = ENDINGS.iter().any(|ending| path.ends_with(ending));
        self.0.limiter(peer).open_call(is_ending).ok_or_else(|| {
            let refusals = &self.0.refusals;
            refusals.refuse(ANY_RPC, Some(peer), &Refusal::OpenCalls)
        })
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
        let place = match request.extensions().get::<Caller>() {
            Some(Caller::Workload(peer)) => self.open_calls.place(peer, request.uri().path()),
            // The gate refuses it, on this listener.
            Some(Caller::Anonymous(..)) | None => return Box::pin(self.inner.call(request)),
        };
        match place {
            Ok(place) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    Ok(answer.await?.map(|body| {
                        Body::new(Held {
                            body,
                            _place: place,
                        })
                    }))
                })
            }
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

/// The body of an answer, which holds the place of its call until its end.
struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
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
