//! Old bytes in Redis: documents that somebody puts back, and a whole Redis of yesterday (L21, L22).

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sundew_proto::v1::{DeleteWorkloadRequest, RemoveTrustRequest, RotateKeyringRequest};
use sundew_tests::broker::Broker;
use sundew_tests::world::World;
use sundew_tests::{sundew, until};
use tonic::Code;

/// Every document that Redis has, by key and name.
type Documents = Vec<(String, Vec<(String, Vec<u8>)>)>;

const FAMILIES: [&str; 4] = ["meta", "secret", "trust", "workload"];

fn documents(world: &World) -> Documents {
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let read = |family: &str| {
        let key = format!("sundew:documents:{family}");
        let mut all = redis::cmd("HGETALL");
        let found = all.arg(&key).query(&mut connection).expect("documents");
        (key, found)
    };
    FAMILIES.map(read).to_vec()
}

/// Puts documents back, as whoever writes Redis can.
fn put_back(world: &World, old: &Documents) {
    let mut connection = world.redis.as_ref().expect("redis").connection();
    for (key, documents) in old {
        for (name, bytes) in documents {
            let mut set = redis::cmd("HSET");
            set.arg(key).arg(name).arg(bytes);
            set.exec(&mut connection).expect("put back");
        }
    }
}

/// What is there before anything is taken away.
async fn write_first(world: &World, broker: &Broker) {
    world.register(broker, "/agent", json!({})).await;
    world.register(broker, "/gone", json!({})).await;
    let operator = world.operator(broker);
    operator.put_secret("app/key", "old").await;
    operator.trust("reference", "models/m-1", "approved").await;
}

/// Takes away: a scope, a registration, a secret's value, a reference value and a sealing key.
async fn take_away(world: &World, broker: &Broker) {
    let narrow = json!({ "scopes": ["secret:app/*"] });
    world.register(broker, "/agent", narrow).await;
    let operator = world.operator(broker);
    let id = "spiffe://test.example/gone".to_owned();
    let delete = DeleteWorkloadRequest { spiffe_id: id };
    let mut registry = operator.registry();
    registry.delete_workload(delete).await.expect("deleted");
    operator.put_secret("app/key", "new").await;
    let withdraw = RemoveTrustRequest {
        kind: "reference".to_owned(),
        name: "models/m-1".to_owned(),
        reason: "test".to_owned(),
    };
    registry.remove_trust(withdraw).await.expect("withdrawn");
    let rotate = RotateKeyringRequest::default();
    registry.rotate_keyring(rotate).await.expect("rotated");
}

/// Nothing of what was taken away is there again, and the broker says what is wrong.
async fn assert_old_bytes_count_for_nothing(world: &World, broker: &Broker) {
    let agent = world.caller(broker, "/agent");
    let refused = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
    assert!(refused.is_err(), "the scope that was taken away");
    let gone = world.caller(broker, "/gone");
    let refused = gone.begin(&world.issuer, "/gone", &["exec:git"]).await;
    assert!(refused.is_err(), "the registration that was deleted");
    let operator = world.operator(broker);
    let list = sundew_proto::v1::ListTrustRequest {};
    let listed = operator.registry().list_trust(list).await.expect("list");
    assert!(
        listed
            .into_inner()
            .items
            .iter()
            .all(|item| item.name != "models/m-1"),
        "the value that was withdrawn"
    );
    // What a deleted registration was is told a little later, since it may be on its way out.
    for told in [
        "workload spiffe://test.example/agent: altered",
        "secret app/key: altered",
    ] {
        until(told, || async {
            let ready = broker.http("/readyz").await;
            ready.is_some_and(|(code, text)| code == 200 && text.contains(told))
        })
        .await;
    }
    let (_, metrics) = broker.http("/metrics").await.expect("metrics");
    let altered = metrics
        .lines()
        .find(|line| line.starts_with("sundew_documents_altered "));
    assert!(
        altered.is_some_and(|line| !line.ends_with(" 0")),
        "{altered:?}"
    );
}

