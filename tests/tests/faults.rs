//! The fault suite: agents and responders at two brokers on a Redis with Sentinel and a PostgreSQL,
//! while everything is killed, frozen, emptied and filled at random moments. A checker with a
//! history of its own decides: no token is active after its ending was acknowledged, at any broker,
//! ever; and every role that is left in PostgreSQL belongs to a task that lives.
//!
//! `SUNDEW_FAULT_SECONDS` sets how long (60; the long form is 1800 or more), `SUNDEW_FAULT_SEED`
//! which faults and when. `tests/mutants` builds brokers with a precaution taken out, and sees this
//! suite fail.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_proto::v1::{BeginTaskRequest, Effect, GetSecretRequest, PutEngineRequest, Selector};
use sundew_tests::broker::{Broker, DOMAIN, World};
use sundew_tests::calls::{Begun, Caller, of_task, of_token, oidc};
use sundew_tests::pki::Svid;
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::redis::Redis;
use sundew_tests::replicated::Sentinels;

const AGENTS: usize = 24;

/// A generator that needs no crate: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

#[derive(Default)]
struct History {
    /// Tokens whose ending was acknowledged, and who holds them.
    ended: Vec<(String, Vec<u8>)>,
    violations: Vec<String>,
}

#[derive(Default)]
struct Shared {
    history: Mutex<History>,
    stop: AtomicBool,
    calls: AtomicUsize,
    begun: AtomicUsize,
    endings: AtomicUsize,
    leases: AtomicUsize,
    checks: AtomicUsize,
    unavailable: AtomicUsize,
}

