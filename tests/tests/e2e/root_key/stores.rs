//! Rotations over an embedded store, with the embedded CA, and backups of both keys (I10).

use rustix::process::Signal;
use serde_json::json;
use sundew_proto::v1::{Effect, RewriteUnderRootKeyRequest, ShowCaRequest};
use sundew_tests::broker::Broker;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

use super::{kinds, new_key, restart_with, run, set_keys, status};
use crate::cli::text;
use crate::enrollment::own_ca_in;

/// A task is begun, and is given the secret from before.
async fn the_secret_is_kept(world: &World, broker: &Broker) {
    let caller = world.caller(broker, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:app/key"])
        .await;
    let begun = begun.expect("begun");
    let secret = caller.secret(&begun.task, "app/key").await;
    assert_eq!(secret.expect("secret"), "kept");
}

/// One broker with a store and a CA of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_the_embedded_store_and_the_embedded_ca_are_rotated() {
    let world = World::embedded();
    let (mut broker, _) = own_ca_in(&world, "").await;
    world.register(&broker, "/agent", json!({})).await;
    world.operator(&broker).put_secret("app/key", "kept").await;
    let roots = async |broker: &Broker| {
        let shown = world
            .operator(broker)
            .registry()
            .show_ca(ShowCaRequest {})
            .await;
        let shown = shown.expect("shown").into_inner();
        let ids = shown
            .roots
            .into_iter()
            .chain(shown.jwt_keys)
            .map(|key| key.id);
        ids.collect::<Vec<_>>()
    };
    let ids = roots(&broker).await;
    let (former, next) = (world.folder().join("root.key"), new_key(&world, "next.key"));
    restart_with(&mut broker, &next, &[&former]).await;
    let rewritten = async |broker: &Broker, check: bool| {
        let request = RewriteUnderRootKeyRequest { check };
        let operator = world.operator(broker);
        let told = operator.registry().rewrite_under_root_key(request).await;
        told.expect("told").into_inner()
    };
    assert!(rewritten(&broker, true).await.left.len() > 2);
    let told = rewritten(&broker, false).await;
    assert!(told.rewritten > 5 && told.left.is_empty(), "{told:?}");
    restart_with(&mut broker, &next, &[]).await;
    assert_eq!(roots(&broker).await, ids);
    the_secret_is_kept(&world, &broker).await;
    // The former key opens nothing any more.
    broker.signal(Signal::TERM);
    broker.wait();
    set_keys(&broker, &former, &[]);
    broker.up();
    assert!(!broker.wait().success());
    assert!(
        broker
            .output()
            .contains("keys.root_key_file: the store is under another root key")
    );
}

/// Backups from before and after, brought back under either key, and into an empty store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_backups_of_both_keys_are_brought_back_under_the_new_one() {
    let world = World::embedded();
    let mut broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let operator = world.operator(&broker);
    operator.put_secret("app/key", "kept").await;
    let held = operator.respond(of_workload("/held"), Effect::Quarantine);
    held.await.expect("quarantine");
    let config = broker.config_file().display().to_string();
    let file = |name: &str| world.folder().join(name).display().to_string();
    let did = |arguments: &[&str]| {
        let output = run(&[arguments, &["--config", &config]].concat());
        (output.status.success(), text(&output))
    };
    let stop = |broker: &mut Broker| {
        broker.signal(Signal::TERM);
        broker.wait();
    };
    stop(&mut broker);
    assert!(did(&["backup", &file("former.backup")]).0);
    let (former, next) = (world.folder().join("root.key"), new_key(&world, "next.key"));
    set_keys(&broker, &next, &[&former]);
    broker.up();
    broker.ready().await;
    status(&world, &broker, "rewrite");
    stop(&mut broker);
    assert!(did(&["backup", &file("next.backup")]).0);
    for backup in ["former.backup", "next.backup"] {
        let (success, said) = did(&["restore", "--check", &file(backup)]);
        assert!(
            success && !said.contains("does not open"),
            "{backup}: {said}"
        );
    }

    std::fs::remove_file(broker.folder().join("store.log")).expect("the store is lost");
    let (success, said) = did(&["restore", &file("former.backup")]);
    assert!(success && said.contains("written"), "{said}");
    set_keys(&broker, &next, &[]);
    let (success, said) = did(&["restore", "--check", &file("former.backup")]);
    assert!(!success && said.contains("another key"), "{said}");
    let (success, said) = did(&["restore", "--check", &file("next.backup")]);
    assert!(success, "{said}");
    broker.up();
    broker.ready().await;
    assert!(kinds(&status(&world, &broker, "status")).is_empty());
    the_secret_is_kept(&world, &broker).await;
    world.register(&broker, "/held", json!({})).await;
    let held = world.caller(&broker, "/held");
    assert!(
        held.begin(&world.issuer, "/held", &["exec:git"])
            .await
            .is_err()
    );
}
