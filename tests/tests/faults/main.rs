//! The fault suite: agents and responders at three brokers on a Redis with Sentinel and a PostgreSQL,
//! while everything is killed, frozen, emptied, filled and put back at random moments. A checker with a
//! history of its own decides: no token is active after its ending was acknowledged, at any broker,
//! ever; every role that is left in PostgreSQL belongs to a task that lives; and no live, attended
//! task ends by itself.
//!
//! `SUNDEW_FAULT_SECONDS` sets how long (60; the long form is 1800 or more), `SUNDEW_FAULT_SEED`
//! which faults and when. `tests/mutants` builds brokers with a precaution taken out, and sees this
//! suite fail.

mod agents;
mod attended;
mod crowds;
mod injector;
mod older;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::{Effect, PutEngineRequest, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::clock::Clock;
use sundew_tests::disk::Disk;
use sundew_tests::pki::DOMAIN;
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::replicated::Sentinels;
use sundew_tests::world::World;
use tokio::task::JoinHandle;

use crate::agents::{Agent, Random, Shared, recheck};
use crate::injector::{DISK, Injector, STARTS_WITHIN, Targets};

const AGENTS: usize = 24;

async fn prepare(world: &World, broker: &Broker, postgres: &Postgres) -> bool {
    let operator = world.operator(broker);
    let document = World::registration(
        "/agent",
        json!({ "max_tasks": 10_000, "attendance_grace": "10m", "scopes": ["exec:git", "secret:db/*"], "max_task_ttl": "30m" }),
    );
    let attended = World::registration(
        attended::PATH,
        json!({ "attendance_grace": attended::GRACE, "scopes": ["exec:git"], "max_task_ttl": "30m" }),
    );
    if operator.apply(&[document, attended]).await.is_err() {
        return false;
    }
    let request = PutEngineRequest {
        document: postgres.engine("db/app").to_string(),
        password: PASSWORD.as_bytes().to_vec(),
        unchecked: true,
    };
    operator.registry().put_engine(request).await.is_ok()
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Everything that runs, and the injector of faults.
struct Suite {
    brokers: Vec<Broker>,
    /// A third one, with a socket for local callers, to which nothing else is done.
    _local: Broker,
    /// The clock of the first broker.
    clock: Clock,
    /// The disk with the journal of the second one.
    disk: Disk,
    operators: Vec<Caller>,
    shared: Arc<Shared>,
    injector: Injector,
    /// The programs that attend tasks through everything.
    attendants: Vec<JoinHandle<()>>,
    world: World,
    group: Sentinels,
    postgres: Postgres,
    seed: u64,
}

impl Suite {
    /// Starts everything; the store is never away for longer than the longest outage.
    async fn start(seed: u64, longest: Duration) -> Self {
        let postgres = Postgres::start().await;
        let group = Sentinels::start(2);
        let world = World::with_store(&group.url(), 2);
        let disk = Disk::mount(DISK);
        let mut brokers = vec![
            world.prepare(""),
            world.prepare_with_journal_on(&disk, "1MiB"),
        ];
        let clock = brokers[0].own_clock();
        let (mut local, _) = world.prepare_with_own_ca("");
        for broker in brokers.iter_mut().chain([&mut local]) {
            // Otherwise a failover may lose the newest tasks.
            let file = std::fs::read_to_string(broker.config_file()).expect("config");
            let replicated = "replicas = 2\ndurability = \"replicated\"";
            let file = file.replace("replicas = 2", replicated);
            std::fs::write(broker.config_file(), file).expect("config");
            broker.up();
            broker.ready_within(STARTS_WITHIN).await;
        }
        assert!(prepare(&world, &brokers[0], &postgres).await);
        let operators: Vec<Caller> = brokers
            .iter()
            .chain([&local])
            .map(|broker| world.operator(broker))
            .collect();
        let shared: Arc<Shared> = Arc::default();
        let injector = Injector::new(seed, longest, Arc::clone(&shared));
        let attendants = attended::attend(&world, &brokers, &operators, &shared, seed).await;
        Self {
            world,
            group,
            postgres,
            brokers,
            _local: local,
            clock,
            disk,
            operators,
            shared,
            injector,
            attendants,
            seed,
        }
    }

    fn agents(&self) -> Vec<JoinHandle<()>> {
        let life = Duration::from_secs(12 * 3600);
        let svid = self.world.ca.short_svid("/agent", life);
        let agent = |n: usize| Agent {
            shared: Arc::clone(&self.shared),
            brokers: self
                .brokers
                .iter()
                .map(|broker| self.world.caller_with(broker, svid.clone()))
                .collect(),
            operators: self.operators.clone(),
            presenter: svid.thumbprint().to_vec(),
            random: Random(self.seed + 1000 + u64::try_from(n).expect("few")),
            issuer: Arc::clone(&self.world.issuer),
        };
        (0..AGENTS).map(|n| tokio::spawn(agent(n).live())).collect()
    }

    /// Lets agents and checkers work for so long while faults are injected.
    async fn work(&mut self, length: Duration) {
        let began = Instant::now();
        let mut work = self.agents();
        work.extend((0..3).map(|n| {
            let (shared, servers) = (Arc::clone(&self.shared), self.operators.clone());
            tokio::spawn(recheck(shared, servers, self.seed + 77 + n))
        }));
        while began.elapsed() < length {
            tokio::time::sleep(self.injector.random.between(200, 1200)).await;
            let mut targets = Targets {
                brokers: &mut self.brokers,
                clock: &self.clock,
                disk: &self.disk,
                group: &mut self.group,
                operators: &self.operators,
                postgres: &mut self.postgres,
                world: &self.world,
            };
            self.injector.inject(&mut targets).await;
            prepare(&self.world, &self.brokers[0], &self.postgres).await;
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        for work in work {
            work.await.expect("agent or checker");
        }
    }

    /// All is quiet: what is attended lives, and is usable.
    async fn what_is_attended_lives(&mut self) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        for attendant in self.attendants.drain(..) {
            attendant.await.expect("attendant");
        }
    }

    /// Waits until every broker answers again.
    async fn quiet(&mut self) {
        for broker in &mut self.brokers {
            broker.ready_within(STARTS_WITHIN).await;
        }
        sundew_tests::until("prepared", || async {
            prepare(&self.world, &self.brokers[0], &self.postgres).await
        })
        .await;
    }

    /// What ended is dead at every broker.
    async fn what_ended_is_dead(&self) {
        let ended: HashMap<String, Vec<u8>> = self
            .shared
            .history
            .lock()
            .expect("history")
            .ended
            .iter()
            .cloned()
            .collect();
        for (n, server) in self.operators.iter().enumerate() {
            for (token, presenter) in ended.iter().step_by((ended.len() / 3000).max(1)) {
                self.shared
                    .check(n, server, token, presenter, "everything was quiet again")
                    .await;
            }
        }
    }

    /// Ends everything; then no role may be left in the database.
    async fn no_role_is_left(&self) {
        let everything = Selector {
            trust_domain: DOMAIN.to_owned(),
            ..Selector::default()
        };
        self.operators[0]
            .respond(everything, Effect::Revoke)
            .await
            .expect("everything ends");
        let deadline = Instant::now() + Duration::from_secs(150);
        while !self.postgres.roles().await.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for role in self.postgres.roles().await {
            self.shared
                .violation(format!("{role}: a role that nobody removes"));
        }
    }

    /// Tells what happened, and judges it.
    fn judge(&self, seconds: u64) {
        let (shared, seed) = (&self.shared, self.seed);
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        println!(
            "faults: {seconds} s, seed {seed}: {} calls, {} tasks begun, {} endings acknowledged, {} leases made, {} answers about dead tokens checked, {} calls unavailable; {} tasks attended, {} of them usable at the end, the oldest for {} s\nfaults: {:?}",
            count(&shared.calls),
            count(&shared.begun),
            count(&shared.endings),
            count(&shared.leases),
            count(&shared.checks),
            count(&shared.unavailable),
            count(&shared.attended),
            count(&shared.usable),
            count(&shared.oldest),
            self.injector.faults
        );
        let violations = std::mem::take(&mut shared.history.lock().expect("history").violations);
        assert!(
            violations.is_empty(),
            "{} violations, the first: {:?}",
            violations.len(),
            &violations[..violations.len().min(5)]
        );
        assert!(
            count(&shared.endings) > 50
                && self.injector.faults.len() > 3
                && count(&shared.usable) > 0,
            "too little happened to mean anything"
        );
        for broker in &self.brokers {
            broker.journal();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_false_active_and_no_leaked_role_whatever_is_killed() {
    let seconds = number("SUNDEW_FAULT_SECONDS", 60);
    let longest = Duration::from_secs(if seconds < 600 { 10 } else { 300 });
    let mut suite = Suite::start(number("SUNDEW_FAULT_SEED", 4711), longest).await;
    suite.work(Duration::from_secs(seconds)).await;
    suite.quiet().await;
    suite.what_is_attended_lives().await;
    suite.what_ended_is_dead().await;
    suite.no_role_is_left().await;
    suite.judge(seconds);
}
