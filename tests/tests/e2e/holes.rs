//! Entries that somebody takes out of the revocation log, with what they ended put back: an
//! acknowledged ending is known to every broker that was there, and no other answers before it knows
//! it too (P4).

use std::time::{Duration, Instant};

use redis::streams::StreamRangeReply;
use rustix::process::Signal;
use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Begun;
use sundew_tests::proxy::Proxy;
use sundew_tests::selectors::of_workload;
use sundew_tests::until;
use sundew_tests::world::World;

const LOG: &str = "sundew:{log}:stream";

fn connection(world: &World) -> redis::Connection {
    world.redis.as_ref().expect("redis").connection()
}

/// The keys of the store that name a task or list the tasks of a workload, with what is in them.
fn records(world: &World) -> Vec<(String, Vec<u8>)> {
    let mut connection = connection(world);
    let mut keys = redis::cmd("KEYS");
    let keys: Vec<String> = keys
        .arg("sundew:*task*")
        .query(&mut connection)
        .expect("keys");
    let dump = |key: String| {
        let mut dump = redis::cmd("DUMP");
        let bytes = dump.arg(&key).query(&mut connection).expect("dump");
        (key, bytes)
    };
    keys.into_iter().map(dump).collect()
}

fn positions(world: &World) -> Vec<String> {
    let mut all = redis::cmd("XRANGE");
    all.arg(LOG).arg("-").arg("+");
    let all: StreamRangeReply = all.query(&mut connection(world)).expect("log");
    all.ids.into_iter().map(|entry| entry.id).collect()
}

/// A task at one broker, which is ended there; then everything about that ending is taken out of the
/// store, and the records of the task are put back. Something was appended behind it, so the end of the
/// log is as it was.
struct Hole<'a> {
    world: &'a World,
    knows: &'a Broker,
    begun: Begun,
    presenter: Vec<u8>,
    records: Vec<(String, Vec<u8>)>,
    before: Vec<String>,
}

impl<'a> Hole<'a> {
    async fn begin(world: &'a World, knows: &'a Broker) -> Self {
        let grace = json!({ "attendance_grace": "10m" });
        world.register(knows, "/agent", grace).await;
        let agent = world.caller(knows, "/agent");
        let begun = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
        Self {
            begun: begun.expect("begun"),
            presenter: agent.thumbprint(),
            records: records(world),
            before: positions(world),
            world,
            knows,
        }
    }

    async fn make(&self) {
        let operator = self.world.operator(self.knows);
        let ended = operator.revoke(of_workload("/agent")).await;
        assert!(!ended.expect("acknowledged").pending);
        operator.put_secret("app/later", "value").await;
        let mut ended = positions(self.world);
        ended.pop();
        ended.retain(|entry| !self.before.contains(entry));
        assert!(!ended.is_empty());
        let mut connection = connection(self.world);
        for entry in ended {
            let mut delete = redis::cmd("XDEL");
            delete
                .arg(LOG)
                .arg(entry)
                .exec(&mut connection)
                .expect("deleted");
        }
        for (key, bytes) in &self.records {
            let mut restore = redis::cmd("RESTORE");
            let restore = restore.arg(key).arg(0).arg(bytes).arg("REPLACE");
            restore.exec(&mut connection).expect("put back");
        }
    }

    /// Asks a broker again and again: it never says "active", and in the end it answers.
    async fn is_dead_at(&self, broker: &Broker) {
        let server = self.world.operator(broker);
        let began = Instant::now();
        let mut answered = false;
        while !answered || began.elapsed() < Duration::from_secs(3) {
            let active = server.active(&self.begun.token, &self.presenter).await;
            assert_ne!(
                active.as_ref().ok(),
                Some(&true),
                "after {:?}",
                began.elapsed()
            );
            answered = active.is_ok();
            assert!(began.elapsed() < Duration::from_secs(20), "{active:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_hole_in_the_log_is_noticed_by_a_broker_that_starts_again() {
    let world = World::redis();
    let (knows, mut other) = (world.broker().await, world.broker().await);
    let hole = Hole::begin(&world, &knows).await;
    other.signal(Signal::TERM);
    tokio::task::block_in_place(|| other.wait());
    hole.make().await;
    other.up();
    hole.is_dead_at(&other).await;
    hole.is_dead_at(&knows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_hole_in_the_log_is_noticed_by_a_new_broker() {
    let world = World::redis();
    let knows = world.broker().await;
    let hole = Hole::begin(&world, &knows).await;
    hole.make().await;
    let mut new = world.prepare("");
    new.up();
    hole.is_dead_at(&new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_hole_in_the_log_is_noticed_by_a_broker_that_was_cut_off() {
    let world = World::redis();
    let knows = world.broker().await;
    let to_store = Proxy::start(world.redis.as_ref().expect("redis").port()).await;
    let cut_off = world
        .broker_by(&format!("redis://127.0.0.1:{}", to_store.port()))
        .await;
    let hole = Hole::begin(&world, &knows).await;
    let server = world.operator(&cut_off);
    let active = server.active(&hole.begun.token, &hole.presenter).await;
    assert_eq!(active.ok(), Some(true));
    to_store.cut(true);
    until("its view ends", || async {
        server
            .active(&hole.begun.token, &hole.presenter)
            .await
            .is_err()
    })
    .await;
    hole.make().await;
    to_store.cut(false);
    hole.is_dead_at(&cut_off).await;
}
