//! Use cases that run to their end once they have begun, whether or not the caller is still there:
//! an effect that is on the record must not be left half done.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::refusal::Refusal;

type Work<A> = Pin<Box<dyn Future<Output = Result<A, Refusal>> + Send>>;

/// A use case that goes on in a tokio task of its own when its caller goes away. Until then it runs
/// in the tokio task of the connection, which is cheaper; most callers stay.
pub(super) struct Detached<A: Send + 'static>(Option<Work<A>>);

impl<A: Send + 'static> Detached<A> {
    /// A use case that begins with the first poll, or when this is dropped.
    pub(super) fn new(work: impl Future<Output = Result<A, Refusal>> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<A: Send + 'static> Future for Detached<A> {
    type Output = Result<A, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.0 else {
            return Poll::Ready(Err(Refusal::Internal(
                "a use case was polled after its end",
            )));
        };
        // A panic is a refusal on the record, like any other.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        let result = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(_) => Err(Refusal::Internal("a use case panicked")),
        };
        self.0 = None;
        Poll::Ready(result)
    }
}

impl<A: Send + 'static> Drop for Detached<A> {
    fn drop(&mut self) {
        // Without a runtime, the process is at its end.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_ends_though_its_caller_goes_away() {
        let (go, ended, has_ended) = (
            Arc::new(Notify::new()),
            Arc::new(Notify::new()),
            Arc::new(AtomicBool::new(false)),
        );
        for polled in [false, true] {
            let (go, ended, has_ended) =
                (Arc::clone(&go), Arc::clone(&ended), Arc::clone(&has_ended));
            has_ended.store(false, Ordering::SeqCst);
            let (wait, tell, note) = (Arc::clone(&go), Arc::clone(&ended), Arc::clone(&has_ended));
            let work = Detached::new(async move {
                wait.notified().await;
                note.store(true, Ordering::SeqCst);
                tell.notify_one();
                Ok(())
            });
            if polled {
                // It is waiting, and its caller does not.
                assert!(
                    tokio::time::timeout(std::time::Duration::from_millis(5), work)
                        .await
                        .is_err()
                );
            } else {
                drop(work);
            }
            assert!(!has_ended.load(Ordering::SeqCst));
            go.notify_one();
            ended.notified().await;
            assert!(has_ended.load(Ordering::SeqCst));
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_refusal() {
        let work: Detached<()> = Detached::new(async { std::panic::panic_any("here") });
        assert!(matches!(
            work.await,
            Err(Refusal::Internal("a use case panicked"))
        ));
    }
}
