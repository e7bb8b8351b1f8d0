//! How everything ends: AC-30 to AC-37, revocation, restarts, several brokers.

use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{
    AttendPing, AttendRequest, AttendStart, Outcome, ResumeTaskRequest, ShowTaskRequest,
    SuspendTaskRequest,
};
use sundew_tests::broker::{Broker, World};
use sundew_tests::calls::{Caller, of_task, of_token, of_workload, oidc};
use sundew_tests::redis::Redis;
use sundew_tests::until;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

async fn ready(world: &World) -> (Broker, Caller) {
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    world
        .operator(&broker)
        .put_secret("app/key", "s3cr3t")
        .await;
    let caller = world.caller(&broker, "/agent");
    (broker, caller)
}

const SCOPES: &[&str] = &["secret:app/key", "exec:git"];

async fn outcome(world: &World, broker: &Broker, task: &str) -> Outcome {
    let request = ShowTaskRequest {
        task_id: task.to_owned(),
    };
    world
        .operator(broker)
        .response()
        .show_task(request)
        .await
        .expect("shown")
        .into_inner()
        .task
        .expect("task")
        .outcome()
}

/// AC-31, AC-83: after completion every token and secret of the task is refused, at every broker;
/// others live.
#[tokio::test]
async fn ac_31_completing_a_task_kills_everything_of_it_everywhere_and_nothing_else() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let brokers = if world.redis.is_some() {
            vec![world.broker().await, world.broker().await]
        } else {
            vec![]
        };
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let other = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let minted = caller.mint(&begun.task).await.expect("token").token;
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.as_deref().ok(),
            Some("s3cr3t")
        );
        let everywhere: Vec<_> = std::iter::once(&broker)
            .chain(&brokers)
            .map(|b| world.operator(b))
            .collect();
        for server in &everywhere {
            for token in [&begun.token, &minted, &other.token] {
                assert_eq!(
                    server.active(token, &caller.thumbprint()).await.ok(),
                    Some(true),
                    "caches are warm"
                );
            }
        }
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Completed)
        );
        for server in &everywhere {
            for token in [&begun.token, &minted] {
                assert_eq!(
                    server.active(token, &caller.thumbprint()).await.ok(),
                    Some(false)
                );
            }
            assert_eq!(
                server.active(&other.token, &caller.thumbprint()).await.ok(),
                Some(true)
            );
        }
        assert_eq!(
            caller.mint(&begun.task).await.expect_err("dead").code(),
            Code::PermissionDenied
        );
        assert_eq!(
            caller
                .secret(&begun.task, "app/key")
                .await
                .expect_err("dead")
                .code(),
            Code::PermissionDenied
        );
        // AC-33: again is the same.
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Completed)
        );
        let ends = broker
            .journal()
            .iter()
            .filter(|r| r.event == "task_ended" && r.field("task") == Some(&begun.task))
            .count();
        assert_eq!(ends, 1);
    }
}

/// AC-32, P11: unknown and not yours are one answer.
#[tokio::test]
async fn ac_32_an_unknown_task_and_somebody_elses_are_answered_alike() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        world.register(&broker, "/other", json!({})).await;
        let other = world.caller(&broker, "/other");
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let unknown = format!("task-{}", "0".repeat(32));
        let mut answers = Vec::new();
        for task in [&begun.task, &unknown] {
            answers.push(other.complete(task).await.expect_err("refused"));
            answers.push(other.mint(task).await.expect_err("refused"));
            answers.push(other.secret(task, "app/key").await.expect_err("refused"));
        }
        assert!(
            answers
                .iter()
                .all(|s| (s.code(), s.message()) == (Code::PermissionDenied, "not permitted")),
            "{answers:?}"
        );
        assert_eq!(
            caller.active(&begun.token, &[]).await.ok(),
            Some(true),
            "and nothing happened"
        );
        until("causes are on the record", || async {
            let reasons = broker.refusals("CompleteTask");
            reasons.len() == 2 && reasons[0] != reasons[1]
        })
        .await;
    }
}

