//! C3: every way in which a program can leave a task of the SDK ends it within a second.
//!
//! The grace of these tasks is a minute, so that it is never the grace that ended one.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_sdk::{Error, Settings, Task};
use sundew_tests::broker::Broker;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::runtime::{Builder, Runtime};

use super::cli::command_as;
use super::sdk::{agent_of, begin, ready_with, settings};

/// What a program needs to begin a task on a runtime of its own.
#[derive(Clone, Copy)]
struct Place<'a> {
    world: &'a World,
    broker: &'a Broker,
}

impl Place<'_> {
    async fn begin(&self) -> Task {
        begin(&agent_of(self.world, self.settings()).await).await
    }

    fn settings(&self) -> Settings {
        settings(self.world, self.broker)
    }
}

/// A runtime as `#[tokio::main]` makes it.
fn many_threads() -> Runtime {
    let builder = &mut Builder::new_multi_thread();
    builder.enable_all().build().expect("runtime")
}

fn one_thread() -> Runtime {
    let builder = &mut Builder::new_current_thread();
    builder.enable_all().build().expect("runtime")
}

/// Returns the outcome of each task that has ended, in the order of their ends. A task that was ended
/// twice at once is on the record twice.
fn outcomes(broker: &Broker) -> Vec<String> {
    let mut ended: Vec<(String, String)> = Vec::new();
    for record in broker.journal().iter().filter(|r| r.event == "task_ended") {
        let field = |name| record.field(name).expect("field").to_owned();
        let (task, outcome) = (field("task"), field("outcome"));
        if ended.iter().all(|(known, _)| *known != task) {
            ended.push((task, outcome));
        }
    }
    ended.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A name, the way, and the outcome that the task has then.
type Way = (&'static str, fn(Place<'_>), &'static str);

const CANCELED: &str = "canceled";

const WAYS: [Way; 14] = [
    (
        "returned from main",
        |p| many_threads().block_on(async { drop(p.begin().await) }),
        CANCELED,
    ),
    (
        "returned from main with one thread",
        |p| one_thread().block_on(async { drop(p.begin().await) }),
        CANCELED,
    ),
    (
        "left by ? out of main",
        |p| {
            let result: Result<(), Error> = many_threads().block_on(async {
                let task = p.begin().await;
                task.secret("app/none").await?;
                Ok(())
            });
            assert!(result.is_err());
        },
        CANCELED,
    ),
    (
        "panicked in main",
        |p| {
            let main = || {
                many_threads().block_on(async {
                    let _task = p.begin().await;
                    panic!("the agent panics");
                })
            };
            let main = std::panic::AssertUnwindSafe(main);
            assert!(std::panic::catch_unwind(main).is_err());
        },
        CANCELED,
    ),
    (
        "panicked in main with one thread",
        |p| {
            let main = || {
                one_thread().block_on(async {
                    let _task = p.begin().await;
                    panic!("the agent panics");
                })
            };
            let main = std::panic::AssertUnwindSafe(main);
            assert!(std::panic::catch_unwind(main).is_err());
        },
        CANCELED,
    ),
    (
        "panicked in a background task",
        |p| {
            many_threads().block_on(async {
                let task = p.begin().await;
                let work = tokio::spawn(async move {
                    let _task = task;
                    panic!("the agent panics");
                });
                assert!(work.await.is_err());
            });
        },
        CANCELED,
    ),
    (
        "dropped after its runtime",
        |p| {
            let runtime = many_threads();
            let task = runtime.block_on(p.begin());
            drop(runtime);
            drop(task);
        },
        CANCELED,
    ),
    (
        "dropped outside of its runtime",
        |p| {
            let runtime = one_thread();
            let task = runtime.block_on(p.begin());
            drop(task);
        },
        CANCELED,
    ),
    (
        "held in the background when the runtime was dropped",
        |p| {
            many_threads().block_on(async {
                let task = p.begin().await;
                tokio::spawn(async move {
                    task.ended().await;
                });
            });
        },
        CANCELED,
    ),
    (
        "held in the background when the runtime was shut down without waiting",
        |p| {
            let runtime = many_threads();
            runtime.block_on(async {
                let task = p.begin().await;
                tokio::spawn(async move {
                    task.ended().await;
                });
            });
            runtime.shutdown_background();
        },
        CANCELED,
    ),
    (
        "aborted in the background",
        |p| {
            many_threads().block_on(async {
                let task = p.begin().await;
                let work = tokio::spawn(async move { task.ended().await });
                tokio::task::yield_now().await;
                work.abort();
            });
        },
        CANCELED,
    ),
    (
        "given up by a timeout",
        |p| {
            one_thread().block_on(async {
                let task = p.begin().await;
                let work = async move { task.ended().await };
                let work = tokio::time::timeout(Duration::from_millis(10), work);
                assert!(work.await.is_err());
            });
        },
        CANCELED,
    ),
    (
        "completed without waiting for the answer",
        |p| {
            one_thread().block_on(async {
                let task = p.begin().await;
                let completed = tokio::time::timeout(Duration::ZERO, task.complete());
                assert!(completed.await.is_err());
            });
        },
        "completed",
    ),
    (
        "completed",
        |p| {
            let runtime = many_threads();
            runtime.block_on(async { drop(p.begin().await.complete().await) });
        },
        "completed",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn c3_every_way_to_leave_a_task_ends_it_within_a_second() {
    let (world, broker, _agent) = ready_with(json!({ "attendance_grace": "60s" })).await;
    let place = Place {
        world: &world,
        broker: &broker,
    };
    let mut failures = Vec::new();
    for (name, way, outcome) in WAYS {
        let before = outcomes(&broker).len();
        let left = std::thread::scope(|scope| {
            scope.spawn(|| way(place)).join().expect("the way works");
            Instant::now()
        });
        let ended = || outcomes(&broker).get(before).cloned();
        while ended().is_none() && left.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if ended().as_deref() != Some(outcome) {
            failures.push((name, ended(), left.elapsed()));
        }
    }
    assert!(failures.is_empty(), "{failures:?} left a task alive");
}

/// C3 where no test's own process lives on: `sundew run` gives up before its command has begun.
#[tokio::test]
async fn c3_a_run_whose_secret_is_refused_ends_its_task() {
    let (world, broker, _agent) = ready_with(json!({ "attendance_grace": "60s" })).await;
    let output = command_as(&world, &broker, "/agent")
        .args(["run", "--task", "t", "--scope", "exec:git"])
        .args(["--secret", "KEY=app/key", "--", "true"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(125));
    // The process has ended, so nobody tells anything any more.
    assert_eq!(outcomes(&broker), [CANCELED]);
}

#[tokio::test]
async fn c3_a_program_whose_broker_stands_still_is_held_up_for_a_second_in_all() {
    let (world, broker, _agent) = ready_with(json!({ "attendance_grace": "60s" })).await;
    let place = Place {
        world: &world,
        broker: &broker,
    };
    let held_up = std::thread::scope(|scope| {
        let program = scope.spawn(|| {
            let runtime = one_thread();
            let tasks = runtime.block_on(async {
                let agent = agent_of(place.world, place.settings()).await;
                [
                    begin(&agent).await,
                    begin(&agent).await,
                    begin(&agent).await,
                ]
            });
            broker.signal(Signal::STOP);
            let left = Instant::now();
            runtime.block_on(async { drop(tasks) });
            drop(runtime);
            left.elapsed()
        });
        program.join().expect("the program ends")
    });
    assert!(
        held_up > Duration::from_millis(900) && held_up < Duration::from_secs(2),
        "{held_up:?}"
    );
    broker.signal(Signal::CONT);
    until("the endings are told when the broker goes on", || async {
        outcomes(&broker) == [CANCELED; 3]
    })
    .await;
}
