//! A journal whose segments end and go while the broker works, is killed and is started again: O1.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use sundew_broker::journal::{Extent, read_all};
use sundew_proto::v1::Effect;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::disk::Disk;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;
use sundew_tests::{sundew, until};
use tonic::Code;

/// A broker that is not started, with short segments and these settings of its journal.
fn prepare_with(world: &World, settings: &str) -> Broker {
    let broker = world.prepare("");
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    let settings = format!("[journal]\nsegment_size = \"64KiB\"\n{settings}");
    let text = text.replace("[journal]", &settings);
    std::fs::write(broker.config_file(), text).expect("config");
    broker
}

/// A broker that is not started, with short segments that go to a folder.
fn prepare(world: &World, archive: &Path) -> Broker {
    let archive = archive.display();
    let settings = format!("keep_size = \"256KiB\"\narchive_to = \"{archive}\"");
    prepare_with(world, &settings)
}

/// Begins a task with an instruction of 30,000 bytes, if the broker answers.
async fn begin(world: &World, caller: &Caller) -> Option<Begun> {
    let request = caller.request(&world.issuer, "/agent", &["exec:git"]).await;
    let mut request = request.ok()?;
    request.instruction = "i".repeat(30_000);
    caller.send(request).await.ok()
}

fn segments(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("folder");
    let names = entries.map(|entry| entry.expect("entry").path());
    names
        .filter(|path| path.extension().is_some_and(|e| e == "journal"))
        .count()
}

fn verify(folders: &[&Path]) -> Output {
    let mut command = Command::new(sundew());
    command.args(["journal", "verify"]).args(folders);
    command.output().expect("sundew")
}

