//! Evidence: AC-05 to AC-08 for the kinds that are built, class B, T24 to T28.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sundew_proto::v1::{BeginTaskRequest, Evidence};
use sundew_tests::broker::{Broker, World};
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::issuer::{AUDIENCE, ISSUER, TestIssuer};
use sundew_tests::until;
use tonic::Code;

async fn ready() -> (World, Broker, Caller) {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    (world, broker, caller)
}

async fn with_token(caller: &Caller, token: Vec<u8>) -> Result<(), tonic::Status> {
    let request = BeginTaskRequest {
        nonce: caller.nonce().await?,
        purpose: "test".to_owned(),
        scopes: vec!["exec:git".to_owned()],
        evidence: vec![oidc(token)],
        ..BeginTaskRequest::default()
    };
    caller.send(request).await.map(drop)
}

/// T12 to T21: every way to bend a token, one case each; all answered alike.
#[tokio::test]
async fn t12_to_t21_every_bent_token_is_refused() {
    let (world, broker, caller) = ready().await;
    let issuer = &world.issuer;
    let payload = || TestIssuer::claims("/agent").to_string();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = TestIssuer::claims("/agent");
        change(&mut claims);
        issuer.token_of(&claims)
    };
    let header = |header: Value| issuer.sign(&header.to_string(), &payload());
    let hmac = |key: &[u8]| {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k1"}"#),
            URL_SAFE_NO_PAD.encode(payload())
        );
        let tag = ring::hmac::sign(
            &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key),
            input.as_bytes(),
        );
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag)).into_bytes()
    };
    let now = sundew_tests::now_ms() / 1000;
    let good = String::from_utf8(issuer.token("/agent")).expect("text");
    let other_key = TestIssuer::default();
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        (
            "signed by another key of the same id".into(),
            other_key.token("/agent"),
        ),
        (
            "no signature".into(),
            format!("{}.", good.rsplit_once('.').expect("parts").0).into_bytes(),
        ),
        ("padded".into(), format!("{good}=").into_bytes()),
        ("four parts".into(), format!("{good}.x").into_bytes()),
        ("empty".into(), vec![]),
        ("binary".into(), vec![0xff; 100]),
        ("a million dots".into(), vec![b'.'; 1_000_000 / 2]),
        (
            "HS256 with the public key".into(),
            hmac(issuer.public_key()),
        ),
        ("HS256 with the JWK".into(), hmac(issuer.jwks().as_bytes())),
        (
            "unknown kid".into(),
            header(json!({ "alg": "ES256", "kid": "k2" })),
        ),
        (
            "kid that is a path".into(),
            header(json!({ "alg": "ES256", "kid": "../../dev/null" })),
        ),
        ("kid absent".into(), header(json!({ "alg": "ES256" }))),
        (
            "ID token used as another type".into(),
            header(json!({ "alg": "ES256", "kid": "k1", "typ": "at+jwt" })),
        ),
        (
            "duplicate claim".into(),
            issuer.sign(
                r#"{"alg":"ES256","kid":"k1"}"#,
                &payload().replacen('{', r#"{"sub":"/agent","#, 1),
            ),
        ),
        (
            "duplicate header".into(),
            issuer.sign(r#"{"alg":"ES256","alg":"ES256","kid":"k1"}"#, &payload()),
        ),
        (
            "payload that is no object".into(),
            issuer.sign(r#"{"alg":"ES256","kid":"k1"}"#, "[]"),
        ),
        ("expired".into(), with(&|c| c["exp"] = json!(now - 1))),
        (
            "issued in the future".into(),
            with(&|c| c["iat"] = json!(now + 120)),
        ),
        (
            "not before later".into(),
            with(&|c| c["nbf"] = json!(now + 120)),
        ),
        (
            "issued long ago".into(),
            with(&|c| c["iat"] = json!(now - 7200)),
        ),
        (
            "living for years".into(),
            with(&|c| c["exp"] = json!(now + 100_000_000)),
        ),
        (
            "audience absent".into(),
            with(&|c| drop(c.as_object_mut().expect("object").remove("aud"))),
        ),
        (
            "another subject".into(),
            with(&|c| c["sub"] = json!("/agent-evil")),
        ),
        (
            "jti that is a number".into(),
            with(&|c| c["jti"] = json!(1)),
        ),
    ];
    for alg in [
        json!("none"),
        json!("None"),
        json!("nOnE"),
        json!(""),
        json!(["ES256"]),
        json!("RS256"),
        json!("ES384"),
        Value::Null,
    ] {
        cases.push((
            format!("alg {alg}"),
            header(json!({ "alg": alg, "kid": "k1" })),
        ));
    }
    for name in [
        "jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "p2c",
    ] {
        cases.push((
            format!("header {name}"),
            header(json!({ "alg": "ES256", "kid": "k1", name: "https://attacker.test" })),
        ));
    }
    for name in ["exp", "iat"] {
        for value in [
            json!("1"),
            json!(1.5),
            json!(-1),
            json!(1e300),
            Value::Null,
            json!([1]),
            json!(i64::MAX),
        ] {
            cases.push((
                format!("{name} {value}"),
                with(&|c| c[name] = value.clone()),
            ));
        }
        cases.push((
            format!("{name} absent"),
            with(&|c| drop(c.as_object_mut().expect("object").remove(name))),
        ));
    }
    for aud in [
        json!("other"),
        json!([AUDIENCE, "other"]),
        json!([]),
        json!(&AUDIENCE[..4]),
        json!(format!("{AUDIENCE}2")),
        json!({ "a": 1 }),
    ] {
        cases.push((format!("aud {aud}"), with(&|c| c["aud"] = aud.clone())));
    }
    for iss in [
        format!("{ISSUER}/"),
        ISSUER.to_uppercase(),
        format!("{ISSUER}/x"),
        ISSUER.replace("https://", "https://u@"),
        String::new(),
    ] {
        cases.push((format!("iss {iss}"), with(&|c| c["iss"] = json!(iss))));
    }
    let count = cases.len();
    for (what, token) in cases {
        let status = with_token(&caller, token).await.expect_err(&what);
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "not permitted"),
            "{what}"
        );
    }
    until("each is on the record once", || async {
        broker.refusals("BeginTask").len() == count
    })
    .await;
    assert!(
        broker
            .refusals("BeginTask")
            .iter()
            .all(|reason| reason.starts_with("evidence: ")),
        "{:#?}",
        broker.refusals("BeginTask")
    );
    with_token(&caller, world.issuer.token("/agent"))
        .await
        .expect("a good one is taken");
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

