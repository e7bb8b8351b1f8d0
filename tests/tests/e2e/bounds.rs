//! The bounds on which all brokers of a store agree: faults that the field showed (L3, L6).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sundew_tests::broker::Broker;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;
use sundew_tests::{now_ms, until};

use crate::cli::{run_as, text};
use crate::membership::{is_ended_and_not_active, known_at_both, near_and_far};
use crate::replicas::agent;

/// Runs `sundew bounds` as a registrar, and returns whether it succeeded and what it printed.
fn bounds(world: &World, broker: &Broker, arguments: &[&str]) -> (bool, String) {
    let arguments = [&["--json", "bounds"], arguments].concat();
    let output = run_as(world, broker, "/registrar", &arguments, "");
    (output.status.success(), text(&output))
}

/// What `sundew bounds show` says.
fn shown(world: &World, broker: &Broker) -> Value {
    let (success, text) = bounds(world, broker, &["show"]);
    assert!(success, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// L3: the limit is lowered while tasks live that were begun under a higher one. What revokes them
/// stands as long as they could live, whichever broker sets it and whatever its file has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_lower_limit_shortens_no_rule_about_the_tasks_of_the_time_before() {
    let world = World::redis();
    let near = world.broker_with("[limits]\nmax_task_ttl = \"2h\"").await;
    let mut far = world.broker().await;
    let caller = agent(&world, &near).await;
    caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    assert_eq!(shown(&world, &far)["bounds"]["max_task_ttl_ms"], 7_200_000);

    let (success, said) = bounds(&world, &far, &["set", "--max-task-ttl", "2s"]);
    assert!(success, "{said}");
    for broker in [&near, &far] {
        until("the agreement is taken", || async {
            shown(&world, broker)["version"] == 2
        })
        .await;
        let deadline_ms = world
            .caller_with(broker, caller.svid.clone().expect("SVID"))
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task")
            .answer
            .task
            .expect("task")
            .deadline_ms;
        assert!(deadline_ms <= now_ms() + 2000, "clamped at begin");
    }

    // The broker that sets the rule never knew another limit.
    far.kill();
    let file = std::fs::read_to_string(far.config_file()).expect("config");
    let file = format!("{file}\n[limits]\nmax_task_ttl = \"2s\"\n");
    std::fs::write(far.config_file(), file).expect("config");
    far.up();
    far.ready().await;
    let before_ms = now_ms();
    world
        .operator(&far)
        .revoke(of_workload("/agent"))
        .await
        .expect("revoked");
    let log: redis::streams::StreamRangeReply = redis::cmd("XREVRANGE")
        .arg("sundew:{log}:stream")
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(1)
        .query(&mut world.redis.as_ref().expect("redis").connection())
        .expect("log");
    let kept_until_ms: i64 = log.ids[0].get("t").expect("until");
    assert!(
        kept_until_ms >= before_ms + 7_200_000,
        "the rule stands for two hours"
    );
}

/// L3, L6: no broker goes beyond its own file: it does not start, or the change is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_no_agreement_goes_beyond_the_file_of_a_broker() {
    let world = World::redis();
    let near = world.broker().await;
    let (success, said) = bounds(&world, &near, &["set", "--freshness", "2s"]);
    assert!(!success);
    let error: Value = serde_json::from_str(&said).expect("JSON");
    let message = error["message"].as_str().expect("message");
    assert!(
        message.contains("revocation.freshness") && message.contains("at most \"400ms\""),
        "{said}"
    );
    let (success, said) = bounds(&world, &near, &["set", "--freshness", "1ms"]);
    assert!(!success && said.contains("between 100ms and 60s"), "{said}");
    assert_eq!(shown(&world, &near)["version"], 1, "nothing changed");

    let mut strict = world.prepare("");
    let file = std::fs::read_to_string(strict.config_file()).expect("config");
    let file = file.replace("freshness = \"400ms\"", "freshness = \"200ms\"");
    std::fs::write(strict.config_file(), file).expect("config");
    strict.up();
    until("it says why it does not start", || async {
        let output = strict.output();
        output.contains("revocation.freshness") && output.contains("sundew bounds set")
    })
    .await;

    let (success, said) = bounds(&world, &near, &["set", "--freshness", "200ms"]);
    assert!(success, "{said}");
    strict.up();
    strict.ready().await;
    let shown = shown(&world, &strict);
    assert_eq!(shown["bounds"]["freshness_ms"], 200);
    let allowed = |freshness_ms: i64| {
        let brokers = shown["brokers"].as_array().expect("brokers");
        brokers
            .iter()
            .any(|broker| broker["allowed"]["freshness_ms"] == freshness_ms)
    };
    assert!(allowed(400) && allowed(200), "{shown}");
}

/// L6: the bound is shortened and lengthened while a broker is cut off that has the former one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_change_of_the_bound_waits_for_a_broker_that_has_not_heard_of_it() {
    let world = World::redis();
    let (near, proxy, far) =
        near_and_far(&world, ("freshness = \"400ms\"", "freshness = \"3s\"")).await;
    let caller = agent(&world, &near).await;
    let servers = [world.operator(&near), world.operator(&far)];
    for (freshness, version) in [("200ms", 2), ("400ms", 3)] {
        let begun = known_at_both(&world, &caller, &servers).await;
        proxy.cut(true);
        let (success, said) = bounds(&world, &near, &["set", "--freshness", freshness]);
        assert!(success, "{said}");
        let began = Instant::now();
        while !is_ended_and_not_active(&caller, &servers[1], &begun).await {
            assert!(began.elapsed() < Duration::from_secs(30), "never answered");
        }
        proxy.cut(false);
        until("the agreement is taken", || async {
            shown(&world, &far)["version"] == json!(version)
        })
        .await;
    }
}
