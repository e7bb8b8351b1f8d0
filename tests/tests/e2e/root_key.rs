//! Rotations of the root key: what lives lives on, and the former key is of no use in the end (I10).

mod before;
mod stores;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use sundew_core::LogEntry;
use sundew_tests::broker::Broker;
use sundew_tests::redis::Redis;
use sundew_tests::world::World;
use sundew_tests::{now_ms, process, sundew, until};

use crate::cli::{command_as, run_as, text};
use crate::leases::lease;
use before::{Before, SCOPES, at, begin_named, names_at};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(sundew());
    command.args(arguments).stdin(Stdio::null());
    command.output().expect("run")
}

/// Makes a root key in the folder of a world.
fn new_key(world: &World, name: &str) -> PathBuf {
    let path = world.folder().join(name);
    let output = run(&["root-key", "new", &path.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    path
}

/// Gives the configuration of a broker an active key and others.
fn set_keys(broker: &Broker, active: &Path, others: &[&Path]) {
    let config = std::fs::read_to_string(broker.config_file()).expect("config");
    let lines = config
        .lines()
        .filter(|line| !line.starts_with("other_root_key_files"));
    let others: Vec<_> = others
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let line = |line: &str| match line.starts_with("root_key_file") {
        true => format!(
            "root_key_file = \"{}\"\nother_root_key_files = {others:?}",
            active.display()
        ),
        false => line.to_owned(),
    };
    let lines: Vec<_> = lines.map(line).collect();
    std::fs::write(broker.config_file(), lines.join("\n")).expect("config");
}

/// Stops a broker as an operator does, and starts it with these keys.
async fn restart_with(broker: &mut Broker, active: &Path, others: &[&Path]) {
    broker.signal(Signal::TERM);
    assert!(broker.wait().success());
    set_keys(broker, active, others);
    broker.up();
    broker.ready().await;
}

/// Why a broker with these keys does not start.
fn refused_start(world: &World, active: &Path, others: &[&Path]) -> String {
    let mut broker = world.prepare("");
    set_keys(&broker, active, others);
    broker.up();
    assert!(!broker.wait().success());
    let output = broker.output();
    let mut lines = output.lines().filter(|line| line.starts_with("sundew: "));
    lines.next().expect("a line").to_owned()
}

fn status(world: &World, broker: &Broker, command: &str) -> Value {
    let output = run_as(
        world,
        broker,
        "/registrar",
        &["--json", "root-key", command],
        "",
    );
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The kinds of what is left under another key.
fn kinds(status: &Value) -> BTreeSet<String> {
    let left = status["left"].as_array().expect("list").iter();
    left.map(|left| left["kind"].as_str().expect("kind").to_owned())
        .collect()
}

/// Takes out of the log what leaves it by itself within a day.
fn a_day_passes(redis: &Redis) {
    let mut connection = redis.connection();
    let stream = "sundew:{log}:stream";
    let log: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
        .arg(stream)
        .arg("-")
        .arg("+")
        .query(&mut connection)
        .expect("log");
    // What is newest of each document stays, as what stands for ever does.
    let mut newer = HashSet::new();
    let mut passing = log.ids.clone();
    passing.reverse();
    passing.retain(|entry| {
        let until_ms: i64 = entry.get("t").expect("until");
        let record: Vec<u8> = entry.get("d").expect("record");
        let (record, _tag) = record.split_at(record.len() - 16);
        let document = LogEntry::decode(record).expect("entry").document;
        let is_newest = document.is_none_or(|said| newer.insert((said.kind, said.name)));
        until_ms < 1 << 52 || !is_newest
    });
    for entry in passing {
        let gone = redis::cmd("XDEL")
            .arg(stream)
            .arg(&entry.id)
            .query(&mut connection);
        let (): () = gone.expect("gone");
    }
}

/// An agent that attends its task, and must not be away from it for longer than a few seconds.
async fn attend(world: &World, broker: &Broker) -> Child {
    let grace = json!({ "attendance_grace": "6s" });
    world.register(broker, "/attended", grace).await;
    let token = world.folder().join("attended-token");
    std::fs::write(&token, world.issuer.token("/attended")).expect("token");
    command_as(world, broker, "/attended")
        .env("SUNDEW_OIDC_TOKEN_FILE", token)
        .args([
            "run", "--task", "t", "--scope", "exec:git", "--", "sleep", "600",
        ])
        .stdin(Stdio::null())
        .spawn()
        .expect("run")
}

/// Two brokers of one Redis, one restarted after the other at each step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_task_lives_through_the_whole_rotation_at_both_brokers() {
    let (world, target) = (World::redis(), Redis::start());
    let (mut one, mut two) = (world.broker().await, world.broker().await);
    let before = Before::begin(&world, &one, &target).await;
    let mut attended = attend(&world, &one).await;
    let (former, next) = (world.folder().join("root.key"), new_key(&world, "next.key"));
    let again = run(&["root-key", "new", &next.display().to_string()]);
    assert!(!again.status.success(), "no key is overwritten");

    let line = refused_start(&world, &next, &[&former]);
    assert!(
        line.contains("keys.root_key_file: broker ") && line.contains("does not have"),
        "{line}"
    );
    let line = refused_start(&world, &next, &[]);
    assert!(
        line.contains("keys.root_key_file: the store is under another root key"),
        "{line}"
    );
    let line = refused_start(&world, &former, &[&former]);
    assert!(
        line.contains("keys.other_root_key_files: each root key"),
        "{line}"
    );

    // Accepted everywhere first.
    restart_with(&mut one, &former, &[&next]).await;
    before.lives_at(&world, &one).await;
    restart_with(&mut two, &former, &[&next]).await;
    before.lives_at(&world, &two).await;
    let shown = status(&world, &two, "status");
    assert!(kinds(&shown).is_empty(), "{shown}");
    let brokers = shown["brokers"].as_array().expect("brokers");
    assert_eq!(brokers.len(), 2);
    assert!(
        brokers
            .iter()
            .all(|b| b["others"].as_array().expect("keys").len() == 1)
    );

    // Active at one, and then at both.
    restart_with(&mut one, &next, &[&former]).await;
    for broker in [&one, &two] {
        before.lives_at(&world, broker).await;
        before.stays_dead_at(&world, broker).await;
    }
    let late = begin_named(&world, &at(&world, &one, &before.agent), "late").await;
    let seen = begin_named(&world, &at(&world, &two, &before.agent), "late").await;
    assert_eq!((&late.task, &late.token), (&seen.task, &seen.token));
    let caller = at(&world, &two, &before.agent);
    let token = caller.mint(&late.task).await.expect("minted").token;
    let active = world
        .operator(&one)
        .active(&token, &caller.thumbprint())
        .await;
    assert!(active.expect("answer"));
    let line = refused_start(&world, &former, &[]);
    assert!(line.contains("writes under the root key"), "{line}");
    let output = run_as(&world, &one, "/registrar", &["root-key", "rewrite"], "");
    assert!(
        !output.status.success() && text(&output).contains("writes under"),
        "{}",
        text(&output)
    );
    // A credential of the former key that no lease knows is found under the new one.
    let prefix = before.username.get(..13).expect("prefix");
    let orphan = format!("{prefix}{}", "0".repeat(32));
    let made = redis::cmd("ACL")
        .arg("SETUSER")
        .arg(&orphan)
        .query(&mut target.connection());
    let (): () = made.expect("orphan");
    restart_with(&mut two, &next, &[&former]).await;
    until("the orphan is gone", || async {
        !names_at(&target).contains(&orphan)
    })
    .await;
    assert!(
        names_at(&target).contains(&before.username),
        "and the lease stays"
    );
    before.lives_at(&world, &two).await;

    // Rewritten.
    let shown = status(&world, &one, "status");
    for kind in [
        "agreement",
        "document",
        "entry",
        "lease",
        "name at a target",
        "task",
    ] {
        assert!(kinds(&shown).contains(kind), "{kind}: {shown}");
    }
    let told = status(&world, &one, "rewrite");
    assert!(told["rewritten"].as_u64() > Some(5), "{told}");
    let by_itself = ["entry", "lease", "name at a target", "task"].map(str::to_owned);
    assert_eq!(kinds(&told), by_itself.into(), "{told}");
    for broker in [&one, &two] {
        before.lives_at(&world, broker).await;
        before.stays_dead_at(&world, broker).await;
    }
    let line = refused_start(&world, &former, &[]);
    assert!(
        line.contains("keys.root_key_file: the store is under another root key"),
        "{line}"
    );

    // What was begun ends, and then the former key goes.
    assert!(
        attended.try_wait().expect("state").is_none(),
        "it was attended all the time"
    );
    process::signal(attended.id(), Signal::TERM);
    attended.wait().expect("ended");
    for task in [&before.begun.task, &late.task] {
        caller.complete(task).await.expect("completed");
    }
    until("only entries are left", || async {
        kinds(&status(&world, &two, "status"))
            .iter()
            .all(|kind| kind == "entry")
    })
    .await;
    assert!(names_at(&target).is_empty());
    a_day_passes(world.redis.as_ref().expect("redis"));
    let left = status(&world, &one, "status");
    assert!(kinds(&left).is_empty(), "{left}");
    for broker in [&mut one, &mut two] {
        restart_with(broker, &next, &[]).await;
    }
    for broker in [&one, &two] {
        before.is_held_at(&world, broker).await;
        let caller = at(&world, broker, &before.agent);
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("begun");
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.expect("secret"),
            "kept"
        );
        let made = lease(&caller, &begun.task, "cache/main/reader")
            .await
            .expect("lease");
        assert!(names_at(&target).contains(&made.username));
        assert!(!made.username.starts_with(prefix));
        caller.complete(&begun.task).await.expect("completed");
    }
    until("nothing is left", || async { names_at(&target).is_empty() }).await;
    let (status, text) = one.http("/readyz").await.expect("answer");
    assert_eq!((status, text.trim()), (200, "ready"));
}

/// A broker of an older version, which tells no keys, and one that slipped in with a key of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_broker_that_could_not_read_what_others_write_answers_nothing() {
    let world = World::redis();
    let broker = world.broker().await;
    let (former, next) = (world.folder().join("root.key"), new_key(&world, "next.key"));
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let mut set = |key: &str, value: String| {
        let key = format!("sundew:{{log}}:{key}");
        let done = redis::cmd("HSET")
            .arg(key)
            .arg("ghost")
            .arg(value)
            .query(&mut connection);
        let (): () = done.expect("set");
    };
    // On the list for as long as the test needs it.
    set("brokers", format!("0 {}", now_ms()));
    set("bounds", "1500".to_owned());
    let line = refused_start(&world, &next, &[&former]);
    assert!(line.contains("does not have the root key"), "{line}");
    let mut another = world.prepare("");
    set_keys(&another, &former, &[&next]);
    another.up();
    another.ready().await;
    another.kill();
    let shown = status(&world, &broker, "status");
    let names: Vec<_> = shown["brokers"]
        .as_array()
        .expect("brokers")
        .iter()
        .collect();
    assert!(
        names
            .iter()
            .any(|b| b["broker"] == "ghost" && b["active"] == ""),
        "{shown}"
    );

    let keys = json!({ "active": "0123456789abcdef", "others": [] });
    let about = json!({
        "allowed": { "freshness": "400ms", "max_clock_skew": "500ms", "max_task_ttl": "24h", "replicas": 0 },
        "root_keys": keys, "version": 1,
    });
    set("brokers", format!("0 {}", now_ms()));
    set("about", about.to_string());
    until("it answers nothing", || async {
        let answer = broker.http("/readyz").await;
        answer.is_some_and(|(code, text)| {
            code == 503 && text.contains("broker ghost writes under the root key 0123456789abcdef")
        })
    })
    .await;
    set("brokers", "0 1".to_owned());
    until("it is well again", || async {
        broker
            .http("/readyz")
            .await
            .is_some_and(|(code, _)| code == 200)
    })
    .await;
}
