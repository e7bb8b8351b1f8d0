//! `sundew run`: what it gives to its command, and how both end.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::until;
use sundew_tests::world::World;

use super::{command_as, run_as, text};

#[tokio::test]
async fn run_gives_the_command_its_secrets_and_token_and_passes_its_exit_code_on() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let put = run_as(
        &world,
        &broker,
        "/operator",
        &["secret", "put", "app/key"],
        "s3cr3t",
    );
    assert!(text(&put).contains("app/key version 1"), "{}", text(&put));
    let base = [
        "run",
        "--task",
        "triage",
        "--scope",
        "secret:app/key",
        "--secret",
        "KEY=app/key",
    ];
    let run = |more: &[&str]| run_as(&world, &broker, "/agent", &[&base[..], more].concat(), "");
    let output = run(&[
        "--",
        "sh",
        "-c",
        "printf '%s %s' \"$KEY\" \"${SUNDEW_TOKEN%%_*}\"; exit 7",
    ]);
    assert_eq!(
        (output.status.code(), text(&output).as_str()),
        (Some(7), "s3cr3t sdw")
    );
    let output = run(&[
        "--token",
        "fd",
        "--",
        "sh",
        "-c",
        "test -z \"$SUNDEW_TOKEN\" && cat /dev/fd/$SUNDEW_TOKEN_FD",
    ]);
    assert!(
        text(&output).starts_with("sdw_") && output.status.success(),
        "{}",
        text(&output)
    );
    assert_eq!(run(&["--", "/no/such/command"]).status.code(), Some(127));
    assert_eq!(
        run(&["--", "sh", "-c", "kill -9 $$"]).status.code(),
        Some(137)
    );
    assert_eq!(
        run(&["--secret", "OTHER=app/none", "--", "true"])
            .status
            .code(),
        Some(125)
    );
    assert_eq!(
        run(&["--scope", "secret:other/x", "--", "true"])
            .status
            .code(),
        Some(125)
    );
    let outcomes: Vec<_> = broker
        .journal()
        .iter()
        .filter(|r| r.event == "task_ended")
        .filter_map(|r| r.field("outcome").map(str::to_owned))
        .collect();
    assert_eq!(outcomes[..4], ["failed", "completed", "canceled", "failed"]);
    assert!(!text(&run(&["--", "true"])).contains("s3cr3t"));
}

/// Starts `sundew run` with a script, which is killed half a second after it was told to stop.
fn start_script(world: &World, broker: &Broker, script: &str) -> Child {
    let mut command = command_as(world, broker, "/agent");
    command
        .args([
            "run",
            "--task",
            "t",
            "--scope",
            "exec:git",
            "--kill-after",
            "500ms",
            "--",
            "sh",
            "-c",
            script,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("run")
}

#[tokio::test]
async fn run_forwards_signals_and_stops_the_command_when_the_task_is_revoked() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let start = |script: &str| start_script(&world, &broker, script);
    let begun = |count: usize| {
        let broker = &broker;
        until("the task has begun", move || async move {
            broker
                .journal()
                .iter()
                .filter(|r| r.event == "task_begun")
                .count()
                >= count
        })
    };
    let child = start("trap 'exit 33' TERM; echo up; while :; do sleep 0.05; done");
    begun(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    sundew_tests::process::signal(child.id(), Signal::TERM);
    assert_eq!(
        child.wait_with_output().expect("wait").status.code(),
        Some(33)
    );
    assert!(
        broker
            .journal()
            .iter()
            .any(|r| r.event == "task_ended" && r.field("outcome") == Some("canceled"))
    );

    let child = start("trap '' TERM; while :; do sleep 0.05; done");
    begun(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let revoke = run_as(
        &world,
        &broker,
        "/operator",
        &[
            "revoke",
            "--workload",
            "spiffe://test.example/agent",
            "--reason",
            "test",
        ],
        "",
    );
    assert!(
        revoke.status.success() && text(&revoke).contains("1 live tasks"),
        "{}",
        text(&revoke)
    );
    let began = Instant::now();
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(137), "SIGKILL after the grace");
    assert!(
        text(&output).contains("the task was ended: revoked")
            && began.elapsed() < Duration::from_secs(5),
        "{}",
        text(&output)
    );
}

/// AC-36: `sundew run` is killed with SIGKILL; its task ends all the same, and at once, since the
/// process that has the task lives on for that.
#[tokio::test]
async fn a_killed_run_leaves_no_task_behind() {
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(&broker, "/agent", json!({ "attendance_grace": "1s" }))
        .await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let mut child = command_as(&world, &broker, "/agent")
        .args([
            "run", "--task", "t", "--scope", "exec:git", "--", "sleep", "20",
        ])
        .stdin(Stdio::null())
        .spawn()
        .expect("run");
    until("begun", || async {
        broker.journal().iter().any(|r| r.event == "task_begun")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        !broker.journal().iter().any(|r| r.event == "task_ended"),
        "attended while it runs"
    );
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("ended", || async {
        broker
            .journal()
            .iter()
            .any(|r| r.event == "task_ended" && r.field("outcome") == Some("canceled"))
    })
    .await;
}
