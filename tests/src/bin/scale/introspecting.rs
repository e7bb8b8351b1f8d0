//! Introspection that goes on in the background, and what it feels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sundew_tests::calls::Caller;

pub(crate) fn quantile(sorted: &[Duration], q: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

/// Introspects live tokens on and on in the background.
pub(crate) struct Introspecting {
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Introspecting {
    pub(crate) fn start(server: &Caller, tokens: &[String], presenter: &[u8]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (server, tokens, presenter, stopped) = (
            server.clone(),
            tokens.to_vec(),
            presenter.to_vec(),
            Arc::clone(&stop),
        );
        let work = tokio::spawn(async move {
            let mut latencies = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let active = server
                    .active(&tokens[latencies.len() % tokens.len()], &presenter)
                    .await
                    .expect("answer");
                latencies.push(began.elapsed());
                assert!(active, "a live token");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            latencies
        });
        Self { stop, work }
    }

    /// Stops; answers p99.
    pub(crate) async fn p99(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut latencies = self.work.await.expect("introspection");
        latencies.sort();
        quantile(&latencies, 0.99)
    }

    /// p99 over some time in which nothing else is done.
    pub(crate) async fn quiet(server: &Caller, tokens: &[String], presenter: &[u8]) -> Duration {
        let introspecting = Self::start(server, tokens, presenter);
        tokio::time::sleep(Duration::from_secs(8)).await;
        introspecting.p99().await
    }
}

pub(crate) fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}
