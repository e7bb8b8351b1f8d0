//! Faults, at random: what is killed, frozen, filled and emptied, and for how long.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sundew_proto::v1::{Effect, RevokeRequest, RotateKeyringRequest, SetBoundsRequest};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::clock::Clock;
use sundew_tests::disk::Disk;
use sundew_tests::postgres::Postgres;
use sundew_tests::process;
use sundew_tests::redis::Redis;
use sundew_tests::replicated::Sentinels;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

use crate::agents::{Random, Shared};
use crate::older::OlderStore;
use crate::{attended, crowds};

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

/// Everything to which something can be done.
pub(crate) struct Targets<'a> {
    pub(crate) brokers: &'a mut [Broker],
    /// The clock of the first broker.
    pub(crate) clock: &'a Clock,
    /// The disk with the journal of the second one.
    pub(crate) disk: &'a Disk,
    pub(crate) group: &'a mut Sentinels,
    pub(crate) operators: &'a [Caller],
    pub(crate) postgres: &'a mut Postgres,
    pub(crate) world: &'a World,
}

/// The faults. All are done, in a random order, before one is done again.
const DECK: std::ops::Range<u64> = 0..27;

/// The size of the disk of a journal.
pub(crate) const DISK: &str = "4g";

/// How long a broker may take to start, with the log of an hour, on a machine that is busy.
pub(crate) const STARTS_WITHIN: Duration = Duration::from_secs(120);

pub(crate) struct Injector {
    pub(crate) random: Random,
    pub(crate) deck: Vec<u64>,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    /// The longest outage of the store.
    pub(crate) longest: Duration,
    /// The store as it was some time ago.
    pub(crate) older: Option<OlderStore>,
    pub(crate) shared: Arc<Shared>,
}

impl Injector {
    pub(crate) fn new(seed: u64, longest: Duration, shared: Arc<Shared>) -> Self {
        Self {
            random: Random(seed),
            deck: Vec::new(),
            faults: BTreeMap::new(),
            longest,
            older: None,
            shared,
        }
    }

    fn draw(&mut self) -> u64 {
        if self.deck.is_empty() {
            self.deck = DECK.collect();
        }
        let left = u64::try_from(self.deck.len()).expect("few");
        let at = usize::try_from(self.random.below(left)).expect("few");
        self.deck.swap_remove(at)
    }

    pub(crate) async fn inject(&mut self, targets: &mut Targets<'_>) {
        let broker = usize::try_from(self.random.below(2)).expect("two");
        let node = usize::try_from(self.random.below(3)).expect("three");
        let (group, brokers) = (&mut *targets.group, &mut *targets.brokers);
        let primary = Some(group.primary()).filter(|primary| *primary < 3);
        if let (None, Some(primary)) = (&self.older, primary) {
            self.older = OlderStore::copy(&group.nodes[primary]);
        }
        let drawn = self.draw();
        self.shared.history.lock().expect("history").under_way = drawn;
        let name = match (drawn, primary) {
            (which @ 0..=3, _) => self.of_brokers(which, brokers, broker).await,
            (which @ (4 | 5), Some(primary)) => self.of_the_primary(which, group, primary).await,
            (6, _) => {
                group.nodes[node].signal(Signal::STOP);
                tokio::time::sleep(self.random.between(100, 1500)).await;
                group.nodes[node].signal(Signal::CONT);
                "a Redis node frozen"
            }
            (which @ (7..=11 | 13), Some(primary)) => {
                self.by_command(which, &group.nodes, primary).await
            }
            (which @ (12 | 18), _) => self.of_postgres(which, targets.postgres).await,
            (14, _) => self.outage(&group.nodes, 1000).await,
            // Longer than the grace of attended tasks.
            (17, _) => self.outage(&group.nodes, 8000).await,
            (15, _) => {
                restarted_in_turn(brokers, |_| {}).await;
                "brokers restarted in turn"
            }
            (16, _) => self.of_bounds(&targets.operators[broker]).await,
            (19, _) => self.suspended(targets.operators, broker).await,
            (20, _) => self.flood(&brokers[broker]).await,
            (21, _) => {
                restarted_in_turn(brokers, other_freshness).await;
                "settings changed one broker at a time"
            }
            (22, _) => self.of_the_clock(targets.clock).await,
            (23, _) => {
                targets.disk.close();
                tokio::time::sleep(self.random.between(200, 4000)).await;
                targets.disk.resize(DISK);
                "journal's disk full"
            }
            (24, _) => self.resealed(brokers, targets.operators, broker).await,
            (25, Some(primary)) => self.put_back(&group.nodes[primary]),
            (26, _) => {
                crowds::flood_socket(targets.world, self.random.between(500, 3000)).await;
                "flood of local callers"
            }
            _ => return,
        };
        *self.faults.entry(name).or_default() += 1;
        let mut history = self.shared.history.lock().expect("history");
        history.faults.push((name, Instant::now()));
    }

