//! Delegate, and tasks below another one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sundew_core::{Cause, Denial};
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::role::RoleProof;
use crate::testing::{Agent, Begun, DOMAIN, TestBroker, assert_refused};

/// A parent's task that may be delegated to one child at a time, and the child.
async fn parent_and_child() -> (TestBroker, Agent, Begun, Agent) {
    let broker = TestBroker::start().await;
    let delegating = json!({ "max_delegation_depth": 1, "max_delegated_tasks": 1 });
    broker.register("/parent", delegating).await;
    broker.register("/child", json!({})).await;
    let (parent, child) = (broker.agent("/parent"), broker.agent("/child"));
    let begun = broker.begin(parent.request(&["exec:git"]), &parent).await;
    (broker, parent, begun.unwrap(), child)
}

fn request(begun: &Begun) -> v1::DelegateRequest {
    v1::DelegateRequest {
        task_id: begun.id.clone(),
        delegate: format!("spiffe://{DOMAIN}/child"),
        scopes: vec!["exec:git".to_owned()],
        ..v1::DelegateRequest::default()
    }
}

async fn delegate(
    broker: &TestBroker,
    parent: &Agent,
    request: v1::DelegateRequest,
) -> Result<v1::DelegateResponse, Refusal> {
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.delegate(parent.peer.clone(), request).await
}

async fn begin_below(
    broker: &TestBroker,
    child: &Agent,
    grant: &str,
    scopes: &[&str],
) -> Result<Begun, Refusal> {
    let request = v1::BeginTaskRequest {
        grant: grant.to_owned(),
        ..child.request(scopes)
    };
    broker.begin(request, child).await
}

#[tokio::test]
async fn a_task_below_another_names_it_and_dies_with_it() {
    let (broker, parent, begun, child) = parent_and_child().await;
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    assert_eq!(granted.expires_at_ms, begun.task.deadline_ms);
    let below = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    let below = below.unwrap();
    assert_eq!(below.task.ancestors, [begun.id.as_str()]);
    assert_eq!(below.task.deadline_ms, begun.task.deadline_ms);
    let records = broker.journal("task_begun");
    assert_eq!(records[1].field("ancestors"), Some(begun.id.as_str()));
    assert_eq!(broker.journal("delegated").len(), 1);
    assert!(broker.is_active(&below.token, &child).await);

    let complete = v1::CompleteTaskRequest {
        task_id: begun.id.clone(),
        outcome: 0,
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.complete(parent.peer.clone(), complete).await.unwrap();
    assert!(!broker.is_active(&below.token, &child).await);
    let late = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert_refused!(late, Refusal::TaskDead(Cause::TaskEnded(_)));
}

#[tokio::test]
async fn a_registration_that_allows_no_delegation_gives_no_grant() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let granted = delegate(&broker, &agent, request(&begun)).await;
    assert_refused!(granted, Refusal::Denied(Denial::Delegation));
    assert!(broker.journal("delegated").is_empty());
}

#[tokio::test]
async fn a_grant_is_within_its_task() {
    let (broker, parent, begun, _) = parent_and_child().await;
    let wider = v1::DelegateRequest {
        scopes: vec!["tool:github.create_pr".to_owned()],
        ..request(&begun)
    };
    let wider = delegate(&broker, &parent, wider).await;
    assert_refused!(wider, Refusal::Denied(Denial::Scope));
    let deeper = v1::DelegateRequest {
        depth: 1,
        ..request(&begun)
    };
    let deeper = delegate(&broker, &parent, deeper).await;
    assert_refused!(deeper, Refusal::Denied(Denial::Delegation));
    let foreign = v1::DelegateRequest {
        delegate: "spiffe://other.example/child".to_owned(),
        ..request(&begun)
    };
    let foreign = delegate(&broker, &parent, foreign).await;
    assert_refused!(foreign, Refusal::Denied(Denial::Delegation));
}

#[tokio::test]
async fn l26_the_audiences_of_a_child_are_those_of_both_registrations() {
    let (broker, parent, begun, child) = parent_and_child().await;
    let audiences = json!({ "max_delegation_depth": 1, "audiences": ["https://a/*", "b"] });
    broker.register("/parent", audiences).await;
    let outside = v1::DelegateRequest {
        audience: vec!["c".to_owned()],
        ..request(&begun)
    };
    let outside = delegate(&broker, &parent, outside).await;
    assert_refused!(outside, Refusal::Denied(Denial::Audience));
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    let own = json!({ "audiences": ["https://a/x", "c"] });
    broker.register("/child", own).await;
    for (audience, allowed) in [("https://a/x", true), ("https://a/y", false), ("c", false)] {
        let request = v1::BeginTaskRequest {
            audience: vec![audience.to_owned()],
            grant: granted.grant.clone(),
            ..child.request(&["exec:git"])
        };
        let below = broker.begin(request, &child).await;
        match below {
            Ok(below) if allowed => assert_eq!(below.token.audience, [audience]),
            other => assert_refused!(other, Refusal::Denied(Denial::Audience)),
        }
    }
    broker
        .register("/child", json!({ "audiences": ["c"] }))
        .await;
    let nothing_in_common = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert_refused!(nothing_in_common, Refusal::Denied(Denial::Audience));
}

