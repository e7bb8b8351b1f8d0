//! Evidence: AC-05 to AC-08 for the kinds that are built, class B, T24 to T28.

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::{BeginTaskRequest, Evidence};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::issuer::{ISSUER, TestIssuer};
use sundew_tests::world::World;
use tonic::Code;

pub(crate) async fn ready() -> (World, Broker, Caller) {
    let world = World::embedded();
    let (broker, caller) = world.broker_and_agent().await;
    (world, broker, caller)
}

pub(crate) async fn with_token(caller: &Caller, token: Vec<u8>) -> Result<(), tonic::Status> {
    let request = BeginTaskRequest {
        nonce: caller.nonce().await?,
        purpose: "test".to_owned(),
        scopes: vec!["exec:git".to_owned()],
        evidence: vec![oidc(token)],
        ..BeginTaskRequest::default()
    };
    caller.send(request).await.map(drop)
}

/// AC-07, T23, T24: of 50 at once with one nonce and one token, exactly one.
#[tokio::test]
async fn ac_07_the_same_nonce_and_evidence_in_50_calls_give_one_task() {
    let (world, _broker, caller) = ready().await;
    let request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (caller, request) = (caller.clone(), request.clone());
            tokio::spawn(async move { caller.send(request).await.is_ok() })
        })
        .collect();
    let mut wins = 0;
    for call in calls {
        wins += usize::from(call.await.expect("call"));
    }
    assert_eq!(wins, 1);
}

/// T23: the same token with 64 different nonces, over two brokers on one Redis.
#[tokio::test]
async fn t23_a_token_is_good_once_over_all_brokers() {
    let world = World::redis();
    let (one, two) = (world.broker().await, world.broker().await);
    world.register(&one, "/agent", json!({})).await;
    let callers = [world.caller(&one, "/agent"), world.caller(&two, "/agent")];
    let token = world.issuer.token("/agent");
    let mut requests = Vec::new();
    for n in 0..64 {
        let caller = callers[n % 2].clone();
        let nonce = caller.nonce().await.expect("nonce");
        requests.push((
            caller,
            BeginTaskRequest {
                nonce,
                purpose: "x".to_owned(),
                scopes: vec!["exec:git".to_owned()],
                evidence: vec![oidc(token.clone())],
                ..BeginTaskRequest::default()
            },
        ));
        if n % 2 == 1 && n % 32 == 31 {
            // A connection keeps 32 challenges at most; use them up before more are made.
            let mut wins = 0;
            for call in requests
                .drain(..)
                .map(|(caller, request)| {
                    tokio::spawn(async move { caller.send(request).await.is_ok() })
                })
                .collect::<Vec<_>>()
            {
                wins += usize::from(call.await.expect("call"));
            }
            assert_eq!(wins, usize::from(n == 31), "after {n}");
        }
    }
}

/// T25, T26: nonces that are not this connection's.
#[tokio::test]
async fn t25_t26_a_nonce_is_good_on_its_own_connection_once() {
    let (world, broker, caller) = ready().await;
    world.register(&broker, "/other", json!({})).await;
    let again = world.caller_with(&broker, caller.svid.clone().expect("SVID"));
    let other = world.caller(&broker, "/other");
    let good = caller.nonce().await.expect("nonce");
    let mut longer = good.clone();
    longer.push(0);
    let nonces = [
        (
            "of another connection of the same SVID",
            again.nonce().await.expect("nonce"),
        ),
        ("of another SVID", other.nonce().await.expect("nonce")),
        ("never issued", vec![7; 32]),
        ("all zero", vec![0; 32]),
        ("empty", vec![]),
        ("with an extra byte", longer),
        ("cut", good[..31].to_vec()),
    ];
    for (what, nonce) in nonces {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        request.nonce = nonce;
        assert_eq!(
            caller.send(request).await.expect_err(what).code(),
            Code::PermissionDenied,
            "{what}"
        );
    }
    // P2: a nonce is gone even if the request was nonsense.
    let mut request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    let nonce = request.nonce.clone();
    request.scopes = vec!["***".to_owned()];
    assert_eq!(
        caller.send(request).await.expect_err("nonsense").code(),
        Code::InvalidArgument
    );
    let mut request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    request.nonce = nonce;
    assert_eq!(
        caller.send(request).await.expect_err("used").code(),
        Code::PermissionDenied
    );
}

/// AC-06: evidence that is missing, of another kind, too much, or that no verifier knows.
#[tokio::test]
async fn ac_06_evidence_that_does_not_fit_the_registration_is_refused() {
    let (world, broker, caller) = ready().await;
    let token = world.issuer.token("/agent");
    let kind = |kind: &str| Evidence {
        kind: kind.to_owned(),
        payload: token.clone(),
    };
    for evidence in [
        vec![],
        vec![kind("manifest")],
        vec![kind("tpm2")],
        vec![kind("")],
        vec![kind("oidc"), kind("oidc")],
        vec![kind("oidc"); 9],
    ] {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        request.evidence = evidence;
        assert_eq!(
            caller.send(request).await.expect_err("refused").code(),
            Code::PermissionDenied
        );
    }
    let operator = world.operator(&broker);
    for (changes, part) in [
        (json!({ "evidence": [] }), "at least one kind of evidence"),
        (
            json!({ "evidence": [{ "kind": "palm_reading" }] }),
            "unknown variant",
        ),
        (
            json!({ "evidence": [{ "kind": "tpm2", "claims": { "pcr.sha256.7": ["00"] } }] }),
            "nothing is trusted for it",
        ),
        (
            json!({ "evidence": [{ "any_of": [] }] }),
            "at least one kind of evidence",
        ),
        (
            json!({ "evidence": [{ "all_of": [], "kind": "oidc" }] }),
            "stands alone",
        ),
        (
            json!({ "evidence": [{ "kind": "oidc", "issuer": "https://elsewhere", "claims": { "sub": ["x"] } }] }),
            "not configured",
        ),
        (
            json!({ "evidence": [{ "kind": "oidc", "issuer": ISSUER, "claims": {} }] }),
            "pin `sub`",
        ),
        (json!({ "require_fresh_evidence": true }), "carry a nonce"),
    ] {
        let status = operator
            .apply(&[World::registration("/x", changes)])
            .await
            .expect_err("refused");
        assert!(status.message().contains(part), "{status}");
    }
}

/// AC-08, T48: nothing outlives its evidence or its SVID.
#[tokio::test]
async fn ac_08_a_task_ends_with_its_evidence_and_a_token_with_its_svid() {
    let (world, broker, caller) = ready().await;
    let now = sundew_tests::now_ms() / 1000;
    let mut claims = TestIssuer::claims("/agent");
    claims["exp"] = json!(now + 20);
    let mut request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    request.evidence = vec![oidc(world.issuer.token_of(&claims))];
    request.ttl_ms = 300_000;
    let begun = caller.send(request).await.expect("task").answer;
    assert_eq!(begun.task.expect("task").deadline_ms, (now + 20) * 1000);
    assert!(begun.token.expect("token").expires_at_ms <= (now + 20) * 1000);

    let short = world.caller_with(
        &broker,
        world.ca.short_svid("/agent", Duration::from_secs(30)),
    );
    let begun = short
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    let limit = sundew_tests::now_ms() + 30_000;
    assert!(begun.answer.token.expect("token").expires_at_ms <= limit);
    assert!(short.mint(&begun.task).await.expect("token").expires_at_ms <= limit);
}
