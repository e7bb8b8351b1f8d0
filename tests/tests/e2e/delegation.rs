//! Delegation: AC-44, AC-50 to AC-52, T38, T39.

use serde_json::json;
use sundew_proto::v1::{IntrospectRequest, Outcome};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::pki::DOMAIN;
use sundew_tests::selectors::{of_task, of_workload};
use sundew_tests::world::World;
use tonic::{Code, Status};

const NAMES: [&str; 4] = ["/a", "/b", "/c", "/d"];

fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}{path}")
}

async fn agents(world: &World, broker: &Broker) -> Vec<Caller> {
    for path in NAMES {
        world
            .register(
                broker,
                path,
                json!({ "max_delegation_depth": 4, "max_delegated_tasks": 3 }),
            )
            .await;
    }
    NAMES
        .iter()
        .map(|path| world.caller(broker, path))
        .collect()
}

async fn begin_under(
    world: &World,
    caller: &Caller,
    path: &str,
    scopes: &[&str],
    grant: &str,
) -> Result<Begun, Status> {
    let mut request = caller.request(&world.issuer, path, scopes).await?;
    grant.clone_into(&mut request.grant);
    caller.send(request).await
}

/// A → B → C → D.
async fn chain(world: &World, callers: &[Caller]) -> Vec<Begun> {
    let mut tasks = vec![
        callers[0]
            .begin(&world.issuer, "/a", &["secret:app/*", "exec:git"])
            .await
            .expect("task"),
    ];
    for n in 1..4 {
        let depth = 3 - u32::try_from(n).expect("depth");
        let grant = callers[n - 1]
            .delegate(&tasks[n - 1].task, &id(NAMES[n]), &["exec:git"], depth)
            .await
            .expect("grant");
        tasks.push(
            begin_under(world, &callers[n], NAMES[n], &["exec:git"], &grant)
                .await
                .expect("child"),
        );
    }
    tasks
}

/// Ends the second link of a chain in one of several ways.
async fn end_of_b(how: &str, operator: &Caller, b: &Caller, task: &str) {
    match how {
        "completed" => drop(b.complete(task).await.expect("completed")),
        "revoked" => drop(operator.revoke(of_task(task)).await.expect("revoked")),
        "revoked twice" => {
            b.complete(task).await.expect("completed");
            operator.revoke(of_task(task)).await.expect("revoked");
        }
        "its owner" => drop(operator.revoke(of_workload("/b")).await.expect("revoked")),
        _ => {
            let request = sundew_proto::v1::SuspendTaskRequest {
                task_id: task.to_owned(),
            };
            b.agent().suspend_task(request).await.expect("suspended");
        }
    }
}

/// AC-44: the end of B ends C and D and not A, however B ended; the child's end never ends the
/// parent.
#[tokio::test]
async fn ac_44_the_end_of_a_link_ends_what_is_below_it_and_nothing_above() {
    for world in World::both() {
        let broker = world.broker().await;
        let second = if world.redis.is_some() {
            Some(world.broker().await)
        } else {
            None
        };
        let callers = agents(&world, &broker).await;
        let server = world.operator(second.as_ref().unwrap_or(&broker));
        let operator = world.operator(&broker);
        for how in [
            "completed",
            "revoked",
            "revoked twice",
            "its owner",
            "suspended",
        ] {
            let tasks = chain(&world, &callers).await;
            // The leaf's end is the leaf's.
            let leaf = callers[2]
                .delegate(&tasks[2].task, &id("/d"), &["exec:git"], 0)
                .await
                .expect("grant");
            let leaf = begin_under(&world, &callers[3], "/d", &["exec:git"], &leaf)
                .await
                .expect("leaf");
            callers[3].complete(&leaf.task).await.expect("completed");
            end_of_b(how, &operator, &callers[1], &tasks[1].task).await;
            for (n, task) in tasks.iter().enumerate() {
                let active = server
                    .active(&task.token, &callers[n].thumbprint())
                    .await
                    .expect("answer");
                assert_eq!(active, n == 0, "{how}: {}", NAMES[n]);
                let mint = callers[n].mint(&task.task).await;
                assert_eq!(mint.is_ok(), n == 0, "{how}: {}", NAMES[n]);
            }
            if how == "completed" {
                assert_eq!(
                    callers[2].complete(&tasks[2].task).await.ok(),
                    Some(Outcome::Canceled),
                    "a child of a finished parent is called off"
                );
            }
            for (n, task) in tasks.iter().enumerate() {
                let _ = callers[n].complete(&task.task).await;
            }
        }
    }
}

