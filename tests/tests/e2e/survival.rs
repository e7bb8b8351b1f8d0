//! Survival: brokers and Redis are killed, lose what they knew, or are tampered with:
//! AC-34, AC-82, T55, T63, T71; and what is minted while an end lands: AC-35.

use std::time::Duration;

use serde_json::json;
use sundew_tests::redis::Redis;
use sundew_tests::selectors::of_workload;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

use crate::ending::{SCOPES, ready};
use crate::responders::{agents, alive, begin};

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

/// AC-35, T39, T56: 200 mints and begins in flight while everything of the workload is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_35_nothing_minted_while_the_end_lands_is_alive_after_it() {
    for world in World::both() {
        let broker = world.broker().await;
        let second = if world.redis.is_some() {
            world.broker().await
        } else {
            world.prepare("")
        };
        let there = if world.redis.is_some() {
            &second
        } else {
            &broker
        };
        let callers = agents(&world, &broker, &["/agent"]).await;
        let caller = &callers[0];
        let elsewhere = world.caller_with(there, caller.svid.clone().expect("SVID"));
        for by_rule in [false, true] {
            let begun = begin(&world, caller, "/agent").await;
            let mints: Vec<_> = (0..200)
                .map(|n| {
                    let (caller, task) = (
                        if n % 2 == 0 {
                            caller.clone()
                        } else {
                            elsewhere.clone()
                        },
                        begun.task.clone(),
                    );
                    tokio::spawn(
                        async move { caller.mint(&task).await.ok().map(|token| token.token) },
                    )
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(10)).await;
            if by_rule {
                world
                    .operator(&broker)
                    .revoke(of_workload("/agent"))
                    .await
                    .expect("revoked");
            } else {
                caller.complete(&begun.task).await.expect("completed");
            }
            let mut minted = Vec::new();
            for mint in mints {
                minted.extend(mint.await.expect("call"));
            }
            for server in [world.operator(&broker), world.operator(there)] {
                for token in &minted {
                    assert!(
                        !alive(&server, caller, token).await,
                        "of {} tokens one is alive",
                        minted.len()
                    );
                }
            }
        }
    }
}

/// T55: a mass revocation whose broker is killed half way, and then Redis, goes on elsewhere and
/// counts right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t55_a_clean_up_that_was_broken_off_goes_on_and_counts_right() {
    let mut world = World::redis();
    let mut broker = world.broker().await;
    let second = world.broker().await;
    let callers = agents(&world, &broker, &["/many", "/other"]).await;
    let (caller, other) = (callers[0].clone(), &callers[1]);
    let mut tasks = Vec::new();
    for _ in 0..300 {
        let begun = begin(&world, &caller, "/many").await;
        caller.mint(&begun.task).await.expect("token");
        tasks.push(begun);
    }
    let kept = begin(&world, other, "/other").await;
    let answer = world
        .operator(&broker)
        .revoke(of_workload("/many"))
        .await
        .expect("revoked");
    broker.kill();
    let redis = world.redis.as_mut().expect("redis");
    redis.kill();
    redis.up();
    let operator = world.operator(&second);
    until("the other broker is back", || async {
        operator.active(&kept.token, &other.thumbprint()).await.ok() == Some(true)
    })
    .await;
    for begun in tasks.iter().step_by(30) {
        // Unavailable for a while after Redis was restarted; never active.
        until("answered", || async {
            let answer = operator
                .active(&begun.token, &caller.thumbprint())
                .await
                .ok();
            assert_ne!(answer, Some(true));
            answer == Some(false)
        })
        .await;
    }
    let status = tokio::time::timeout(
        Duration::from_secs(30),
        operator.cleaned_up(&answer.revocation_id),
    )
    .await
    .expect("in time")
    .expect("status");
    assert_eq!(
        (
            status.tasks,
            status.tokens,
            status.reaped_tasks,
            status.done
        ),
        (300, 600, 300, true)
    );
    let left: Vec<String> = redis::cmd("KEYS")
        .arg("*:tokens")
        .query(&mut world.redis.as_ref().expect("redis").connection())
        .expect("keys");
    assert_eq!(left.len(), 1, "what is dead is gone from memory");
}

/// T64: a Redis without memory takes no task, and takes endings. The operator is told for as long.
#[tokio::test]
async fn t64_a_full_redis_takes_endings_and_the_operator_is_told() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    let begin = || caller.begin(&world.issuer, "/agent", &["exec:git"]);
    let begun = begin().await.expect("task");
    let limit = |bytes: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        set.exec(&mut redis.connection()).expect("limit");
    };
    let is_told = async || {
        let (_, text) = broker.http("/readyz").await.expect("health");
        text.contains("store: has taken no write")
    };
    limit("1");
    let refused = begin().await.expect_err("full");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(is_told().await);
    caller.complete(&begun.task).await.expect("completed");
    limit("0");
    begin().await.expect("task");
    assert!(!is_told().await);
}
