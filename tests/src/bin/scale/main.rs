//! What a responder and a platform team meet at scale: a million live tokens, ten thousand rules, a hundred thousand endings, ten thousand roles.
//!
//! `cargo build --release --bin sundew && cargo run --release -p sundew-tests --bin scale -- [tokens|rules|start|leases]…`
//!
//! Tokens are written by the broker's own record writer straight into Redis, since minting a million of them over TLS says nothing more.

mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Effect, Event, Outcome, Selector as Rule, TaskId};
use sundew_proto::v1::{GetSecretRequest, PreviewRequest, PutEngineRequest, Selector};
use sundew_tests::broker::{DOMAIN, World};
use sundew_tests::calls::{Caller, of_workload};
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::process::{cpu_time, resident};
use writer::{Writer, append, fill};

const LIMITS: &str = "[limits]\ncalls_per_second = 100000000\n";

fn used_memory(world: &World) -> u64 {
    let text: String = redis::cmd("INFO").arg("memory").query(&mut world.redis.as_ref().expect("redis").connection()).expect("info");
    text.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("memory").trim().parse().expect("number")
}

fn quantile(sorted: &[Duration], q: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

/// Introspects on and on in the background; answers p50 and p99 when told to stop.
fn introspecting(
    server: Caller,
    tokens: Vec<String>,
    presenter: Vec<u8>,
    expect: Option<bool>,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<(usize, Duration, Duration)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let work = tokio::spawn(async move {
        let mut latencies = Vec::new();
        let mut n = 0;
        while !stopped.load(Ordering::Relaxed) {
            let began = Instant::now();
            let active = server.active(&tokens[n % tokens.len()], &presenter).await.expect("answer");
            latencies.push(began.elapsed());
            if let Some(expect) = expect {
                assert_eq!(active, expect);
            }
            n += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        latencies.sort();
        (latencies.len(), quantile(&latencies, 0.5), quantile(&latencies, 0.99))
    });
    (stop, work)
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let value = work.await;
    (value, began.elapsed())
}

async fn tokens() {
    println!("\n## A million live tokens: 100 000 tasks with 10 tokens each, two brokers on one Redis\n");
    let world = World::redis();
    let brokers = [world.broker_with(LIMITS).await, world.broker_with(LIMITS).await];
    let svid = world.ca.svid("/agent");
    let servers: Vec<_> = brokers.iter().map(|broker| world.operator(broker)).collect();
    let writer = Writer::new(&world);
    // Position 1 must be in the log before tokens are stamped with it.
    servers[0].revoke(of_workload("/nobody")).await.expect("first entry");
    let empty = used_memory(&world);
    let (one_each, took) = timed(fill(&writer, 10, 50_000, 1, &svid)).await;
    drop(one_each);
    println!("one token per task: {} bytes of Redis memory per live token ({took:?} to write 50 000)", (used_memory(&world) - empty) / 50_000);
    redis::cmd("FLUSHALL").exec(&mut world.redis.as_ref().expect("redis").connection()).expect("flush");
    tokio::time::sleep(Duration::from_secs(3)).await;
    servers[0].revoke(of_workload("/nobody")).await.expect("first entry");
    let empty = used_memory(&world);
    let (sample, took) = timed(fill(&writer, 10, 100_000, 10, &svid)).await;
    println!("ten tokens per task: {} bytes of Redis memory per live token ({took:?} to write 1 000 000)", (used_memory(&world) - empty) / 1_000_000);
    let all: Vec<String> = sample.iter().map(|(_, token)| token.clone()).collect();
    for (n, server) in servers.iter().enumerate() {
        for token in all.iter().take(50) {
            assert_eq!(server.active(token, &svid.thumbprint()).await.ok(), Some(true), "broker {n}");
        }
    }

    let (stop, work) = introspecting(servers[0].clone(), all.clone(), svid.thumbprint().to_vec(), Some(true));
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    let quiet = work.await.expect("introspection");
    let before = resident(brokers[0].pid());
    let (stop, work) = introspecting(servers[0].clone(), all.clone(), svid.thumbprint().to_vec(), Some(true));
    let began = Instant::now();
    let prefix = |path: &str| Selector { spiffe_path_prefix: format!("spiffe://{DOMAIN}{path}"), ..Selector::default() };
    let mut told = servers[0].response().preview(PreviewRequest { selector: Some(prefix("/fleet")) }).await.expect("preview").into_inner();
    let (mut first, mut peak, mut last) = (None, before, None);
    while let Some(so_far) = told.message().await.expect("preview") {
        first.get_or_insert_with(|| began.elapsed());
        peak = peak.max(resident(brokers[0].pid()));
        last = Some(so_far);
    }
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let busy = work.await.expect("introspection");
    let last = last.expect("a last word");
    println!(
        "preview: {} tasks, {} tokens; first counts after {:?}, done after {took:?}; broker memory +{} MiB",
        last.tasks,
        last.tokens,
        first.expect("first"),
        (peak - before) >> 20
    );
    println!("introspection p99 {:?} quiet, {:?} meanwhile ({:.2} ×)", quiet.2, busy.2, busy.2.as_secs_f64() / quiet.2.as_secs_f64());

    let mut one = Vec::new();
    for (_, token) in sample.iter().filter(|(group, _)| *group == 9).take(40) {
        one.push(timed(servers[0].revoke(sundew_tests::calls::of_token(token))).await.1);
    }
    one.sort();
    let mut many = Vec::new();
    for group in 0..9 {
        let (answer, took) = timed(servers[group % 2].revoke(prefix(&format!("/fleet/g{group}")))).await;
        answer.expect("revoked");
        many.push(took);
        for server in &servers {
            for (_, token) in sample.iter().filter(|(of, _)| *of == group) {
                assert_eq!(server.active(token, &svid.thumbprint()).await.ok(), Some(false), "accepted after the answer");
            }
        }
    }
    many.sort();
    let ((answer, took), mut wrong) = (timed(servers[0].revoke(prefix("/fleet"))).await, 0);
    let answer = answer.expect("revoked");
    for server in &servers {
        for (_, token) in &sample {
            wrong += usize::from(server.active(token, &svid.thumbprint()).await.ok() != Some(false));
        }
    }
    println!("revoke one token, call to answer: p50 {:?}, p99 {:?}", quantile(&one, 0.5), quantile(&one, 0.99));
    println!("revoke 100 000 tokens by prefix (9 times): p50 {:?}, longest {:?}", quantile(&many, 0.5), quantile(&many, 1.0));
    println!(
        "revoke 1 000 000 tokens by prefix: {took:?} ({:.2} × the p50 of one); accepted after the answer: {wrong}",
        took.as_secs_f64() / quantile(&one, 0.5).as_secs_f64()
    );
    let (status, took) = timed(servers[0].cleaned_up(&answer.revocation_id)).await;
    let status = status.expect("status");
    println!("clean-up of the last one: {took:?}, it counted {} tasks and {} tokens", status.tasks, status.tokens);
}

async fn rules() {
    println!("\n## Introspection with 10 000 standing rules\n");
    let world = World::redis();
    let broker = world.broker_with(LIMITS).await;
    world.register(&broker, "/agent", json!({ "max_tasks": 1000, "attendance_grace": "30m" })).await;
    let caller = world.caller(&broker, "/agent");
    let mut tokens = Vec::new();
    for _ in 0..200 {
        tokens.push(caller.begin(&world.issuer, "/agent", &["exec:git"]).await.expect("task").token);
    }
    let fleet: Vec<_> = (0..4).map(|_| world.caller_with(&broker, caller.svid.clone().expect("SVID"))).collect();
    let run = async || {
        let before = cpu_time(broker.pid());
        let work: Vec<_> = (0..64)
            .map(|worker| {
                let (caller, tokens) = (fleet[worker % 4].clone(), tokens.clone());
                tokio::spawn(async move {
                    for n in 0..1500 {
                        assert_eq!(caller.active(&tokens[(worker + n) % tokens.len()], &[]).await.ok(), Some(true));
                    }
                })
            })
            .collect();
        for each in work {
            each.await.expect("introspection");
        }
        (cpu_time(broker.pid()) - before).as_secs_f64() * 1e6 / 96_000.0
    };
    run().await;
    let mut none = f64::MAX;
    for _ in 0..3 {
        none = none.min(run().await);
    }
    let writer = Writer::new(&world);
    for n in 0..10_000_u64 {
        let selector = match n % 4 {
            0 => Rule { claims: vec![format!("oidc.sub=/other/{n}")], ..Rule::default() },
            1 => Rule::workload(SpiffeId::parse(&format!("spiffe://{DOMAIN}/other/{n}")).expect("id")),
            2 => Rule { audience: Some(format!("audience-{n}")), ..Rule::default() },
            _ => Rule { path_prefix: Some(SpiffeId::parse(&format!("spiffe://{DOMAIN}/tree-{n}")).expect("id")), ..Rule::default() },
        };
        let event = Event::Rule { selector: Box::new(selector), effect: Effect::Revoke };
        append(&writer, n, event).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut all = f64::MAX;
    for _ in 0..3 {
        all = all.min(run().await);
    }
    println!("server CPU per call: {none:.1} µs without rules, {all:.1} µs with 10 000 ({:.2} ×)", all / none);
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
                    let task = TaskId::from_bytes(writer.root.derive_name(&[b"ended", &n.to_be_bytes()]));
                    append(&writer, n, Event::Ended { task, outcome: Outcome::Completed }).await;
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

async fn leases() {
    const ROLES: usize = 10_000;
    println!("\n## {ROLES} PostgreSQL roles due at once, four connections\n");
    let postgres = Postgres::with(&["max_connections=100"]).await;
    let world = World::redis();
    let broker = world.broker_with(&format!("{LIMITS}issuing = 1000\n")).await;
    world.register(&broker, "/agent", json!({ "max_tasks": 100_000, "attendance_grace": "1h", "scopes": ["secret:db/*", "exec:git"] })).await;
    let operator = world.operator(&broker);
    let mut engine = postgres.engine("db/app");
    engine["max_connections"] = json!(4);
    let request = PutEngineRequest { document: engine.to_string(), password: PASSWORD.as_bytes().to_vec(), unchecked: false };
    operator.registry().put_engine(request).await.expect("engine");
    let caller = world.caller(&broker, "/agent");
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let began = Instant::now();
    let mut tokens = Vec::new();
    let world = Arc::new(world);
    let work: Vec<_> = (0..16)
        .map(|_| {
            let (caller, world, next) = (caller.clone(), Arc::clone(&world), Arc::clone(&next));
            tokio::spawn(async move {
                let mut token = None;
                while next.fetch_add(1, Ordering::Relaxed) < ROLES {
                    let begun = caller.begin(&world.issuer, "/agent", &["secret:db/app/readonly"]).await.expect("task");
                    let request = GetSecretRequest { task_id: begun.task.clone(), name: "db/app/readonly".to_owned(), ..GetSecretRequest::default() };
                    caller.agent().get_secret(request).await.expect("lease");
                    token = Some(begun.token);
                }
                token
            })
        })
        .collect();
    for each in work {
        tokens.extend(each.await.expect("lease"));
    }
    println!("made in {:?} ({:.0} per second)", began.elapsed(), ROLES as f64 / began.elapsed().as_secs_f64());
    let (stop, work) = introspecting(operator.clone(), tokens.clone(), caller.thumbprint(), None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    let quiet = work.await.expect("introspection");
    let (stop, work) = introspecting(operator.clone(), tokens, caller.thumbprint(), None);
    let began = Instant::now();
    let answer = operator.revoke(of_workload("/agent")).await.expect("revoked");
    println!("revoke answered after {:?}", began.elapsed());
    let mut last = usize::MAX;
    while last > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        last = postgres.roles().await.len();
    }
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let busy = work.await.expect("introspection");
    let status = operator.cleaned_up(&answer.revocation_id).await.expect("status");
    println!(
        "all gone after {took:?} ({:.0} per second); the clean-up counted {} tasks and {} leases",
        ROLES as f64 / took.as_secs_f64(),
        status.tasks,
        status.leases
    );
    println!("introspection p99 {:?} quiet, {:?} meanwhile ({:.2} ×)", quiet.2, busy.2, busy.2.as_secs_f64() / quiet.2.as_secs_f64());
    // The same statements from a bare client on as many connections.
    let superuser = postgres.superuser().await;
    for n in 0..2000 {
        superuser
            .batch_execute(&format!("CREATE ROLE bare_{n} LOGIN; GRANT bare_{n} TO admin WITH ADMIN OPTION; GRANT reader TO bare_{n}"))
            .await
            .expect("role");
    }
    let (postgres, next, began) = (Arc::new(postgres), Arc::new(std::sync::atomic::AtomicUsize::new(0)), Instant::now());
    let work: Vec<_> = (0..4)
        .map(|_| {
            let (postgres, next) = (Arc::clone(&postgres), Arc::clone(&next));
            tokio::spawn(async move {
                let client = postgres.client("admin", PASSWORD, "app").await.expect("connection");
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= 2000 {
                        return;
                    }
                    let batch = sundew_broker::postgres_removal(&format!("bare_{n}"));
                    client.batch_execute(&batch).await.expect("removed");
                }
            })
        })
        .collect();
    for each in work {
        each.await.expect("bare");
    }
    println!("a bare client with the same statements: {:.0} per second", 2000.0 / began.elapsed().as_secs_f64());
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
        leases().await;
    }
}
