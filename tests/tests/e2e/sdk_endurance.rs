//! The SDK's tasks over a long time: broken streams, aged connections and rotated CAs end none.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, SigningKey as _};
use ring::digest::{SHA256, digest};
use serde_json::json;
use sundew_attestation::kinds::manifest::{
    PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, pre_authentication_encoding,
};
use sundew_proto::v1::Effect;
use sundew_sdk::{Agent, ManifestCollector, Settings, Task, minutes};
use sundew_tests::broker::Broker;
use sundew_tests::pki::{Ca, DOMAIN};
use sundew_tests::proxy::Proxy;
use sundew_tests::selectors::of_workload;
use sundew_tests::until;
use sundew_tests::world::World;

use super::cli::command_as;
use super::sdk::{agent_of, begin, folder, outcomes, ready_with, settings};

/// Fails if the task ends within this time, for the program or for the broker.
async fn lives_for(time: Duration, task: &Task, broker: &Broker) {
    let ended = tokio::time::timeout(time, task.ended()).await;
    assert!(ended.is_err(), "the program was told: {ended:?}");
    assert!(outcomes(broker).is_empty(), "{:?}", outcomes(broker));
}

#[tokio::test]
async fn l13_a_task_that_was_attended_for_long_survives_a_crash_of_its_broker() {
    let (_world, mut broker, agent) = ready_with(json!({ "attendance_grace": "1500ms" })).await;
    let task = begin(&agent).await;
    // Longer than the SDK tries to reach a broker that has gone: three graces.
    lives_for(Duration::from_millis(4700), &task, &broker).await;
    broker.restart().await;
    lives_for(Duration::from_millis(2500), &task, &broker).await;
    task.secret("app/key").await.expect("work goes on");
    task.complete().await.expect("completed");
}

/// L12: a broker that is cut off from the store alone keeps its streams, and the others would abandon
/// its tasks. A load balancer leads new connections to one of those.
#[tokio::test]
async fn l12_an_agent_moves_to_another_broker_when_its_own_is_cut_off() {
    let world = World::redis();
    let store = world.redis.as_ref().expect("redis").port();
    let [to_store, balancer] = [Proxy::start(store).await, Proxy::start(0).await];
    let near = world.broker().await;
    let far = world
        .broker_by(&format!("redis://127.0.0.1:{}", to_store.port()))
        .await;
    let grace = json!({ "attendance_grace": "6s" });
    world.register(&near, "/agent", grace).await;
    world.operator(&near).put_secret("app/key", "value").await;
    let roots = std::slice::from_ref(&world.ca.certificate);
    world.ca.svid("/agent").write(&folder(&world), roots);
    balancer.lead_to(far.port());
    let by_balancer = Settings {
        broker: Some(format!("127.0.0.1:{}", balancer.port())),
        ..settings(&world, &far)
    };
    let agent = agent_of(&world, by_balancer).await;
    let task = begin(&agent).await;
    to_store.cut(true);
    // An attempt to leave may be led back. The last report may be older than the cut by a third of the
    // grace and a little.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    balancer.lead_to(near.port());
    lives_for(Duration::from_secs(13), &task, &near).await;
    task.secret("app/key").await.expect("work goes on");
    let another = begin(&agent).await;
    another.complete().await.expect("completed");
    task.complete().await.expect("completed");
}