/// The chain of who acts for whom is in introspection, as RFC 8693 has it.
#[tokio::test]
async fn the_chain_of_actors_is_in_introspection_and_on_the_record() {
    let world = World::embedded();
    let broker = world.broker().await;
    let callers = agents(&world, &broker).await;
    let tasks = chain(&world, &callers).await;
    let request = IntrospectRequest {
        token: tasks[2].token.clone(),
        presenter_certificate_sha256: callers[2].thumbprint(),
        ..Default::default()
    };
    let answer = world
        .operator(&broker)
        .access()
        .introspect(request)
        .await
        .expect("answer")
        .into_inner();
    assert_eq!(
        (
            answer.active,
            answer.spiffe_id.as_str(),
            answer.on_behalf_of.as_str()
        ),
        (true, id("/c").as_str(), id("/a").as_str())
    );
    let (mut act, mut chain) = (answer.act, Vec::new());
    while let Some(actor) = act {
        assert_eq!(actor.instruction_sha256.len(), 32);
        chain.push((actor.spiffe_id, actor.task_id));
        act = actor.act.map(|next| *next);
    }
    let expected: Vec<_> = (0..3)
        .rev()
        .map(|n| (id(NAMES[n]), tasks[n].task.clone()))
        .collect();
    assert_eq!(chain, expected);
    let journal = broker.journal();
    let begun = journal
        .iter()
        .find(|r| r.event == "task_begun" && r.field("task") == Some(&tasks[2].task))
        .expect("record");
    assert_eq!(
        begun.field("ancestors"),
        Some(format!("{} {}", tasks[0].task, tasks[1].task).as_str())
    );
    assert_eq!(journal.iter().filter(|r| r.event == "delegated").count(), 3);
}

fn denied(result: Result<Begun, Status>) {
    assert_eq!(result.expect_err("refused").code(), Code::PermissionDenied)
}

/// Nothing wider than the parent, deeper than allowed, to another organisation, or of somebody
/// else's task is granted.
async fn grants_outside_are_refused(a: &Caller, b: &Caller, task: &str) {
    for (to, scopes, depth, by) in [
        (id("/b"), &["secret:app/*"][..], 0, a),
        (id("/b"), &["tool:github.create_pr"], 0, a),
        (id("/b"), &["exec:git"], 4, a),
        (
            "spiffe://elsewhere.example/b".to_owned(),
            &["exec:git"],
            0,
            a,
        ),
        (id("/b"), &["exec:git"], 0, b),
    ] {
        assert_eq!(
            by.delegate(task, &to, scopes, depth)
                .await
                .expect_err("refused")
                .code(),
            Code::PermissionDenied,
            "{to} {scopes:?} {depth}"
        );
    }
}