/// T22: GitHub's tokens, with their traps.
#[tokio::test]
async fn t22_a_repository_is_pinned_by_its_id_and_pull_requests_are_not_taken() {
    let world = World::embedded();
    let jwks = world.folder().join("jwks.json");
    let more = format!(
        "[[issuers]]\nurl = \"https://github.test\"\naudience = \"{AUDIENCE}\"\npreset = \"github\"\njwks_file = \"{}\"\n",
        jwks.display()
    );
    let broker = world.broker_with(&more).await;
    let evidence = |claims: Value| json!({ "evidence": [{ "kind": "oidc", "issuer": "https://github.test", "claims": claims }] });
    let by_name = world
        .operator(&broker)
        .apply(&[World::registration(
            "/ci",
            evidence(json!({ "repository": ["org/repo"] })),
        )])
        .await;
    assert!(
        by_name
            .expect_err("a name alone")
            .message()
            .contains("pin `repository_id`")
    );
    world
        .register(
            &broker,
            "/ci",
            evidence(json!({ "repository_id": ["42"], "ref": ["refs/heads/main"] })),
        )
        .await;
    let caller = world.caller(&broker, "/ci");
    let token = |change: &dyn Fn(&mut Value)| {
        let mut claims = TestIssuer::claims("repo:org/repo:ref:refs/heads/main");
        claims["iss"] = json!("https://github.test");
        for (name, value) in [
            ("repository", "org/repo"),
            ("repository_id", "42"),
            ("event_name", "push"),
            ("ref", "refs/heads/main"),
        ] {
            claims[name] = json!(value);
        }
        change(&mut claims);
        world.issuer.token_of(&claims)
    };
    with_token(&caller, token(&|_| {}))
        .await
        .expect("the right one");
    type Bent<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let bad: [Bent<'_>; 5] = [
        ("another repository of the same name", &|c| {
            c["repository_id"] = json!("43")
        }),
        ("pull request", &|c| c["event_name"] = json!("pull_request")),
        ("pull request target", &|c| {
            c["event_name"] = json!("pull_request_target")
        }),
        ("another ref", &|c| c["ref"] = json!("refs/heads/evil")),
        ("no event", &|c| {
            drop(c.as_object_mut().expect("object").remove("event_name"))
        }),
    ];
    for (what, change) in bad {
        assert_eq!(
            with_token(&caller, token(change))
                .await
                .expect_err(what)
                .code(),
            Code::PermissionDenied,
            "{what}"
        );
    }
}

