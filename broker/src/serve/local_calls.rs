//! The calls on a Workload API's socket, of a broker and of a node (P12). What is sent by half is
//! charged to the user who sends it, as it is charged to workloads elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Server;
use tower::Layer;
use tower::layer::util::{Identity, Stack};

use super::messages::Charged;
use crate::enrollment::local_process::LocalProcess;
use crate::enrollment::workload_api::secrets;
use crate::limits::Budget;
use crate::refusal::Refusal;

/// What a process may send of a call, and over a connection, before somebody has read it, in bytes.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Most streams of a connection.
const STREAMS: u32 = 64;
/// Bytes of messages that are not whole yet, of one user and of all.
const UNFINISHED_OF_ONE: usize = 4 << 20;
const UNFINISHED: usize = 32 << 20;

/// A gRPC server for a Workload API's socket, with bounds on what one user of the machine takes.
#[must_use]
pub fn local_grpc() -> Server<Stack<LocalCalls, Identity>> {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(LocalCalls::default())
}

/// Charges the messages of local processes to their users until they are whole.
#[derive(Clone)]
pub struct LocalCalls {
    users: Arc<Mutex<HashMap<u32, Arc<Budget>>>>,
    all: Arc<Budget>,
}

impl Default for LocalCalls {
    fn default() -> Self {
        Self {
            users: Arc::default(),
            all: Budget::new(UNFINISHED),
        }
    }
}

impl LocalCalls {
    /// The budget of a user; those that no call holds are forgotten.
    fn of(&self, uid: u32) -> Arc<Budget> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if !users.contains_key(&uid) {
            users.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let new = || Budget::new(UNFINISHED_OF_ONE);
        Arc::clone(users.entry(uid).or_insert_with(new))
    }

    fn charged(&self, request: http::Request<Body>) -> http::Request<Body> {
        let process = request.extensions().get::<Arc<LocalProcess>>();
        let uid = process.map(|process| process.uid());
        let own = uid.map(|uid| self.of(uid));
        let budgets = own.into_iter().chain([Arc::clone(&self.all)]).collect();
        // No correlation: nobody looks for it, since these refusals are not on the record.
        let refuse = move |refusal: &Refusal| -> Status {
            tracing::debug!(uid, %refusal, "a message of a local process is not read");
            refusal.status("")
        };
        let longest = secrets::MAX_REQUEST;
        request.map(|body| Body::new(Charged::new(body, budgets, (0, longest), refuse)))
    }
}

impl<S> Layer<S> for LocalCalls {
    type Service = ChargedToUser<S>;

    fn layer(&self, inner: S) -> ChargedToUser<S> {
        ChargedToUser {
            inner,
            calls: self.clone(),
        }
    }
}

/// A service whose messages are charged to the users who send them.
#[derive(Clone)]
pub struct ChargedToUser<S> {
    inner: S,
    calls: LocalCalls,
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for ChargedToUser<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        self.inner.call(self.calls.charged(request))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use http_body::{Body as _, Frame};
    use tonic::Code;
    use tonic::codegen::Bytes;

    use super::*;

    /// A body of which one piece comes, and then nothing.
    struct Half(Option<Bytes>);

    impl http_body::Body for Half {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.take() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => Poll::Pending,
            }
        }
    }

    /// A call of this user, of which a message of this length is announced and begun.
    fn half_sent(calls: &LocalCalls, process: &Arc<LocalProcess>, length: u32) -> Body {
        let piece = [&[0][..], &length.to_be_bytes(), &[1, 2, 3]].concat();
        let mut request = http::Request::new(Body::new(Half(Some(piece.into()))));
        request.extensions_mut().insert(Arc::clone(process));
        calls.charged(request).into_body()
    }

    async fn next(body: &mut Body) -> Result<Frame<Bytes>, Status> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        frame.await.expect("a frame or an error")
    }

    /// A1: 7200 streams of one user, each with a message that never ends.
    #[tokio::test(start_paused = true)]
    async fn a1_what_a_user_sends_by_half_is_bounded_and_ends() {
        let calls = LocalCalls::default();
        let process = LocalProcess::own();
        let length = u32::try_from(secrets::MAX_REQUEST).unwrap();
        let mut begun = Vec::new();
        let mut refused = 0;
        for _ in 0..7200 {
            let mut body = half_sent(&calls, &process, length);
            match next(&mut body).await {
                Ok(_) => begun.push(body),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
        assert_eq!(begun.len(), UNFINISHED_OF_ONE / secrets::MAX_REQUEST);
        assert_eq!(refused, 7200 - begun.len());
        // After ten seconds they end, and others may begin.
        for mut body in begun {
            let ended = next(&mut body).await.unwrap_err();
            assert_eq!(ended.code(), Code::DeadlineExceeded);
        }
        assert_eq!((calls.of(process.uid()).held(), calls.all.held()), (0, 0));
        next(&mut half_sent(&calls, &process, length))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a1_many_users_together_are_bounded_too() {
        let calls = LocalCalls::default();
        let budgets: Vec<_> = (0..9).map(|uid| calls.of(uid)).collect();
        assert!(budgets.iter().all(|budget| budget.take(UNFINISHED_OF_ONE)));
        assert!(!calls.of(8).take(1), "the ninth has had its part");
        drop(budgets);
        assert_eq!(calls.of(100).held(), 0);
        assert_eq!(calls.users.lock().unwrap().len(), 1);
    }
}
