//! Agents that begin and end tasks, and the history by which answers about them are judged.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sundew_proto::v1::{BeginTaskRequest, Effect, GetSecretRequest, Selector};
use sundew_tests::calls::{Begun, Caller, oidc};
use sundew_tests::issuer::TestIssuer;
use sundew_tests::selectors::{of_task, of_token};

/// A generator that needs no crate: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    pub(crate) fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

#[derive(Default)]
pub(crate) struct History {
    /// Tokens whose ending was acknowledged, and who holds them.
    pub(crate) ended: Vec<(String, Vec<u8>)>,
    /// The number of the fault that is under way.
    pub(crate) under_way: u64,
    /// What was done to the system so far, and when it was over.
    pub(crate) faults: Vec<(&'static str, Instant)>,
    pub(crate) violations: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) history: Mutex<History>,
    /// Agents stop, and checkers.
    pub(crate) stop: AtomicBool,
    /// All faults are over, and what is attended is judged.
    pub(crate) quiet: AtomicBool,
    /// The store is away: no ending can be acknowledged.
    pub(crate) outage: AtomicBool,
    /// How often the store was emptied, counted before it is.
    pub(crate) emptied: AtomicUsize,
    /// Tasks that the SDK has attended.
    pub(crate) attended: AtomicUsize,
    /// Attended tasks that were usable at the end.
    pub(crate) usable: AtomicUsize,
    /// The age of the oldest of these, in seconds.
    pub(crate) oldest: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    pub(crate) begun: AtomicUsize,
    pub(crate) endings: AtomicUsize,
    pub(crate) leases: AtomicUsize,
    pub(crate) checks: AtomicUsize,
    pub(crate) unavailable: AtomicUsize,
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

    /// Puts a violation into the history, with the faults that came last.
    pub(crate) fn violation(&self, what: String) {
        let mut history = self.history.lock().expect("history");
        let under_way = history.under_way;
        let last: Vec<String> = history
            .faults
            .iter()
            .rev()
            .take(3)
            .map(|(fault, over)| format!("{fault}, over for {:.1} s", over.elapsed().as_secs_f32()))
            .collect();
        let violation = format!(
            "{what} (during fault {under_way}; before that: {})",
            last.join("; ")
        );
        // At once: whatever else ends the suite must not hide it.
        eprintln!("faults: VIOLATION: {violation}");
        history.violations.push(violation);
    }

    /// Asks about a token that is dead.
    pub(crate) async fn check(
        &self,
        n: usize,
        server: &Caller,
        token: &str,
        presenter: &[u8],
        what: &str,
    ) {
        if let Some(active) = self.count(&self.checks, server.active(token, presenter).await)
            && active
        {
            self.violation(format!("broker {n}: active after {what}"));
        }
    }
}

pub(crate) struct Agent {
    pub(crate) shared: Arc<Shared>,
    /// A connection for each broker; a task may be used at any of them.
    pub(crate) brokers: Vec<Caller>,
    pub(crate) operators: Vec<Caller>,
    pub(crate) presenter: Vec<u8>,
    pub(crate) random: Random,
    pub(crate) issuer: Arc<TestIssuer>,
}

impl Agent {
    /// Begins and ends tasks until it is stopped.
    pub(crate) async fn live(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.one_task().await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn broker(&mut self) -> (usize, Caller) {
        let n = usize::try_from(self.random.below(2)).expect("two");
        (n, self.brokers[n].clone())
    }

    /// Begins a task, mints a few tokens in it and perhaps reads its secret; the task and its tokens.
    async fn work(&mut self) -> Option<(Begun, Vec<String>)> {
        let (_, broker) = self.broker();
        let nonce = broker.nonce().await.ok()?;
        let scopes = vec!["exec:git".to_owned(), "secret:db/app/readonly".to_owned()];
        let request = BeginTaskRequest {
            nonce,
            purpose: "faults".to_owned(),
            scopes,
            evidence: vec![oidc(self.issuer.token("/agent"))],
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
        Some((begun, tokens))
    }

    /// Ends a task in one of three ways, again and again until it is acknowledged. Nothing is
    /// returned if the task is gone, or if it cannot be ended within a minute in which the store was
    /// there, which is a violation.
    async fn end(&mut self, how: u64, task: &str) -> Option<()> {
        let mut deadline = Instant::now() + Duration::from_secs(60);
        // Each attempt of a responder is a rule of its own, so that nobody hurries.
        let mut longest_pause = 60;
        loop {
            let n = usize::try_from(self.random.below(2)).expect("two");
            let result = match how {
                0 => self.operators[n].revoke(of_task(task)).await.map(drop),
                1 => self.operators[n]
                    .respond(
                        Selector {
                            task_tree: task.to_owned(),
                            scope: "exec:git".to_owned(),
                            ..Selector::default()
                        },
                        Effect::Revoke,
                    )
                    .await
                    .map(drop),
                _ => self.brokers[n].complete(task).await.map(drop),
            };
            self.shared.calls.fetch_add(1, Ordering::Relaxed);
            match result {
                Ok(()) => return Some(()),
                // The store was emptied, and the task with it.
                Err(status) if status.code() == tonic::Code::PermissionDenied => return None,
                Err(_) => drop(self.shared.unavailable.fetch_add(1, Ordering::Relaxed)),
            }
            if self.shared.outage.load(Ordering::Relaxed) {
                deadline = Instant::now() + Duration::from_secs(60);
            }
            if Instant::now() > deadline {
                self.shared
                    .violation(format!("{task} could not be ended for 60 s"));
                return None;
            }
            tokio::time::sleep(self.random.between(5, longest_pause)).await;
            longest_pause = (longest_pause * 2).min(4000);
        }
    }

    async fn one_task(&mut self) -> Option<()> {
        let (begun, tokens) = self.work().await?;
        // Caches are warm when the end comes.
        for n in 0..2 {
            let _ = self.brokers[n].active(&begun.token, &[]).await;
        }
        let how = self.random.below(4);
        self.end(how, &begun.task).await?;
        self.shared.ended(&tokens, &self.presenter);
        for token in &tokens {
            for n in 0..self.operators.len() {
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
pub(crate) async fn recheck(shared: Arc<Shared>, servers: Vec<Caller>, seed: u64) {
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
                let brokers = u64::try_from(servers.len()).expect("few");
                let n = usize::try_from(random.below(brokers)).expect("few");
                shared
                    .check(n, &servers[n], &token, &presenter, "it ended some time ago")
                    .await;
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
