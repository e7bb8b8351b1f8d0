//! A responder and a platform team at scale: a million live tokens, ten thousand rules, a
//! hundred thousand endings, ten thousand roles.
//!
//! `cargo build --release --bin sundew && cargo run --release -p sundew-tests --bin scale --
//! [tokens|rules|start|leases|journal]…`
//!
//! Tokens are written by the broker's own record writer straight into Redis, since minting a
//! million of them over TLS says nothing more.

mod introspecting;
mod journal;
mod leases;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Effect, Event, Outcome, Selector as Rule, TaskId};
use sundew_proto::v1::{PreviewRequest, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::pki::{DOMAIN, Svid};
use sundew_tests::process::{cpu_time, resident};
use sundew_tests::selectors::{of_token, of_workload};
use sundew_tests::world::World;
use writer::{Writer, append, fill};

use crate::introspecting::{Introspecting, quantile, ratio};

const LIMITS: &str = "[limits]\ncalls_per_second = 100000000\ntokens_per_task = 100000000\njournal_per_minute = \"4095MiB\"\njournal_burst = \"4095MiB\"\n";

fn used_memory(world: &World) -> u64 {
    let text: String = redis::cmd("INFO")
        .arg("memory")
        .query(&mut world.redis.as_ref().expect("redis").connection())
        .expect("info");
    text.lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .expect("memory")
        .trim()
        .parse()
        .expect("number")
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let value = work.await;
    (value, began.elapsed())
}

/// Two brokers on one Redis, and what writes tokens past them.
struct Two {
    world: World,
    brokers: [Broker; 2],
    servers: Vec<Caller>,
    svid: Svid,
    writer: Writer,
}

impl Two {
    async fn start() -> Self {
        let world = World::redis();
        let brokers = [
            world.broker_with(LIMITS).await,
            world.broker_with(LIMITS).await,
        ];
        let servers = brokers
            .iter()
            .map(|broker| world.operator(broker))
            .collect();
        Self {
            svid: world.ca.svid("/agent"),
            writer: Writer::new(&world),
            world,
            brokers,
            servers,
        }
    }

    /// Position 1 must be in the log before tokens are stamped with it.
    async fn first_entry(&self) {
        self.servers[0]
            .revoke(of_workload("/nobody"))
            .await
            .expect("first entry");
    }

    /// Whether a broker says that a token is active in the right hands; nothing if it does not
    /// answer.
    async fn active(&self, server: &Caller, token: &str) -> Option<bool> {
        server.active(token, &self.svid.thumbprint()).await.ok()
    }

    /// Tells what a live token costs in Redis, for several shapes of a fleet.
    async fn memory_of_tokens(&self) {
        for (each, workloads) in [(1, 10), (1, 500), (2, 500), (3, 500)] {
            self.first_entry().await;
            let empty = used_memory(&self.world);
            fill(&self.writer, workloads, 50_000, each, &self.svid).await;
            let bytes = (used_memory(&self.world) - empty) / 50_000 / each as u64;
            println!(
                "tokens per task: {each}, tasks per workload: {}: {bytes} bytes of Redis memory per live token",
                50_000 / workloads
            );
            redis::cmd("FLUSHALL")
                .exec(&mut self.world.redis.as_ref().expect("redis").connection())
                .expect("flush");
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// Writes a million tokens; returns a sample with the index of each token's group.
    async fn a_million(&self) -> Vec<(usize, String)> {
        self.first_entry().await;
        let empty = used_memory(&self.world);
        let (sample, took) = timed(fill(&self.writer, 10, 100_000, 10, &self.svid)).await;
        println!(
            "tokens per task: 10, tasks per workload: 10000: {} bytes of Redis memory per live token ({took:?} to write 1 000 000)",
            (used_memory(&self.world) - empty) / 1_000_000
        );
        for (n, server) in self.servers.iter().enumerate() {
            for (_, token) in sample.iter().take(50) {
                assert_eq!(self.active(server, token).await, Some(true), "broker {n}");
            }
        }
        sample
    }

    /// Previews the whole fleet, and tells what introspection feels of it.
    async fn preview(&self, sample: &[(usize, String)]) {
        let all: Vec<String> = sample.iter().map(|(_, token)| token.clone()).collect();
        let (server, presenter) = (&self.servers[0], self.svid.thumbprint());
        let quiet = Introspecting::quiet(server, &all, &presenter).await;
        let before = resident(self.brokers[0].pid());
        let introspecting = Introspecting::start(server, &all, &presenter);
        let began = Instant::now();
        let mut told = server
            .response()
            .preview(PreviewRequest {
                selector: Some(prefix("/fleet")),
            })
            .await
            .expect("preview")
            .into_inner();
        let (mut first, mut peak, mut last) = (None, before, None);
        while let Some(so_far) = told.message().await.expect("preview") {
            first.get_or_insert_with(|| began.elapsed());
            peak = peak.max(resident(self.brokers[0].pid()));
            last = Some(so_far);
        }
        let took = began.elapsed();
        let busy = introspecting.p99().await;
        let last = last.expect("a last word");
        println!(
            "preview: {} tasks, {} tokens; first counts after {:?}, done after {took:?}; broker memory +{} MiB",
            last.tasks,
            last.tokens,
            first.expect("first"),
            (peak - before) >> 20
        );
        println!(
            "introspection p99 {quiet:?} quiet, {busy:?} meanwhile ({:.2} ×)",
            ratio(busy, quiet)
        );
    }

    /// Revokes single tokens, then tenths of the fleet: how long each took, the shortest first.
    async fn revoke_parts(&self, sample: &[(usize, String)]) -> (Vec<Duration>, Vec<Duration>) {
        let mut one = Vec::new();
        for (_, token) in sample.iter().filter(|(group, _)| *group == 9).take(40) {
            one.push(timed(self.servers[0].revoke(of_token(token))).await.1);
        }
        one.sort();
        let mut many = Vec::new();
        for group in 0..9 {
            let selector = prefix(&format!("/fleet/g{group}"));
            let (answer, took) = timed(self.servers[group % 2].revoke(selector)).await;
            answer.expect("revoked");
            many.push(took);
            for server in &self.servers {
                for (_, token) in sample.iter().filter(|(of, _)| *of == group) {
                    assert_eq!(
                        self.active(server, token).await,
                        Some(false),
                        "accepted after the answer"
                    );
                }
            }
        }
        many.sort();
        (one, many)
    }

    /// Revokes everything at once, after parts of it, and tells how long each took.
    async fn revoke(&self, sample: &[(usize, String)]) {
        let (one, many) = self.revoke_parts(sample).await;
        let (answer, took) = timed(self.servers[0].revoke(prefix("/fleet"))).await;
        let (answer, mut wrong) = (answer.expect("revoked"), 0);
        for server in &self.servers {
            for (_, token) in sample {
                wrong += usize::from(self.active(server, token).await != Some(false));
            }
        }
        println!(
            "revoke one token, call to answer: p50 {:?}, p99 {:?}",
            quantile(&one, 0.5),
            quantile(&one, 0.99)
        );
        println!(
            "revoke 100 000 tokens by prefix (9 times): p50 {:?}, longest {:?}",
            quantile(&many, 0.5),
            quantile(&many, 1.0)
        );
        println!(
            "revoke 1 000 000 tokens by prefix: {took:?} ({:.2} × the p50 of one); accepted after the answer: {wrong}",
            ratio(took, quantile(&one, 0.5))
        );
        let (status, took) = timed(self.servers[0].cleaned_up(&answer.revocation_id)).await;
        let status = status.expect("status");
        println!(
            "clean-up of the last one: {took:?}, it counted {} tasks and {} tokens",
            status.tasks, status.tokens
        );
    }
}

fn prefix(path: &str) -> Selector {
    Selector {
        spiffe_path_prefix: format!("spiffe://{DOMAIN}{path}"),
        ..Selector::default()
    }
}

async fn tokens() {
    println!(
        "\n## A million live tokens: 100 000 tasks with 10 tokens each, two brokers on one Redis\n"
    );
    let two = Two::start().await;
    two.memory_of_tokens().await;
    let sample = two.a_million().await;
    two.preview(&sample).await;
    two.revoke(&sample).await;
}

/// Introspects live tokens 96,000 times; returns the broker's CPU time per call in microseconds.
async fn cpu_per_introspection(broker: &Broker, fleet: &[Caller], tokens: &[String]) -> f64 {
    let before = cpu_time(broker.pid());
    let work: Vec<_> = (0..64)
        .map(|worker| {
            let (caller, tokens) = (fleet[worker % 4].clone(), tokens.to_vec());
            tokio::spawn(async move {
                for n in 0..1500 {
                    assert_eq!(
                        caller
                            .active(&tokens[(worker + n) % tokens.len()], &[])
                            .await
                            .ok(),
                        Some(true)
                    );
                }
            })
        })
        .collect();
    for each in work {
        each.await.expect("introspection");
    }
    (cpu_time(broker.pid()) - before).as_secs_f64() * 1e6 / 96_000.0
}

/// A rule that matches nothing, with one of four criteria in turn.
fn rule(n: u64) -> Event {
    let selector = match n % 4 {
        0 => Rule {
            claims: vec![format!("oidc.sub=/other/{n}")],
            ..Rule::default()
        },
        1 => Rule::workload(SpiffeId::parse(&format!("spiffe://{DOMAIN}/other/{n}")).expect("id")),
        2 => Rule {
            audience: Some(format!("audience-{n}")),
            ..Rule::default()
        },
        _ => Rule {
            path_prefix: Some(SpiffeId::parse(&format!("spiffe://{DOMAIN}/tree-{n}")).expect("id")),
            ..Rule::default()
        },
    };
    Event::Rule {
        selector: Box::new(selector),
        effect: Effect::Revoke,
    }
}

async fn rules() {
    println!("\n## Introspection with 10 000 standing rules\n");
    let world = World::redis();
    let broker = world.broker_with(LIMITS).await;
    world
        .register(
            &broker,
            "/agent",
            json!({ "max_tasks": 1000, "attendance_grace": "30m" }),
        )
        .await;
    let caller = world.caller(&broker, "/agent");
    let mut tokens = Vec::new();
    for _ in 0..200 {
        tokens.push(
            caller
                .begin(&world.issuer, "/agent", &["exec:git"])
                .await
                .expect("task")
                .token,
        );
    }
    let fleet: Vec<_> = (0..4)
        .map(|_| world.caller_with(&broker, caller.svid.clone().expect("SVID")))
        .collect();
    let run = async || cpu_per_introspection(&broker, &fleet, &tokens).await;
    run().await;
    let mut none = f64::MAX;
    for _ in 0..3 {
        none = none.min(run().await);
    }
    let writer = Writer::new(&world);
    for n in 0..10_000_u64 {
        append(&writer, n, rule(n)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut all = f64::MAX;
    for _ in 0..3 {
        all = all.min(run().await);
    }
    println!(
        "server CPU per call: {none:.1} µs without rules, {all:.1} µs with 10 000 ({:.2} ×)",
        all / none
    );
}

async fn start() {
    println!("\n## A broker's start with 100 000 live endings in the log\n");
    let world = World::redis();
    let mut broker = world.broker_with(LIMITS).await;
    let writer = Arc::new(Writer::new(&world));
    let work: Vec<_> = (0..32_u64)
        .map(|worker| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move {
                for n in (worker..100_000).step_by(32) {
                    let task =
                        TaskId::from_bytes(writer.root.derive_name(&[b"ended", &n.to_be_bytes()]));
                    append(
                        &writer,
                        n,
                        Event::Ended {
                            task,
                            outcome: Outcome::Completed,
                        },
                    )
                    .await;
                }
            })
        })
        .collect();
    for each in work {
        each.await.expect("append");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for what in ["with the endings in its journal too", "again"] {
        broker.kill();
        let ((), took) = timed(async {
            broker.up();
            broker.ready().await;
        })
        .await;
        println!("ready after {took:?}, {what}");
    }
    let ((), took) = timed(async {
        drop(world.broker_with(LIMITS).await);
    })
    .await;
    println!("a new broker, which reads them from the log and keeps them: ready after {took:?}");
}

#[tokio::main]
async fn main() {
    sundew_tests::init();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if wants("tokens") {
        tokens().await;
    }
    if wants("rules") {
        rules().await;
    }
    if wants("start") {
        start().await;
    }
    if wants("leases") {
        leases::run().await;
    }
    if wants("journal") {
        journal::run().await;
    }
}