impl Shared {
    fn count<T>(&self, counter: &AtomicUsize, result: Result<T, tonic::Status>) -> Option<T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(value) => {
                counter.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(_) => {
                self.unavailable.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn ended(&self, tokens: &[String], presenter: &[u8]) {
        self.endings.fetch_add(1, Ordering::Relaxed);
        let mut history = self.history.lock().expect("history");
        history.ended.extend(
            tokens
                .iter()
                .map(|token| (token.clone(), presenter.to_vec())),
        );
    }

    /// Asks about a token that is dead.
    async fn check(&self, n: usize, server: &Caller, token: &str, presenter: &[u8], what: &str) {
        if let Some(active) = self.count(&self.checks, server.active(token, presenter).await)
            && active
        {
            self.history
                .lock()
                .expect("history")
                .violations
                .push(format!("broker {n}: active after {what}"));
        }
    }
}

struct Agent {
    shared: Arc<Shared>,
    /// One connection for each broker; a task may be used at any of them.
    brokers: Vec<Caller>,
    operators: Vec<Caller>,
    presenter: Vec<u8>,
    random: Random,
    tokens: Vec<Vec<u8>>,
}

impl Agent {
    async fn live(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Some(token) = self.tokens.pop() else {
                return;
            };
            if self.one_task(token).await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn broker(&mut self) -> (usize, Caller) {
        let n = usize::try_from(self.random.below(2)).expect("two");
        (n, self.brokers[n].clone())
    }

    async fn one_task(&mut self, evidence: Vec<u8>) -> Option<()> {
        let (_, broker) = self.broker();
        let nonce = broker.nonce().await.ok()?;
        let scopes = vec!["exec:git".to_owned(), "secret:db/app/readonly".to_owned()];
        let request = BeginTaskRequest {
            nonce,
            purpose: "faults".to_owned(),
            scopes,
            evidence: vec![oidc(evidence)],
            ..Default::default()
        };
        let begun: Begun = self
            .shared
            .count(&self.shared.begun, broker.send(request).await)?;
        let mut tokens = vec![begun.token.clone()];
        for _ in 0..self.random.below(4) {
            let (_, broker) = self.broker();
            tokens.extend(
                broker
                    .mint(&begun.task)
                    .await
                    .ok()
                    .map(|minted| minted.token),
            );
        }
        if self.random.below(4) == 0 {
            let request = GetSecretRequest {
                task_id: begun.task.clone(),
                name: "db/app/readonly".to_owned(),
                ..GetSecretRequest::default()
            };
            let (_, broker) = self.broker();
            let _ = self.shared.count(
                &self.shared.leases,
                broker.agent().get_secret(request).await,
            );
        }
        // Caches are warm when the end comes.
        for n in 0..2 {
            let _ = self.brokers[n].active(&begun.token, &[]).await;
        }
        let how = self.random.below(4);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let n = usize::try_from(self.random.below(2)).expect("two");
            let result = match how {
                0 => self.operators[n]
                    .revoke(of_task(&begun.task))
                    .await
                    .map(drop),
                1 => self.operators[n]
                    .respond(
                        Selector {
                            task_tree: begun.task.clone(),
                            scope: "exec:git".to_owned(),
                            ..Selector::default()
                        },
                        Effect::Revoke,
                    )
                    .await
                    .map(drop),
                _ => self.brokers[n].complete(&begun.task).await.map(drop),
            };
            self.shared.calls.fetch_add(1, Ordering::Relaxed);
            match result {
                Ok(()) => break,
                Err(status) if status.code() == tonic::Code::PermissionDenied => return None, /* The store was emptied, and the task with it. */
                Err(_) => drop(self.shared.unavailable.fetch_add(1, Ordering::Relaxed)),
            }
            if Instant::now() > deadline {
                self.shared
                    .history
                    .lock()
                    .expect("history")
                    .violations
                    .push(format!("{} could not be ended for 60 s", begun.task));
                return None;
            }
            tokio::time::sleep(self.random.between(5, 60)).await;
        }
        self.shared.ended(&tokens, &self.presenter);
        for token in &tokens {
            for n in 0..2 {
                let what = format!(
                    "its ending ({how}) was acknowledged just now, {}",
                    begun.task
                );
                self.shared
                    .check(n, &self.operators[n].clone(), token, &self.presenter, &what)
                    .await;
            }
        }
        // A single token, by a responder, in a task that is dead anyway: remembered all the same.
        if self.random.below(8) == 0 {
            let _ = self.operators[0].revoke(of_token(&tokens[0])).await;
        }
        Some(())
    }
}

/// Goes on asking about everything that has ever ended.
async fn recheck(shared: Arc<Shared>, servers: Vec<Caller>, seed: u64) {
    let mut random = Random(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let chosen = {
            let history = shared.history.lock().expect("history");
            let count = u64::try_from(history.ended.len()).expect("count");
            if count == 0 {
                None
            } else {
                Some(history.ended[usize::try_from(random.below(count)).expect("index")].clone())
            }
        };
        match chosen {
            Some((token, presenter)) => {
                let n = usize::try_from(random.below(2)).expect("two");
                shared
                    .check(n, &servers[n], &token, &presenter, "it ended some time ago")
                    .await;
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn command(node: &Redis, words: &[&str]) {
    let Ok(client) = redis::Client::open(node.url()) else {
        return;
    };
    if let Ok(mut connection) = client.get_connection_with_timeout(Duration::from_millis(500)) {
        let _ = connection.set_read_timeout(Some(Duration::from_millis(500)));
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        let _ = command.exec(&mut connection);
    }
}

struct Injector {
    random: Random,
    faults: BTreeMap<&'static str, usize>,
}

impl Injector {
    async fn inject(
        &mut self,
        group: &mut Sentinels,
        brokers: &mut [Broker],
        postgres: &mut Postgres,
    ) {
        let broker = usize::try_from(self.random.below(2)).expect("two");
        let primary = group.primary();
        let node = usize::try_from(self.random.below(3)).expect("three");
        let name = match self.random.below(14) {
            0 | 1 => {
                brokers[broker].kill();
                tokio::time::sleep(self.random.between(0, 400)).await;
                brokers[broker].up();
                let _ =
                    tokio::time::timeout(Duration::from_secs(25), brokers[broker].ready()).await;
                "broker killed"
            }
            2 => {
                brokers[broker].signal(Signal::STOP);
                tokio::time::sleep(self.random.between(50, 2500)).await;
                brokers[broker].signal(Signal::CONT);
                "broker frozen"
            }
            3 => {
                brokers[broker].signal(Signal::STOP);
                let other = 1 - broker;
                brokers[other].kill();
                tokio::time::sleep(self.random.between(50, 1500)).await;
                brokers[broker].signal(Signal::CONT);
                brokers[other].up();
                let _ = tokio::time::timeout(Duration::from_secs(25), brokers[other].ready()).await;
                "one broker killed while the other stands still"
            }
            4 if primary < 3 => {
                group.nodes[primary].kill();
                group.failed_over(primary).await;
                tokio::time::sleep(self.random.between(0, 1500)).await;
                group.nodes[primary].up();
                "primary killed"
            }
            5 if primary < 3 => {
                group.nodes[primary].signal(Signal::STOP);
                tokio::time::sleep(self.random.between(100, 4000)).await;
                group.nodes[primary].signal(Signal::CONT);
                "primary frozen"
            }
            6 => {
                group.nodes[node].signal(Signal::STOP);
                tokio::time::sleep(self.random.between(100, 1500)).await;
                group.nodes[node].signal(Signal::CONT);
                "a Redis node frozen"
            }
            7 if primary < 3 => {
                command(&group.nodes[primary], &["DEBUG", "SLEEP", "0.6"]);
                "primary slow"
            }
            8 if primary < 3 => {
                command(&group.nodes[primary], &["SCRIPT", "FLUSH"]);
                "scripts flushed"
            }
            9 if primary < 3 => {
                command(&group.nodes[primary], &["CONFIG", "SET", "maxmemory", "1"]);
                tokio::time::sleep(self.random.between(100, 1000)).await;
                group
                    .nodes
                    .iter()
                    .for_each(|node| command(node, &["CONFIG", "SET", "maxmemory", "0"]));
                "primary full"
            }
            10 if primary < 3 => {
                command(
                    &group.nodes[primary],
                    &["CONFIG", "SET", "min-replicas-to-write", "5"],
                );
                tokio::time::sleep(self.random.between(100, 1000)).await;
                group.nodes.iter().for_each(|node| {
                    command(node, &["CONFIG", "SET", "min-replicas-to-write", "0"])
                });
                "primary read-only"
            }
            11 if primary < 3 => {
                command(&group.nodes[primary], &["CLIENT", "KILL", "TYPE", "normal"]);
                "connections cut"
            }
            12 => {
                postgres.kill();
                tokio::time::sleep(self.random.between(500, 3000)).await;
                postgres.up().await;
                "PostgreSQL killed"
            }
            13 if primary < 3 => {
                // Without registrations nothing begins: they are put back at once.
                command(&group.nodes[primary], &["FLUSHALL"]);
                "store emptied"
            }
            _ => return,
        };
        *self.faults.entry(name).or_default() += 1;
    }
}

async fn prepare(world: &World, broker: &Broker, postgres: &Postgres) -> bool {
    let operator = world.operator(broker);
    let document = World::registration(
        "/agent",
        json!({ "max_tasks": 10_000, "attendance_grace": "10m", "scopes": ["exec:git", "secret:db/*"], "max_task_ttl": "30m" }),
    );
    if operator.apply(&[document]).await.is_err() {
        return false;
    }
    let request = PutEngineRequest {
        document: postgres.engine("db/app").to_string(),
        password: PASSWORD.as_bytes().to_vec(),
        unchecked: true,
    };
    operator.registry().put_engine(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_false_active_and_no_leaked_role_whatever_is_killed() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (seconds, seed) = (
        number("SUNDEW_FAULT_SECONDS", 60),
        number("SUNDEW_FAULT_SEED", 4711),
    );
    let mut postgres = Postgres::start().await;
    let mut group = Sentinels::start(2);
    let world = World::with_store(&group.url(), 2);
    let mut brokers = vec![world.broker().await, world.broker().await];
    assert!(prepare(&world, &brokers[0], &postgres).await);
    let svid: Svid = world.ca.svid("/agent");
    let shared = Arc::<Shared>::default();
    let operators: Vec<_> = brokers
        .iter()
        .map(|broker| world.operator(broker))
        .collect();
    let mut running = Vec::new();
    for n in 0..AGENTS {
        let callers = brokers
            .iter()
            .map(|broker| world.caller_with(broker, svid.clone()))
            .collect();
        let agent = Agent {
            shared: Arc::clone(&shared),
            brokers: callers,
            operators: operators.clone(),
            presenter: svid.thumbprint().to_vec(),
            random: Random(seed + 1000 + u64::try_from(n).expect("few")),
            tokens: Vec::new(),
        };
        running.push(agent);
    }
    // Evidence lives five minutes, so it is made in rounds.
    let (mut injector, began) = (
        Injector {
            random: Random(seed),
            faults: BTreeMap::new(),
        },
        Instant::now(),
    );
    while began.elapsed() < Duration::from_secs(seconds) {
        shared.stop.store(false, Ordering::Relaxed);
        let round = Duration::from_secs(240)
            .min(Duration::from_secs(seconds).saturating_sub(began.elapsed()));
        let round_began = Instant::now();
        let mut work = Vec::new();
        for mut agent in running.drain(..) {
            agent.tokens = (0..1500).map(|_| world.issuer.token("/agent")).collect();
            work.push(tokio::spawn(async move {
                let Agent {
                    shared,
                    brokers,
                    operators,
                    presenter,
                    ..
                } = &agent;
                let again = (
                    Arc::clone(shared),
                    brokers.clone(),
                    operators.clone(),
                    presenter.clone(),
                );
                agent.live().await;
                again
            }));
        }
        let checkers: Vec<_> = (0..3)
            .map(|n| {
                tokio::spawn(recheck(
                    Arc::clone(&shared),
                    operators.clone(),
                    seed + 77 + n,
                ))
            })
            .collect();
        while round_began.elapsed() < round {
            tokio::time::sleep(injector.random.between(400, 2500)).await;
            injector
                .inject(&mut group, &mut brokers, &mut postgres)
                .await;
            prepare(&world, &brokers[0], &postgres).await;
        }
        shared.stop.store(true, Ordering::Relaxed);
        for (n, agent) in work.into_iter().enumerate() {
            let (shared, brokers, operators, presenter) = agent.await.expect("agent");
            let random = Random(
                seed + 5000 + u64::try_from(n).expect("few") + injector.random.next() % 1000,
            );
            running.push(Agent {
                shared,
                brokers,
                operators,
                presenter,
                random,
                tokens: Vec::new(),
            });
        }
        for checker in checkers {
            checker.await.expect("checker");
        }
    }
    // All is quiet: what ended is dead at every broker, and what is left in the database belongs to
    // nobody dead.
    for broker in &mut brokers {
        broker.ready().await;
    }
    sundew_tests::until("prepared", || async {
        prepare(&world, &brokers[0], &postgres).await
    })
    .await;
    let ended: HashMap<String, Vec<u8>> = shared
        .history
        .lock()
        .expect("history")
        .ended
        .iter()
        .cloned()
        .collect();
    for (n, server) in operators.iter().enumerate() {
        for (token, presenter) in ended.iter().step_by((ended.len() / 3000).max(1)) {
            shared
                .check(n, server, token, presenter, "everything was quiet again")
                .await;
        }
    }
    let everything = Selector {
        trust_domain: DOMAIN.to_owned(),
        ..Selector::default()
    };
    operators[0]
        .respond(everything, Effect::Revoke)
        .await
        .expect("everything ends");
    let deadline = Instant::now() + Duration::from_secs(150);
    while !postgres.roles().await.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = postgres
        .roles()
        .await
        .into_iter()
        .map(|role| format!("{role}: a role that nobody removes"));
    shared
        .history
        .lock()
        .expect("history")
        .violations
        .extend(left);
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "faults: {seconds} s, seed {seed}: {} calls, {} tasks begun, {} endings acknowledged, {} leases made, {} answers about dead tokens checked, {} calls unavailable\nfaults: {:?}",
        count(&shared.calls),
        count(&shared.begun),
        count(&shared.endings),
        count(&shared.leases),
        count(&shared.checks),
        count(&shared.unavailable),
        injector.faults
    );
    let violations = std::mem::take(&mut shared.history.lock().expect("history").violations);
    assert!(
        violations.is_empty(),
        "{} violations, the first: {:?}",
        violations.len(),
        &violations[..violations.len().min(5)]
    );
    assert!(
        count(&shared.endings) > 50 && injector.faults.len() > 3,
        "too little happened to mean anything"
    );
    for broker in &brokers {
        broker.journal();
    }
}
