//! Introspection over a store without a process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sundew_attestation::spiffe::BundleSet;
use sundew_core::{Limit, RoleBounds};
use sundew_proto::v1;

use crate::clock;
use crate::peer::trust::Source;
use crate::refusal::Refusal;
use crate::role::{Reach, Role, RoleProof, Roles};
use crate::testing::{Agent, FRESHNESS, TestBroker, assert_refused};

/// What an introspector hears of a token in the hands of the agent.
async fn introspect(
    broker: &TestBroker,
    token: &v1::Token,
    presenter: &Agent,
    change: impl FnOnce(&mut v1::IntrospectRequest),
) -> Result<v1::IntrospectResponse, Refusal> {
    let mut request = v1::IntrospectRequest {
        token: token.token.clone(),
        presenter_certificate_sha256: presenter.thumbprint(),
        ..v1::IntrospectRequest::default()
    };
    change(&mut request);
    ask(broker, &broker.agent("/operator"), request).await
}

async fn ask(
    broker: &TestBroker,
    caller: &Agent,
    request: v1::IntrospectRequest,
) -> Result<v1::IntrospectResponse, Refusal> {
    let proof = broker.operators.prove(&caller.peer).and_then(RoleProof::of);
    let access = Arc::clone(&broker.rooms.access);
    access
        .introspect(Arc::clone(&caller.peer), proof, request)
        .await
}

#[tokio::test]
async fn a_live_token_in_its_own_hands_is_active_and_says_what_it_is_for() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let answer = introspect(&broker, &begun.token, &agent, |_| {}).await;
    let answer = answer.unwrap();
    assert!(answer.active);
    assert_eq!(answer.spiffe_id, agent.peer.id().as_str());
    assert_eq!(answer.task_id, begun.id);
    assert_eq!(answer.token_id, begun.token.token_id);
    assert_eq!(answer.scopes, ["exec:git"]);
    assert_eq!(answer.issued_at_ms, clock::now_ms());
    assert_eq!(answer.expires_at_ms, begun.token.expires_at_ms);
    assert_eq!(answer.certificate_sha256, agent.thumbprint());
    assert_eq!((answer.on_behalf_of.as_str(), answer.act), ("", None));
}

#[tokio::test]
async fn a_token_that_is_bound_to_another_certificate_is_inactive() {
    let broker = TestBroker::start().await;
    let (_, begun) = broker.agent_with_task().await;
    let other = broker.agent("/agent");
    assert!(!broker.is_active(&begun.token, &other).await);
    let nobody = introspect(&broker, &begun.token, &other, |request| {
        request.presenter_certificate_sha256.clear();
    });
    assert_eq!(nobody.await.unwrap(), v1::IntrospectResponse::default());
}

#[tokio::test]
async fn a_bearer_token_is_active_in_any_hands_and_names_no_certificate() {
    let broker = TestBroker::start().await;
    let either = json!({ "bindings": ["certificate", "bearer"] });
    broker.register("/agent", either).await;
    let agent = broker.agent("/agent");
    let request = v1::BeginTaskRequest {
        binding: v1::Binding::Bearer.into(),
        ..agent.request(&["exec:git"])
    };
    let token = broker.begin(request, &agent).await.unwrap().token;
    assert_eq!(token.binding(), v1::Binding::Bearer);
    let other = broker.agent("/agent");
    let answer = introspect(&broker, &token, &other, |_| {}).await.unwrap();
    assert_eq!(answer.binding(), v1::Binding::Bearer);
    assert!(answer.active && answer.certificate_sha256.is_empty());
    let records = broker.journal("task_begun");
    assert_eq!(records[0].field("token_binding"), Some("bearer"));
}

#[tokio::test]
async fn a_token_for_another_audience_is_inactive() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let token = broker.mint(
        v1::MintTokenRequest {
            audience: vec!["db".to_owned()],
            ..begun.mint()
        },
        &agent,
    );
    let token = token.await.unwrap();
    for (audience, active) in [("db", true), ("mail", false), ("", true)] {
        let answer = introspect(&broker, &token, &agent, |request| {
            request.audience = audience.to_owned();
        });
        assert_eq!(answer.await.unwrap().active, active, "{audience}");
    }
}

#[tokio::test]
async fn a_token_that_does_not_cover_a_required_scope_is_inactive() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    for (scopes, active) in [
        (vec!["exec:git"], true),
        (vec!["exec:git", "exec:make"], false),
        (vec!["secret:app/db"], false),
    ] {
        let answer = introspect(&broker, &begun.token, &agent, |request| {
            request.required_scopes = scopes.iter().map(ToString::to_string).collect();
        });
        assert_eq!(answer.await.unwrap().active, active, "{scopes:?}");
    }
}

#[tokio::test]
async fn a_required_scope_that_does_not_parse_is_an_error_and_so_are_too_many() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    for scopes in [vec!["*".to_owned()], vec!["exec:git".to_owned(); 65]] {
        let answer = introspect(&broker, &begun.token, &agent, |request| {
            request.required_scopes = scopes;
        });
        assert_refused!(
            answer.await,
            Refusal::Invalid {
                field: "required_scopes",
                ..
            }
        );
    }
}

#[tokio::test]
async fn what_is_no_token_of_this_broker_is_inactive() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let mut guessed = begun.token.token.clone();
    let last = if guessed.pop() == Some('A') { 'B' } else { 'A' };
    guessed.push(last);
    for text in ["", "no token", guessed.as_str()] {
        let answer = introspect(&broker, &begun.token, &agent, |request| {
            request.token = text.to_owned();
        });
        assert_eq!(answer.await.unwrap(), v1::IntrospectResponse::default());
    }
}

