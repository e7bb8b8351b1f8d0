//! Running one operation many times in rounds, and what that showed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sundew_tests::process::CpuTime;

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

    fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }
}

/// A value of each round.
struct Values(Vec<f64>);

impl Values {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// The median, and the range.
    fn told(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(0.0, f64::max);
        format!("{:.2} ({least:.2}–{most:.2})", self.median())
    }
}

/// What the operations of all rounds showed, in the order of the first round.
#[derive(Default)]
pub(crate) struct Rounds {
    rows: Vec<(&'static str, Vec<Row>)>,
}

/// One operation of one round, and its floor in that round.
struct Row {
    measured: Measured,
    cpu_ratio: f64,
    tail_ratio: f64,
}

impl Rounds {
    /// Notes what a round showed, beside the call that does nothing in the same round.
    pub(crate) fn note(&mut self, name: &'static str, measured: Measured, floor: &Measured) {
        let row = Row {
            cpu_ratio: measured.cpu_us() / floor.cpu_us(),
            tail_ratio: measured.p99() / floor.p99(),
            measured,
        };
        match self.rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => self.rows.push((name, vec![row])),
        }
    }

    /// Prints a table of medians.
    pub(crate) fn print(&self) {
        println!(
            "| operation | calls | calls/s | p50 µs | p99 µs | server CPU µs/call | CPU ÷ no-op | p99 ÷ no-op |\n|---|---|---|---|---|---|---|---|"
        );
        for (name, rows) in &self.rows {
            let of = |value: fn(&Row) -> f64| Values(rows.iter().map(value).collect());
            let calls: usize = rows.iter().map(|row| row.measured.calls).sum();
            println!(
                "| {name} | {calls} | {:.0} | {:.0} | {:.0} | {:.1} | {} | {} |",
                of(|row| row.measured.rate()).median(),
                of(|row| row.measured.quantile(0.5)).median(),
                of(|row| row.measured.p99()).median(),
                of(|row| row.measured.cpu_us()).median(),
                of(|row| row.cpu_ratio).told(),
                of(|row| row.tail_ratio).told(),
            );
        }
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
    let (before, began) = (CpuTime::of(pid), Instant::now());
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
        cpu: CpuTime::of(pid).since(&before),
        latency,
    }
}
