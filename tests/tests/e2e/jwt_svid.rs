//! JWT-SVIDs from the embedded CA, as an unmodified SPIFFE client and the command line see them.

use std::process::{Command, Output};

use serde_json::{Value, json};
use spiffe::workload_api::WorkloadApiError;
use spiffe::{TrustDomain, WorkloadApiClient};
use sundew_tests::dev::Dev;
use sundew_tests::{sundew, until};

use crate::node::digest;

const US: &str = "https://api.example";

fn registration(path: &str, local: &Value, audiences: &[&str]) -> Value {
    let key = rcgen::KeyPair::generate().expect("key").public_key_pem();
    json!({
        "spiffe_id": format!("spiffe://dev.local{path}"), "owner": "t", "begin": "self", "scopes": ["exec:git"], "local": [local],
        "evidence": [{ "kind": "manifest", "keys": [key] }], "jwt_svid_audiences": audiences,
    })
}

/// The header of a token, or its payload.
fn part(token: &str, n: usize) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(n).expect("part");
    serde_json::from_slice(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(part)
            .expect("base64url"),
    )
    .expect("JSON")
}

fn payload(token: &str) -> Value {
    part(token, 1)
}

/// Returns the status with which a call was refused.
fn code(result: Result<spiffe::JwtSvid, WorkloadApiError>) -> tonic::Code {
    match result {
        Err(WorkloadApiError::PermissionDenied(_) | WorkloadApiError::NoIdentityIssued) => {
            tonic::Code::PermissionDenied
        }
        Err(refused) if refused.is_invalid_argument() => tonic::Code::InvalidArgument,
        other => panic!("{other:?}"),
    }
}

/// Runs `sundew svid …` as a local process.
fn svid(dev: &Dev, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(sundew());
    command
        .arg("svid")
        .args(arguments)
        .env("SPIFFE_ENDPOINT_SOCKET", dev.field("endpoint_socket"));
    sundew_tests::process::run(command, input)
}

/// Whoever asks the broker about a token, or has the keys, gets the same answer.
async fn anybody_can_validate(client: &WorkloadApiClient, token: &spiffe::JwtSvid) {
    let validated = client
        .validate_jwt_token(US, token.token())
        .await
        .expect("good");
    assert_eq!(validated.spiffe_id(), token.spiffe_id());
    assert!(
        client
            .validate_jwt_token("https://api.example.evil", token.token())
            .await
            .is_err()
    );
    let mut forged = token.token().to_owned();
    let last = forged.pop().expect("character");
    forged.push(if last == 'A' { 'Q' } else { 'A' });
    assert!(client.validate_jwt_token(US, &forged).await.is_err());
    let bundles = client.fetch_jwt_bundles().await.expect("bundles");
    let bundle = bundles
        .get(&TrustDomain::new("dev.local").expect("name"))
        .expect("own bundle");
    let named = part(token.token(), 0);
    assert!(
        bundle
            .find_jwt_authority(named["kid"].as_str().expect("kid"))
            .is_some(),
        "{named}"
    );
}

/// Audiences and IDs that the registration does not name, alone and beside one that it names.
async fn nothing_else_is_given(client: &WorkloadApiClient) {
    for (audience, id) in [
        ("urn:other", None),
        ("", None),
        (US, Some("/other")),
        (US, Some("/silent")),
        (US, Some("/unknown")),
    ] {
        let id =
            id.map(|path| spiffe::SpiffeId::new(format!("spiffe://dev.local{path}")).expect("id"));
        let refused = code(client.fetch_jwt_svid([audience], id.as_ref()).await);
        let expected = if audience.is_empty() {
            tonic::Code::InvalidArgument
        } else {
            tonic::Code::PermissionDenied
        };
        assert_eq!(refused, expected, "{audience} {id:?}");
    }
    // One audience that is not allowed spoils the others.
    assert_eq!(
        code(client.fetch_jwt_svid([US, "urn:other"], None).await),
        tonic::Code::PermissionDenied
    );
}

/// P9, P10: a token is on the record by its name, and is not in it.
fn on_the_record_by_name(dev: &Dev, token: &spiffe::JwtSvid, claims: &Value) {
    let journal = dev.did(
        &[
            "--json",
            "journal",
            "show",
            &dev.folder().join("state/journal").display().to_string(),
        ],
        "",
    );
    assert!(
        journal.contains("jwt_svid_issued")
            && journal.contains(claims["jti"].as_str().expect("jti")),
        "{journal}"
    );
    assert!(
        !journal.contains(token.token())
            && !journal.contains(token.token().rsplit('.').next().expect("signature"))
    );
}