#[tokio::test]
async fn a_token_of_a_dead_task_is_inactive() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let request = v1::CompleteTaskRequest {
        task_id: begun.id.clone(),
        outcome: 0,
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let peer = Arc::clone(&agent.peer);
    tasks.complete(peer, request).await.unwrap();
    assert!(!broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn a_token_dies_at_the_millisecond_of_its_expiry() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance_to(begun.token.expires_at_ms - 1);
    assert!(broker.is_active(&begun.token, &agent).await);
    clock::testing::advance(Duration::from_millis(1));
    assert!(!broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn l8_what_has_expired_stays_expired_when_the_clock_is_set_back() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance_to(begun.token.expires_at_ms);
    clock::testing::set_wall(-60_000);
    assert!(!broker.is_active(&begun.token, &agent).await);
    let before_it_expired = broker.mint(begun.mint(), &agent).await.unwrap();
    assert!(before_it_expired.expires_at_ms > begun.token.expires_at_ms);
}

#[tokio::test]
async fn an_agent_may_ask_about_its_own_tokens_as_the_one_who_presents_them() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    broker.register("/other", json!({})).await;
    let other = broker.agent("/other");
    let request = |presenter: &Agent| v1::IntrospectRequest {
        token: begun.token.token.clone(),
        presenter_certificate_sha256: presenter.thumbprint(),
        ..v1::IntrospectRequest::default()
    };
    let own = ask(&broker, &agent, request(&agent)).await;
    assert!(own.unwrap().active);
    let unnamed = v1::IntrospectRequest {
        presenter_certificate_sha256: Vec::new(),
        ..request(&agent)
    };
    assert!(ask(&broker, &agent, unnamed).await.unwrap().active);
    // In the hands that it names, the token is not good.
    let in_other_hands = ask(&broker, &agent, request(&other)).await;
    assert!(!in_other_hands.unwrap().active);
    let not_own = ask(&broker, &other, request(&agent)).await;
    assert!(!not_own.unwrap().active);
    let stranger = broker.agent("/stranger");
    assert_refused!(
        ask(&broker, &stranger, request(&stranger)).await,
        Refusal::Role("introspector")
    );
}

#[tokio::test]
async fn a_stale_view_says_nothing_of_any_token() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance(FRESHNESS);
    for token in [begun.token.token.as_str(), "no token"] {
        let answer = introspect(&broker, &begun.token, &agent, |request| {
            request.token = token.to_owned();
        });
        assert_refused!(answer.await, Refusal::Stale(_));
    }
}

#[tokio::test]
async fn l24_a_scope_that_was_taken_away_is_not_active_any_more() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    assert!(broker.is_active(&begun.token, &agent).await);
    let narrower = json!({ "scopes": ["exec:other"] });
    broker.register("/agent", narrower).await;
    assert!(!broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn l26_an_audience_that_was_taken_away_is_not_active_any_more() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let mint = |audience: &str| v1::MintTokenRequest {
        audience: vec![audience.to_owned()],
        ..begun.mint()
    };
    let (a, b) = (mint("https://a.example/x"), mint("https://b.example/x"));
    let a = broker.mint(a, &agent).await.unwrap();
    let b = broker.mint(b, &agent).await.unwrap();
    let narrower = json!({ "audiences": ["https://a.example/*"] });
    broker.register("/agent", narrower).await;
    assert!(broker.is_active(&a, &agent).await);
    assert!(!broker.is_active(&b, &agent).await);
    assert!(broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn l23_a_token_of_a_trust_domain_that_is_not_trusted_any_more_is_not_active() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let operator = broker.agent("/operator");
    broker.trust.publish(Source::Files, BundleSet::default());
    let request = v1::IntrospectRequest {
        token: begun.token.token.clone(),
        presenter_certificate_sha256: agent.thumbprint(),
        ..v1::IntrospectRequest::default()
    };
    let answer = ask(&broker, &operator, request).await.unwrap();
    assert!(!answer.active);
}

#[tokio::test]
async fn o4_a_resource_server_hears_of_tokens_within_its_bounds_and_of_its_own() {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let agent = broker.agent("/agent");
    let request = v1::BeginTaskRequest {
        audience: vec!["https://a.example/x".to_owned()],
        ..agent.request(&["exec:git"])
    };
    let begun = broker.begin(request, &agent).await.unwrap();
    let (own, gateway) = ("spiffe://test.example/agent", broker.agent("/gateway"));
    for (prefix, audience, hears) in [
        (own, "https://a.example/*", true),
        (own, "https://b.example/*", false),
        ("spiffe://test.example/other", "https://a.example/*", false),
    ] {
        let bounds = RoleBounds {
            path_prefixes: Limit::parse(&[prefix]).unwrap(),
            audiences: Limit::parse(&[audience]).unwrap(),
            ..RoleBounds::default()
        };
        let role = Roles::from([(Role::Introspector, Reach::Within(Arc::new(bounds)))]);
        let ids = [&gateway, &agent].map(|caller| caller.peer.id().clone());
        let roles = ids.map(|id| (id, role.clone()));
        broker.operators.replace(roles.into());
        let request = v1::IntrospectRequest {
            token: begun.token.token.clone(),
            presenter_certificate_sha256: agent.thumbprint(),
            ..v1::IntrospectRequest::default()
        };
        let heard = ask(&broker, &gateway, request.clone()).await.unwrap();
        assert_eq!(heard.active, hears, "{prefix} {audience}");
        // Its own token is anybody's to ask about.
        assert!(ask(&broker, &agent, request).await.unwrap().active);
    }
}
