//! Tasks and tokens: AC-01, AC-10 to AC-18, AC-20, AC-23, AC-26, on both stores.

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{
    AttendRequest, AttendStart, BeginTaskRequest, Binding, IntrospectRequest, MintTokenRequest,
    RotateBinding,
};
use sundew_tests::broker::{Broker, World};
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::{now_ms, until};
use tokio_stream::StreamExt as _;
use tonic::Code;

async fn ready(world: &World) -> (Broker, Caller) {
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    (broker, caller)
}

async fn begin(world: &World, caller: &Caller, scopes: &[&str]) -> Begun {
    caller
        .begin(&world.issuer, "/agent", scopes)
        .await
        .expect("task")
}

/// AC-01, AC-20: the subject is the SVID's ID; the token is good in the right hands only.
#[tokio::test]
async fn ac_01_ac_20_a_token_has_the_svids_subject_and_is_good_in_its_hands_only() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
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

/// AC-10, T35: one scope outside refuses the whole request, and nothing but the nonce is gone.
#[tokio::test]
async fn ac_10_one_scope_outside_refuses_all_and_consumes_only_the_nonce() {
    for world in World::both() {
        let (_broker, caller) = ready(&world).await;
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git", "exec:sh"])
            .await
            .expect("request");
        assert_eq!(
            caller
                .send(request.clone())
                .await
                .expect_err("refused")
                .code(),
            Code::PermissionDenied
        );
        // The same OIDC token is still good, with a new nonce and the right scopes.
        (request.nonce, request.scopes) = (
            caller.nonce().await.expect("nonce"),
            vec![
                "exec:git".to_owned(),
                "secret:app/a/b".to_owned(),
                "secret:app/*".to_owned(),
            ],
        );
        let begun = caller.send(request).await.expect("task");
        assert_eq!(
            begun.answer.task.expect("task").scopes,
            ["exec:git", "secret:app/*", "secret:app/a/b"]
        );
    }
}

/// AC-11, AC-12: what does not parse is an error, in begin, mint and introspection alike.
#[tokio::test]
async fn ac_12_a_scope_that_does_not_parse_is_never_unlimited() {
    let world = World::embedded();
    let (_broker, caller) = ready(&world).await;
    let begun = begin(&world, &caller, &["secret:app/*"]).await;
    for scope in [
        "*",
        "",
        "secret:*:",
        "secret:app/**",
        "secret:app/../x",
        "SECRET:app/x",
        "secret:\u{430}pp/x",
        "secret:app/x\n",
    ] {
        let mut request = caller
            .request(&world.issuer, "/agent", &[scope])
            .await
            .expect("request");
        assert_eq!(
            caller
                .send(request.clone())
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument,
            "{scope:?}"
        );
        request.scopes = vec![];
        let minted = caller
            .agent()
            .mint_token(MintTokenRequest {
                task_id: begun.task.clone(),
                scopes: vec![scope.to_owned()],
                ..MintTokenRequest::default()
            })
            .await;
        assert_eq!(
            minted.expect_err("refused").code(),
            Code::InvalidArgument,
            "{scope:?}"
        );
        let request = IntrospectRequest {
            token: begun.token.clone(),
            required_scopes: vec![scope.to_owned()],
            ..IntrospectRequest::default()
        };
        assert_eq!(
            caller
                .access()
                .introspect(request)
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument,
            "{scope:?}"
        );
    }
    let mut many = caller
        .request(&world.issuer, "/agent", &[])
        .await
        .expect("request");
    assert_eq!(
        caller.send(many.clone()).await.expect_err("none").code(),
        Code::InvalidArgument
    );
    many.scopes = vec!["secret:app/x".to_owned(); 10_000];
    assert_eq!(
        caller.send(many).await.expect_err("10 000").code(),
        Code::InvalidArgument
    );
}

