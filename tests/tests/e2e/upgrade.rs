//! What a former version wrote: a store and a journal that go on under this one (O2).

use std::path::Path;

use sundew_proto::v1::ShowWorkloadRequest;
use sundew_tests::broker::Broker;
use sundew_tests::world::World;

/// A broker with the store and the journal of `tests/vectors/former`.
async fn upgraded(world: &World) -> Broker {
    let mut broker = world.prepare("");
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/former");
    let own = broker.folder();
    std::fs::create_dir_all(own.join("journal")).expect("folder");
    std::fs::copy(vector.join("store.log"), own.join("store.log")).expect("store");
    for segment in std::fs::read_dir(vector.join("journal")).expect("journal") {
        let segment = segment.expect("segment").path();
        let name = segment.file_name().expect("name");
        std::fs::copy(&segment, own.join("journal").join(name)).expect("segment");
    }
    broker.up();
    broker.ready().await;
    broker
}

/// `vectors/former` was written by the version before rooms, versions of documents, segments and
/// bounds (`former vector`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_a_store_and_a_journal_of_a_former_version_go_on() {
    let world = World::embedded();
    let mut broker = upgraded(&world).await;
    for restarted in [false, true] {
        if restarted {
            broker.restart().await;
        }
        let caller = world.caller(&broker, "/agent");
        let begun = caller
            .begin(&world.issuer, "/agent", &["secret:app/key"])
            .await
            .expect("what was lifted stays lifted");
        let secret = caller.secret(&begun.task, "app/key").await;
        assert_eq!(secret.expect("secret"), "kept since then");
        let held = world.caller(&broker, "/held");
        let refused = held.begin(&world.issuer, "/held", &["exec:git"]).await;
        assert!(refused.is_err(), "the quarantine stands");
        let gone = world.caller(&broker, "/gone");
        let refused = gone.begin(&world.issuer, "/gone", &["exec:git"]).await;
        assert!(refused.is_err(), "what was deleted stays deleted");
        let asked = ShowWorkloadRequest {
            spiffe_id: "spiffe://test.example/gone".to_owned(),
        };
        let shown = world
            .operator(&broker)
            .registry()
            .show_workload(asked)
            .await;
        assert!(shown.is_err());
        caller.complete(&begun.task).await.expect("completed");
    }
}