    /// Kills PostgreSQL, or lets it take no connection for a while.
    async fn of_postgres(&mut self, which: u64, postgres: &mut Postgres) -> &'static str {
        if which == 12 {
            postgres.kill();
            tokio::time::sleep(self.random.between(500, 3000)).await;
            postgres.up().await;
            return "PostgreSQL killed";
        }
        process::signal(postgres.pid(), Signal::STOP);
        tokio::time::sleep(self.random.between(500, 6000)).await;
        process::signal(postgres.pid(), Signal::CONT);
        "PostgreSQL frozen"
    }

    /// Suspends all attended tasks as a responder does at one broker, and lifts that at the other.
    async fn suspended(&mut self, operators: &[Caller], broker: usize) -> &'static str {
        let request = RevokeRequest {
            selector: Some(of_workload(attended::PATH)),
            effect: Effect::Suspend.into(),
            reason: "faults".to_owned(),
            ..RevokeRequest::default()
        };
        let Ok(answer) = operators[broker].response().revoke(request).await else {
            return "not suspended";
        };
        let id = answer.into_inner().revocation_id;
        tokio::time::sleep(self.random.between(200, 2000)).await;
        let deadline = Instant::now() + STARTS_WITHIN;
        while let Err(status) = operators[1 - broker].lift(&id).await {
            if Instant::now() > deadline {
                self.shared
                    .violation(format!("{id} could not be lifted: {status}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        "suspended by a responder"
    }

    /// Lets callers without a certificate open as many connections as they can, to both listeners:
    /// some say nothing, some call.
    async fn flood(&mut self, broker: &Broker) -> &'static str {
        crowds::flood(broker, self.random.between(500, 3000)).await;
        "flood of anonymous callers"
    }

    /// Puts the store of some time ago into the place of the present one.
    fn put_back(&mut self, primary: &Redis) -> &'static str {
        // What was begun since is gone, and what was begun before may be.
        self.shared.emptied.fetch_add(1, Ordering::Relaxed);
        match self
            .older
            .take()
            .is_some_and(|older| older.put_back(primary))
        {
            true => "older store put back",
            false => "older store not put back",
        }
    }

    /// Has everything sealed anew at one broker, and kills it meanwhile. There are 300 secrets; or
    /// 10,000, where outages are long.
    async fn resealed(
        &mut self,
        brokers: &mut [Broker],
        operators: &[Caller],
        broker: usize,
    ) -> &'static str {
        let is_long = self.longest > Duration::from_secs(60);
        let secrets = if is_long { 10_000 } else { 300 };
        crowds::write_secrets(&operators[1 - broker], secrets).await;
        let operator = operators[broker].clone();
        let rotation = tokio::spawn(async move {
            let rotate = RotateKeyringRequest::default();
            operator.registry().rotate_keyring(rotate).await.is_ok()
        });
        tokio::time::sleep(self.random.between(0, 1000)).await;
        brokers[broker].kill();
        brokers[broker].up();
        let _ = tokio::time::timeout(
            Duration::from_secs(25),
            brokers[broker].ready_within(STARTS_WITHIN),
        )
        .await;
        let _ = rotation.await;
        let rotate = RotateKeyringRequest::default();
        match operators[broker].registry().rotate_keyring(rotate).await {
            Ok(_) => "secrets sealed anew",
            Err(_) => "secrets not sealed anew",
        }
    }

    /// Sets the clock of a broker for a while, forwards or back, and then right.
    async fn of_the_clock(&mut self, clock: &Clock) -> &'static str {
        let step = [1, 30, 3600][usize::try_from(self.random.below(3)).expect("three")];
        let back = self.random.below(2) == 0;
        clock.set(if back { -step } else { step });
        tokio::time::sleep(self.random.between(300, 4000)).await;
        clock.set(0);
        if back {
            "clock set back"
        } else {
            "clock set forward"
        }
    }

    /// Takes the whole store away for a while: for so many milliseconds at least.
    async fn outage(&mut self, nodes: &[Redis], shortest: u64) -> &'static str {
        let longest = u64::try_from(self.longest.as_millis()).expect("minutes");
        let length = self.random.between(shortest, longest);
        self.shared.outage.store(true, Ordering::Relaxed);
        nodes.iter().for_each(|node| node.signal(Signal::STOP));
        tokio::time::sleep(length).await;
        nodes.iter().for_each(|node| node.signal(Signal::CONT));
        self.shared.outage.store(false, Ordering::Relaxed);
        "store away"
    }

    /// Changes bounds on which all brokers agree, within what their files allow and what registrations
    /// ask for.
    async fn of_bounds(&mut self, operator: &Caller) -> &'static str {
        let minutes = |random: &mut Random| i64::try_from(30 + random.below(30)).expect("few");
        let request = SetBoundsRequest {
            freshness_ms: Some(200 + i64::try_from(self.random.below(200)).expect("few")),
            max_task_ttl_ms: Some(minutes(&mut self.random) * 60_000),
            ..SetBoundsRequest::default()
        };
        match operator.registry().set_bounds(request).await {
            Ok(_) => "bounds changed",
            Err(_) => "bounds not changed",
        }
    }

    /// Kills or freezes a broker, or kills one while the other stands still.
    async fn of_brokers(
        &mut self,
        which: u64,
        brokers: &mut [Broker],
        broker: usize,
    ) -> &'static str {
        match which {
            0 | 1 => {
                brokers[broker].kill();
                tokio::time::sleep(self.random.between(0, 400)).await;
                brokers[broker].up();
                let _ = tokio::time::timeout(
                    Duration::from_secs(25),
                    brokers[broker].ready_within(STARTS_WITHIN),
                )
                .await;
                "broker killed"
            }
            2 => {
                brokers[broker].signal(Signal::STOP);
                tokio::time::sleep(self.random.between(50, 2500)).await;
                brokers[broker].signal(Signal::CONT);
                "broker frozen"
            }
            _ => {
                brokers[broker].signal(Signal::STOP);
                let other = 1 - broker;
                brokers[other].kill();
                tokio::time::sleep(self.random.between(50, 1500)).await;
                brokers[broker].signal(Signal::CONT);
                brokers[other].up();
                let _ = tokio::time::timeout(
                    Duration::from_secs(25),
                    brokers[other].ready_within(STARTS_WITHIN),
                )
                .await;
                "one broker killed while the other stands still"
            }
        }
    }

    /// Kills or freezes the primary.
    async fn of_the_primary(
        &mut self,
        which: u64,
        group: &mut Sentinels,
        primary: usize,
    ) -> &'static str {
        match which {
            4 => {
                group.nodes[primary].kill();
                group.failed_over(primary).await;
                tokio::time::sleep(self.random.between(0, 1500)).await;
                group.nodes[primary].up();
                "primary killed"
            }
            _ => {
                group.nodes[primary].signal(Signal::STOP);
                tokio::time::sleep(self.random.between(100, 4000)).await;
                group.nodes[primary].signal(Signal::CONT);
                "primary frozen"
            }
        }
    }

    /// Does by a command what an operator, a full disk or an accident does to the primary.
    async fn by_command(&mut self, which: u64, nodes: &[Redis], primary: usize) -> &'static str {
        match which {
            7 => {
                command(&nodes[primary], &["DEBUG", "SLEEP", "0.6"]);
                "primary slow"
            }
            8 => {
                command(&nodes[primary], &["SCRIPT", "FLUSH"]);
                "scripts flushed"
            }
            9 => {
                command(&nodes[primary], &["CONFIG", "SET", "maxmemory", "1"]);
                tokio::time::sleep(self.random.between(100, 1000)).await;
                nodes
                    .iter()
                    .for_each(|node| command(node, &["CONFIG", "SET", "maxmemory", "0"]));
                "primary full"
            }
            10 => {
                command(
                    &nodes[primary],
                    &["CONFIG", "SET", "min-replicas-to-write", "5"],
                );
                tokio::time::sleep(self.random.between(100, 1000)).await;
                nodes.iter().for_each(|node| {
                    command(node, &["CONFIG", "SET", "min-replicas-to-write", "0"])
                });
                "primary read-only"
            }
            11 => {
                command(&nodes[primary], &["CLIENT", "KILL", "TYPE", "normal"]);
                "connections cut"
            }
            _ => {
                // Without registrations nothing begins: they are put back at once.
                self.shared.emptied.fetch_add(1, Ordering::Relaxed);
                command(&nodes[primary], &["FLUSHALL"]);
                "store emptied"
            }
        }
    }
}

/// Restarts each broker as an upgrade does: it is told to stop, its file is changed, and it starts.
async fn restarted_in_turn(brokers: &mut [Broker], change: impl Fn(&Path)) {
    for broker in brokers {
        broker.signal(Signal::TERM);
        tokio::task::block_in_place(|| broker.wait());
        change(broker.config_file());
        broker.up();
        broker.ready_within(STARTS_WITHIN).await;
    }
}

/// Lets the file allow another freshness than before: as long as the agreement, or longer.
fn other_freshness(file: &Path) {
    let text = std::fs::read_to_string(file).expect("config");
    let settings = ["freshness = \"400ms\"", "freshness = \"700ms\""];
    let (from, to) = match text.contains(settings[0]) {
        true => (settings[0], settings[1]),
        false => (settings[1], settings[0]),
    };
    std::fs::write(file, text.replace(from, to)).expect("config");
}