/// P4: what is quarantined gets nothing until it is lifted.
async fn quarantined_until_lifted(dev: &Dev, client: &WorkloadApiClient) {
    let quarantined = dev.did(
        &[
            "--json",
            "quarantine",
            "--workload",
            "spiffe://dev.local/mine",
            "--reason",
            "stolen",
        ],
        "",
    );
    assert_eq!(
        code(client.fetch_jwt_svid([US], None).await),
        tonic::Code::PermissionDenied
    );
    let rule: Value =
        serde_json::from_str(quarantined.lines().last().expect("line")).expect("JSON");
    dev.did(
        &[
            "lift",
            rule["revocation_id"].as_str().expect("id"),
            "--reason",
            "found",
        ],
        "",
    );
    until("lifted", || async {
        client.fetch_jwt_svid([US], None).await.is_ok()
    })
    .await;
}

/// P8: a bearer token is made only where the registration names its audience; P4: and not for what
/// is quarantined.
#[tokio::test]
async fn an_unmodified_spiffe_client_gets_jwt_svids_for_the_audiences_of_its_registration_and_for_no_others()
 {
    let mut dev = Dev::new();
    let (uid, own) = (
        rustix::process::geteuid().as_raw(),
        digest(&std::env::current_exe().expect("own path")),
    );
    let documents = json!([
        registration(
            "/mine",
            &json!({ "uid": uid, "exe_sha256": own }),
            &[US, "urn:them"]
        ),
        registration("/silent", &json!({ "uid": uid, "exe_sha256": own }), &[]),
        registration("/other", &json!({ "uid": uid + 1 }), &[US]),
    ]);
    dev.did(&["workload", "apply", "-f", "-"], &documents.to_string());
    let client = WorkloadApiClient::connect_to(
        dev.field("endpoint_socket")
            .replacen("unix:///", "unix:/", 1),
    )
    .await
    .expect("connect");

    let token = client
        .fetch_jwt_svid([US, "urn:them"], None)
        .await
        .expect("a JWT-SVID");
    assert_eq!(token.spiffe_id().to_string(), "spiffe://dev.local/mine");
    let claims = payload(token.token());
    let (now, exp) = (
        sundew_tests::now_ms() / 1000,
        claims["exp"].as_i64().expect("exp"),
    );
    assert_eq!(claims["aud"], json!([US, "urn:them"]));
    assert!(exp > now && exp <= now + 300, "{claims}");
    let again = client.fetch_jwt_svid([US], None).await.expect("another");
    assert_ne!(payload(again.token())["jti"], claims["jti"]);

    anybody_can_validate(&client, &token).await;

    nothing_else_is_given(&client).await;
    // Another program of the same user has none of these.
    let stranger = svid(&dev, &["jwt", "--audience", US], "");
    assert!(!stranger.status.success() && stranger.stdout.is_empty());

    on_the_record_by_name(&dev, &token, &claims);
    quarantined_until_lifted(&dev, &client).await;
    dev.did(&["workload", "delete", "spiffe://dev.local/mine"], "");
    assert_eq!(
        code(client.fetch_jwt_svid([US], None).await),
        tonic::Code::PermissionDenied
    );
    assert!(dev.stop().success());
}

#[test]
fn the_command_line_prints_a_jwt_svid_and_verifies_one() {
    let dev = Dev::new();
    let uid = rustix::process::geteuid().as_raw();
    let local = json!({ "uid": uid, "exe_sha256": digest(&sundew()) });
    dev.did(
        &["workload", "apply", "-f", "-"],
        &json!([registration("/mine", &local, &[US])]).to_string(),
    );
    let got = svid(&dev, &["jwt", "--audience", US], "");
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    let token = String::from_utf8(got.stdout).expect("text");
    assert_eq!(payload(&token)["sub"], "spiffe://dev.local/mine");
    let verified = svid(&dev, &["verify-jwt", "--audience", US], &token);
    assert_eq!(
        String::from_utf8_lossy(&verified.stdout).trim(),
        "spiffe://dev.local/mine"
    );
    for (audience, token, why) in [
        ("urn:x", token.as_str(), "another audience"),
        (US, "x.y.z", "malformed"),
        (US, "", "malformed"),
    ] {
        let refused = svid(&dev, &["verify-jwt", "--audience", audience], token);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && refused.stdout.is_empty() && said.contains(why),
            "{said}"
        );
    }
    let unreachable = Command::new(sundew())
        .args([
            "svid",
            "jwt",
            "--audience",
            US,
            "--endpoint-socket",
            "unix:///nowhere",
        ])
        .output()
        .expect("run");
    assert!(
        String::from_utf8_lossy(&unreachable.stderr).contains("unix:///nowhere"),
        "{unreachable:?}"
    );
}