/// T21: a legacy Kubernetes token has neither end nor audience; a projected one has both and more.
#[tokio::test]
async fn t21_projected_service_account_tokens_are_taken_and_legacy_ones_are_not() {
    let world = World::embedded();
    let jwks = world.folder().join("jwks.json");
    let more = format!(
        "[[issuers]]\nurl = \"https://k8s.test\"\naudience = \"{AUDIENCE}\"\npreset = \"kubernetes\"\njwks_file = \"{}\"\n",
        jwks.display()
    );
    let broker = world.broker_with(&more).await;
    let sub = "system:serviceaccount:prod:agent";
    let evidence = json!({ "evidence": [{ "kind": "oidc", "issuer": "https://k8s.test", "claims": { "sub": [sub], "kubernetes.namespace": ["prod"], "kubernetes.serviceaccount.uid": ["u-1"] } }] });
    world.register(&broker, "/pod", evidence).await;
    let caller = world.caller(&broker, "/pod");
    let mut claims = TestIssuer::claims(sub);
    claims["iss"] = json!("https://k8s.test");
    claims["aud"] = json!([AUDIENCE]);
    claims["kubernetes.io"] = json!({ "namespace": "prod", "serviceaccount": { "name": "agent", "uid": "u-1" }, "pod": { "name": "p", "uid": "u-2" } });
    with_token(&caller, world.issuer.token_of(&claims))
        .await
        .expect("projected");
    let mut recreated = claims.clone();
    (
        recreated["jti"],
        recreated["kubernetes.io"]["serviceaccount"]["uid"],
    ) = (json!("x"), json!("u-9"));
    assert!(
        with_token(&caller, world.issuer.token_of(&recreated))
            .await
            .is_err(),
        "an account of the same name was taken"
    );
    let legacy = json!({ "iss": "https://k8s.test", "sub": sub, "kubernetes.io/serviceaccount/namespace": "prod" });
    assert!(
        with_token(&caller, world.issuer.token_of(&legacy))
            .await
            .is_err(),
        "a legacy token was taken"
    );
}

