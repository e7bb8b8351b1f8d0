//! The load generator: drives the real release binary over mutual TLS, and reports throughput,
//! latency, and server CPU per call.
//!
//! `cargo build --release --bin sundew && cargo run --release -p sundew-tests --bin loadgen`
//!
//! Arguments: a scale (1), then optionally `profile mint|complete|introspect embedded|redis`, which
//! repeats one operation for a profiler. Everything is measured in one run, against a no-op call on
//! the same server (gRPC health) and a bare tonic echo, so that the ratios mean something on a
//! noisy machine. CPU is the server process's own, from /proc; Redis' is not in it.

mod bare;
mod measure;
mod operations;

use std::sync::Arc;

use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::pki::Svid;
use sundew_tests::world::World;

use crate::bare::{bare_echo, bare_handshakes, echo_server};
use crate::measure::{Measured, measure};
use crate::operations::{
    CONNECTIONS, Fleet, IN_FLIGHT, begin, completes, handshakes, introspections, mints, noop, tasks,
};

const LIMITS: &str = "[limits]\ncalls_per_second = 100000000\ntokens_per_task = 100000000\njournal_per_minute = \"4095MiB\"\njournal_burst = \"4095MiB\"\n";

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

    /// Measures a call that does nothing, here and at a bare server; returns the former.
    async fn floor(&self) -> Measured {
        let (pid, fleet, scale) = (self.pid(), &self.fleet, self.scale);
        let echo = bare_echo(&self.world, 40_000 * scale).await;
        echo.row("bare tonic echo", None);
        let floor = noop(pid, fleet, 40_000 * scale).await;
        floor.row("no-op RPC (health)", Some(&floor));
        println!(
            "| no-op ÷ bare echo | | | | | {:.2} | | |",
            floor.cpu_us() / echo.cpu_us()
        );
        floor
    }

    /// MintToken, and a challenge with BeginTask; `ids` are live tasks.
    async fn issuing(&self, floor: &Measured, ids: &Arc<Vec<String>>) {
        let (pid, fleet, scale) = (self.pid(), &self.fleet, self.scale);
        mints(pid, fleet, ids, 2000, IN_FLIGHT).await;
        let mint = mints(pid, fleet, ids, 20_000 * scale, IN_FLIGHT).await;
        mint.row("MintToken", Some(floor));
        let alone = mints(pid, fleet, ids, 1000 * scale, 1).await;
        alone.row("MintToken, 1 in flight", Some(floor));
        println!(
            "| MintToken throughput, 64 ÷ 1 in flight | | {:.1} | | | | | |",
            mint.rate() / alone.rate()
        );
        let pair = {
            let (fleet, tokens) = (
                fleet.clone(),
                Arc::new(
                    (0..4000 * scale)
                        .map(|_| self.world.issuer.token("/agent"))
                        .collect::<Vec<_>>(),
                ),
            );
            measure(pid, 4000 * scale, IN_FLIGHT, move |worker, number| {
                let (caller, token) = (fleet.of(worker).clone(), tokens[number].clone());
                async move { drop(begin(&caller, token).await) }
            })
            .await
        };
        pair.row("Challenge + BeginTask (oidc, ES256)", Some(floor));
    }

    /// CompleteTask, of tasks with one token and with many.
    async fn completing(&self, floor: &Measured) {
        let (pid, fleet, world, scale) = (self.pid(), &self.fleet, &self.world, self.scale);
        let few = tasks(world, fleet, 4000 * scale)
            .await
            .into_iter()
            .map(|b| b.0)
            .collect();
        completes(pid, fleet, few)
            .await
            .row("CompleteTask, 1 token", Some(floor));
        let many = tasks(world, fleet, 1000).await;
        let ids: Arc<Vec<String>> = Arc::new(many.iter().map(|b| b.0.clone()).collect());
        mints(pid, fleet, &ids, 30_000, IN_FLIGHT).await;
        completes(pid, fleet, ids.to_vec())
            .await
            .row("CompleteTask, 31 tokens", Some(floor));
    }

    /// Introspection at a second broker, which has seen none of these tokens.
    async fn first_sight(&self) {
        let (world, fleet, scale) = (&self.world, &self.fleet, self.scale);
        let fresh = world.broker_with(LIMITS).await;
        let there = Fleet::new(&fresh.address(), &self.svid);
        let begun = tasks(world, fleet, 8000 * scale).await;
        noop(fresh.pid(), &there, 4000).await;
        let floor = noop(fresh.pid(), &there, 20_000 * scale).await;
        let first = introspections(
            fresh.pid(),
            &there,
            begun.into_iter().map(|b| b.1).collect(),
            8000 * scale,
        )
        .await;
        first.row("Introspect, first sight", Some(&floor));
    }

    /// New connections, here and at a bare server.
    async fn connecting(&self) {
        let (world, svid, scale) = (&self.world, &self.svid, self.scale);
        let bare = bare_handshakes(world, svid, 2000 * scale).await;
        let own = handshakes(self.pid(), &self.broker.address(), svid, 2000 * scale).await;
        bare.row("bare rustls handshake with HTTP/2 preface", None);
        own.row("new connection", None);
        println!(
            "| new connection ÷ bare | | | | | {:.2} | | |",
            own.cpu_us() / bare.cpu_us()
        );
    }
}

async fn bench(name: &str, world: World, scale: usize) {
    let bench = Bench::start(world, scale).await;
    noop(bench.pid(), &bench.fleet, 4000).await;
    println!(
        "\n## {name}\n\n| operation | calls | calls/s | p50 µs | p99 µs | server CPU µs/call | CPU ÷ no-op | p99 ÷ no-op |\n|---|---|---|---|---|---|---|---|"
    );
    let floor = bench.floor().await;
    let begun = tasks(&bench.world, &bench.fleet, 512).await;
    let ids: Arc<Vec<String>> = Arc::new(begun.iter().map(|b| b.0.clone()).collect());
    let tokens: Vec<String> = begun.iter().map(|b| b.1.clone()).collect();
    let cached = introspections(bench.pid(), &bench.fleet, tokens, 40_000 * scale).await;
    cached.row("Introspect, record cached", Some(&floor));
    bench.issuing(&floor, &ids).await;
    bench.completing(&floor).await;
    if bench.world.redis.is_some() {
        bench.first_sight().await;
    }
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
    let measured = match operation {
        "mint" => {
            mints(
                broker.pid(),
                fleet,
                &Arc::new(ids),
                20_000 * scale,
                IN_FLIGHT,
            )
            .await
        }
        "complete" => completes(broker.pid(), fleet, ids).await,
        _ => {
            introspections(
                broker.pid(),
                fleet,
                begun.into_iter().map(|b| b.1).collect(),
                40_000 * scale,
            )
            .await
        }
    };
    measured.row(operation, None);
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
    println!("{IN_FLIGHT} calls in flight on {CONNECTIONS} connections; scale {scale}");
    bench("embedded store", World::embedded(), scale).await;
    bench("Redis", World::redis(), scale).await;
}
