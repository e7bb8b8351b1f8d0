//! What an SVID says of what it rests on, as real brokers look at it: at the gate, in streams that are
//! open, and at renewals (I1, E9).

use serde_json::json;
use sundew_attestation::BindingPurpose;
use sundew_attestation::kinds::tpm2::AttestationKey;
use sundew_attestation::spiffe::split_der;
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::spiffe::{X509svidRequest, X509svidResponse};
use sundew_proto::v1::{Effect, RemoveTrustRequest, RenewRequest, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::pki::{Svid, csr};
use sundew_tests::tpm::Tpm;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::{Code, Status, Streaming};

use crate::activation::wanted;
use crate::enrollment::with_own_ca;
use crate::gate::{with_header, workload_api};
use crate::tpm_enrollment::ByHand;

const HOST: &str = "spiffe://own.example/host";
const AGENT: &str = "spiffe://own.example/agent";

/// Renews the SVID of a caller.
async fn renewed(caller: &Caller) -> Result<Svid, Status> {
    let (key, csr) = csr();
    let answer = caller.enrollment().renew(RenewRequest { csr }).await?;
    let svid = answer.into_inner().svid.expect("SVID");
    Ok(Svid {
        chain: svid.certificates.into_iter().map(Into::into).collect(),
        key: key.serialize_der(),
    })
}

fn is_refused<T>(result: &Result<T, Status>) -> bool {
    matches!(result, Err(status) if status.code() == Code::PermissionDenied)
}

/// A first SVID of the host by its TPM.
async fn by_tpm(port: u16, tpm: &Tpm) -> Result<Svid, Status> {
    let client = ByHand::new(port);
    let key = rcgen::KeyPair::generate().expect("key");
    let nonce = client.nonce().await;
    let purpose = BindingPurpose::Enroll;
    let evidence = client.evidence(tpm, purpose, &nonce, &key).await;
    let answer = client.enroll(&key, nonce, evidence).await?;
    let svid = answer.svid.expect("SVID");
    Ok(Svid {
        chain: svid.certificates.into_iter().map(Into::into).collect(),
        key: key.serialize_der(),
    })
}

/// Begins a task as this host.
async fn begin(world: &World, caller: &Caller) -> Result<Begun, Status> {
    caller.begin(&world.issuer, "/host", &["exec:git"]).await
}

/// I1, E9: a quarantine by a claim stops what rests on it and nothing else, and what is withdrawn ends
/// the SVID that rests on it, the ones that were renewed from it, and what was begun with them.
#[tokio::test]
async fn i1_e9_rules_by_claim_find_svids_renewals_and_calls_that_rest_on_the_claim() {
    let (world, broker, port) = with_own_ca().await;
    let operator = world.operator(&broker);
    let tpm = Tpm::new("ecc", "sha256", "ecdsa");
    let registered = tpm.registered().to_string();
    operator.trust("tpm2_ak", "host", &registered).await;
    let own = json!({ "spiffe_id": HOST, "enrollment": wanted(json!({})) });
    let document = World::registration("/host", own);
    operator.apply(&[document]).await.expect("registered");
    let host = world.caller_with(&broker, by_tpm(port, &tpm).await.expect("enrolled"));
    let enrollment = Caller::new(format!("127.0.0.1:{port}"), None);
    let redeemed = enrollment.redeem(&operator.join_token(HOST).await).await;
    let other = world.caller_with(&broker, redeemed.expect("enrolled").0);
    let begun = begin(&world, &host).await.expect("a task");
    let theirs = begin(&world, &other).await.expect("a task");

    let key = AttestationKey::parse(registered.as_bytes()).expect("key");
    let claim = Selector {
        claims: vec![format!("tpm2.key={}", key.name())],
        ..Selector::default()
    };
    let rule = operator.respond(claim, Effect::Quarantine).await;
    let rule = rule.expect("quarantined").revocation_id;
    assert!(is_refused(&by_tpm(port, &tpm).await), "a first SVID");
    assert!(is_refused(&renewed(&host).await), "a renewal");
    assert!(is_refused(&begin(&world, &host).await), "a task");
    assert!(is_refused(&host.mint(&begun.task).await), "a token");
    let active = operator.active(&begun.token, &host.thumbprint()).await;
    assert!(active.expect("introspection"), "what lives goes on");
    renewed(&other).await.expect("one that rests on nothing");
    other.mint(&theirs.task).await.expect("a token");
    operator.lift(&rule).await.expect("lifted");
    let next = world.caller_with(&broker, renewed(&host).await.expect("renewed"));
    let late = begin(&world, &next).await.expect("a task");

    let request = RemoveTrustRequest {
        kind: "tpm2_ak".to_owned(),
        name: "host".to_owned(),
        reason: "stolen".to_owned(),
    };
    let removed = operator.registry().remove_trust(request).await;
    removed.expect("removed");
    for (caller, begun) in [(&host, &begun), (&next, &late)] {
        assert!(is_refused(&caller.nonce().await), "an open connection");
        assert!(is_refused(&renewed(caller).await), "a renewal");
        let again = world.caller_with(&broker, caller.svid.clone().expect("SVID"));
        assert!(is_refused(&again.nonce().await), "a new connection");
        let active = operator.active(&begun.token, &caller.thumbprint()).await;
        assert!(!active.expect("introspection"));
    }
    renewed(&other).await.expect("one that rests on nothing");
    let active = operator.active(&theirs.token, &other.thumbprint()).await;
    assert!(active.expect("introspection"));
}

/// A stream of the Workload API of this broker, with what it has said first.
struct Open {
    stream: Streaming<X509svidResponse>,
    svid: Svid,
}

impl Open {
    async fn start(world: &World) -> Result<Self, Status> {
        let mut api = SpiffeWorkloadApiClient::new(workload_api(world).await);
        let stream = api.fetch_x509svid(with_header(X509svidRequest {})).await?;
        let mut stream = stream.into_inner();
        let svid = Self::svid(stream.message().await?);
        Ok(Self { stream, svid })
    }

    fn svid(answer: Option<X509svidResponse>) -> Svid {
        let entry = &answer.expect("an answer").svids[0];
        assert_eq!(entry.spiffe_id, AGENT);
        let chain = split_der(&entry.x509_svid).map(|der| der.expect("DER").to_vec().into());
        Svid {
            chain: chain.collect(),
            key: entry.x509_svid_key.clone(),
        }
    }
}

async fn local(operator: &Caller, local: serde_json::Value) {
    let own = json!({ "spiffe_id": AGENT, "local": local });
    let document = World::registration("/agent", own);
    operator.apply(&[document]).await.expect("registered");
}

async fn calls(world: &World, broker: &Broker, svid: &Svid) -> Result<Begun, Status> {
    let caller = world.caller_with(broker, svid.clone());
    caller.begin(&world.issuer, "/agent", &["exec:git"]).await
}

/// E9: a registration that means other local processes ends streams that are open, and the SVIDs that
/// they have given, at the gate and at renewals; who is meant again has another SVID.
#[tokio::test]
async fn e9_a_rule_that_comes_while_a_stream_is_open_ends_it_and_what_it_gave() {
    let (world, broker, _) = with_own_ca().await;
    let operator = world.operator(&broker);
    let uid = rustix::process::geteuid().as_raw();
    local(&operator, json!([{ "uid": uid }])).await;
    let mut open = Open::start(&world).await.expect("an SVID");
    let begun = calls(&world, &broker, &open.svid).await.expect("a task");
    let caller = world.caller_with(&broker, open.svid.clone());
    let next = renewed(&caller).await.expect("renewed");
    calls(&world, &broker, &next).await.expect("a task");

    local(&operator, json!([{ "uid": uid + 1 }])).await;
    // The stream may say something that was on its way.
    let ended = async {
        while open.stream.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), ended).await;
    assert!(is_refused(&ended.expect("an end of the stream")));
    assert!(is_refused(&Open::start(&world).await.map(drop)));
    for svid in [&open.svid, &next] {
        assert!(is_refused(&calls(&world, &broker, svid).await));
    }
    assert!(is_refused(&renewed(&caller).await), "a renewal");
    let active = operator.active(&begun.token, &caller.thumbprint()).await;
    assert!(!active.expect("introspection"));

    local(&operator, json!([{ "uid": uid }])).await;
    until("an SVID that is good", || async {
        let Ok(open) = Open::start(&world).await else {
            return false;
        };
        calls(&world, &broker, &open.svid).await.is_ok()
    })
    .await;
    assert!(
        is_refused(&calls(&world, &broker, &open.svid).await),
        "the one of before"
    );
}
