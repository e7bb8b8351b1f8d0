//! Tokens of platforms, each with its own traps: T21, T22.

use serde_json::{Value, json};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::issuer::{AUDIENCE, TestIssuer};
use sundew_tests::world::World;
use tonic::Code;

use crate::evidence::with_token;

pub(crate) fn remove(claims: &mut Value, name: &str) {
    claims.as_object_mut().expect("object").remove(name);
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
    let bad: [Change<'_>; 5] = [
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

/// A change of a good token's claims that must make it a bad one, and what it is.
type Change<'a> = (&'a str, &'a dyn Fn(&mut Value));

fn wants(issuer: &str, claims: Value) -> Value {
    json!({ "evidence": [{ "kind": "oidc", "issuer": issuer, "claims": claims }] })
}

/// A token of this issuer with the claims of its own, changed.
fn token(world: &World, iss: &str, own: &Value, change: &dyn Fn(&mut Value)) -> Vec<u8> {
    let mut claims = TestIssuer::claims("s");
    claims["iss"] = json!(iss);
    claims
        .as_object_mut()
        .expect("object")
        .extend(own.as_object().expect("object").clone());
    change(&mut claims);
    world.issuer.token_of(&claims)
}

/// A token with these claims is taken, and with each of the changes it is not.
async fn good_and_bad(world: &World, caller: &Caller, iss: &str, own: &Value, bad: &[Change<'_>]) {
    with_token(caller, token(world, iss, own, &|_| {}))
        .await
        .expect(iss);
    for (what, change) in bad {
        assert!(
            with_token(caller, token(world, iss, own, change))
                .await
                .is_err(),
            "{iss}: {what}"
        );
    }
}

async fn azure_tokens(world: &World, broker: &Broker, azure: &str, tenant: &str) {
    world
        .register(broker, "/azure", wants(azure, json!({ "oid": ["o-1"] })))
        .await;
    let caller = world.caller(broker, "/azure");
    let own = json!({ "oid": "o-1", "sub": "o-1", "tid": tenant, "appid": "a-1", "idtyp": "app", "xms_mirid": "/subscriptions/s/resourcegroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i" });
    let bad: [Change<'_>; 5] = [
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
    good_and_bad(world, &caller, azure, &own, &bad).await;
}

async fn google_tokens(world: &World, broker: &Broker) {
    let google = "https://accounts.google.com";
    let claims = json!({ "sub": ["1234567890"], "gce.project_number": ["77"] });
    world.register(broker, "/gcp", wants(google, claims)).await;
    let caller = world.caller(broker, "/gcp");
    let engine = json!({ "instance_id": "42", "instance_name": "vm", "project_id": "p", "project_number": 77, "zone": "europe-west1-b", "instance_creation_timestamp": 1 });
    let own =
        json!({ "sub": "1234567890", "azp": "1234567890", "google": { "compute_engine": engine } });
    let bad: [Change<'_>; 4] = [
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
    good_and_bad(world, &caller, google, &own, &bad).await;
}

async fn jwt_svids(world: &World, broker: &Broker) {
    let domain = "spiffe://other.test";
    let claims = json!({ "sub": ["spiffe://other.test/agent"] });
    world
        .register(broker, "/spiffe", wants(domain, claims))
        .await;
    let caller = world.caller(broker, "/spiffe");
    let own = json!({ "sub": "spiffe://other.test/agent", "aud": [AUDIENCE] });
    with_token(
        &caller,
        token(world, "https://oidc.other.test", &own, &|_| {}),
    )
    .await
    .expect("a JWT-SVID");
    with_token(&caller, token(world, domain, &own, &|c| remove(c, "iss")))
        .await
        .expect("a JWT-SVID without issuer");
    let bad: [Change<'_>; 4] = [
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
            with_token(&caller, token(world, domain, &own, change))
                .await
                .is_err(),
            "spiffe: {what}"
        );
    }
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
    azure_tokens(&world, &broker, &azure, tenant).await;
    google_tokens(&world, &broker).await;
    jwt_svids(&world, &broker).await;
}