/// L22: documents of before, put back one by one under a running broker, one that forgets what it
/// had in memory, and one that starts.
#[tokio::test]
async fn l22_old_bytes_that_are_put_back_into_redis_are_taken_by_no_broker() {
    let world = World::redis();
    let (one, mut two) = (world.broker().await, world.broker().await);
    write_first(&world, &one).await;
    let agent = world.caller(&two, "/agent");
    let task = agent
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await;
    let task = task.expect("task").task;
    assert_eq!(
        agent.secret(&task, "app/key").await.as_deref().ok(),
        Some("old")
    );
    let old = documents(&world);
    take_away(&world, &one).await;
    assert_eq!(
        agent.secret(&task, "app/key").await.as_deref().ok(),
        Some("new")
    );
    put_back(&world, &old);
    let refused = agent.secret(&task, "app/key").await.expect_err("L22");
    assert_eq!(refused.code(), Code::Unavailable);
    until("the record says why", || async {
        let refusals = two.refusals("GetSecret").join("\n");
        refusals.contains("altered: the store has version 1, and version 2 is known")
    })
    .await;
    // It has its journal and the log.
    two.restart().await;
    assert_old_bytes_count_for_nothing(&world, &two).await;
    // It has only the log.
    let three = world.broker().await;
    assert_old_bytes_count_for_nothing(&world, &three).await;
    drop((one, two, three));
}

/// L21: a Redis of yesterday, under brokers that run.
#[tokio::test]
async fn l21_a_redis_of_yesterday_is_noticed_by_running_brokers() {
    let mut world = World::redis();
    let (one, two) = (world.broker().await, world.broker().await);
    write_first(&world, &one).await;
    world.register(&one, "/other", json!({})).await;
    let agent = world.caller(&two, "/other");
    let live = agent.begin(&world.issuer, "/other", &["exec:git"]).await;
    let live = live.expect("task");
    let backup = world.redis.as_ref().expect("redis").back_up();
    agent.complete(&live.task).await.expect("completed");
    take_away(&world, &one).await;
    world.redis.as_mut().expect("redis").restore(&backup);
    for broker in [&one, &two] {
        // Until a broker has put back what only brokers know, it answers nothing.
        let server = world.operator(broker);
        until("it answers, and what ended stays ended", || async {
            let active = server.active(&live.token, &agent.thumbprint()).await;
            assert_ne!(active.as_ref().ok(), Some(&true));
            active.is_ok()
        })
        .await;
        assert_old_bytes_count_for_nothing(&world, broker).await;
    }
    // Whoever owns a document writes it again, and all is well.
    let narrow = json!({ "scopes": ["secret:app/*"] });
    world.register(&one, "/agent", narrow).await;
    let again = world.caller(&two, "/agent");
    let again = again
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await;
    assert!(again.is_ok(), "{:?}", two.refusals("BeginTask").pop());
}

/// L21: a Redis of yesterday, while no broker runs: they know from their own journals.
#[tokio::test]
async fn l21_a_redis_of_yesterday_is_noticed_by_brokers_that_start() {
    let mut world = World::redis();
    let mut broker = world.broker().await;
    write_first(&world, &broker).await;
    let backup = world.redis.as_ref().expect("redis").back_up();
    take_away(&world, &broker).await;
    broker.kill();
    world.redis.as_mut().expect("redis").restore(&backup);
    broker.up();
    broker.ready().await;
    assert_old_bytes_count_for_nothing(&world, &broker).await;
}

/// Runs a command on the store of a broker; answers whether it succeeded, and what it printed.
fn on_store(broker: &Broker, words: &[&str], file: &Path) -> (bool, String) {
    let output = Command::new(sundew())
        .args(words)
        .arg("--config")
        .arg(broker.config_file())
        .arg(file)
        .output()
        .expect("run");
    (output.status.success(), crate::cli::text(&output))
}

