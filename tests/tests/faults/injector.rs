//! Faults, at random: what is killed, frozen, filled and emptied, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sundew_proto::v1::SetBoundsRequest;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::postgres::Postgres;
use sundew_tests::redis::Redis;
use sundew_tests::replicated::Sentinels;

use crate::agents::{Random, Shared};

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
    pub(crate) group: &'a mut Sentinels,
    pub(crate) operators: &'a [Caller],
    pub(crate) postgres: &'a mut Postgres,
}

/// The faults, some of them more than once. All are done, in a random order, before one is done
/// again.
const DECK: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];

pub(crate) struct Injector {
    pub(crate) random: Random,
    pub(crate) deck: Vec<u64>,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    /// The longest outage of the store.
    pub(crate) longest: Duration,
    pub(crate) shared: Arc<Shared>,
}

impl Injector {
    pub(crate) fn new(seed: u64, longest: Duration, shared: Arc<Shared>) -> Self {
        Self {
            random: Random(seed),
            deck: Vec::new(),
            faults: BTreeMap::new(),
            longest,
            shared,
        }
    }

    fn draw(&mut self) -> u64 {
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
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
        let name = match (self.draw(), primary) {
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
            (12, _) => {
                targets.postgres.kill();
                tokio::time::sleep(self.random.between(500, 3000)).await;
                targets.postgres.up().await;
                "PostgreSQL killed"
            }
            (14, _) => self.outage(&group.nodes, 1000).await,
            // Longer than the grace of attended tasks.
            (17, _) => self.outage(&group.nodes, 8000).await,
            (15, _) => restarted_in_turn(brokers).await,
            (16, _) => self.of_bounds(&targets.operators[broker]).await,
            _ => return,
        };
        *self.faults.entry(name).or_default() += 1;
        let mut history = self.shared.history.lock().expect("history");
        history.faults.push((name, Instant::now()));
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
            _ => {
                brokers[broker].signal(Signal::STOP);
                let other = 1 - broker;
                brokers[other].kill();
                tokio::time::sleep(self.random.between(50, 1500)).await;
                brokers[broker].signal(Signal::CONT);
                brokers[other].up();
                let _ = tokio::time::timeout(Duration::from_secs(25), brokers[other].ready()).await;
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

/// Restarts each broker as an upgrade does: it is told to stop, and starts when it has.
async fn restarted_in_turn(brokers: &mut [Broker]) -> &'static str {
    for broker in brokers {
        broker.signal(Signal::TERM);
        tokio::task::block_in_place(|| broker.wait());
        broker.up();
        broker.ready().await;
    }
    "brokers restarted in turn"
}
