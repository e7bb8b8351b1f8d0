//! Being asked to stop: what goes on for as long as its caller likes must hear of it, or nothing
//! would ever be drained (L18).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::Status;

use crate::refusal::Refusal;

/// Says when the broker is asked to stop.
#[derive(Clone)]
pub(super) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Follows the sender that says `true` once the broker is asked to stop.
    pub(super) fn new(stop: &watch::Sender<bool>) -> Self {
        Self(stop.subscribe())
    }

    /// Whether the broker was asked to stop, or nobody is there any more who could ask: a start that
    /// is refused ends the listeners that serve already.
    pub(super) fn is_asked(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Resolves when the broker is asked to stop.
    pub(super) fn asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.0.clone();
        async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }

    /// The status by which a caller knows to go on at another broker.
    pub(super) fn status() -> Status {
        Refusal::Stopping.status("")
    }

    /// Answers of a stream until the broker is asked to stop. What is there by then is sent still,
    /// and the status follows it.
    pub(super) fn cut<A>(&self, answers: mpsc::Receiver<Result<A, Status>>) -> UntilStopped<A> {
        UntilStopped(Some((answers, Box::pin(self.asked()))))
    }
}

type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The answers of a stream, which end when the broker is asked to stop.
pub(super) struct UntilStopped<A>(Option<(mpsc::Receiver<Result<A, Status>>, Asked)>);

impl<A> Stream for UntilStopped<A> {
    type Item = Result<A, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((answers, asked)) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(answer) = answers.poll_recv(context) {
            return Poll::Ready(answer);
        }
        std::task::ready!(asked.as_mut().poll(context));
        // Whoever sends the answers finds that nobody listens, and ends.
        self.0 = None;
        Poll::Ready(Some(Err(Stopping::status())))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn l18_a_stream_ends_when_the_broker_is_asked_to_stop() {
        let stop = watch::Sender::new(false);
        let stopping = Stopping::new(&stop);
        let (sender, receiver) = mpsc::channel(2);
        let mut answers = stopping.cut(receiver);
        sender.send(Ok(1)).await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        sender.send(Ok(2)).await.unwrap();
        stop.send_replace(true);
        assert_eq!(answers.next().await.unwrap().unwrap(), 2);
        let status = answers.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(answers.next().await.is_none() && sender.is_closed());
        assert!(stopping.is_asked());
    }

    #[tokio::test]
    async fn a_start_that_is_refused_is_no_listener_that_ends_by_itself() {
        let stop = watch::Sender::new(false);
        let stopping = Stopping::new(&stop);
        assert!(!stopping.is_asked());
        drop(stop);
        stopping.asked().await;
        assert!(stopping.is_asked());
    }
}