#[tokio::test]
async fn a_text_that_is_no_grant_of_this_broker_begins_no_task() {
    let (broker, _, _, child) = parent_and_child().await;
    let begun = begin_below(&broker, &child, "sdg_AAAA", &["exec:git"]).await;
    assert_refused!(begun, Refusal::Denied(Denial::Delegation));
}

#[tokio::test]
async fn a_grant_is_of_use_to_the_workload_that_it_names_only() {
    let (broker, parent, begun, _) = parent_and_child().await;
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    broker.register("/other", json!({})).await;
    let other = broker.agent("/other");
    let below = begin_below(&broker, &other, &granted.grant, &["exec:git"]).await;
    assert_refused!(below, Refusal::Denied(Denial::Delegation));
}

#[tokio::test]
async fn a_task_below_another_is_within_the_grant() {
    let (broker, parent, begun, child) = parent_and_child().await;
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    let wider = ["exec:git", "tool:github.create_pr"];
    let below = begin_below(&broker, &child, &granted.grant, &wider).await;
    assert_refused!(below, Refusal::Denied(Denial::Scope));
}

#[tokio::test]
async fn a_grant_ends_at_its_millisecond() {
    let (broker, parent, begun, child) = parent_and_child().await;
    let short = v1::DelegateRequest {
        ttl_ms: 1000,
        ..request(&begun)
    };
    let granted = delegate(&broker, &parent, short).await.unwrap();
    assert_eq!(granted.expires_at_ms, clock::now_ms() + 1000);
    clock::testing::advance(Duration::from_secs(1));
    let below = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert_refused!(below, Refusal::Denied(Denial::NoTime));
}

#[tokio::test]
async fn an_owner_whose_registration_allows_delegation_no_more_has_no_children() {
    let (broker, parent, begun, child) = parent_and_child().await;
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    broker.register("/parent", json!({})).await;
    let below = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert_refused!(below, Refusal::Denied(Denial::Delegation));
}

#[tokio::test]
async fn a_task_has_no_more_children_than_it_may() {
    let (broker, parent, begun, child) = parent_and_child().await;
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    let first = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert!(first.is_ok());
    let second = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert_refused!(second, Refusal::TaskLimit);
}

#[tokio::test]
async fn a_child_beyond_its_own_limit_takes_no_place_below_its_parent() {
    let (broker, parent, begun, child) = parent_and_child().await;
    broker.register("/child", json!({ "max_tasks": 1 })).await;
    let own = broker.begin(child.request(&["exec:git"]), &child).await;
    assert!(own.is_ok());
    let granted = delegate(&broker, &parent, request(&begun)).await.unwrap();
    let below = begin_below(&broker, &child, &granted.grant, &["exec:git"]).await;
    assert_refused!(below, Refusal::TaskLimit);
    let store = broker.ledger.records.store();
    assert!(store.tasks(Some(&begun.id), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn introspection_tells_the_chain_of_those_who_act_for_one_another() {
    let broker = TestBroker::start().await;
    let (mut chain, mut grant) = (Vec::new(), String::new());
    let paths = ["/a", "/b", "/c"];
    for path in paths {
        broker
            .register(path, json!({ "max_delegation_depth": 3 }))
            .await;
    }
    let mut last = None;
    for (depth, path) in [3_u32, 2, 1].into_iter().zip(paths) {
        let agent = broker.agent(path);
        let begun = begin_below(&broker, &agent, &grant, &["exec:git"]).await;
        let begun = begun.unwrap();
        let next = v1::DelegateRequest {
            delegate: format!(
                "spiffe://{DOMAIN}{}",
                if path == "/a" { "/b" } else { "/c" }
            ),
            depth: depth - 1,
            ..request(&begun)
        };
        grant = delegate(&broker, &agent, next).await.unwrap().grant;
        chain.insert(0, (agent.peer.id().to_string(), begun.id.clone()));
        last = Some((agent, begun));
    }
    let (agent, begun) = last.unwrap();
    let request = v1::IntrospectRequest {
        token: begun.token.token.clone(),
        ..v1::IntrospectRequest::default()
    };
    let no_role = broker.operators.prove(&agent.peer).and_then(RoleProof::of);
    let access = Arc::clone(&broker.rooms.access);
    let answer = access.introspect(agent.peer.clone(), no_role, request);
    let answer = answer.await.unwrap();
    assert_eq!(answer.on_behalf_of, format!("spiffe://{DOMAIN}/a"));
    let (mut act, mut told) = (answer.act, Vec::new());
    while let Some(actor) = act {
        assert_eq!(actor.instruction_sha256.len(), 32);
        told.push((actor.spiffe_id, actor.task_id));
        act = actor.act.map(|next| *next);
    }
    assert_eq!(told, chain);
}
