//! Ending a task that its program has left, also when the program's runtime goes at that moment.
//!
//! The ending is told on the task's own connection, in the background of the runtime that is there.
//! If that runtime is shut down before the broker has answered, or if there is none, a thread with a
//! runtime of its own tells it, and whoever drops waits for that thread, for one second at most.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sundew_proto::v1::Outcome;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;

use super::finish;
use crate::agent::Agent;
use crate::clock;
use crate::connection::Connection;
use crate::error::Error;
use crate::identity::Identity;

/// How long a program that ends is held up in all. Without an answer until then, the broker ends
/// the task after its grace.
const HELD_UP_FOR: Duration = Duration::from_secs(1);
/// How long the thread tries to tell one ending.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// How long the thread keeps its last connection for the next ending.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// Ends the task `id` with this outcome, in the background.
pub(super) fn leave(agent: Agent, connection: Arc<Connection>, id: String, outcome: Outcome) {
    let ending = Ending {
        agent,
        identity: Arc::clone(connection.identity()),
        id: id.clone(),
        outcome,
        untold: Untold::begin(),
    };
    let mut handed_over = HandOver(Some(ending));
    // Without a runtime, `handed_over` is dropped here and now.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            match finish(&connection, &id, outcome).await {
                // The broker's word is final, whatever it says.
                Ok(_) | Err(Error::NotPermitted { .. }) => handed_over.told(),
                // The connection may be of another runtime that has ended.
                Err(error) => {
                    tracing::debug!(task = id, %error, "a task that was left could not be ended on its connection");
                    if let Some(ending) = handed_over.0.take() {
                        ENDINGS.hand_over(ending);
                    }
                }
            }
        });
    }
}

/// An ending that the broker has not heard yet.
struct Ending {
    agent: Agent,
    identity: Arc<Identity>,
    id: String,
    outcome: Outcome,
    untold: Untold,
}

impl Ending {
    /// Tells the broker on a connection of the current runtime.
    async fn tell(self, connection: Arc<Connection>) {
        let told = finish(&connection, &self.id, self.outcome);
        let told = tokio::time::timeout(TOLD_WITHIN, told).await;
        let id = &self.id;
        match told.unwrap_or_else(|_| Err(Error::Unavailable("no answer".to_owned()))) {
            Ok(_) | Err(Error::NotPermitted { .. }) => {}
            Err(error) => {
                tracing::warn!(task = id, %error, "a task that was left could not be ended; it ends when its grace is over");
            }
        }
    }
}

/// Hands an ending to the thread when it is dropped, and waits until the broker has heard it.
struct HandOver(Option<Ending>);

impl HandOver {
    fn told(&mut self) {
        self.0 = None;
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        if let Some(ending) = self.0.take() {
            let told = Arc::clone(&ending.untold.0);
            ENDINGS.hand_over(ending);
            ENDINGS.wait_until(|_| told.load(Ordering::Acquire));
        }
    }
}

/// Counts an ending as untold until it is dropped.
struct Untold(Arc<AtomicBool>);

impl Untold {
    fn begin() -> Self {
        ENDINGS.lock().untold += 1;
        let _ = AT_EXIT.try_with(|at_exit| at_exit.armed.set(true));
        Self(Arc::default())
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        let mut state = ENDINGS.lock();
        state.untold = state.untold.saturating_sub(1);
        if state.untold == 0 {
            state.waiting_since = None;
        }
        drop(state);
        ENDINGS.changed.notify_all();
    }
}

thread_local! {
    static AT_EXIT: AtExit = const { AtExit { armed: Cell::new(false) } };
}

/// Waits for untold endings when a thread ends that has left a task. For the main thread this is the
/// end of the process, whose runtime may have been shut down without waiting.
struct AtExit {
    armed: Cell<bool>,
}

impl Drop for AtExit {
    fn drop(&mut self) {
        if self.armed.get() {
            ENDINGS.wait_until(|state| state.untold == 0);
        }
    }
}

/// All endings of this process that no broker has heard yet.
struct Endings {
    state: Mutex<State>,
    changed: Condvar,
    thread: OnceLock<mpsc::UnboundedSender<Ending>>,
}

struct State {
    untold: usize,
    /// When the first wait began since the last time that nothing was untold.
    waiting_since: Option<Instant>,
}

static ENDINGS: Endings = Endings {
    state: Mutex::new(State {
        untold: 0,
        waiting_since: None,
    }),
    changed: Condvar::new(),
    thread: OnceLock::new(),
};

impl Endings {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an ending to the thread, which the first one starts. An ending that no thread takes is
    /// dropped, and the task ends after its grace.
    fn hand_over(&self, ending: Ending) {
        let thread = self.thread.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let thread = std::thread::Builder::new().name("sundew-endings".to_owned());
            if let Err(error) = thread.spawn(move || tell_all(receiver)) {
                tracing::warn!(%error, "no thread to end tasks that were left");
            }
            sender
        });
        let _ = thread.send(ending);
    }

    /// Waits until something holds, but no longer than a program may be held up in all.
    fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !holds(&state) {
            let now = clock::monotonic();
            let since = *state.waiting_since.get_or_insert(now);
            let left = HELD_UP_FOR.saturating_sub(now.saturating_duration_since(since));
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells endings for as long as the process lives, each beside the others.
fn tell_all(mut endings: mpsc::UnboundedReceiver<Ending>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "no runtime to end tasks that were left");
            return;
        }
    };
    runtime.block_on(async {
        while let Some(first) = endings.recv().await {
            tell_burst(first, &mut endings).await;
        }
    });
}

/// Tells this ending and those that come soon after. Endings of one agent share a connection, which
/// must not outlive the agent by much.
async fn tell_burst(first: Ending, endings: &mut mpsc::UnboundedReceiver<Ending>) {
    let mut next = Ok(Some(first));
    let mut last: Option<(Agent, Arc<Connection>)> = None;
    while let Ok(Some(ending)) = next {
        let known = last.take().filter(|(agent, connection)| {
            agent.is_same(&ending.agent) && connection.identity().chain() == ending.identity.chain()
        });
        let connection = match known {
            Some((_, connection)) => Ok(connection),
            None => ending
                .agent
                .separate_connection(Arc::clone(&ending.identity))
                .map(Arc::new),
        };
        match connection {
            Ok(connection) => {
                last = Some((ending.agent.clone(), Arc::clone(&connection)));
                tokio::spawn(ending.tell(connection));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection to end a task that was left");
            }
        }
        next = tokio::time::timeout(KEPT_FOR, endings.recv()).await;
    }
}
