//! Tokens: whose they are, how long they live and how they move (AC-01, AC-16, AC-20, AC-23, AC-26,
//! T46, T51).

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{
    AttendRequest, AttendStart, BeginTaskRequest, Binding, IntrospectRequest, MintTokenRequest,
    RotateBinding,
};
use sundew_tests::now_ms;
use sundew_tests::world::World;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::tasks::begin;

/// AC-01, AC-20: the subject is the SVID's ID; the token is good in the right hands only.
#[tokio::test]
async fn ac_01_ac_20_a_token_has_the_svids_subject_and_is_good_in_its_hands_only() {
    for world in World::both() {
        let (broker, caller) = world.broker_and_agent().await;
        world.register(&broker, "/thief", json!({})).await;
        let begun = begin(&world, &caller, &["secret:app/key", "exec:git"]).await;
        let server = world.caller(&broker, "/introspector");
        let request = IntrospectRequest {
            token: begun.token.clone(),
            presenter_certificate_sha256: caller.thumbprint(),
            ..IntrospectRequest::default()
        };
        let found = server
            .access()
            .introspect(request.clone())
            .await
            .expect("introspection")
            .into_inner();
        assert!(found.active);
        assert_eq!(
            (found.spiffe_id.as_str(), found.task_id.as_str()),
            ("spiffe://test.example/agent", begun.task.as_str())
        );
        assert_eq!(found.scopes, ["exec:git", "secret:app/key"]);
        assert_eq!(
            (found.binding(), found.certificate_sha256),
            (Binding::Certificate, caller.thumbprint())
        );
        let thief = world.caller(&broker, "/thief");
        let renewed = world.caller(&broker, "/agent");
        for (what, presenter) in [
            ("thief", thief.thumbprint()),
            ("another SVID of the same workload", renewed.thumbprint()),
            ("nobody", vec![]),
            ("cut", caller.thumbprint()[..31].to_vec()),
        ] {
            let answer = server
                .access()
                .introspect(IntrospectRequest {
                    presenter_certificate_sha256: presenter,
                    ..request.clone()
                })
                .await
                .expect("answer")
                .into_inner();
            assert_eq!(
                answer,
                sundew_proto::v1::IntrospectResponse::default(),
                "{what} learns something"
            );
        }
        // An agent may ask about its own token as its presenter; a thief with the right thumbprint
        // in the request may not.
        assert_eq!(caller.active(&begun.token, &[]).await.ok(), Some(true));
        assert_eq!(
            thief.active(&begun.token, &caller.thumbprint()).await.ok(),
            Some(false)
        );
    }
}

