//! What tasks leave behind once they have ended, and what they cost while they live.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::process::resident;
use sundew_tests::world::World;

use crate::{LIMITS, timed, used_memory};

/// How many calls are under way at a time.
const IN_FLIGHT: usize = 64;
/// How many tasks live at a time, and have how many tokens each.
const LIVE: (usize, usize) = (50_000, 20);

/// A broker, and callers that begin tasks at it.
struct Bench {
    world: World,
    broker: Broker,
    callers: Vec<Caller>,
}

impl Bench {
    async fn start(world: World) -> Self {
        let broker = world.broker_with(LIMITS).await;
        let agent = json!({ "max_tasks": 100_000, "attendance_grace": "1h" });
        world.register(&broker, "/agent", agent).await;
        let svid = world.ca.svid("/agent");
        let caller = |_| world.caller_with(&broker, svid.clone());
        Self {
            callers: (0..4).map(caller).collect(),
            world,
            broker,
        }
    }

    /// Begins so many tasks and does something with each.
    async fn with_tasks<F, W>(&self, count: usize, work: F)
    where
        F: Fn(Caller, String) -> W + Copy + Send + Sync + 'static,
        W: Future<Output = ()> + Send,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let work: Vec<_> = (0..IN_FLIGHT)
            .map(|worker| {
                let (next, issuer) = (Arc::clone(&next), Arc::clone(&self.world.issuer));
                let caller = self.callers[worker % self.callers.len()].clone();
                tokio::spawn(async move {
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        let begun = caller.begin(&issuer, "/agent", &["exec:git"]).await;
                        work(caller.clone(), begun.expect("begun").task).await;
                    }
                })
            })
            .collect();
        for each in work {
            each.await.expect("work");
        }
    }

    /// The memory of the broker and of Redis, in MiB.
    fn mib(&self) -> (i64, i64) {
        let redis = self.world.redis.as_ref().map(|_| used_memory(&self.world));
        let mib = |bytes: u64| i64::try_from(bytes >> 20).expect("memory");
        (mib(resident(self.broker.pid())), mib(redis.unwrap_or(0)))
    }
}

/// Begins and completes tasks, and tells after each tenth of them what is in memory.
async fn ended(name: &str, world: World, tasks: usize) {
    let bench = Bench::start(world).await;
    bench
        .with_tasks(1000, |caller, task| async move {
            drop(caller.complete(&task).await)
        })
        .await;
    let (idle, began) = (bench.mib(), Instant::now());
    for tenth in 1..=10 {
        bench
            .with_tasks(tasks / 10, |caller, task| async move {
                caller.complete(&task).await.expect("completed");
            })
            .await;
        let now = bench.mib();
        println!(
            "{name}: {} tasks begun and completed, none lives, after {:.0} s: broker +{} MiB, Redis +{} MiB",
            tasks / 10 * tenth,
            began.elapsed().as_secs_f64(),
            now.0 - idle.0,
            now.1 - idle.1
        );
    }
}

/// What live tasks cost in memory, and how long a start takes with them.
async fn live() {
    let mut bench = Bench::start(World::embedded()).await;
    let before = resident(bench.broker.pid());
    bench.with_tasks(LIVE.0, |_, _| async {}).await;
    let each = (resident(bench.broker.pid()) - before) / LIVE.0 as u64;
    println!("embedded store: {each} bytes resident for each live task with one token");
    let mint = |caller: Caller, task: String| async move {
        for _ in 1..LIVE.1 {
            caller.mint(&task).await.expect("token");
        }
    };
    bench.with_tasks(LIVE.0, mint).await;
    bench.broker.kill();
    let ((), took) = timed(async {
        bench.broker.up();
        bench.broker.ready_within(Duration::from_secs(60)).await;
    })
    .await;
    println!(
        "embedded store: ready after {took:?} with {} tasks and {} tokens, {} MiB resident",
        2 * LIVE.0,
        LIVE.0 * (LIVE.1 + 1),
        bench.mib().0
    );
}

pub(crate) async fn run() {
    let tasks = std::env::var("SUNDEW_SCALE_TASKS").ok();
    let tasks = tasks.map_or(1_000_000, |text| {
        text.parse().expect("SUNDEW_SCALE_TASKS: a number")
    });
    println!("\n## Memory\n");
    live().await;
    ended("embedded store", World::embedded(), tasks).await;
    ended("Redis", World::redis(), tasks).await;
}
