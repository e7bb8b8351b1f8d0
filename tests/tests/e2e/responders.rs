//! Incident responders: AC-40 to AC-4A, T55, T56, T62.

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::{Effect, ListRulesRequest, ListTasksRequest, RevokeRequest, Selector};
use sundew_tests::broker::{Broker, DOMAIN, World};
use sundew_tests::calls::{Begun, Caller, of_task, of_token, of_workload};
use sundew_tests::{now_ms, until};
use tonic::Code;

const SCOPES: &[&str] = &["secret:app/key", "exec:git"];

async fn agents(world: &World, broker: &Broker, paths: &[&str]) -> Vec<Caller> {
    for path in paths {
        world
            .register(broker, path, json!({ "max_tasks": 1000 }))
            .await;
    }
    paths
        .iter()
        .map(|path| world.caller(broker, path))
        .collect()
}

async fn begin(world: &World, caller: &Caller, path: &str) -> Begun {
    caller
        .begin(&world.issuer, path, SCOPES)
        .await
        .expect("task")
}

async fn alive(server: &Caller, caller: &Caller, token: &str) -> bool {
    server
        .active(token, &caller.thumbprint())
        .await
        .expect("answer")
}

fn selector() -> Selector {
    Selector::default()
}

fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}{path}")
}

/// AC-40, AC-41, AC-43: each criterion kills what it matches and nothing else; the preview predicts
/// what the revocation reports.
#[tokio::test]
async fn ac_40_every_selector_kills_what_matches_and_leaves_the_rest() {
    for world in World::both() {
        let broker = world.broker().await;
        let second = if world.redis.is_some() {
            Some(world.broker().await)
        } else {
            None
        };
        let operator = world.operator(&broker);
        let elsewhere = world.operator(second.as_ref().unwrap_or(&broker));
        let callers = agents(&world, &broker, &["/a/one", "/a/two", "/ab"]).await;
        let [one, two, other] = callers.as_slice() else {
            panic!("three")
        };
        // Each row: what is selected, given the first task of /a/one; then whether tasks of /a/one,
        // /a/two and /ab die.
        type Row = (&'static str, fn(&Begun, &Caller) -> Selector, [bool; 3]);
        let rows: [Row; 11] = [
            (
                "token",
                |begun, _| of_token(&begun.token),
                [true, false, false],
            ),
            (
                "task",
                |begun, _| of_task(&begun.task),
                [true, false, false],
            ),
            (
                "task tree",
                |begun, _| Selector {
                    task_tree: begun.task.clone(),
                    ..selector()
                },
                [true, false, false],
            ),
            (
                "SPIFFE ID",
                |_, _| of_workload("/a/one"),
                [true, false, false],
            ),
            (
                "prefix",
                |_, _| Selector {
                    spiffe_path_prefix: id("/a"),
                    ..selector()
                },
                [true, true, false],
            ),
            (
                "claim",
                |_, _| Selector {
                    claims: vec!["oidc.sub=/a/two".to_owned()],
                    ..selector()
                },
                [false, true, false],
            ),
            (
                "serial",
                |_, caller| Selector {
                    svid_serial: caller.svid.as_ref().expect("svid").serial(),
                    ..selector()
                },
                [true, false, false],
            ),
            (
                "secret",
                |_, _| Selector {
                    secret: "app/key".to_owned(),
                    ..selector()
                },
                [true, true, true],
            ),
            (
                "scope and SPIFFE ID",
                |_, _| Selector {
                    scope: "exec:git".to_owned(),
                    ..of_workload("/ab")
                },
                [false, false, true],
            ),
            (
                "trust domain",
                |_, _| Selector {
                    trust_domain: DOMAIN.to_owned(),
                    ..selector()
                },
                [true, true, true],
            ),
            (
                "everything",
                |_, _| Selector {
                    everything: true,
                    ..selector()
                },
                [true, true, true],
            ),
        ];
        for (what, select, dies) in rows {
            let begun = [
                begin(&world, one, "/a/one").await,
                begin(&world, two, "/a/two").await,
                begin(&world, other, "/ab").await,
            ];
            let selected = select(&begun[0], one);
            let preview = operator.preview(selected.clone()).await.expect("preview");
            for (begun, caller) in begun.iter().zip(&callers) {
                assert!(
                    alive(&elsewhere, caller, &begun.token).await,
                    "{what}: a preview changes nothing"
                );
            }
            let answer = operator.revoke(selected).await.expect(what);
            for ((begun, caller), dies) in begun.iter().zip(&callers).zip(dies) {
                assert_eq!(
                    alive(&elsewhere, caller, &begun.token).await,
                    !dies,
                    "{what}: {}",
                    begun.task
                );
            }
            let status = operator
                .cleaned_up(&answer.revocation_id)
                .await
                .expect("status");
            let (tasks, tokens) = (
                dies.iter().filter(|dies| **dies).count(),
                dies.iter().filter(|dies| **dies).count(),
            );
            let tasks = if what == "token" { 0 } else { tasks };
            assert_eq!(
                (status.tasks, status.tokens, status.done),
                (tasks as u64, tokens as u64, true),
                "{what}: AC-41"
            );
            assert_eq!(
                (preview.tasks, preview.tokens),
                (status.tasks, status.tokens),
                "{what}: AC-43"
            );
            assert_eq!(status.actor, id("/operator"), "AC-49");
            // What lives ends, so that the next row begins with nothing.
            for (begun, caller) in begun.iter().zip(&callers) {
                let _ = caller.complete(&begun.task).await;
            }
        }
        // What the registration's version decided, and what was meant for an audience.
        let begun = begin(&world, one, "/a/one").await;
        let version = begun
            .answer
            .task
            .as_ref()
            .expect("task")
            .registration_version
            .clone();
        let request = sundew_proto::v1::MintTokenRequest {
            task_id: begun.task.clone(),
            audience: vec!["billing".to_owned()],
            ..Default::default()
        };
        let minted = one
            .agent()
            .mint_token(request)
            .await
            .expect("token")
            .into_inner()
            .token
            .expect("token")
            .token;
        operator
            .revoke(Selector {
                audience: "billing".to_owned(),
                ..selector()
            })
            .await
            .expect("audience");
        assert!(
            !alive(&elsewhere, one, &minted).await && alive(&elsewhere, one, &begun.token).await
        );
        operator
            .revoke(Selector {
                registration_version: version,
                ..selector()
            })
            .await
            .expect("version");
        assert!(!alive(&elsewhere, one, &begun.token).await);
        // Issued before: what comes later lives.
        let old = begin(&world, one, "/a/one").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = now_ms();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let new = begin(&world, one, "/a/one").await;
        operator
            .revoke(Selector {
                issued_before_ms: now,
                ..selector()
            })
            .await
            .expect("issued before");
        assert!(
            !alive(&elsewhere, one, &old.token).await && alive(&elsewhere, one, &new.token).await
        );
    }
}

/// AC-42, AC-49, AC-48: no selector, no reason, no deed; what was never seen is remembered and
/// counts nothing.
#[tokio::test]
async fn ac_42_a_blank_selector_or_reason_is_refused_and_an_unknown_target_counts_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let callers = agents(&world, &broker, &["/agent"]).await;
    let begun = begin(&world, &callers[0], "/agent").await;
    let blank = |text: &str| Selector {
        audience: text.to_owned(),
        ..selector()
    };
    let wild = Selector {
        spiffe_path_prefix: "*".to_owned(),
        ..selector()
    };
    for selected in [
        selector(),
        blank(" "),
        blank("\t"),
        wild,
        Selector {
            everything: true,
            ..of_workload("/agent")
        },
    ] {
        assert_eq!(
            operator
                .revoke(selected.clone())
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
        assert_eq!(
            operator
                .preview(selected)
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
    }
    for reason in ["", "  "] {
        let request = RevokeRequest {
            selector: Some(of_task(&begun.task)),
            reason: reason.to_owned(),
            ..RevokeRequest::default()
        };
        assert_eq!(
            operator
                .response()
                .revoke(request)
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
    }
    assert!(alive(&operator, &callers[0], &begun.token).await);
    for unknown in [
        of_task(&format!("task-{}", "a".repeat(32))),
        of_workload("/nobody"),
        of_token(&format!("tok-{}", "b".repeat(32))),
    ] {
        let answer = operator.revoke(unknown).await.expect("remembered");
        let status = operator
            .cleaned_up(&answer.revocation_id)
            .await
            .expect("status");
        assert_eq!((status.tasks, status.tokens, status.done), (0, 0, true));
    }
    until(
        "each is on the record with its actor and reason",
        || async {
            let journal = broker.journal();
            journal
                .iter()
                .filter(|r| {
                    r.event == "revoked"
                        && r.field("actor") == Some(&id("/operator"))
                        && r.field("reason") == Some("test")
                })
                .count()
                == 3
        },
    )
    .await;
}

/// AC-4A, AC-49: a quarantine refuses new tasks, tokens and secrets until it is lifted, everywhere,
/// and nobody is locked out by it.
#[tokio::test]
async fn ac_4a_a_quarantine_stands_until_it_is_lifted_and_revives_nothing() {
    for world in World::both() {
        let mut broker = world.broker().await;
        let callers = agents(&world, &broker, &["/q/agent", "/free"]).await;
        let (caller, free) = (&callers[0], &callers[1]);
        let operator = world.operator(&broker);
        operator.put_secret("app/key", "s3cr3t").await;
        let begun = begin(&world, caller, "/q/agent").await;
        let under = Selector {
            spiffe_path_prefix: id("/q"),
            ..selector()
        };
        let quarantine = operator
            .respond(under.clone(), Effect::Quarantine)
            .await
            .expect("quarantine")
            .revocation_id;
        assert!(
            alive(&operator, caller, &begun.token).await,
            "a quarantine kills nothing"
        );
        let refused = |status: tonic::Status| {
            (status.code(), status.message().to_owned())
                == (Code::PermissionDenied, "not permitted".to_owned())
        };
        assert!(refused(
            caller
                .begin(&world.issuer, "/q/agent", SCOPES)
                .await
                .expect_err("new task")
        ));
        assert!(refused(
            caller.mint(&begun.task).await.expect_err("new token")
        ));
        assert!(refused(
            caller
                .secret(&begun.task, "app/key")
                .await
                .expect_err("secret")
        ));
        begin(&world, free, "/free").await;
        // It stands over a restart of the broker, and, where there is one, of Redis that comes back
        // empty.
        broker.restart().await;
        let operator = world.operator(&broker);
        let caller = world.caller_with(&broker, caller.svid.clone().expect("SVID"));
        assert!(refused(
            caller
                .begin(&world.issuer, "/q/agent", SCOPES)
                .await
                .expect_err("still")
        ));
        if let Some(redis) = &world.redis {
            redis::cmd("FLUSHALL")
                .exec(&mut redis.connection())
                .expect("flush");
            until("the flush is noticed", || async {
                broker.output().contains("the store was emptied")
            })
            .await;
            until("registered again", || async {
                operator
                    .apply(&[World::registration("/q/agent", json!({}))])
                    .await
                    .is_ok()
            })
            .await;
            until("still", || async {
                caller
                    .begin(&world.issuer, "/q/agent", SCOPES)
                    .await
                    .is_err_and(|s| s.code() == Code::PermissionDenied)
            })
            .await;
        }
        operator.lift(&quarantine).await.expect("lifted");
        let begun = begin(&world, &caller, "/q/agent").await;
        let contained = operator
            .respond(under, Effect::Contain)
            .await
            .expect("contained")
            .revocation_id;
        assert!(!alive(&operator, &caller, &begun.token).await);
        let rules = operator
            .response()
            .list_rules(ListRulesRequest {})
            .await
            .expect("rules")
            .into_inner()
            .rules;
        assert_eq!(
            rules
                .iter()
                .filter(|rule| rule.until_ms == 0)
                .map(|rule| rule.revocation_id.as_str())
                .collect::<Vec<_>>(),
            [contained.as_str()]
        );
        // Everything in quarantine: responders and registrars go on.
        let all = operator
            .respond(
                Selector {
                    everything: true,
                    ..selector()
                },
                Effect::Contain,
            )
            .await
            .expect("everything")
            .revocation_id;
        assert!(
            operator
                .response()
                .list_tasks(ListTasksRequest::default())
                .await
                .is_ok()
        );
        for rule in [&contained, &all] {
            operator
                .lift(rule)
                .await
                .expect("AC-49: nobody is locked out");
            operator.lift(rule).await.expect("again is the same");
        }
        assert!(
            !alive(&operator, &caller, &begun.token).await,
            "lifting revives nothing"
        );
        begin(&world, &caller, "/q/agent").await;
        assert_eq!(
            operator
                .lift(&format!("rev-{}", "0".repeat(32)))
                .await
                .expect_err("unknown")
                .code(),
            Code::InvalidArgument
        );
    }
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
