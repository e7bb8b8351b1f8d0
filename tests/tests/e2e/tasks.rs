//! Tasks and what they may: AC-10, AC-11, AC-12, AC-17, T35, T43, on both stores.

use serde_json::json;
use sundew_proto::v1::{IntrospectRequest, MintTokenRequest};
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::world::World;
use sundew_tests::{now_ms, until};
use tonic::Code;

pub(crate) async fn begin(world: &World, caller: &Caller, scopes: &[&str]) -> Begun {
    caller
        .begin(&world.issuer, "/agent", scopes)
        .await
        .expect("task")
}

/// AC-10, T35: one scope outside refuses the whole request, and nothing but the nonce is gone.
#[tokio::test]
async fn ac_10_one_scope_outside_refuses_all_and_consumes_only_the_nonce() {
    for world in World::both() {
        let (_broker, caller) = world.broker_and_agent().await;
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
    let (_broker, caller) = world.broker_and_agent().await;
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
        let (_broker, caller) = world.broker_and_agent().await;
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

/// Begins with 100 requests of one idempotency key: all have the same task and token.
async fn retried_begins_are_one(world: &World, caller: &Caller) {
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
}

/// Two mints with one idempotency key are the same token; another request with it is refused.
async fn retried_mints_are_one(caller: &Caller, task: &str) {
    let mint = || MintTokenRequest {
        task_id: task.to_owned(),
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

/// AC-17: one key, 100 retries, one task and one answer.
#[tokio::test]
async fn ac_17_one_idempotency_key_gives_one_task_and_one_token() {
    for world in World::both() {
        let (broker, caller) = world.broker_and_agent().await;
        retried_begins_are_one(&world, &caller).await;
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
        retried_mints_are_one(&caller, &listed[0].task_id).await;
    }
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

/// A change of an operator holds for the next call, and a deleted workload's tokens are dead.
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
    let narrow = begin(&world, &here, &["exec:git"]).await;
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
    // L24: a token with a scope that was taken away is dead, one that is covered still lives.
    let server = world.operator(&two);
    let active = async |begun: &Begun| server.active(&begun.token, &here.thumbprint()).await.ok();
    assert_eq!(active(&begun).await, Some(false));
    assert_eq!(active(&narrow).await, Some(true));
    let id = "spiffe://test.example/agent".to_owned();
    world
        .operator(&one)
        .registry()
        .delete_workload(sundew_proto::v1::DeleteWorkloadRequest { spiffe_id: id })
        .await
        .expect("deleted");
    assert_eq!(active(&narrow).await, Some(false));
    assert_eq!(
        there.nonce().await.expect_err("gone").code(),
        Code::PermissionDenied
    );
    until("here too", || async { here.nonce().await.is_err() }).await;
}
