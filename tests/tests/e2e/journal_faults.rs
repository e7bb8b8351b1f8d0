//! The journal under failure, and what clients saw of it: T45, T74, T75, T77.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::disk::Disk;
use sundew_tests::sundew;
use sundew_tests::world::World;
use tonic::Code;

/// A broker whose journal is on this disk.
async fn broker_with_journal_on(world: &World, disk: &Disk) -> Broker {
    // The disk is smaller than the reserve of a real one.
    let mut broker = world.prepare_with_journal_on(disk, "128KiB");
    broker.up();
    broker.ready().await;
    broker
}

/// T74: the journal's disk is full: nothing is issued, no secret is sent; when there is room again,
/// it goes on.
#[tokio::test]
async fn t74_a_full_disk_under_the_journal_stops_issuing() {
    let world = World::embedded();
    let disk = Disk::mount("1m");
    let broker = broker_with_journal_on(&world, &disk).await;
    world.register(&broker, "/agent", json!({})).await;
    world
        .operator(&broker)
        .put_secret("app/key", "canary")
        .await;
    let caller = world.caller(&broker, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:app/key"])
        .await
        .expect("task");
    let filler = disk.fill();
    // The page that the journal is on may have room for some records yet.
    let mut refused = 0;
    for _ in 0..200 {
        refused += usize::from(
            caller
                .mint(&begun.task)
                .await
                .is_err_and(|s| s.code() == Code::Unavailable),
        );
    }
    assert!(refused > 100, "{refused}");
    assert_eq!(
        caller
            .secret(&begun.task, "app/key")
            .await
            .expect_err("P10")
            .code(),
        Code::Unavailable
    );
    assert_eq!(
        caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect_err("P10")
            .code(),
        Code::Unavailable
    );
    std::fs::remove_file(&filler).expect("room");
    assert_eq!(
        caller.secret(&begun.task, "app/key").await.as_deref().ok(),
        Some("canary")
    );
    let mut count = 0;
    sundew_broker::journal::read(&disk.path().join("journal"), |_| count += 1)
        .expect("the chain holds");
    assert!(count > 3);
    drop(broker);
    drop(disk);
}

/// T74: `fdatasync` fails with EIO: what was not durable is never acknowledged, and nothing is
/// issued until a restart. T45: and no token remains.
#[tokio::test]
async fn t74_t45_an_io_error_of_fdatasync_poisons_the_journal() {
    let world = World::redis();
    let mut broker = world.prepare("");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO:when=6+",
            "-o",
            "/dev/null",
        ])
        .arg(sundew());
    broker.up_as(strace);
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        match caller.begin(&world.issuer, "/agent", &["exec:git"]).await {
            Ok(begun) => acknowledged.push(begun.task),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                refused += 1;
            }
        }
    }
    assert!(
        !acknowledged.is_empty() && refused > 0,
        "{} acknowledged, {refused} refused",
        acknowledged.len()
    );
    caller.mint(&acknowledged[0]).await.expect_err("P10");
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let lists: Vec<String> = redis::cmd("KEYS")
        .arg("sundew:*:tokens")
        .query(&mut connection)
        .expect("keys");
    let tokens: usize = lists
        .iter()
        .map(|key| {
            redis::cmd("HLEN")
                .arg(key)
                .query::<usize>(&mut connection)
                .expect("length")
        })
        .sum();
    assert_eq!(
        (lists.len(), tokens),
        (acknowledged.len(), acknowledged.len()),
        "tokens that nobody was told of"
    );
    broker.kill();
    let journal = broker.journal();
    for task in &acknowledged {
        assert!(
            journal
                .iter()
                .any(|r| r.event == "task_begun" && r.field("task") == Some(task)),
            "{task} is not on the record"
        );
    }
}