/// AC-30, AC-36, T61: an agent that is gone.
#[tokio::test]
async fn ac_36_a_task_that_nobody_attends_ends_after_its_grace_and_one_that_is_attended_does_not() {
    for world in World::both() {
        let broker = world.broker().await;
        world
            .register(&broker, "/agent", json!({ "attendance_grace": "1s" }))
            .await;
        let caller = world.caller(&broker, "/agent");
        // A broker that has just started gives agents time to come back.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let left = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        let kept = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        let (asked, requests) = tokio::sync::mpsc::channel(4);
        let say = |request| AttendRequest {
            request: Some(request),
        };
        asked
            .send(say(Request::Start(AttendStart {
                task_id: kept.task.clone(),
                ..AttendStart::default()
            })))
            .await
            .expect("start");
        let mut told = caller
            .agent()
            .attend(ReceiverStream::new(requests))
            .await
            .expect("attend")
            .into_inner();
        let began = Instant::now();
        until("abandoned", || async {
            let _ = asked.try_send(say(Request::Ping(AttendPing {})));
            caller.active(&left.token, &[]).await.ok() == Some(false)
        })
        .await;
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(
            outcome(&world, &broker, &left.task).await,
            Outcome::Abandoned
        );
        assert_eq!(caller.active(&kept.token, &[]).await.ok(), Some(true));
        // The stream breaks off, as it does when the agent is killed.
        drop(asked);
        while told.next().await.is_some_and(|event| event.is_ok()) {}
        until("abandoned too", || async {
            caller.active(&kept.token, &[]).await.ok() == Some(false)
        })
        .await;
    }
}

/// AC-30: time runs out, and the record says so.
#[tokio::test]
async fn ac_30_a_task_expires_and_the_record_says_so() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let mut request = caller
            .request(&world.issuer, "/agent", SCOPES)
            .await
            .expect("request");
        request.ttl_ms = 700;
        let begun = caller.send(request).await.expect("task");
        until("expired", || async {
            caller.active(&begun.token, &[]).await.ok() == Some(false)
        })
        .await;
        assert_eq!(
            caller
                .secret(&begun.task, "app/key")
                .await
                .expect_err("dead")
                .code(),
            Code::PermissionDenied
        );
        until("on the record", || async {
            broker.journal().iter().any(|r| {
                r.event == "task_ended"
                    && r.field("task") == Some(&begun.task)
                    && r.field("outcome") == Some("expired")
            })
        })
        .await;
        // AC-33: completing it afterwards changes nothing about how it ended.
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Expired)
        );
    }
}

/// AC-37: suspension kills tokens, and resuming needs fresh evidence and revives nothing.
#[tokio::test]
async fn ac_37_suspending_kills_tokens_and_resuming_needs_evidence_and_revives_none() {
    for world in World::both() {
        let (_broker, caller) = ready(&world).await;
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        for _ in 0..2 {
            caller
                .agent()
                .suspend_task(SuspendTaskRequest {
                    task_id: begun.task.clone(),
                })
                .await
                .expect("suspended");
        }
        assert_eq!(caller.active(&begun.token, &[]).await.ok(), Some(false));
        assert_eq!(
            caller
                .mint(&begun.task)
                .await
                .expect_err("suspended")
                .code(),
            Code::PermissionDenied
        );
        assert_eq!(
            caller
                .secret(&begun.task, "app/key")
                .await
                .expect_err("suspended")
                .code(),
            Code::PermissionDenied
        );
        let resume = |nonce: Vec<u8>, token: Vec<u8>| ResumeTaskRequest {
            task_id: begun.task.clone(),
            nonce,
            evidence: vec![oidc(token)],
            idempotency_key: String::new(),
        };
        let fresh = world.issuer.token("/agent");
        for (nonce, token) in [
            (vec![0; 32], fresh.clone()),
            (
                caller.nonce().await.expect("nonce"),
                world.issuer.token("/other"),
            ),
        ] {
            assert_eq!(
                caller
                    .agent()
                    .resume_task(resume(nonce, token))
                    .await
                    .expect_err("refused")
                    .code(),
                Code::PermissionDenied
            );
        }
        let request = resume(caller.nonce().await.expect("nonce"), fresh.clone());
        let token = caller
            .agent()
            .resume_task(request)
            .await
            .expect("resumed")
            .into_inner()
            .token
            .expect("token")
            .token;
        assert_eq!(caller.active(&token, &[]).await.ok(), Some(true));
        assert_eq!(
            caller.active(&begun.token, &[]).await.ok(),
            Some(false),
            "the old one stays dead"
        );
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.as_deref().ok(),
            Some("s3cr3t")
        );
        let again = resume(caller.nonce().await.expect("nonce"), fresh);
        assert_eq!(
            caller
                .agent()
                .resume_task(again)
                .await
                .expect_err("evidence used twice")
                .code(),
            Code::PermissionDenied
        );
    }
}

