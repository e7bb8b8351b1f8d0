//! A responder and a platform team at scale: a million live tokens, ten thousand rules, a
//! hundred thousand endings, ten thousand roles.
//!
//! `cargo build --release --bin sundew && cargo run --release -p sundew-tests --bin scale --
//! [tokens|cleanup|endings|memory|rules|start|leases|flood|journal]…`
//!
//! Tokens are written by the broker's own record writer straight into Redis, since minting a
//! million of them over TLS says nothing more.

mod cleanup;
mod endings;
mod flood;
mod introspecting;
mod journal;
mod leases;
mod memory;
mod rules;
mod start;
mod tokens;
mod writer;

use std::time::{Duration, Instant};

use sundew_tests::world::World;

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

#[tokio::main]
async fn main() {
    sundew_tests::init();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if wants("tokens") {
        tokens::run().await;
    }
    if wants("cleanup") {
        cleanup::run().await;
    }
    if wants("endings") {
        endings::run().await;
    }
    if wants("memory") {
        memory::run().await;
    }
    if wants("rules") {
        rules::run().await;
    }
    if wants("start") {
        start::run().await;
    }
    if wants("leases") {
        leases::run().await;
    }
    if wants("flood") {
        flood::run().await;
    }
    if wants("journal") {
        journal::run().await;
    }
}