/// AC-16, T46: no TTL gives more than the ceiling, and none is for ever.
#[tokio::test]
async fn ac_16_no_ttl_passes_the_ceiling() {
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(
            &broker,
            "/agent",
            json!({ "max_task_ttl": "60s", "max_token_ttl": "10s" }),
        )
        .await;
    let caller = world.caller(&broker, "/agent");
    for (ttl_ms, longest) in [
        (0, 60_000),
        (1000, 1000),
        (60_000, 60_000),
        (61_000, 60_000),
        (1 << 34, 60_000),
    ] {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        request.ttl_ms = ttl_ms;
        let begun = caller.send(request).await.expect("task").answer;
        let (task, token) = (begun.task.expect("task"), begun.token.expect("token"));
        assert_eq!(
            task.deadline_ms - task.created_at_ms,
            longest,
            "asked {ttl_ms}"
        );
        assert_eq!(
            token.expires_at_ms - task.created_at_ms,
            longest.min(10_000)
        );
    }
    for ttl_ms in [-1, i64::MIN, i64::MAX, 1 << 53] {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        request.ttl_ms = ttl_ms;
        assert_eq!(
            caller.send(request).await.expect_err("refused").code(),
            Code::InvalidArgument,
            "{ttl_ms}"
        );
    }
    // T51: minting again and again never gets past the task.
    let mut request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    request.ttl_ms = 2000;
    let begun = caller.send(request).await.expect("task");
    let deadline = begun.answer.task.expect("task").deadline_ms;
    loop {
        match caller.mint(&begun.task).await {
            Ok(token) => assert!(token.expires_at_ms <= deadline),
            Err(status) => break assert_eq!(status.code(), Code::PermissionDenied),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(now_ms() >= deadline - 50);
}

/// AC-23 from outside: good before its end, refused from its end on, by the broker's own word on
/// when that is.
#[tokio::test]
async fn ac_23_a_token_dies_at_its_expiry() {
    for world in World::both() {
        let (_broker, caller) = world.broker_and_agent().await;
        let begun = begin(&world, &caller, &["exec:git"]).await;
        let request = MintTokenRequest {
            task_id: begun.task.clone(),
            ttl_ms: 600,
            ..MintTokenRequest::default()
        };
        let token = caller
            .agent()
            .mint_token(request)
            .await
            .expect("token")
            .into_inner()
            .token
            .expect("token");
        let mut seen_active = false;
        loop {
            let asked = now_ms();
            let active = caller.active(&token.token, &[]).await.expect("answer");
            let answered = now_ms();
            // Active needs that the question was put before the end; not active, that the answer
            // came at the end or later.
            assert!(
                if active {
                    asked < token.expires_at_ms
                } else {
                    answered >= token.expires_at_ms
                },
                "asked {asked}, answered {answered}, ends {}",
                token.expires_at_ms
            );
            seen_active |= active;
            if !active {
                break;
            }
        }
        assert!(seen_active);
    }
}

/// AC-26, T11: an SVID rotates within a task; a second SVID that the first one did not name does
/// not get in.
#[tokio::test]
async fn ac_26_t11_a_task_moves_to_the_svid_that_its_holder_names_and_to_no_other() {
    for world in World::both() {
        let (broker, old) = world.broker_and_agent().await;
        let begun = begin(&world, &old, &["exec:git"]).await;
        let (next, other) = (
            world.caller(&broker, "/agent"),
            world.caller(&broker, "/agent"),
        );
        assert_eq!(
            next.mint(&begun.task).await.expect_err("not yet").code(),
            Code::PermissionDenied
        );
        let (asked, requests) = tokio::sync::mpsc::channel(4);
        let say = |request| AttendRequest {
            request: Some(request),
        };
        asked
            .send(say(Request::Start(AttendStart {
                task_id: begun.task.clone(),
                ..AttendStart::default()
            })))
            .await
            .expect("start");
        asked
            .send(say(Request::Rotate(RotateBinding {
                certificate_sha256: next.thumbprint(),
            })))
            .await
            .expect("rotate");
        let mut told = old
            .agent()
            .attend(tokio_stream::wrappers::ReceiverStream::new(requests))
            .await
            .expect("attend")
            .into_inner();
        while !matches!(
            told.next().await.expect("event").expect("event").event,
            Some(Event::Rotated(_))
        ) {}
        let token = next.mint(&begun.task).await.expect("the next SVID goes on");
        assert_eq!(next.active(&token.token, &[]).await.ok(), Some(true));
        assert_eq!(
            old.active(&token.token, &[]).await.ok(),
            Some(false),
            "bound to the next SVID"
        );
        assert_eq!(
            other.mint(&begun.task).await.expect_err("refused").code(),
            Code::PermissionDenied
        );
        assert_eq!(
            other
                .complete(&begun.task)
                .await
                .expect_err("refused")
                .code(),
            Code::PermissionDenied
        );
    }
}

/// P8: bearer tokens need the registration's leave, and are marked.
#[tokio::test]
async fn bearer_tokens_need_leave_and_are_marked() {
    let world = World::embedded();
    let (broker, caller) = world.broker_and_agent().await;
    let bearer = |request: BeginTaskRequest| BeginTaskRequest {
        binding: Binding::Bearer.into(),
        ..request
    };
    let request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    assert_eq!(
        caller
            .send(bearer(request))
            .await
            .expect_err("refused")
            .code(),
        Code::PermissionDenied
    );
    world
        .register(
            &broker,
            "/agent",
            json!({ "bindings": ["certificate", "bearer"] }),
        )
        .await;
    let request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    let begun = caller.send(bearer(request)).await.expect("task");
    assert_eq!(
        begun.answer.token.clone().expect("token").binding(),
        Binding::Bearer
    );
    let server = world.caller(&broker, "/introspector");
    let request = IntrospectRequest {
        token: begun.token,
        ..IntrospectRequest::default()
    };
    assert_eq!(
        server
            .access()
            .introspect(request)
            .await
            .expect("answer")
            .into_inner()
            .binding(),
        Binding::Bearer
    );
    assert!(
        broker
            .journal()
            .iter()
            .any(|r| r.event == "task_begun" && r.field("token_binding") == Some("bearer"))
    );
}
