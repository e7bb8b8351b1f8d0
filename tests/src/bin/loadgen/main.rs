//! The load generator: drives the real release binary over mutual TLS, and reports throughput,
//! latency, and server CPU per call.
//!
//! `cargo build --release --bin sundew && cargo run --release -p sundew-tests --bin loadgen`
//!
//! Arguments: a scale (1), then optionally `profile mint|mint-alone|begin|complete|introspect
//! embedded|redis`, which repeats one operation for a profiler. Everything is measured in five rounds of one run, each
//! against a no-op call on the same server (gRPC health) in the same round, so that the ratios mean
//! something on a noisy machine; medians are printed, with the range of ratios. CPU is the server
//! process's own, of its threads' schedstat; Redis' is not in it.

mod bare;
mod measure;
mod operations;

use std::sync::Arc;

use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::pki::Svid;
use sundew_tests::world::World;

use crate::bare::{bare_echo, bare_handshakes, echo_server};
use crate::measure::{Measured, Rounds, measure};
use crate::operations::{
    CONNECTIONS, Fleet, IN_FLIGHT, begin, completes, handshakes, introspections, mints, noop,
    noop_alone, tasks,
};

const LIMITS: &str = "[limits]\ncalls_per_second = 100000000\ntokens_per_task = 100000000\njournal_per_minute = \"4095MiB\"\njournal_burst = \"4095MiB\"\n";

/// How often all operations are measured, one after another.
const ROUNDS: usize = 5;

/// A broker under load, and the fleet of connections to it.
struct Bench {
    world: World,
    broker: Broker,
    svid: Svid,
    fleet: Fleet,
    scale: usize,
}

impl Bench {
    async fn start(world: World, scale: usize) -> Self {
        let broker = world.broker_with(LIMITS).await;
        let agent = json!({ "max_tasks": 100_000, "attendance_grace": "10m" });
        world.register(&broker, "/agent", agent).await;
        let svid = world.ca.svid("/agent");
        Self {
            fleet: Fleet::new(&broker.address(), &svid),
            world,
            broker,
            svid,
            scale,
        }
    }

    fn pid(&self) -> u32 {
        self.broker.pid()
    }

    /// One round of all operations.
    async fn round(&self, rounds: &mut Rounds, (ids, tokens): &(Arc<Vec<String>>, Vec<String>)) {
        let (pid, fleet, scale) = (self.pid(), &self.fleet, self.scale);
        let echo = bare_echo(&self.world, 10_000 * scale).await;
        let floor = noop(pid, fleet, 10_000 * scale).await;
        let again = noop(pid, fleet, 10_000 * scale).await;
        rounds.note("bare tonic echo", echo, &floor);
        rounds.note("no-op RPC (health), again", again, &floor);
        let cached = introspections(pid, fleet, tokens.clone(), 10_000 * scale).await;
        rounds.note("Introspect, record cached", cached, &floor);
        let floor_alone = noop_alone(pid, fleet, 1000 * scale).await;
        rounds.note("no-op, 1 in flight", floor_alone, &floor);
        let mint = mints(pid, fleet, ids, 8000 * scale, IN_FLIGHT).await;
        rounds.note("MintToken", mint, &floor);
        let alone = mints(pid, fleet, ids, 1000 * scale, 1).await;
        rounds.note("MintToken, 1 in flight", alone, &floor);
        let begins = self.begins(2000 * scale).await;
        rounds.note("Challenge + BeginTask (oidc, ES256)", begins, &floor);
        self.completing(rounds, &floor).await;
    }

    /// A challenge and a BeginTask for each call.
    async fn begins(&self, calls: usize) -> Measured {
        let issuer = &self.world.issuer;
        let tokens: Vec<_> = (0..calls).map(|_| issuer.token("/agent")).collect();
        let (fleet, tokens) = (self.fleet.clone(), Arc::new(tokens));
        measure(self.pid(), calls, IN_FLIGHT, move |worker, number| {
            let (caller, token) = (fleet.of(worker).clone(), tokens[number].clone());
            async move { drop(begin(&caller, token).await) }
        })
        .await
    }

