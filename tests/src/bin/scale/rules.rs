//! Introspection beside thousands of rules.

use std::time::Duration;

use serde_json::json;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Effect, Event, Selector as Rule};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::pki::DOMAIN;
use sundew_tests::process::CpuTime;
use sundew_tests::world::World;

use crate::LIMITS;
use crate::writer::{Writer, append};

/// Introspects live tokens 96,000 times; returns the broker's CPU time per call in microseconds.
async fn cpu_per_introspection(broker: &Broker, fleet: &[Caller], tokens: &[String]) -> f64 {
    let before = CpuTime::of(broker.pid());
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
    CpuTime::of(broker.pid()).since(&before).as_secs_f64() * 1e6 / 96_000.0
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

pub(crate) async fn run() {
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
