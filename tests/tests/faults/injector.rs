//! Faults, at random: what is killed, frozen, filled and emptied, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use sundew_tests::broker::Broker;
use sundew_tests::postgres::Postgres;
use sundew_tests::redis::Redis;
use sundew_tests::replicated::Sentinels;

use crate::agents::Random;

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

pub(crate) struct Injector {
    pub(crate) random: Random,
    pub(crate) faults: BTreeMap<&'static str, usize>,
}

impl Injector {
    pub(crate) async fn inject(
        &mut self,
        group: &mut Sentinels,
        brokers: &mut [Broker],
        postgres: &mut Postgres,
    ) {
        let broker = usize::try_from(self.random.below(2)).expect("two");
        let node = usize::try_from(self.random.below(3)).expect("three");
        let primary = Some(group.primary()).filter(|primary| *primary < 3);
        let name = match (self.random.below(14), primary) {
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
                postgres.kill();
                tokio::time::sleep(self.random.between(500, 3000)).await;
                postgres.up().await;
                "PostgreSQL killed"
            }
            _ => return,
        };
        *self.faults.entry(name).or_default() += 1;
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
                command(&nodes[primary], &["FLUSHALL"]);
                "store emptied"
            }
        }
    }
}
