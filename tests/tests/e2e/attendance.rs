//! Attended tasks live on over outages that they have no part in: faults that the field showed (L12,
//! L20).

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::{AttendPing, AttendRequest, AttendStart};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::replicated::{Sentinels, info};
use sundew_tests::selectors::of_task;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Attends a task as an agent does: a stream, and a ping every fifth of a second.
async fn attend(caller: &Caller, begun: &Begun) -> JoinHandle<()> {
    let (asked, requests) = tokio::sync::mpsc::channel(4);
    let say = |request| AttendRequest {
        request: Some(request),
    };
    let start = AttendStart {
        task_id: begun.task.clone(),
        ..AttendStart::default()
    };
    asked.send(say(Request::Start(start))).await.expect("start");
    let mut told = caller
        .agent()
        .attend(ReceiverStream::new(requests))
        .await
        .expect("attend")
        .into_inner();
    // Whatever it hears, it goes on saying that it is there.
    let mut pings = tokio::time::interval(Duration::from_millis(200));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                event = told.next() => if event.is_none_or(|event| event.is_err()) { return },
                _ = pings.tick() => {
                    let _ = asked.try_send(say(Request::Ping(AttendPing {})));
                }
            }
        }
    })
}

/// Begins tasks with a grace of a second, and attends them at two brokers in turn.
async fn attended_at(
    world: &World,
    brokers: &[Broker; 2],
    tasks: usize,
) -> ([Caller; 2], Vec<(Begun, JoinHandle<()>)>) {
    let grace = json!({ "attendance_grace": "1s" });
    world.register(&brokers[0], "/agent", grace).await;
    let svid = world.ca.svid("/agent");
    let callers = [&brokers[0], &brokers[1]].map(|at| world.caller_with(at, svid.clone()));
    let mut attended = Vec::new();
    for number in 0..tasks {
        let caller = &callers[number % 2];
        let begun = caller.begin(&world.issuer, "/agent", &["exec:git"]).await;
        let begun = begun.expect("task");
        let stream = attend(caller, &begun).await;
        attended.push((begun, stream));
    }
    (callers, attended)
}

/// Nobody has abandoned what is attended; and absence is still noticed.
async fn live_on(caller: &Caller, attended: &[(Begun, JoinHandle<()>)]) {
    // Longer than any sweep, and than the grace.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (begun, stream) in attended {
        let active = caller.active(&begun.token, &[]).await;
        assert_eq!(active.ok(), Some(true), "{}", begun.task);
        stream.abort();
    }
    until("abandoned", || async {
        caller.active(&attended[0].0.token, &[]).await.ok() == Some(false)
    })
    .await;
}

/// L12: the store is away for three times the grace of tasks that are attended at two brokers. Nobody
/// could tell it that they are, and when it is back, no broker takes that for absence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l12_no_attended_task_is_abandoned_because_of_an_outage_of_the_store() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let brokers = [world.broker().await, world.broker().await];
    let (callers, attended) = attended_at(&world, &brokers, 12).await;
    redis.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.signal(Signal::CONT);
    until("the store is back", || async {
        callers[0]
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .is_ok()
    })
    .await;
    live_on(&callers[0], &attended).await;
}

/// L7: an ending that is in force here, and pending, stops the agent that is attended here. A
/// hijacked one does not go on with its secrets until the store is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_an_ending_that_is_pending_is_told_on_the_stream() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let broker = world.broker().await;
    let grace = json!({ "attendance_grace": "30s" });
    world.register(&broker, "/agent", grace).await;
    let caller = world.caller_with(&broker, world.ca.svid("/agent"));
    let begun = caller.begin(&world.issuer, "/agent", &["exec:git"]).await;
    let begun = begun.expect("task");
    let stream = attend(&caller, &begun).await;
    redis.signal(Signal::STOP);
    let revoked = world.operator(&broker).revoke(of_task(&begun.task)).await;
    revoked.expect_err("pending");
    until("told", || async { stream.is_finished() }).await;
    redis.signal(Signal::CONT);
}

/// L4: what an emptied store has lost lives for nobody, and the agents hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_an_agent_whose_task_went_with_the_store_is_told_on_its_stream() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let brokers = [world.broker().await, world.broker().await];
    let (_callers, attended) = attended_at(&world, &brokers, 4).await;
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .expect("flush");
    until("told", || async {
        attended.iter().all(|(_, stream)| stream.is_finished())
    })
    .await;
}

/// L12: a primary that is deposed while it lives takes writes until a Sentinel tells it, which is
/// after eight seconds. What is reported there, the new primary does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l12_what_a_deposed_primary_is_told_of_attendance_is_told_to_the_new_one() {
    let group = Sentinels::start(2);
    let world = World::with_store(&group.url(), 2);
    let brokers = [world.broker().await, world.broker().await];
    let (callers, attended) = attended_at(&world, &brokers, 12).await;
    let old = group.primary();
    group.fail_over();
    group.failed_over(old).await;
    until("tasks are begun at the new primary", || async {
        let begun = callers[0].begin(&world.issuer, "/agent", &["exec:git"]);
        begun.await.is_ok()
    })
    .await;
    // A Sentinel waits for so long.
    tokio::time::sleep(Duration::from_secs(7)).await;
    until("the deposed primary is told", || async {
        info(&group.nodes[old], "role") == "slave"
    })
    .await;
    live_on(&callers[0], &attended).await;
}

/// L20: one member of the list of due tasks that names no task does not keep the others from being
/// looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l20_an_odd_member_of_the_list_of_due_tasks_stops_no_sweep() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let broker = world.broker().await;
    world
        .register(&broker, "/agent", json!({ "attendance_grace": "1s" }))
        .await;
    let caller = world.caller_with(&broker, world.ca.svid("/agent"));
    redis::cmd("ZADD")
        .arg("sundew:due")
        .arg(1)
        .arg("no task")
        .exec(&mut redis.connection())
        .expect("an odd member");
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    until("abandoned all the same", || async {
        caller.active(&begun.token, &[]).await.ok() == Some(false)
    })
    .await;
    assert!(
        broker
            .output()
            .contains("removed from the list of due tasks")
    );
}
