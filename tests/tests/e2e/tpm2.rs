//! Evidence of kind `tpm2` from a real TPM emulator: AC-05, AC-0A, T29.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sundew_proto::v1::{BeginTaskRequest, Evidence, RemoveTrustRequest};
use sundew_rebuilt::event_log::Log;
use sundew_sdk::{Agent, Settings, minutes};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::tpm::Tpm;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::{Code, Status};

const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

async fn trust(world: &World, broker: &Broker, name: &str, tpm: &Tpm) {
    world
        .operator(broker)
        .trust("tpm2_ak", name, &tpm.registered().to_string())
        .await;
}

fn wanted() -> Value {
    json!({ "evidence": [{ "kind": "tpm2", "claims": { "pcr.sha256.7": [ZERO], "pcr.sha256.4": [ZERO] } }], "require_fresh_evidence": true })
}

fn bound_to(caller: &Caller, nonce: &[u8]) -> [u8; 32] {
    *caller.bound(nonce).as_bytes()
}

async fn begin(caller: &Caller, nonce: Vec<u8>, payload: Vec<u8>) -> Result<Begun, Status> {
    caller.begin_on(nonce, vec![("tpm2", payload)]).await
}

#[tokio::test]
async fn an_agent_on_a_host_with_a_tpm_begins_a_task_with_every_kind_of_attestation_key() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.ca.svid("/agent").write(
        &world.folder().join("agent"),
        std::slice::from_ref(&world.ca.certificate),
    );
    for (key, hash, scheme) in [
        ("ecc", "sha256", "ecdsa"),
        ("ecc384", "sha384", "ecdsa"),
        ("rsa", "sha256", "rsassa"),
        ("rsa", "sha256", "rsapss"),
    ] {
        let tpm = Tpm::new(key, hash, scheme);
        trust(&world, &broker, "host", &tpm).await;
        world.register(&broker, "/agent", wanted()).await;
        let settings = Settings {
            broker: Some(broker.address()),
            svid_dir: Some(world.folder().join("agent")),
            ..tpm.settings("0+4+7")
        };
        let agent = Agent::builder(settings).build().await.expect("agent");
        let task = agent
            .task("on a host")
            .scope("exec:git")
            .ttl(minutes(5))
            .begin()
            .await
            .unwrap_or_else(|e| panic!("{key} {scheme}: {e}"));
        task.complete().await.expect("complete");
    }
    let begun = broker
        .journal()
        .into_iter()
        .find(|record| record.event == "task_begun")
        .expect("record");
    assert_eq!(
        (begun.field("assurance"), begun.field("fresh.tpm2")),
        (Some("hardware"), Some("true"))
    );
}

/// Bent evidence: what it is, the nonce for which it is shown, itself, and what an operator is told.
type Case = (&'static str, Vec<u8>, Vec<u8>, &'static str);

/// Evidence of a TPM for a caller, with something changed after it was made.
async fn changed(tpm: &Tpm, caller: &Caller, nonce: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let good = tpm.evidence("0+4+7", bound_to(caller, nonce)).await;
    let mut evidence: Value = serde_json::from_slice(&good.expect("evidence")).expect("JSON");
    change(&mut evidence);
    evidence.to_string().into_bytes()
}

/// Quotes of another challenge, another TPM or over other PCRs.
async fn other_quotes(tpm: &Tpm, other: &Tpm, caller: &Caller, used: Vec<u8>) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let fresh = || async { caller.nonce().await.expect("nonce") };
    cases.push((
        "evidence of another challenge",
        fresh().await,
        used,
        "not bound",
    ));
    let nonce = fresh().await;
    let unbound = tpm.evidence("0+4+7", [1; 32]).await.expect("evidence");
    cases.push(("bound to something else", nonce, unbound, "not bound"));
    let nonce = fresh().await;
    let foreign = changed(other, caller, &nonce, |_| {}).await;
    cases.push(("key of another TPM", nonce, foreign, "is not registered"));
    let nonce = fresh().await;
    let good = changed(tpm, caller, &nonce, |_| {}).await;
    let name = serde_json::from_slice::<Value>(&good).expect("JSON")["key"].clone();
    let renamed = changed(other, caller, &nonce, |e| e["key"] = name.clone()).await;
    cases.push((
        "another TPM under the registered name",
        nonce,
        renamed,
        "signature",
    ));
    let nonce = fresh().await;
    let subset = tpm
        .evidence("7", bound_to(caller, &nonce))
        .await
        .expect("evidence");
    cases.push((
        "a PCR that the registration wants is not quoted",
        nonce,
        subset,
        "pcr.sha256.4",
    ));
    cases
}

