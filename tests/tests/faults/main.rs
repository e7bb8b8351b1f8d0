//! The fault suite: agents and responders at two brokers on a Redis with Sentinel and a PostgreSQL,
//! while everything is killed, frozen, emptied and filled at random moments. A checker with a
//! history of its own decides: no token is active after its ending was acknowledged, at any broker,
//! ever; and every role that is left in PostgreSQL belongs to a task that lives.
//!
//! `SUNDEW_FAULT_SECONDS` sets how long (60; the long form is 1800 or more), `SUNDEW_FAULT_SEED`
//! which faults and when. `tests/mutants` builds brokers with a precaution taken out, and sees this
//! suite fail.

mod agents;
mod injector;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::{Effect, PutEngineRequest, Selector};
use sundew_tests::broker::{Broker, World};
use sundew_tests::calls::Caller;
use sundew_tests::pki::{DOMAIN, Svid};
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::replicated::Sentinels;

use crate::agents::{Agent, Random, Shared, recheck};
use crate::injector::Injector;

const AGENTS: usize = 24;

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
    operators: Vec<Caller>,
    shared: Arc<Shared>,
    injector: Injector,
    world: World,
    group: Sentinels,
    postgres: Postgres,
    seed: u64,
}

impl Suite {
    async fn start(seed: u64) -> Self {
        let postgres = Postgres::start().await;
        let group = Sentinels::start(2);
        let world = World::with_store(&group.url(), 2);
        let brokers = vec![world.broker().await, world.broker().await];
        assert!(prepare(&world, &brokers[0], &postgres).await);
        let operators = brokers
            .iter()
            .map(|broker| world.operator(broker))
            .collect();
        let injector = Injector {
            random: Random(seed),
            faults: BTreeMap::new(),
        };
        Self {
            world,
            group,
            postgres,
            brokers,
            operators,
            shared: Arc::default(),
            injector,
            seed,
        }
    }

    fn agents(&self) -> Vec<Agent> {
        let svid: Svid = self.world.ca.svid("/agent");
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
            tokens: Vec::new(),
        };
        (0..AGENTS).map(agent).collect()
    }

    /// Lets agents and checkers work for so long while faults are injected; returns the agents.
    async fn round(&mut self, agents: Vec<Agent>, length: Duration) -> Vec<Agent> {
        self.shared.stop.store(false, Ordering::Relaxed);
        let began = Instant::now();
        let mut work = Vec::new();
        for mut agent in agents {
            agent.tokens = (0..1500)
                .map(|_| self.world.issuer.token("/agent"))
                .collect();
            work.push(tokio::spawn(agent.live()));
        }
        let checkers: Vec<_> = (0..3)
            .map(|n| {
                tokio::spawn(recheck(
                    Arc::clone(&self.shared),
                    self.operators.clone(),
                    self.seed + 77 + n,
                ))
            })
            .collect();
        while began.elapsed() < length {
            tokio::time::sleep(self.injector.random.between(400, 2500)).await;
            self.injector
                .inject(&mut self.group, &mut self.brokers, &mut self.postgres)
                .await;
            prepare(&self.world, &self.brokers[0], &self.postgres).await;
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut back = Vec::new();
        for (n, agent) in work.into_iter().enumerate() {
            let salt = self.injector.random.next() % 1000;
            let random = Random(self.seed + 5000 + u64::try_from(n).expect("few") + salt);
            back.push(Agent {
                random,
                ..agent.await.expect("agent")
            });
        }
        for checker in checkers {
            checker.await.expect("checker");
        }
        back
    }

    /// All is quiet: what ended is dead at every broker.
    async fn what_ended_is_dead(&mut self) {
        for broker in &mut self.brokers {
            broker.ready().await;
        }
        sundew_tests::until("prepared", || async {
            prepare(&self.world, &self.brokers[0], &self.postgres).await
        })
        .await;
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
        let left = self
            .postgres
            .roles()
            .await
            .into_iter()
            .map(|role| format!("{role}: a role that nobody removes"));
        self.shared
            .history
            .lock()
            .expect("history")
            .violations
            .extend(left);
    }

    /// Tells what happened, and judges it.
    fn judge(&self, seconds: u64) {
        let (shared, seed) = (&self.shared, self.seed);
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        println!(
            "faults: {seconds} s, seed {seed}: {} calls, {} tasks begun, {} endings acknowledged, {} leases made, {} answers about dead tokens checked, {} calls unavailable\nfaults: {:?}",
            count(&shared.calls),
            count(&shared.begun),
            count(&shared.endings),
            count(&shared.leases),
            count(&shared.checks),
            count(&shared.unavailable),
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
            count(&shared.endings) > 50 && self.injector.faults.len() > 3,
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
    let mut suite = Suite::start(number("SUNDEW_FAULT_SEED", 4711)).await;
    let mut agents = suite.agents();
    let (began, whole) = (Instant::now(), Duration::from_secs(seconds));
    // Evidence lives five minutes, so it is made in rounds.
    while began.elapsed() < whole {
        let length = Duration::from_secs(240).min(whole.saturating_sub(began.elapsed()));
        agents = suite.round(agents, length).await;
    }
    suite.what_ended_is_dead().await;
    suite.no_role_is_left().await;
    suite.judge(seconds);
}