    /// CompleteTask, of tasks with one token and with many.
    async fn completing(&self, rounds: &mut Rounds, floor: &Measured) {
        let (pid, fleet, world, scale) = (self.pid(), &self.fleet, &self.world, self.scale);
        let few = tasks(world, fleet, 2000 * scale).await;
        let few = few.into_iter().map(|begun| begun.0).collect();
        let few = completes(pid, fleet, few).await;
        rounds.note("CompleteTask, 1 token", few, floor);
        let many = tasks(world, fleet, 400).await;
        let ids: Arc<Vec<String>> = Arc::new(many.iter().map(|begun| begun.0.clone()).collect());
        mints(pid, fleet, &ids, 12_000, IN_FLIGHT).await;
        let many = completes(pid, fleet, ids.to_vec()).await;
        rounds.note("CompleteTask, 31 tokens", many, floor);
    }

    /// Introspection at a second broker, which has seen none of these tokens.
    async fn first_sight(&self, rounds: &mut Rounds) {
        let fresh = self.world.broker_with(LIMITS).await;
        let there = Fleet::new(&fresh.address(), &self.svid);
        noop(fresh.pid(), &there, 4000).await;
        for _ in 0..ROUNDS {
            let begun = tasks(&self.world, &self.fleet, 3000 * self.scale).await;
            let tokens: Vec<String> = begun.into_iter().map(|begun| begun.1).collect();
            let floor = noop(fresh.pid(), &there, 10_000 * self.scale).await;
            let calls = tokens.len();
            let first = introspections(fresh.pid(), &there, tokens, calls).await;
            rounds.note("Introspect, first sight", first, &floor);
        }
    }

    /// New connections, here and at a bare server.
    async fn connecting(&self) {
        let mut connections = Rounds::default();
        for _ in 0..ROUNDS {
            let (world, svid, count) = (&self.world, &self.svid, 500 * self.scale);
            let bare = bare_handshakes(world, svid, count).await;
            let own = handshakes(self.pid(), &self.broker.address(), svid, count).await;
            connections.note("new connection; the no-op is a bare one", own, &bare);
        }
        println!();
        connections.print();
    }
}

async fn bench(name: &str, world: World, scale: usize) {
    let bench = Bench::start(world, scale).await;
    noop(bench.pid(), &bench.fleet, 4000).await;
    let begun = tasks(&bench.world, &bench.fleet, 512).await;
    let (ids, tokens): (Vec<String>, Vec<String>) = begun.into_iter().unzip();
    let live = (Arc::new(ids), tokens);
    mints(bench.pid(), &bench.fleet, &live.0, 2000, IN_FLIGHT).await;
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        bench.round(&mut rounds, &live).await;
    }
    if bench.world.redis.is_some() {
        bench.first_sight(&mut rounds).await;
    }
    println!("\n## {name}\n");
    rounds.print();
    bench.connecting().await;
}

/// Repeats one operation on a server whose process id is printed first.
async fn profile(operation: &str, world: World, scale: usize) {
    let bench = Bench::start(world, scale).await;
    let (world, broker, fleet) = (&bench.world, &bench.broker, &bench.fleet);
    let begun = tasks(
        world,
        fleet,
        if operation == "complete" {
            10_000 * scale
        } else {
            512
        },
    )
    .await;
    println!("{}", broker.pid());
    let ids: Vec<String> = begun.iter().map(|b| b.0.clone()).collect();
    let pid = broker.pid();
    let measured = match operation {
        "mint" => mints(pid, fleet, &Arc::new(ids), 20_000 * scale, IN_FLIGHT).await,
        "mint-alone" => mints(pid, fleet, &Arc::new(ids), 4000 * scale, 1).await,
        "begin" => bench.begins(5000 * scale).await,
        "complete" => completes(pid, fleet, ids).await,
        _ => {
            let tokens: Vec<String> = begun.into_iter().map(|begun| begun.1).collect();
            introspections(pid, fleet, tokens, 40_000 * scale).await
        }
    };
    println!(
        "{operation}: {:.1} µs of CPU per call, {:.0} calls/s",
        measured.cpu_us(),
        measured.rate()
    );
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, folder] = arguments.as_slice()
        && word == "echo-server"
    {
        return echo_server(folder).await;
    }
    let scale = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(1);
    if let [_, word, operation, store] = arguments.as_slice()
        && word == "profile"
    {
        return profile(
            operation,
            if store == "redis" {
                World::redis()
            } else {
                World::embedded()
            },
            scale,
        )
        .await;
    }
    println!(
        "{IN_FLIGHT} calls in flight on {CONNECTIONS} connections; scale {scale}, {ROUNDS} rounds"
    );
    bench("embedded store", World::embedded(), scale).await;
    bench("Redis", World::redis(), scale).await;
}
