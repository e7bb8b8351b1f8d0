//! Running one operation many times, and what that showed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sundew_tests::process::cpu_time;

/// The measurements of a run of one operation.
pub(crate) struct Measured {
    calls: usize,
    elapsed: Duration,
    cpu: Duration,
    latency: Histogram<u64>,
}

impl Measured {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls as f64
    }
    pub(crate) fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }
    pub(crate) fn p99(&self) -> f64 {
        self.latency.value_at_quantile(0.99) as f64
    }
    pub(crate) fn row(&self, name: &str, floor: Option<&Measured>) {
        let ratio = floor.map_or(String::new(), |floor| {
            format!("{:.2}", self.cpu_us() / floor.cpu_us())
        });
        let tail = floor.map_or(String::new(), |floor| {
            format!("{:.2}", self.p99() / floor.p99())
        });
        println!(
            "| {name} | {} | {:.0} | {} | {} | {:.1} | {ratio} | {tail} |",
            self.calls,
            self.rate(),
            self.latency.value_at_quantile(0.5),
            self.latency.value_at_quantile(0.99),
            self.cpu_us()
        );
    }
}

/// Runs `calls` calls with `in_flight` at a time. `call` gets the number of its worker and of the
/// call.
pub(crate) async fn measure<F, Fut>(pid: u32, calls: usize, in_flight: usize, call: F) -> Measured
where
    F: Fn(usize, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
    let (before, began) = (cpu_time(pid), Instant::now());
    let workers: Vec<_> = (0..in_flight)
        .map(|worker| {
            let (next, call) = (Arc::clone(&next), Arc::clone(&call));
            tokio::spawn(async move {
                let mut latency =
                    Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("histogram");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= calls {
                        return latency;
                    }
                    let began = Instant::now();
                    call(worker, number).await;
                    latency.saturating_record(
                        u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                    );
                }
            })
        })
        .collect();
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("histogram");
    for worker in workers {
        latency
            .add(worker.await.expect("worker"))
            .expect("histogram");
    }
    Measured {
        calls,
        elapsed: began.elapsed(),
        cpu: cpu_time(pid).saturating_sub(before),
        latency,
    }
}