/// Revocation of a token, a task and a workload, at one broker; refused at the others.
#[tokio::test]
async fn responders_kill_a_token_a_task_or_a_workload_and_agents_hear_of_it() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let second = if world.redis.is_some() {
            Some(world.broker().await)
        } else {
            None
        };
        let elsewhere = world.operator(second.as_ref().unwrap_or(&broker));
        let operator = world.operator(&broker);
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let minted = caller.mint(&begun.task).await.expect("token");
        let active = |token: &str| {
            let (elsewhere, token, presenter) =
                (elsewhere.clone(), token.to_owned(), caller.thumbprint());
            async move { elsewhere.active(&token, &presenter).await.expect("answer") }
        };
        assert!(active(&minted.token).await && active(&begun.token).await);
        operator
            .revoke(of_token(&minted.token_id))
            .await
            .expect("revoked");
        assert!(!active(&minted.token).await && active(&begun.token).await);

        let (asked, requests) = tokio::sync::mpsc::channel(4);
        asked
            .send(AttendRequest {
                request: Some(Request::Start(AttendStart {
                    task_id: begun.task.clone(),
                    ..AttendStart::default()
                })),
            })
            .await
            .expect("start");
        let mut told = caller
            .agent()
            .attend(ReceiverStream::new(requests))
            .await
            .expect("attend")
            .into_inner();
        let answer = operator
            .revoke(of_task(&begun.task))
            .await
            .expect("revoked");
        assert!(!active(&begun.token).await);
        let heard = loop {
            match told.next().await.expect("event").expect("event").event {
                Some(Event::Ended(ended)) => break ended.outcome(),
                _ => continue,
            }
        };
        assert_eq!(heard, Outcome::Revoked);
        let status = operator
            .cleaned_up(&answer.revocation_id)
            .await
            .expect("status");
        assert_eq!(
            (status.tasks, status.tokens, status.reason.as_str()),
            (1, 1, "test"),
            "AC-41: one token was dead before"
        );
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Revoked),
            "AC-33: one reason"
        );

        let third = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        operator
            .revoke(of_workload("/agent"))
            .await
            .expect("revoked");
        assert!(!active(&third.token).await);
        assert_eq!(
            caller.mint(&third.task).await.expect_err("dead").code(),
            Code::PermissionDenied
        );
        let fourth = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("what is issued later lives");
        assert!(active(&fourth.token).await);
        // AC-48: what was never seen is remembered.
        operator
            .revoke(of_task(&format!("task-{}", "a".repeat(32))))
            .await
            .expect("remembered");
        let status = operator
            .response()
            .revoke(sundew_proto::v1::RevokeRequest {
                reason: " ".to_owned(),
                selector: Some(of_task(&third.task)),
                ..Default::default()
            })
            .await;
        assert_eq!(
            status.expect_err("AC-49: a reason is needed").code(),
            Code::InvalidArgument
        );
    }
}

/// AC-34, AC-46: what was acknowledged survives kill -9 of broker and Redis; what was alive goes
/// on.
#[tokio::test]
async fn ac_34_endings_and_live_tasks_survive_kill_9() {
    for mut world in World::both() {
        let (mut broker, caller) = ready(&world).await;
        let live = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let mut ended = Vec::new();
        for _ in 0..5 {
            let begun = caller
                .begin(&world.issuer, "/agent", SCOPES)
                .await
                .expect("task");
            caller.complete(&begun.task).await.expect("completed");
            ended.push(begun);
            broker.kill();
            if let Some(redis) = &mut world.redis {
                redis.kill();
                redis.up();
            }
            broker.up();
            broker.ready().await;
            let server = world.operator(&broker);
            for begun in &ended {
                assert_eq!(
                    server.active(&begun.token, &caller.thumbprint()).await.ok(),
                    Some(false)
                );
            }
            assert_eq!(
                server.active(&live.token, &caller.thumbprint()).await.ok(),
                Some(true)
            );
        }
        let back = world.caller_with(&broker, caller.svid.clone().expect("SVID"));
        assert_eq!(
            back.secret(&live.task, "app/key").await.as_deref().ok(),
            Some("s3cr3t"),
            "secrets and keyring are there"
        );
    }
}