/// A quote of the registered TPM beside values, signatures and logs that are not its own.
async fn bent_quotes(tpm: &Tpm, caller: &Caller) -> Vec<Case> {
    let log = json!(STANDARD.encode(Log::of_computer(true).bytes()));
    type Row<'a> = (&'static str, &'a dyn Fn(&mut Value), &'static str);
    let rows: [Row<'_>; 4] = [
        (
            "PCR values that were not quoted",
            &|e| e["pcrs"]["4"] = json!("11".repeat(32)),
            "not those quoted",
        ),
        (
            "a PCR more than was quoted",
            &|e| e["pcrs"]["9"] = json!(ZERO),
            "not those quoted",
        ),
        (
            "a signature that is cut",
            &|e| e["signature"] = json!("ABgAC"),
            "malformed",
        ),
        (
            "an event log of another boot",
            &|e| e["event_log"] = log.clone(),
            "does not replay",
        ),
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (what, change, reason) in rows {
        let nonce = caller.nonce().await.expect("nonce");
        let bent = changed(tpm, caller, &nonce, change).await;
        cases.push((what, nonce, bent, reason));
    }
    cases
}

/// Evidence that is missing, or of a kind that is not registered.
async fn nothing_of_the_kind(caller: &Caller) {
    for evidence in [
        Vec::new(),
        vec![Evidence {
            kind: "manifest".to_owned(),
            payload: Vec::new(),
        }],
    ] {
        let nonce = caller.nonce().await.expect("nonce");
        let request = BeginTaskRequest {
            nonce,
            purpose: "x".to_owned(),
            scopes: vec!["exec:git".to_owned()],
            evidence,
            ..BeginTaskRequest::default()
        };
        assert_eq!(
            caller.send(request).await.expect_err("missing").code(),
            Code::PermissionDenied
        );
    }
}

/// AC-05 for `tpm2`, one case each, and T29.
#[tokio::test]
async fn ac_05_t29_a_quote_must_be_of_a_registered_key_bound_and_over_the_registered_pcrs() {
    let world = World::embedded();
    let broker = world.broker().await;
    let (tpm, other) = (
        Tpm::new("ecc", "sha256", "ecdsa"),
        Tpm::new("ecc", "sha256", "ecdsa"),
    );
    trust(&world, &broker, "host", &tpm).await;
    world.register(&broker, "/agent", wanted()).await;
    let caller = world.caller(&broker, "/agent");
    let good = |nonce: &[u8]| tpm.evidence("0+4+7", bound_to(&caller, nonce));

    let nonce = caller.nonce().await.expect("nonce");
    let used = good(&nonce).await.expect("evidence");
    begin(&caller, nonce.clone(), used.clone())
        .await
        .expect("a good one");
    // The nonce again, and the evidence again with another nonce.
    assert_eq!(
        begin(&caller, nonce, used.clone())
            .await
            .expect_err("used")
            .code(),
        Code::PermissionDenied
    );
    let mut cases = other_quotes(&tpm, &other, &caller, used).await;
    cases.extend(bent_quotes(&tpm, &caller).await);
    // Something else was started: PCR 4 has changed.
    tpm.extend(4, &[7; 32]);
    let nonce = caller.nonce().await.expect("nonce");
    let changed = good(&nonce).await.expect("evidence");
    cases.push((
        "a measurement that is not registered",
        nonce,
        changed,
        "pcr.sha256.4",
    ));

    for (what, nonce, payload, reason) in cases {
        let before = broker.refusals("BeginTask").len();
        let status = begin(&caller, nonce, payload).await.expect_err(what);
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "not permitted"),
            "{what}"
        );
        until("exactly one record", || async {
            broker.refusals("BeginTask").len() == before + 1
        })
        .await;
        let said = world.operator(&broker).last_refusal().await;
        assert!(said.contains(reason), "{what}: {said}");
    }
    nothing_of_the_kind(&caller).await;
}