/// AC-50, AC-51, T38: a child is within its parent, and only the named, attested delegate gets one.
#[tokio::test]
async fn ac_51_a_child_is_within_its_parent_and_nobody_else_gets_one() {
    let world = World::embedded();
    let broker = world.broker().await;
    let callers = agents(&world, &broker).await;
    let (a, b, c) = (&callers[0], &callers[1], &callers[2]);
    let parent = a
        .begin(&world.issuer, "/a", &["secret:app/key", "exec:git"])
        .await
        .expect("task");
    grants_outside_are_refused(a, b, &parent.task).await;
    let grant = a
        .delegate(&parent.task, &id("/b"), &["exec:git"], 0)
        .await
        .expect("grant");
    denied(begin_under(&world, c, "/c", &["exec:git"], &grant).await);
    denied(begin_under(&world, b, "/b", &["secret:app/key"], &grant).await);
    denied(begin_under(&world, b, "/c", &["exec:git"], &grant).await);
    let mut touched = grant.clone();
    touched.replace_range(10..11, if &grant[10..11] == "A" { "B" } else { "A" });
    denied(begin_under(&world, b, "/b", &["exec:git"], &touched).await);
    let child = begin_under(&world, b, "/b", &["exec:git"], &grant)
        .await
        .expect("child");
    let (above, below) = (
        parent.answer.task.as_ref().expect("task"),
        child.answer.task.as_ref().expect("task"),
    );
    assert!(below.deadline_ms <= above.deadline_ms, "AC-50");
    assert_eq!(
        b.delegate(&child.task, &id("/c"), &["exec:git"], 0)
            .await
            .expect_err("depth")
            .code(),
        Code::PermissionDenied
    );
    // Delegating to oneself gains nothing: another task, within the first.
    let own = a
        .delegate(&parent.task, &id("/a"), &["exec:git"], 3)
        .await
        .expect("grant");
    let own = begin_under(&world, a, "/a", &["exec:git"], &own)
        .await
        .expect("child");
    assert!(own.answer.task.as_ref().expect("task").deadline_ms <= above.deadline_ms);
    assert_eq!(
        a.delegate(&own.task, &id("/b"), &["secret:app/key"], 0)
            .await
            .expect_err("narrowed")
            .code(),
        Code::PermissionDenied
    );
    // P12: as many children as the registration says, and no more.
    begin_under(&world, b, "/b", &["exec:git"], &grant)
        .await
        .expect("third");
    assert_eq!(
        begin_under(&world, b, "/b", &["exec:git"], &grant)
            .await
            .expect_err("fan-out")
            .code(),
        Code::ResourceExhausted
    );
    b.complete(&child.task).await.expect("completed");
    begin_under(&world, b, "/b", &["exec:git"], &grant)
        .await
        .expect("a place is free again");
    // The grant dies with its task.
    a.complete(&parent.task).await.expect("completed");
    denied(begin_under(&world, b, "/b", &["exec:git"], &grant).await);
}

/// AC-52: grants and chains outlive the broker's process.
#[tokio::test]
async fn ac_52_delegation_works_after_a_restart() {
    for world in World::both() {
        let mut broker = world.broker().await;
        let callers = agents(&world, &broker).await;
        let tasks = chain(&world, &callers).await;
        let grant = callers[0]
            .delegate(&tasks[0].task, &id("/b"), &["exec:git"], 0)
            .await
            .expect("grant");
        broker.restart().await;
        let callers: Vec<_> = callers
            .iter()
            .map(|caller| world.caller_with(&broker, caller.svid.clone().expect("SVID")))
            .collect();
        let late = begin_under(&world, &callers[1], "/b", &["exec:git"], &grant)
            .await
            .expect("child");
        let server = world.operator(&broker);
        assert_eq!(
            server
                .active(&tasks[3].token, &callers[3].thumbprint())
                .await
                .ok(),
            Some(true)
        );
        callers[0]
            .complete(&tasks[0].task)
            .await
            .expect("completed");
        for (n, token) in [(1, &late.token), (1, &tasks[1].token), (3, &tasks[3].token)] {
            assert_eq!(
                server.active(token, &callers[n].thumbprint()).await.ok(),
                Some(false)
            );
        }
        broker.restart().await;
        assert_eq!(
            world
                .operator(&broker)
                .active(&tasks[3].token, &callers[3].thumbprint())
                .await
                .ok(),
            Some(false)
        );
    }
}