/// T63, AC-82: Redis dies, comes back empty.
#[tokio::test]
async fn t63_without_redis_nothing_is_answered_and_an_emptied_one_resurrects_nothing() {
    let mut world = World::redis();
    let (broker, caller) = ready(&world).await;
    let dead = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let live = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    caller.complete(&dead.task).await.expect("completed");
    assert_eq!(caller.active(&live.token, &[]).await.ok(), Some(true));
    world.redis.as_mut().expect("redis").kill();
    until("unavailable within the bound", || async {
        caller
            .active(&live.token, &[])
            .await
            .is_err_and(|s| s.code() == Code::Unavailable)
    })
    .await;
    for _ in 0..20 {
        assert!(
            caller.active(&dead.token, &[]).await.is_err(),
            "P7: not even `not active` is said"
        );
    }
    // P4, T54: an ending that the store cannot take is an error, and holds here.
    assert_eq!(
        caller
            .complete(&live.task)
            .await
            .expect_err("not acknowledged")
            .code(),
        Code::Unavailable
    );
    world.redis.as_mut().expect("redis").up();
    until("back without a restart", || async {
        caller.active(&live.token, &[]).await.is_ok()
    })
    .await;
    assert_eq!(caller.active(&dead.token, &[]).await.ok(), Some(false));

    let before = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    assert_eq!(caller.active(&before.token, &[]).await.ok(), Some(true));
    redis::cmd("FLUSHALL")
        .exec(&mut world.redis.as_ref().expect("redis").connection())
        .expect("flush");
    let server = world.operator(&broker);
    until("what was there is gone", || async {
        server
            .active(&before.token, &caller.thumbprint())
            .await
            .ok()
            == Some(false)
    })
    .await;
    assert!(broker.output().contains("the store was emptied"));
    assert_eq!(
        server.active(&dead.token, &caller.thumbprint()).await.ok(),
        Some(false)
    );
}

/// AC-82: Redis loses the end of its log; brokers append it again.
#[tokio::test]
async fn ac_82_a_log_that_lost_its_end_is_mended() {
    let world = World::redis();
    let (_broker, caller) = ready(&world).await;
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    caller.complete(&begun.task).await.expect("completed");
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let key = "sundew:{log}:stream";
    let entries = |connection: &mut redis::Connection| -> Vec<String> {
        let reply: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
            .arg(key)
            .arg("-")
            .arg("+")
            .query(connection)
            .expect("range");
        reply
            .ids
            .iter()
            .map(|e| {
                String::from_utf8(e.get("d").expect("entry"))
                    .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
            })
            .collect()
    };
    let ended = |list: &[String]| {
        list.iter()
            .filter(|e| e.contains(&begun.task) && e.contains("completed"))
            .count()
    };
    assert_eq!(ended(&entries(&mut connection)), 1);
    let last: redis::streams::StreamRangeReply = redis::cmd("XREVRANGE")
        .arg(key)
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(1)
        .query(&mut connection)
        .expect("range");
    redis::cmd("XDEL")
        .arg(key)
        .arg(&last.ids[0].id)
        .exec(&mut connection)
        .expect("lost");
    until("appended again", || {
        let found = ended(&entries(
            &mut world.redis.as_ref().expect("redis").connection(),
        ));
        async move { found == 1 }
    })
    .await;
    // A broker that starts now knows it from the log.
    let late = world.broker().await;
    assert_eq!(
        world
            .operator(&late)
            .active(&begun.token, &caller.thumbprint())
            .await
            .ok(),
        Some(false)
    );
}

