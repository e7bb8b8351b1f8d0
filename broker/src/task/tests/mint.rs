//! MintToken: each refusal once, and what bounds a token.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sundew_core::{Cause, Denial};
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{FRESHNESS, TestBroker, assert_refused};

#[tokio::test]
async fn another_token_is_active_beside_the_first_and_on_the_record() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let token = broker.mint(begun.mint(), &agent).await.unwrap();
    assert_ne!(token.token, begun.token.token);
    assert_eq!(token.scopes, ["exec:git"]);
    assert!(broker.is_active(&token, &agent).await);
    assert!(broker.is_active(&begun.token, &agent).await);
    let records = broker.journal("token_minted");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("task"), Some(begun.id.as_str()));
    assert_eq!(records[0].field("token_id"), Some(token.token_id.as_str()));
}

#[tokio::test]
async fn l26_no_token_is_for_an_audience_that_the_registration_does_not_name() {
    let broker = TestBroker::start().await;
    let ceiling = json!({ "audiences": ["https://a.example/*", "a"] });
    broker.register("/agent", ceiling).await;
    let agent = broker.agent("/agent");
    let for_b = v1::BeginTaskRequest {
        audience: vec!["b".to_owned()],
        ..agent.request(&["exec:git"])
    };
    let refused = broker.begin(for_b, &agent).await;
    assert_refused!(refused, Refusal::Denied(Denial::Audience));
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    assert_eq!(begun.token.audience, ["a"]);
    let mint = |audience: &str| v1::MintTokenRequest {
        audience: vec![audience.to_owned()],
        ..begun.mint()
    };
    let within = broker.mint(mint("https://a.example/x"), &agent).await;
    assert_eq!(within.unwrap().audience, ["https://a.example/x"]);
    for outside in ["b", "https://a.example.evil/"] {
        let token = broker.mint(mint(outside), &agent).await;
        assert_refused!(token, Refusal::Denied(Denial::Audience));
    }
    let pattern = broker.mint(mint("https://a.example/*"), &agent).await;
    assert_refused!(
        pattern,
        Refusal::Invalid {
            field: "audience",
            ..
        }
    );
}

#[tokio::test]
async fn a_dead_task_mints_nothing() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let complete = v1::CompleteTaskRequest {
        task_id: begun.id.clone(),
        outcome: 0,
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.complete(agent.peer.clone(), complete).await.unwrap();
    let token = broker.mint(begun.mint(), &agent).await;
    assert_refused!(token, Refusal::TaskDead(Cause::TaskEnded(_)));
    assert!(broker.journal("token_minted").is_empty());
}

#[tokio::test]
async fn a_task_past_its_deadline_mints_nothing() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance_to(begun.task.deadline_ms);
    let token = broker.mint(begun.mint(), &agent).await;
    assert_refused!(token, Refusal::TaskDead(_));
}

#[tokio::test]
async fn another_certificate_of_the_workload_is_somebody_else() {
    let broker = TestBroker::start().await;
    let (_, begun) = broker.agent_with_task().await;
    let other = broker.agent("/agent");
    let token = broker.mint(begun.mint(), &other).await;
    assert_refused!(token, Refusal::Binding);
}

#[tokio::test]
async fn a_task_of_another_workload_and_one_that_is_not_there_are_heard_of_alike() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    broker.register("/other", json!({})).await;
    let other = broker.agent("/other");
    let not_yours = broker.mint(begun.mint(), &other).await.err().unwrap();
    assert!(matches!(not_yours, Refusal::Binding));
    let request = v1::MintTokenRequest {
        task_id: format!("task-{}", "0".repeat(32)),
        ..begun.mint()
    };
    let unknown = broker.mint(request, &agent).await.err().unwrap();
    assert!(matches!(unknown, Refusal::NotFound("task")));
    let (one, two) = (not_yours.status("c"), unknown.status("c"));
    assert_eq!((one.code(), one.message()), (two.code(), two.message()));
}