/// T75: a disk that does not answer: callers hear so within their time, nothing is sent, and who
/// needs no record is served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t75_a_journal_that_blocks_holds_up_only_what_must_be_on_it() {
    let world = World::redis();
    let mut broker = world.prepare("");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_enter=20000000:when=7+",
            "-o",
            "/dev/null",
        ])
        .arg(sundew());
    broker.up_as(strace);
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    world
        .operator(&broker)
        .put_secret("app/key", "canary")
        .await;
    let caller = world.caller(&broker, "/agent");
    let mut last = None;
    let blocked = loop {
        let began = std::time::Instant::now();
        match caller
            .begin(&world.issuer, "/agent", &["secret:app/key"])
            .await
        {
            Ok(begun) => last = Some(begun),
            Err(status) => break (status, began.elapsed()),
        }
    };
    assert_eq!(blocked.0.code(), Code::Unavailable);
    assert!(blocked.1 < Duration::from_secs(10), "{:?}", blocked.1);
    let begun = last.expect("one before the disk stood still");
    let secrets: Vec<_> = (0..8)
        .map(|_| {
            let (caller, task) = (caller.clone(), begun.task.clone());
            tokio::spawn(async move { caller.secret(&task, "app/key").await })
        })
        .collect();
    for _ in 0..20 {
        let began = std::time::Instant::now();
        assert_eq!(
            caller.active(&begun.token, &[]).await.ok(),
            Some(true),
            "introspection needs no record"
        );
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    for secret in secrets {
        assert_eq!(
            secret.await.expect("call").expect_err("P10").code(),
            Code::Unavailable
        );
    }
}

/// T77: kill -9 at random moments: what clients saw is on the record, the chain verifies, and no
/// acknowledged task is lost.
#[tokio::test]
async fn t77_what_clients_saw_is_on_the_record_whenever_the_broker_is_killed() {
    for world in World::both() {
        let mut broker = world.broker().await;
        world
            .register(&broker, "/agent", json!({ "max_tasks": 10_000 }))
            .await;
        let svid = world.ca.svid("/agent");
        let mut seen: Vec<sundew_tests::calls::Begun> = Vec::new();
        for round in 0..15_u64 {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let caller = world.caller_with(&broker, svid.clone());
                    let tokens: Vec<_> = (0..200).map(|_| world.issuer.token("/agent")).collect();
                    tokio::spawn(async move {
                        let mut begun = Vec::new();
                        for token in tokens {
                            let Ok(nonce) = caller.nonce().await else {
                                break;
                            };
                            let request = sundew_proto::v1::BeginTaskRequest {
                                nonce,
                                purpose: "x".to_owned(),
                                scopes: vec!["exec:git".to_owned()],
                                evidence: vec![sundew_tests::calls::oidc(token)],
                                ..Default::default()
                            };
                            match caller.send(request).await {
                                Ok(task) => begun.push(task),
                                Err(_) => break,
                            }
                        }
                        begun
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(20 + (round * 37) % 90)).await;
            broker.kill();
            for worker in workers {
                seen.extend(worker.await.expect("worker"));
            }
            broker.up();
            broker.ready().await;
        }
        let journal = broker.journal();
        let recorded: std::collections::HashSet<_> = journal
            .iter()
            .filter(|r| r.event == "task_begun")
            .filter_map(|r| r.field("task"))
            .collect();
        assert!(seen.len() > 20, "only {} tasks were begun", seen.len());
        let server = world.operator(&broker);
        for begun in &seen {
            assert!(
                recorded.contains(begun.task.as_str()),
                "{} is not on the record",
                begun.task
            );
            let presenter = svid.thumbprint();
            assert_eq!(
                server.active(&begun.token, &presenter).await.ok(),
                Some(true),
                "{} was acknowledged and lost",
                begun.task
            );
        }
    }
}

/// P12, I10: the journal's disk is full, nobody gets in, and the emergency's SVID is given on the
/// reserve, for it is what room is made with.
#[tokio::test]
async fn p12_i10_a_full_disk_keeps_no_emergency_out() {
    let world = World::embedded();
    let disk = Disk::mount("1m");
    let (broker, persons) = crate::first_operator::broker_with_persons_on(&world, &disk);
    let mut broker = broker;
    broker.up();
    broker.ready().await;
    let filler = disk.fill();
    let agent = world.caller(&broker, "/agent");
    // What only tells is not written any more, once the page of the journal is full.
    for _ in 0..200 {
        drop(agent.nonce().await);
    }
    crate::first_operator::emergency(&world, &broker, &persons);
    std::fs::remove_file(&filler).expect("room");
    let events: Vec<_> = broker
        .journal()
        .into_iter()
        .map(|record| record.event)
        .collect();
    assert!(
        events.contains(&"operator_svid_issued".to_owned()),
        "{events:?}"
    );
}