/// AC-83: a broker that stands still adds one freshness bound and no more, and answers nothing
/// wrong afterwards.
#[tokio::test]
async fn a_frozen_broker_delays_an_ending_by_the_bound_and_wakes_up_stale() {
    let world = World::redis();
    let (broker, caller) = ready(&world).await;
    let frozen = world.broker().await;
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let there = world.operator(&frozen);
    assert_eq!(
        there.active(&begun.token, &caller.thumbprint()).await.ok(),
        Some(true)
    );
    frozen.signal(rustix::process::Signal::STOP);
    let began = Instant::now();
    caller.complete(&begun.task).await.expect("completed");
    let took = began.elapsed();
    // The configured bound is 400 ms.
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_millis(1500),
        "{took:?}"
    );
    let waiting = tokio::spawn({
        let (there, token, presenter) = (there.clone(), begun.token.clone(), caller.thumbprint());
        async move { there.active(&token, &presenter).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    frozen.signal(rustix::process::Signal::CONT);
    let answer = waiting.await.expect("call");
    assert!(
        answer.as_ref().is_ok_and(|active| !active)
            || answer.is_err_and(|s| s.code() == Code::Unavailable)
    );
    drop(broker);
}

/// T71: records that somebody edits or moves in Redis are refused.
#[tokio::test]
async fn t71_an_edited_record_is_refused() {
    let redis = Redis::start();
    let world = World::with_redis(redis);
    let (mut broker, caller) = ready(&world).await;
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*:task")
        .query(&mut connection)
        .expect("keys");
    let record: Vec<u8> = redis::cmd("GET")
        .arg(&keys[0])
        .query(&mut connection)
        .expect("record");
    let text = String::from_utf8_lossy(&record);
    assert!(text.contains("exec:git") && !text.contains(&begun.token[4..]));
    let widened: Vec<u8> = record
        .iter()
        .map(|b| if *b == b'g' { b'x' } else { *b })
        .collect();
    redis::cmd("SET")
        .arg(&keys[0])
        .arg(widened)
        .arg("KEEPTTL")
        .exec(&mut connection)
        .expect("edited");
    broker.restart().await;
    assert_eq!(
        world
            .operator(&broker)
            .active(&begun.token, &caller.thumbprint())
            .await
            .expect_err("refused")
            .code(),
        Code::Unavailable
    );
}

/// T49, AC-80: the wall clock is moved by an hour while the broker runs: no token is good past its
/// true life.
#[tokio::test]
async fn t49_a_clock_that_jumps_gives_no_token_a_longer_life() {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(|d| format!("{d}/faketime/libfaketime.so.1"));
    let library = library
        .iter()
        .find(|p| std::path::Path::new(p).exists())
        .expect("libfaketime is not installed: run ./tests/run");
    for world in World::both() {
        let offset = world.folder().join("faketime");
        std::fs::write(&offset, "+0").expect("offset");
        let mut broker = world.prepare("");
        let mut command = std::process::Command::new(sundew_tests::sundew());
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        broker.up_as(command);
        broker.ready().await;
        world.register(&broker, "/agent", json!({})).await;
        let caller = world.caller(&broker, "/agent");
        let begun = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        assert_eq!(caller.active(&begun.token, &[]).await.ok(), Some(true));
        let not_active = || async { !matches!(caller.active(&begun.token, &[]).await, Ok(true)) };
        std::fs::write(&offset, "-3600").expect("offset");
        until("an hour back: nothing is answered", || async {
            caller.active(&begun.token, &[]).await.is_err()
        })
        .await;
        for _ in 0..50 {
            assert!(not_active().await);
        }
        std::fs::write(&offset, "+3600").expect("offset");
        until("an hour ahead", not_active).await;
        for _ in 0..50 {
            assert!(not_active().await);
        }
    }
}

/// T52: a broker that stands still past a token's end does not answer "active" when it goes on, nor
/// give a secret.
#[tokio::test]
async fn t52_a_frozen_broker_releases_nothing_that_has_expired() {
    let world = World::embedded();
    let (broker, caller) = ready(&world).await;
    let mut request = caller
        .request(&world.issuer, "/agent", SCOPES)
        .await
        .expect("request");
    request.ttl_ms = 1500;
    let begun = caller.send(request).await.expect("task");
    assert_eq!(
        caller.secret(&begun.task, "app/key").await.as_deref().ok(),
        Some("s3cr3t")
    );
    broker.signal(rustix::process::Signal::STOP);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (caller, begun) = (caller.clone(), begun.clone());
            tokio::spawn(async move {
                (
                    caller.secret(&begun.task, "app/key").await.is_ok(),
                    caller.active(&begun.token, &[]).await.ok() == Some(true),
                )
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(2000)).await;
    broker.signal(rustix::process::Signal::CONT);
    for call in calls {
        assert_eq!(call.await.expect("call"), (false, false));
    }
}