/// P3: mint only narrows; T43: a cached token is not good for a scope that it does not have.
#[tokio::test]
async fn minting_narrows_and_never_widens() {
    for world in World::both() {
        let (_broker, caller) = ready(&world).await;
        let begun = begin(&world, &caller, &["secret:app/*"]).await;
        let mint = |scopes: &[&str], audience: &[&str], ttl_ms: i64| {
            let request = MintTokenRequest {
                task_id: begun.task.clone(),
                scopes: scopes.iter().map(ToString::to_string).collect(),
                audience: audience.iter().map(ToString::to_string).collect(),
                ttl_ms,
                ..MintTokenRequest::default()
            };
            let caller = caller.clone();
            async move {
                caller
                    .agent()
                    .mint_token(request)
                    .await
                    .map(|answer| answer.into_inner().token.expect("token"))
            }
        };
        let narrow = mint(&["secret:app/a"], &["api.example"], 5000)
            .await
            .expect("token");
        assert!((1..=5000).contains(&(narrow.expires_at_ms - now_ms())));
        assert_eq!(
            mint(&["exec:git"], &[], 0).await.expect_err("wider").code(),
            Code::PermissionDenied,
            "registered, but not the task's"
        );
        assert_eq!(
            mint(&["secret:*"], &[], 0).await.expect_err("wider").code(),
            Code::PermissionDenied
        );
        let ask = |scope: &str, audience: &str| {
            let request = IntrospectRequest {
                token: narrow.token.clone(),
                required_scopes: vec![scope.to_owned()],
                audience: audience.to_owned(),
                ..IntrospectRequest::default()
            };
            let caller = caller.clone();
            async move {
                caller
                    .access()
                    .introspect(request)
                    .await
                    .expect("answer")
                    .into_inner()
                    .active
            }
        };
        assert!(ask("secret:app/a", "api.example").await && ask("secret:app/a", "").await);
        assert!(
            !ask("secret:app/b", "api.example").await
                && !ask("secret:app/*", "").await
                && !ask("secret:app/a", "other.example").await
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

/// AC-17: one key, 100 retries, one task and one answer.
#[tokio::test]
async fn ac_17_one_idempotency_key_gives_one_task_and_one_token() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let mut requests = Vec::new();
        for _ in 0..4 {
            for _ in 0..25 {
                let mut request = caller
                    .request(&world.issuer, "/agent", &["exec:git"])
                    .await
                    .expect("request");
                request.idempotency_key = "job-1".to_owned();
                requests.push(request);
            }
            let calls: Vec<_> = requests
                .drain(..)
                .map(|r| {
                    tokio::spawn({
                        let caller = caller.clone();
                        async move { caller.send(r).await.expect("task") }
                    })
                })
                .collect();
            let mut seen: Vec<Begun> = Vec::new();
            for call in calls {
                seen.push(call.await.expect("call"));
            }
            assert!(
                seen.iter()
                    .all(|b| b.task == seen[0].task && b.token == seen[0].token)
            );
        }
        let listed = world
            .operator(&broker)
            .response()
            .list_tasks(sundew_proto::v1::ListTasksRequest::default())
            .await
            .expect("list")
            .into_inner()
            .tasks;
        assert_eq!(listed.len(), 1);
        let mut other = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        (other.idempotency_key, other.purpose) = ("job-1".to_owned(), "another".to_owned());
        assert_eq!(
            caller.send(other).await.expect_err("refused").code(),
            Code::AlreadyExists
        );
        // The same for minting.
        let mint = || MintTokenRequest {
            task_id: listed[0].task_id.clone(),
            idempotency_key: "t-1".to_owned(),
            ..MintTokenRequest::default()
        };
        let one = caller
            .agent()
            .mint_token(mint())
            .await
            .expect("token")
            .into_inner()
            .token
            .expect("token");
        let two = caller
            .agent()
            .mint_token(mint())
            .await
            .expect("token")
            .into_inner()
            .token
            .expect("token");
        assert_eq!(
            (one.token, one.expires_at_ms),
            (two.token, two.expires_at_ms)
        );
        let other = MintTokenRequest {
            ttl_ms: 1000,
            ..mint()
        };
        assert_eq!(
            caller
                .agent()
                .mint_token(other)
                .await
                .expect_err("refused")
                .code(),
            Code::AlreadyExists
        );
    }
}

/// AC-23 from outside: good before its end, refused from its end on, by the broker's own word on
/// when that is.
#[tokio::test]
async fn ac_23_a_token_dies_at_its_expiry() {
    for world in World::both() {
        let (_broker, caller) = ready(&world).await;
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
        let (broker, old) = ready(&world).await;
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
    let (broker, caller) = ready(&world).await;
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

/// P12: a workload has as many tasks as it may have, and gets a place back when one ends.
#[tokio::test]
async fn a_workload_is_held_to_its_number_of_tasks() {
    for world in World::both() {
        let broker = world.broker().await;
        world
            .register(&broker, "/agent", json!({ "max_tasks": 2 }))
            .await;
        let caller = world.caller(&broker, "/agent");
        let first = begin(&world, &caller, &["exec:git"]).await;
        begin(&world, &caller, &["exec:git"]).await;
        let full = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect_err("full");
        assert_eq!(full.code(), Code::ResourceExhausted);
        caller.complete(&first.task).await.expect("completed");
        begin(&world, &caller, &["exec:git"]).await;
    }
}

/// What an operator changes holds for the next call, and a deleted workload's tokens are dead.
#[tokio::test]
async fn narrowing_or_deleting_a_registration_holds_at_once_at_every_broker() {
    let world = World::redis();
    let (one, two) = (world.broker().await, world.broker().await);
    world.register(&one, "/agent", json!({})).await;
    let (here, there) = (
        world.caller(&one, "/agent"),
        world.caller_with(&two, world.ca.svid("/agent")),
    );
    let begun = begin(&world, &here, &["exec:git", "secret:app/x"]).await;
    there
        .nonce()
        .await
        .expect("the other broker knows the registration");
    world
        .register(&one, "/agent", json!({ "scopes": ["exec:git"] }))
        .await;
    assert_eq!(
        here.mint(&begun.task)
            .await
            .expect_err("wider than today's ceiling")
            .code(),
        Code::PermissionDenied
    );
    let request = there
        .request(&world.issuer, "/agent", &["secret:app/x"])
        .await
        .expect("request");
    assert_eq!(
        there
            .send(request)
            .await
            .expect_err("narrowed there too")
            .code(),
        Code::PermissionDenied
    );
    let server = world.operator(&two);
    assert_eq!(
        server.active(&begun.token, &here.thumbprint()).await.ok(),
        Some(true)
    );
    let id = "spiffe://test.example/agent".to_owned();
    world
        .operator(&one)
        .registry()
        .delete_workload(sundew_proto::v1::DeleteWorkloadRequest { spiffe_id: id })
        .await
        .expect("deleted");
    assert_eq!(
        server.active(&begun.token, &here.thumbprint()).await.ok(),
        Some(false)
    );
    assert_eq!(
        there.nonce().await.expect_err("gone").code(),
        Code::PermissionDenied
    );
    until("here too", || async { here.nonce().await.is_err() }).await;
}
