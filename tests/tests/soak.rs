//! A bounded soak: 50 agents begin, use and end tasks at two brokers on one Redis, while brokers
//! and Redis are killed and started again. A history decides: no token is active after its task's
//! end was acknowledged, and no acknowledged write is lost.
//!
//! `SUNDEW_SOAK_SECONDS` sets how long (60).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::BeginTaskRequest;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::pki::Svid;
use sundew_tests::world::World;
use tokio::task::JoinHandle;

#[derive(Default)]
struct History {
    /// Token to the moment at which its task's end was acknowledged.
    ended: HashMap<String, Instant>,
    violations: Vec<String>,
}

struct Shared {
    history: Mutex<History>,
    stop: AtomicBool,
    begun: AtomicUsize,
    completed: AtomicUsize,
    checks: AtomicUsize,
    refused: AtomicUsize,
}

struct Agent {
    shared: Arc<Shared>,
    /// A connection per broker; a task may be used at any of them.
    brokers: Vec<Caller>,
    presenter: Vec<u8>,
    tokens: Vec<Vec<u8>>,
}

impl Agent {
    async fn live(mut self, seed: usize) {
        let mut turn = seed;
        while !self.shared.stop.load(Ordering::Relaxed) {
            turn += 1;
            let broker = self.brokers[turn % self.brokers.len()].clone();
            let Some(token) = self.tokens.pop() else {
                return;
            };
            let Ok(nonce) = broker.nonce().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let request = BeginTaskRequest {
                nonce,
                purpose: "soak".to_owned(),
                scopes: vec!["exec:git".to_owned()],
                evidence: vec![oidc(token)],
                ..Default::default()
            };
            let Ok(begun) = broker.send(request).await else {
                continue;
            };
            self.shared.begun.fetch_add(1, Ordering::Relaxed);
            let mut tokens = vec![begun.token.clone()];
            for n in 0..3 {
                if let Ok(minted) = self.brokers[(turn + n) % self.brokers.len()]
                    .mint(&begun.task)
                    .await
                {
                    tokens.push(minted.token);
                }
            }
            // Alive, and acknowledged: it may be unavailable for a while, but nobody may say that
            // it is not there.
            for token in &tokens {
                self.check(token, true).await;
            }
            let mut ended = false;
            for n in 0..400 {
                if self.brokers[(turn + n) % self.brokers.len()]
                    .complete(&begun.task)
                    .await
                    .is_ok()
                {
                    ended = true;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            if !ended {
                self.shared
                    .history
                    .lock()
                    .expect("history")
                    .violations
                    .push(format!("{} could not be completed for 10 s", begun.task));
                return;
            }
            self.shared.completed.fetch_add(1, Ordering::Relaxed);
            let now = Instant::now();
            self.shared
                .history
                .lock()
                .expect("history")
                .ended
                .extend(tokens.iter().map(|token| (token.clone(), now)));
            for token in &tokens {
                self.check(token, false).await;
            }
        }
    }

    async fn check(&self, token: &str, alive: bool) {
        for (n, broker) in self.brokers.iter().enumerate() {
            match broker.active(token, &self.presenter).await {
                Ok(active) => {
                    self.shared.checks.fetch_add(1, Ordering::Relaxed);
                    if active != alive {
                        self.shared
                            .history
                            .lock()
                            .expect("history")
                            .violations
                            .push(format!("broker {n} said active={active}, it was {alive}"));
                    }
                }
                Err(_) => drop(self.shared.refused.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

/// Starts fifty agents, each with the same SVID and tokens of its own.
fn start_agents(
    world: &World,
    brokers: &[Broker],
    shared: &Arc<Shared>,
    svid: &Svid,
) -> Vec<JoinHandle<()>> {
    let mut agents = Vec::new();
    for seed in 0..50 {
        let callers = brokers
            .iter()
            .map(|b| world.caller_with(b, svid.clone()))
            .collect();
        // Tokens live five minutes, so they are made up front and in numbers that no run uses up.
        let tokens = (0..400).map(|_| world.issuer.token("/agent")).collect();
        let agent = Agent {
            shared: Arc::clone(shared),
            brokers: callers,
            presenter: svid.thumbprint().to_vec(),
            tokens,
        };
        agents.push(tokio::spawn(agent.live(seed)));
    }
    agents
}

/// Kills brokers and Redis in turn until the time is up; returns how often.
async fn kill_in_turn(world: &mut World, brokers: &mut [Broker], length: Duration) -> usize {
    let began = Instant::now();
    let mut faults = 0;
    while began.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        faults += 1;
        match faults % 4 {
            0 => {
                let redis = world.redis.as_mut().expect("redis");
                redis.kill();
                tokio::time::sleep(Duration::from_millis(300)).await;
                redis.up();
            }
            n => {
                let broker = &mut brokers[n % 2];
                broker.kill();
                tokio::time::sleep(Duration::from_millis(100)).await;
                broker.up();
                broker.ready().await;
            }
        }
    }
    faults
}

/// Sees that all that ended stays ended at every broker when all is quiet; in samples, to end soon.
async fn what_ended_is_dead(world: &World, brokers: &[Broker], shared: &Shared, svid: &Svid) {
    let ended: Vec<String> = shared
        .history
        .lock()
        .expect("history")
        .ended
        .keys()
        .cloned()
        .collect();
    for broker in brokers {
        let server = world.operator(broker);
        for token in ended.iter().step_by((ended.len() / 2000).max(1)) {
            assert_eq!(
                server.active(token, &svid.thumbprint()).await.ok(),
                Some(false)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_over_restarts_see_no_dead_token_alive_and_lose_nothing() {
    let seconds = std::env::var("SUNDEW_SOAK_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(60);
    let mut world = World::redis();
    // All agents are one workload here.
    let limits = "[limits]\njournal_per_minute = \"1GiB\"\njournal_burst = \"1GiB\"\n";
    let mut brokers = vec![
        world.broker_with(limits).await,
        world.broker_with(limits).await,
    ];
    world
        .register(
            &brokers[0],
            "/agent",
            json!({ "max_tasks": 10_000, "attendance_grace": "10m" }),
        )
        .await;
    let svid: Svid = world.ca.svid("/agent");
    let shared = Arc::new(Shared {
        history: Mutex::default(),
        stop: AtomicBool::new(false),
        begun: AtomicUsize::new(0),
        completed: AtomicUsize::new(0),
        checks: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let agents = start_agents(&world, &brokers, &shared, &svid);
    let faults = kill_in_turn(&mut world, &mut brokers, Duration::from_secs(seconds)).await;
    shared.stop.store(true, Ordering::Relaxed);
    for agent in agents {
        agent.await.expect("agent");
    }
    for broker in &mut brokers {
        broker.ready().await;
    }
    what_ended_is_dead(&world, &brokers, &shared, &svid).await;
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "soak: {seconds} s, {faults} kills, {} tasks begun, {} completed, {} answers checked, {} calls unavailable",
        count(&shared.begun),
        count(&shared.completed),
        count(&shared.checks),
        count(&shared.refused)
    );
    let violations = std::mem::take(&mut shared.history.lock().expect("history").violations);
    assert!(
        violations.is_empty(),
        "{} violations, the first: {:?}",
        violations.len(),
        &violations[..violations.len().min(5)]
    );
    assert!(
        count(&shared.completed) > 100 && faults >= 3,
        "too little happened to mean anything"
    );
    for broker in &brokers {
        broker.journal();
    }
}