/// L21: a backup of a store whose brokers run. Filling lets nothing fall; a new epoch does, and
/// tells each of them. Nothing that ended comes back.
#[tokio::test]
async fn l21_a_backup_brings_content_back_only_in_a_new_epoch_and_tells_it() {
    let world = World::redis();
    let (one, two) = (world.broker().await, world.broker().await);
    write_first(&world, &one).await;
    let agent = world.caller(&two, "/agent");
    let ended = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
    let ended = ended.expect("task");
    let file = world.folder().join("backup");
    let (made, text) = on_store(&one, &["backup"], &file);
    assert!(made, "{text}");
    let mode = std::fs::metadata(&file).expect("file").permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    agent.complete(&ended.task).await.expect("completed");
    take_away(&world, &one).await;
    let (filled, text) = on_store(&one, &["restore"], &file);
    assert!(filled && text.contains("stays as it is"), "{text}");
    assert!(
        !text.contains("written") && !text.contains("falls"),
        "{text}"
    );
    let refused = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
    assert!(refused.is_err(), "what was taken away stays away");
    let (checked, text) = on_store(&one, &["restore", "--check", "--new-epoch"], &file);
    assert!(
        checked && text.contains("falls back to the backup"),
        "{text}"
    );
    let refused = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
    assert!(refused.is_err(), "it was only checked");
    let (fell, text) = on_store(&one, &["restore", "--new-epoch"], &file);
    assert!(fell && text.contains("falls back to the backup"), "{text}");
    until("the registration of the backup counts", || async {
        let begun = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
        begun.is_ok()
    })
    .await;
    for broker in [&one, &two] {
        until("it is on the record", || async {
            let journal = broker.journal();
            let restored = journal
                .iter()
                .filter(|record| record.event == "document_restored");
            restored
                .filter_map(|record| record.field("name"))
                .any(|name| name == "app/key")
        })
        .await;
        let server = world.operator(broker);
        let active = server.active(&ended.token, &agent.thumbprint()).await;
        assert_eq!(active.ok(), Some(false), "what ended stays ended");
    }
    let begun = agent
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await;
    let begun = begun.expect("task");
    let secret = agent.secret(&begun.task, "app/key").await;
    assert_eq!(
        secret.as_deref().ok(),
        Some("old"),
        "sealed under a key that is there"
    );
}

/// L21: a store that is gone is filled before a broker starts, for both stores.
#[tokio::test]
async fn l21_a_lost_store_is_filled_from_a_backup() {
    for mut world in World::both() {
        let mut broker = world.broker().await;
        write_first(&world, &broker).await;
        let file = world.folder().join("backup");
        let is_embedded = world.redis.is_none();
        if is_embedded {
            let (made, text) = on_store(&broker, &["backup"], &file);
            assert!(!made && text.contains("in use"), "{text}");
        }
        broker.kill();
        let (made, text) = on_store(&broker, &["backup"], &file);
        assert!(made, "{text}");
        let backup = world
            .redis
            .as_ref()
            .map(|_| tempfile::tempdir().expect("folder"));
        match (&mut world.redis, backup) {
            (Some(redis), Some(nothing)) => redis.restore(&nothing),
            _ => std::fs::remove_file(broker.folder().join("store.log")).expect("removed"),
        }
        let (filled, text) = on_store(&broker, &["restore"], &file);
        assert!(filled && text.contains("written"), "{text}");
        broker.up();
        broker.ready().await;
        let agent = world.caller(&broker, "/agent");
        let begun = agent
            .begin(&world.issuer, "/agent", &["secret:app/*"])
            .await;
        let begun = begun.expect("the registration is back");
        let secret = agent.secret(&begun.task, "app/key").await;
        assert_eq!(secret.as_deref().ok(), Some("old"));
        let (_, ready) = broker.http("/readyz").await.expect("health");
        assert!(!ready.contains("altered"), "{ready}");
    }
}