/// Profiles of clouds: each with the shape of its real tokens, and with its own trap.
#[tokio::test]
async fn profiles_of_azure_gcp_and_spiffe_take_their_own_tokens_and_not_what_looks_like_them() {
    let world = World::embedded();
    let jwks = world.folder().join("jwks.json");
    let tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47";
    let azure = format!("https://sts.windows.net/{tenant}/");
    let more: String = [("azure", azure.as_str()), ("gcp", "https://accounts.google.com"), ("spiffe_jwt", "spiffe://other.test")]
        .iter()
        .map(|(preset, url)| format!("[[issuers]]\nurl = \"{url}\"\naudience = \"{AUDIENCE}\"\npreset = \"{preset}\"\njwks_file = \"{}\"\n", jwks.display()))
        .collect();
    let broker = world.broker_with(&more).await;
    let evidence = |issuer: &str, claims: Value| json!({ "evidence": [{ "kind": "oidc", "issuer": issuer, "claims": claims }] });
    let token = |iss: &str, own: &Value, change: &dyn Fn(&mut Value)| {
        let mut claims = TestIssuer::claims("s");
        claims["iss"] = json!(iss);
        claims
            .as_object_mut()
            .expect("object")
            .extend(own.as_object().expect("object").clone());
        change(&mut claims);
        world.issuer.token_of(&claims)
    };
    type Bent<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let remove =
        |claims: &mut Value, name: &str| drop(claims.as_object_mut().expect("object").remove(name));

    world
        .register(
            &broker,
            "/azure",
            evidence(&azure, json!({ "oid": ["o-1"] })),
        )
        .await;
    let caller = world.caller(&broker, "/azure");
    let own = json!({ "oid": "o-1", "tid": tenant, "appid": "a-1", "idtyp": "app", "xms_mirid": "/subscriptions/s/resourcegroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i" });
    with_token(&caller, token(&azure, &own, &|_| {}))
        .await
        .expect("azure");
    let bad: [Bent<'_>; 5] = [
        ("another tenant's", &|c| {
            c["tid"] = json!("11111111-86f1-41af-91ab-2d7cd011db47")
        }),
        ("no tenant", &|c| remove(c, "tid")),
        ("a user's", &|c| c["idtyp"] = json!("user")),
        ("given away by a user", &|c| {
            c["scp"] = json!("user_impersonation")
        }),
        ("another identity", &|c| c["oid"] = json!("o-2")),
    ];
    for (what, change) in bad {
        assert!(
            with_token(&caller, token(&azure, &own, change))
                .await
                .is_err(),
            "azure: {what}"
        );
    }

    let google = "https://accounts.google.com";
    world
        .register(
            &broker,
            "/gcp",
            evidence(
                google,
                json!({ "sub": ["1234567890"], "gce.project_number": ["77"] }),
            ),
        )
        .await;
    let caller = world.caller(&broker, "/gcp");
    let engine = json!({ "instance_id": "42", "instance_name": "vm", "project_id": "p", "project_number": 77, "zone": "europe-west1-b", "instance_creation_timestamp": 1 });
    let own =
        json!({ "sub": "1234567890", "azp": "1234567890", "google": { "compute_engine": engine } });
    with_token(&caller, token(google, &own, &|_| {}))
        .await
        .expect("gcp");
    let bad: [Bent<'_>; 4] = [
        ("of the account, without an instance", &|c| {
            remove(c, "google")
        }),
        ("with the claim at another place", &|c| {
            remove(c, "google");
            c["gce.instance_id"] = json!("42");
            c["gce.project_number"] = json!(77);
        }),
        ("another project", &|c| {
            c["google"]["compute_engine"]["project_number"] = json!(78)
        }),
        ("another account", &|c| c["sub"] = json!("1234567891")),
    ];
    for (what, change) in bad {
        assert!(
            with_token(&caller, token(google, &own, change))
                .await
                .is_err(),
            "gcp: {what}"
        );
    }

    let domain = "spiffe://other.test";
    world
        .register(
            &broker,
            "/spiffe",
            evidence(domain, json!({ "sub": ["spiffe://other.test/agent"] })),
        )
        .await;
    let caller = world.caller(&broker, "/spiffe");
    let own = json!({ "sub": "spiffe://other.test/agent", "aud": [AUDIENCE] });
    with_token(&caller, token("https://oidc.other.test", &own, &|_| {}))
        .await
        .expect("a JWT-SVID");
    with_token(&caller, token(domain, &own, &|c| remove(c, "iss")))
        .await
        .expect("a JWT-SVID without issuer");
    let bad: [Bent<'_>; 4] = [
        ("of another trust domain", &|c| {
            c["sub"] = json!("spiffe://other.test.evil/agent")
        }),
        ("of a trust domain below", &|c| {
            c["sub"] = json!("spiffe://a.other.test/agent")
        }),
        ("for two audiences", &|c| {
            c["aud"] = json!([AUDIENCE, "other"])
        }),
        ("T16: without an end", &|c| remove(c, "exp")),
    ];
    for (what, change) in bad {
        assert!(
            with_token(&caller, token(domain, &own, change))
                .await
                .is_err(),
            "spiffe: {what}"
        );
    }
}

/// T34: the evidence cut at each length and with one flipped byte per position.
#[test]
fn t34_every_cut_and_every_flipped_byte_of_a_token_is_refused_without_panic() {
    use sundew_attestation::jws::{KeySet, verify};
    let issuer = TestIssuer::default();
    let keys = KeySet::parse(issuer.jwks().as_bytes()).expect("keys");
    let token = issuer.token("/agent");
    assert!(verify(&token, &keys).is_ok());
    for length in 0..token.len() {
        assert!(verify(&token[..length], &keys).is_err(), "cut at {length}");
    }
    for index in 0..token.len() {
        for flip in [1, 0x20, 0x80] {
            let mut bent = token.clone();
            bent[index] ^= flip;
            assert!(
                verify(&bent, &keys).is_err(),
                "byte {index} flipped by {flip}"
            );
        }
    }
}