/// What ended before a segment went to the archive is dead after a restart that reads the newest
/// segment only, also when the store has forgotten everything; and archive and journal verify.
#[tokio::test]
async fn o1_segments_go_while_the_broker_works_and_a_restart_forgets_no_ending() {
    let world = World::redis();
    let archive = tempfile::tempdir().expect("archive");
    let mut broker = prepare(&world, archive.path());
    broker.up();
    broker.ready().await;
    for path in ["/agent", "/bad"] {
        let many = json!({ "max_tasks": 1000 });
        world.register(&broker, path, many).await;
    }
    let svid = world.ca.svid("/agent");
    let caller = world.caller_with(&broker, svid.clone());
    let operator = world.operator(&broker);
    let ended = begin(&world, &caller).await.expect("task");
    caller.complete(&ended.task).await.expect("completed");
    operator
        .respond(of_workload("/bad"), Effect::Quarantine)
        .await
        .expect("quarantine");
    let journal = broker.folder().join("journal");
    let mut alive = None;
    while segments(archive.path()) < 3 {
        for _ in 0..3 {
            alive = Some(begin(&world, &caller).await.expect("task"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    until("metrics say how many segments there are", || async {
        let (_, metrics) = broker.http("/metrics").await.expect("answer");
        metrics.contains(&format!("sundew_journal_segments {}\n", segments(&journal)))
            && metrics.contains("sundew_journal_upkeep_failing 0")
    })
    .await;
    broker.kill();
    // The journal is now the only place that knows of the endings.
    redis::cmd("DEL")
        .arg("sundew:{log}:stream")
        .exec(&mut world.redis.as_ref().expect("redis").connection())
        .expect("redis");
    broker.up();
    broker.ready().await;
    let caller = world.caller_with(&broker, svid);
    let operator = world.operator(&broker);
    let presenter = caller.thumbprint();
    let active = operator.active(&ended.token, &presenter).await;
    assert_eq!(active.ok(), Some(false), "P4");
    let bad = world.caller(&broker, "/bad");
    let refused = bad.begin(&world.issuer, "/bad", &["exec:git"]).await;
    assert_eq!(
        refused.expect_err("quarantined").code(),
        Code::PermissionDenied
    );
    let alive = alive.expect("a task");
    caller.mint(&alive.task).await.expect("it lives");
    drop(caller);
    broker.kill();

    let alone = verify(&[&journal]);
    let text = String::from_utf8_lossy(&alone.stdout).into_owned();
    assert!(alone.status.success(), "{alone:?}");
    assert!(text.contains("not verified: segments 1 to "), "{text}");
    let both = verify(&[archive.path(), &journal]);
    let text = String::from_utf8_lossy(&both.stdout).into_owned();
    assert!(both.status.success(), "{both:?}");
    assert!(text.contains("the chain holds") && !text.contains("not verified"));
}

/// Killed at random moments while segments end and go, a broker goes on each time, and everything
/// that it acknowledged is on the record.
#[tokio::test]
async fn o1_a_broker_that_is_killed_while_segments_end_and_go_loses_nothing() {
    let world = World::embedded();
    let archive = tempfile::tempdir().expect("archive");
    let mut broker = prepare(&world, archive.path());
    broker.up();
    broker.ready().await;
    let many = json!({ "max_tasks": 10_000 });
    world.register(&broker, "/agent", many).await;
    let svid = world.ca.svid("/agent");
    let (mut ended, mut alive) = (Vec::new(), Vec::new());
    for round in 0..8_u64 {
        let caller = world.caller_with(&broker, svid.clone());
        let work = async {
            while let Some(begun) = begin(&world, &caller).await {
                if ended.len() <= alive.len() {
                    if caller.complete(&begun.task).await.is_ok() {
                        ended.push(begun);
                    }
                } else {
                    alive.push(begun);
                }
            }
        };
        // The upkeep looks once in a second.
        let length = std::time::Duration::from_millis(900 + (round * 137) % 400);
        let _ = tokio::time::timeout(length, work).await;
        broker.kill();
        broker.up();
        broker.ready().await;
    }
    assert!(segments(archive.path()) > 0 && ended.len() > 20);
    let caller = world.caller_with(&broker, svid);
    for begun in &ended {
        let refused = caller.mint(&begun.task).await.expect_err("P4");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    for begun in &alive {
        caller.mint(&begun.task).await.expect("it lives");
    }
    broker.kill();
    let mut on_record = std::collections::HashSet::new();
    let both = [archive.path().to_owned(), broker.folder().join("journal")];
    let Extent { first, last, .. } = read_all(&both, |record| {
        if record.event == "task_begun" {
            on_record.extend(record.field("task").map(str::to_owned));
        }
    })
    .expect("the chain holds");
    assert!(first == 1 && last > 4, "{first} to {last}");
    for begun in ended.iter().chain(&alive) {
        assert!(on_record.contains(&begun.task), "{}", begun.task);
    }
}

/// A segment that cannot be archived stays; health, metrics and the log say so, and the broker is
/// ready all the same.
#[tokio::test]
async fn o1_an_archive_that_fails_is_an_alarm() {
    let world = World::embedded();
    let mut broker = prepare_with(&world, "archive_command = [\"false\"]");
    broker.up();
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    for _ in 0..3 {
        begin(&world, &caller).await.expect("task");
    }
    until("health, metrics and the log say so", || async {
        let (status, ready) = broker.http("/readyz").await.expect("answer");
        let (_, metrics) = broker.http("/metrics").await.expect("answer");
        let problem = "00000001.journal: segment could not be archived: archive_command: exit";
        status == 200
            && ready.contains(problem)
            && metrics.contains("sundew_journal_upkeep_failing 1")
            && broker.output().contains("\"alarm\":\"journal_upkeep\"")
    })
    .await;
    assert!(segments(&broker.folder().join("journal")) >= 2);
    begin(&world, &caller).await.expect("a task");
}

/// A1: segments end as long as the disk has room for the reserve of two, and when it has not, every
/// ending is written all the same, also after a restart.
#[tokio::test]
async fn o1_on_a_full_disk_segments_go_on_and_everything_ends() {
    let world = World::redis();
    let disk = Disk::mount("8m");
    let mut broker = world.prepare("");
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    let directory = format!(
        "segment_size = \"64KiB\"\ndirectory = \"{}/journal\"\n#",
        disk.path().display()
    );
    let text = text.replace("directory = \"", &directory);
    let text = text.replace("reserve = \"1MiB\"", "reserve = \"2MiB\"");
    std::fs::write(broker.config_file(), text).expect("config");
    broker.up();
    broker.ready().await;
    let many = json!({ "max_tasks": 1000 });
    world.register(&broker, "/agent", many).await;
    let svid = world.ca.svid("/agent");
    let caller = world.caller_with(&broker, svid.clone());
    let journal = disk.path().join("journal");
    let mut begun = Vec::new();
    while segments(&journal) < 3 {
        begun.push(begin(&world, &caller).await.expect("task"));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    while let Some(task) = begin(&world, &caller).await {
        begun.push(task);
    }
    // Another program takes the rest of the disk.
    let _filler = disk.fill();
    let before = segments(&journal);
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let (last, rest) = begun.split_last().expect("tasks");
    for task in rest {
        caller.complete(&task.task).await.expect("completed");
    }
    assert_eq!(segments(&journal), before, "there is no room for another");
    broker.kill();
    broker.up();
    until("the broker answers endings", || async {
        let caller = world.caller_with(&broker, svid.clone());
        caller.complete(&last.task).await.is_ok()
    })
    .await;
    let operator = world.operator(&broker);
    until("the broker answers", || async {
        let active = operator.active(&last.token, &caller.thumbprint()).await;
        active.ok() == Some(false)
    })
    .await;
    broker.kill();
    read_all(&[journal], drop).expect("the chain holds");
}