#[tokio::test]
async fn each_malformed_field_is_named() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    type Change = fn(&mut v1::MintTokenRequest);
    let cases: [(&str, Change); 6] = [
        ("task_id", |r| r.task_id = "task-1".to_owned()),
        ("scopes", |r| r.scopes = vec!["*".to_owned()]),
        ("ttl_ms", |r| r.ttl_ms = -1),
        ("binding", |r| r.binding = 99),
        ("audience", |r| r.audience = vec![String::new()]),
        ("idempotency_key", |r| r.idempotency_key = "a b".to_owned()),
    ];
    for (named, change) in cases {
        let mut request = begun.mint();
        change(&mut request);
        match broker.mint(request, &agent).await {
            Err(Refusal::Invalid { field, .. }) => assert_eq!(field, named),
            Err(other) => panic!("{named}: {other}"),
            Ok(_) => panic!("{named} was taken"),
        }
    }
}

#[tokio::test]
async fn a_token_is_within_its_task_whatever_the_registration_allows() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let request = v1::MintTokenRequest {
        scopes: vec!["tool:github.create_pr".to_owned()],
        ..begun.mint()
    };
    let token = broker.mint(request, &agent).await;
    assert_refused!(token, Refusal::Denied(Denial::Scope));
}

#[tokio::test]
async fn a_token_is_within_the_registration_of_today() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let narrower = json!({ "scopes": ["secret:app/*"] });
    broker.register("/agent", narrower).await;
    // E9: what the task may do and the registration does not allow ends the task.
    let token = broker.mint(begun.mint(), &agent).await;
    assert_refused!(token, Refusal::TaskDead(_));
}

#[tokio::test]
async fn a_binding_that_the_registration_does_not_allow_is_refused() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let request = v1::MintTokenRequest {
        binding: v1::Binding::Bearer.into(),
        ..begun.mint()
    };
    let token = broker.mint(request, &agent).await;
    assert_refused!(token, Refusal::Denied(Denial::Binding));
}

#[tokio::test]
async fn a_task_whose_audiences_are_given_mints_for_no_other() {
    let broker = TestBroker::start().await;
    let delegating = json!({ "max_delegation_depth": 1 });
    broker.register("/parent", delegating).await;
    let parent = broker.agent("/parent");
    let begun = broker.begin(parent.request(&["exec:git"]), &parent).await;
    broker.register("/agent", json!({})).await;
    let agent = broker.agent("/agent");
    let delegate = v1::DelegateRequest {
        task_id: begun.unwrap().id,
        delegate: agent.peer.id().to_string(),
        scopes: vec!["exec:git".to_owned()],
        audience: vec!["billing".to_owned()],
        ..v1::DelegateRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let granted = tasks.delegate(parent.peer.clone(), delegate).await;
    let request = v1::BeginTaskRequest {
        grant: granted.unwrap().grant,
        ..agent.request(&["exec:git"])
    };
    let begun = broker.begin(request, &agent).await.unwrap();
    assert_eq!(begun.token.audience, ["billing"]);
    let token = broker.mint(begun.mint(), &agent).await.unwrap();
    assert_eq!(token.audience, ["billing"]);
    let other = v1::MintTokenRequest {
        audience: vec!["payroll".to_owned()],
        ..begun.mint()
    };
    let other = broker.mint(other, &agent).await;
    assert_refused!(other, Refusal::Denied(Denial::Audience));
}

#[tokio::test]
async fn a_token_ends_with_its_task_at_the_latest() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let deadline_ms = begun.task.deadline_ms;
    for (left_ms, asked_ms, life_ms) in [
        (3_600_000, 0, 900_000),
        (3_600_000, 1_800_000, 900_000),
        (3_600_000, 60_000, 60_000),
        (30_000, 60_000, 30_000),
        (30_000, 0, 30_000),
    ] {
        clock::testing::advance_to(deadline_ms - left_ms);
        let request = v1::MintTokenRequest {
            ttl_ms: asked_ms,
            ..begun.mint()
        };
        let token = broker.mint(request, &agent).await.unwrap();
        let life = token.expires_at_ms - clock::now_ms();
        assert_eq!(life, life_ms, "{left_ms} left, {asked_ms} asked");
    }
}

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_same_token_and_another_request_none() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let request = v1::MintTokenRequest {
        idempotency_key: "once".to_owned(),
        ..begun.mint()
    };
    let first = broker.mint(request.clone(), &agent).await.unwrap();
    clock::testing::advance(Duration::from_secs(1));
    let second = broker.mint(request.clone(), &agent).await.unwrap();
    assert_eq!(first, second);
    let other = v1::MintTokenRequest {
        ttl_ms: 1000,
        ..request
    };
    let other = broker.mint(other, &agent).await;
    assert_refused!(other, Refusal::Idempotency);
    assert_eq!(broker.journal("token_minted").len(), 1);
}

