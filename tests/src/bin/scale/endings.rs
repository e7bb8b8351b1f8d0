//! How many endings a second a log takes, and what they cost brokers that only hear of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sundew_core::TaskId;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::process::CpuTime;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

use crate::writer::{Writer, fill};
use crate::{LIMITS, timed};

/// How many tasks are ended.
const TASKS: usize = 40_000;
/// How many calls are under way at a time.
const IN_FLIGHT: usize = 256;

/// Ends tasks at these brokers in turn; each caller is connected to one.
async fn end(callers: &[Caller], tasks: Vec<TaskId>) {
    let (next, tasks) = (Arc::new(AtomicUsize::new(0)), Arc::new(tasks));
    let work: Vec<_> = (0..IN_FLIGHT)
        .map(|worker| {
            let (next, tasks) = (Arc::clone(&next), Arc::clone(&tasks));
            let caller = callers[worker % callers.len()].clone();
            tokio::spawn(async move {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    caller.complete(&task.to_string()).await.expect("completed");
                }
            })
        })
        .collect();
    for each in work {
        each.await.expect("work");
    }
}

/// Ends all tasks at the first so many brokers.
async fn measured(count: usize, at: usize) {
    let world = World::redis();
    let mut brokers: Vec<Broker> = Vec::new();
    for _ in 0..count {
        brokers.push(world.broker_with(LIMITS).await);
    }
    let operator = world.operator(&brokers[0]);
    // Position 1 must be in the log before tokens are stamped with it.
    let first = operator.revoke(of_workload("/nobody")).await;
    first.expect("first entry");
    let svid = world.ca.svid("/fleet/g0/agent");
    let writer = Writer::new(&world);
    let tasks = writer.tasks(TASKS);
    fill(&writer, 1, TASKS, 1, &svid).await;
    let callers: Vec<Caller> = brokers
        .iter()
        .take(at)
        .flat_map(|broker| (0..2).map(|_| world.caller_with(broker, svid.clone())))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = |broker: &Broker| CpuTime::of(broker.pid());
    let before: Vec<_> = brokers.iter().map(cpu).collect();
    let ((), took) = timed(end(&callers, tasks)).await;
    let spent = |n: usize| cpu(&brokers[n]).since(&before[n]).as_secs_f64() * 1e6;
    let ending: f64 = (0..at).map(spent).sum::<f64>() / TASKS as f64;
    let rate = TASKS as f64 / took.as_secs_f64();
    print!(
        "{count} brokers, endings at {at}: {rate:.0} endings/s, {ending:.1} µs of CPU per ending at those"
    );
    if at < count {
        let hearing = (at..count).map(spent).sum::<f64>() / (count - at) as f64 / TASKS as f64;
        print!(", {hearing:.1} µs per ending of another");
    }
    println!();
}

pub(crate) async fn run() {
    println!("\n## Endings a second on one Redis: {TASKS} tasks, {IN_FLIGHT} calls in flight\n");
    for (count, at) in [(2, 1), (2, 2), (4, 4), (8, 8)] {
        measured(count, at).await;
    }
}