/// README: after a lift, agents resume their tasks with fresh evidence. `sundew run` does so too.
#[tokio::test]
async fn a_run_that_was_suspended_by_a_responder_goes_on_after_the_lift() {
    let (world, broker, _agent) = ready_with(json!({ "attendance_grace": "10s" })).await;
    let mut run = command_as(&world, &broker, "/agent")
        .args([
            "run", "--task", "t", "--scope", "exec:git", "--", "sleep", "60",
        ])
        .spawn()
        .expect("run");
    until("begun", || async { count(&broker, "task_begun") == 1 }).await;
    let operator = world.operator(&broker);
    let suspended = operator.respond(of_workload("/agent"), Effect::Suspend);
    let id = suspended.await.expect("suspended").revocation_id;
    // It tries to resume, and must not be able to.
    let token = world.folder().join("token");
    let fresh = || std::fs::write(&token, world.issuer.token("/agent")).expect("token");
    fresh();
    until("it has tried", || async {
        !broker.refusals("ResumeTask").is_empty()
    })
    .await;
    assert_eq!(count(&broker, "task_resumed"), 0);
    operator.lift(&id).await.expect("lifted");
    let resumed = async {
        while count(&broker, "task_resumed") == 0 {
            fresh();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let resumed = tokio::time::timeout(Duration::from_secs(30), resumed);
    resumed.await.expect("resumed");
    run.kill().expect("killed");
    run.wait().expect("ended");
}

/// Signs a manifest that says that the agent consists of this file.
fn write_manifest(path: &Path, signer: &KeyPair, code: &[u8]) {
    let digest = sundew_attestation::hex(digest(&SHA256, code).as_ref());
    let statement = json!({
        "_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, "predicate": { "name": "agent", "model": "" },
        "subject": [{ "name": "code", "digest": { "sha256": digest } }],
    });
    let payload = statement.to_string();
    let signed = pre_authentication_encoding(PAYLOAD_TYPE, payload.as_bytes());
    let signature = STANDARD.encode(signer.sign(&signed).expect("signature"));
    let envelope = json!({ "payloadType": PAYLOAD_TYPE, "payload": STANDARD.encode(payload), "signatures": [{ "sig": signature }] });
    std::fs::write(path, envelope.to_string()).expect("manifest");
}

fn count(broker: &Broker, event: &str) -> usize {
    let journal = broker.journal();
    journal
        .iter()
        .filter(|record| record.event == event)
        .count()
}

/// A manifest is bound to the connection, as evidence of TPMs and confidential guests is.
#[tokio::test]
async fn l13a_a_task_proves_itself_over_several_ages_of_its_connection() {
    let world = World::embedded();
    let broker = world
        .broker_with("[limits]\nconnection_age = \"1200ms\"")
        .await;
    let signer = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let evidence = json!([{ "kind": "manifest", "keys": [signer.public_key_pem()] }]);
    let registration =
        json!({ "evidence": evidence, "prove_every": "2s", "attendance_grace": "2s" });
    world.register(&broker, "/agent", registration).await;
    world.operator(&broker).put_secret("app/key", "value").await;
    let (code, manifest) = (
        world.folder().join("code"),
        world.folder().join("manifest.json"),
    );
    std::fs::write(&code, b"an agent").expect("code");
    write_manifest(&manifest, &signer, b"an agent");
    let roots = std::slice::from_ref(&world.ca.certificate);
    world.ca.svid("/agent").write(&folder(&world), roots);
    let manifest = ManifestCollector::open(&manifest).expect("manifest");
    let agent = Agent::builder(settings(&world, &broker))
        .collector(manifest.code(&code))
        .build()
        .await
        .expect("agent");
    let begun = agent.task("long").scope("secret:app/key").ttl(minutes(5));
    let task = begun.begin().await.expect("task");
    // Each call opens another connection if the last one has been told to go.
    for _ in 0..24 {
        lives_for(Duration::from_millis(250), &task, &broker).await;
        task.secret("app/key").await.expect("secret");
    }
    assert_eq!(count(&broker, "task_suspended"), 0);
    let proven = count(&broker, "task_proven");
    assert!(proven >= 4, "{proven} times within six seconds");
    task.complete().await.expect("completed");
}

#[tokio::test]
async fn l14_a_running_task_survives_the_rotation_of_the_ca() {
    let (world, mut broker, agent) = ready_with(json!({ "attendance_grace": "2s" })).await;
    let task = begin(&agent).await;
    // The new root is added to all bundles, and the broker gets a certificate under it. The agent
    // keeps its own.
    let new = Ca::new(DOMAIN);
    let roots = [world.ca.certificate.clone(), new.certificate.clone()];
    world.write_bundle(&[&world.ca, &new]);
    let bundle: String = roots
        .iter()
        .map(|root| sundew_tests::pki::pem("CERTIFICATE", root))
        .collect();
    let fresh = folder(&world).join("bundle.fresh");
    std::fs::write(&fresh, bundle).expect("bundle");
    std::fs::rename(fresh, folder(&world).join("bundle.pem")).expect("bundle");
    until("the agent has the new root", || async {
        agent.identity().roots()[0].1.len() > roots[0].len()
    })
    .await;
    new.svid("/sundew/broker")
        .write(&world.folder().join("broker"), &roots);
    broker.restart().await;
    lives_for(Duration::from_millis(2500), &task, &broker).await;
    task.secret("app/key").await.expect("work goes on");
    task.complete().await.expect("completed");
}