/// L11: whoever has a copy of an expired bearer token gains nothing when its key is used again.
#[tokio::test]
async fn l11_a_key_that_is_used_again_after_its_token_gives_another_token() {
    let broker = TestBroker::start().await;
    let either = json!({ "bindings": ["certificate", "bearer"] });
    broker.register("/agent", either).await;
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    for ttl_ms in [2000, 7000, 0] {
        let request = v1::MintTokenRequest {
            idempotency_key: format!("once-{ttl_ms}"),
            ttl_ms,
            binding: v1::Binding::Bearer.into(),
            ..begun.mint()
        };
        let first = broker.mint(request.clone(), &agent).await.unwrap();
        let retried = broker.mint(request.clone(), &agent).await.unwrap();
        assert_eq!(retried, first);
        clock::testing::advance_to(first.expires_at_ms);
        for _ in 0..2 {
            // With its record, and when the record is gone.
            let again = broker.mint(request.clone(), &agent).await.unwrap();
            assert_ne!(again.token, first.token);
            assert!(!broker.is_active(&first, &agent).await);
            clock::testing::advance(Duration::from_millis(1001));
            broker.ledger.log.forget().await.unwrap();
        }
    }
}

#[tokio::test]
async fn l11_a_retried_mint_is_never_answered_with_an_expired_token() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let request = v1::MintTokenRequest {
        idempotency_key: "once".to_owned(),
        ttl_ms: 2000,
        ..begun.mint()
    };
    let first = broker.mint(request.clone(), &agent).await.unwrap();
    clock::testing::advance_to(first.expires_at_ms);
    let late = broker.mint(request, &agent).await;
    assert_refused!(late, Refusal::Idempotency);
}

/// P4: also where only the token was ended, and its task lives.
#[tokio::test]
async fn p4_a_retry_is_never_answered_with_a_revoked_token() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let request = v1::MintTokenRequest {
        idempotency_key: "once".to_owned(),
        ..begun.mint()
    };
    let first = broker.mint(request.clone(), &agent).await.unwrap();
    let selector = v1::Selector {
        token: first.token.clone(),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Revoke).await;
    let again = broker.mint(request.clone(), &agent).await;
    assert_refused!(again, Refusal::TokenDead(Cause::Revoked));
    let with_another_key = v1::MintTokenRequest {
        idempotency_key: "twice".to_owned(),
        ..request
    };
    let second = broker.mint(with_another_key, &agent).await.unwrap();
    assert!(broker.is_active(&second, &agent).await);
}

#[tokio::test]
async fn a_quarantined_workload_mints_nothing() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let selector = v1::Selector {
        spiffe_id: agent.peer.id().to_string(),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Quarantine).await;
    let token = broker.mint(begun.mint(), &agent).await;
    assert_refused!(token, Refusal::Quarantined);
    assert!(broker.journal("token_minted").is_empty());
}

#[tokio::test]
async fn on_a_stale_view_nothing_is_minted() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance(FRESHNESS);
    let token = broker.mint(begun.mint(), &agent).await;
    assert_refused!(token, Refusal::Stale(_));
}