#[tokio::test]
async fn t29_a_tpm_that_was_set_back_is_refused() {
    let world = World::embedded();
    let broker = world.broker().await;
    let mut tpm = Tpm::new("ecc", "sha256", "ecdsa");
    trust(&world, &broker, "host", &tpm).await;
    world.register(&broker, "/agent", wanted()).await;
    let caller = world.caller(&broker, "/agent");
    let saved = world.folder().join("saved");
    tpm.save(&saved);
    for _ in 0..3 {
        // Each boot counts.
        tpm.restart();
    }
    let attempt = |tpm: &Tpm, nonce: Vec<u8>| {
        let evidence = tpm.settings("4+7");
        let caller = caller.clone();
        async move {
            let payload =
                sundew_sdk::collect(&evidence, "tpm2", bound_to(&caller, &nonce), "", None)
                    .await
                    .expect("evidence");
            begin(&caller, nonce, payload).await
        }
    };
    attempt(&tpm, caller.nonce().await.expect("nonce"))
        .await
        .expect("first");
    attempt(&tpm, caller.nonce().await.expect("nonce"))
        .await
        .expect("second");
    // Two agents of one host may be heard in another order than their quotes were made in.
    let (one, two) = (
        caller.nonce().await.expect("nonce"),
        caller.nonce().await.expect("nonce"),
    );
    let earlier = tpm
        .evidence("4+7", bound_to(&caller, &one))
        .await
        .expect("evidence");
    let later = tpm
        .evidence("4+7", bound_to(&caller, &two))
        .await
        .expect("evidence");
    begin(&caller, two, later)
        .await
        .expect("the later one first");
    begin(&caller, one, earlier)
        .await
        .expect("the earlier one after it");
    tpm.restore(&saved);
    let status = attempt(&tpm, caller.nonce().await.expect("nonce"))
        .await
        .expect_err("set back");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        world
            .operator(&broker)
            .last_refusal()
            .await
            .contains("set back")
    );
}

/// AC-0A for keys: what is withdrawn takes along what rests on it, and nothing else.
#[tokio::test]
async fn ac_0a_withdrawing_a_key_ends_the_tasks_that_rest_on_it() {
    let world = World::embedded();
    let broker = world.broker().await;
    let (first, second) = (
        Tpm::new("ecc", "sha256", "ecdsa"),
        Tpm::new("ecc", "sha256", "ecdsa"),
    );
    trust(&world, &broker, "first", &first).await;
    trust(&world, &broker, "second", &second).await;
    world.register(&broker, "/agent", wanted()).await;
    let caller = world.caller(&broker, "/agent");
    let begun = |tpm: &Tpm, nonce: Vec<u8>| {
        let (settings, caller) = (tpm.settings("4+7"), caller.clone());
        async move {
            let payload =
                sundew_sdk::collect(&settings, "tpm2", bound_to(&caller, &nonce), "", None)
                    .await
                    .expect("evidence");
            begin(&caller, nonce, payload).await
        }
    };
    let on_first = begun(&first, caller.nonce().await.expect("nonce"))
        .await
        .expect("first")
        .token;
    let on_second = begun(&second, caller.nonce().await.expect("nonce"))
        .await
        .expect("second")
        .token;
    let presenter = caller.thumbprint();
    assert!(
        caller.active(&on_first, &presenter).await.expect("answer")
            && caller.active(&on_second, &presenter).await.expect("answer")
    );
    let request = RemoveTrustRequest {
        kind: "tpm2_ak".to_owned(),
        name: "first".to_owned(),
        reason: "the host was sold".to_owned(),
    };
    let answer = world
        .operator(&broker)
        .registry()
        .remove_trust(request.clone())
        .await
        .expect("removed")
        .into_inner();
    assert_eq!(answer.revocations.len(), 1);
    assert!(
        !caller.active(&on_first, &presenter).await.expect("answer"),
        "its task is dead"
    );
    assert!(
        caller.active(&on_second, &presenter).await.expect("answer"),
        "the other one's is not"
    );
    begun(&first, caller.nonce().await.expect("nonce"))
        .await
        .expect_err("no new task on it");
    begun(&second, caller.nonce().await.expect("nonce"))
        .await
        .expect("the other one");
    assert_eq!(
        world
            .operator(&broker)
            .registry()
            .remove_trust(request)
            .await
            .expect("twice")
            .into_inner()
            .action,
        "absent"
    );
}
