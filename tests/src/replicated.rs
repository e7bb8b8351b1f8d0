//! Several Redis servers of Debian's package: a primary with replicas behind Sentinel, or a
//! Cluster. All on loopback, all child processes.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::redis::Redis;

/// A primary, its replicas, and three Sentinels.
pub struct Sentinels {
    /// The data nodes; which one is the primary changes.
    pub nodes: Vec<Redis>,
    sentinels: Vec<(Child, u16, TempDir)>,
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 30 seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Sentinels {
    /// Starts a primary with so many replicas, and three Sentinels.
    pub fn start(replicas: usize) -> Self {
        let primary = Redis::start();
        let port = primary.port().to_string();
        let mut nodes = vec![primary];
        for _ in 0..replicas {
            nodes.push(Redis::with(&[
                "--replicaof",
                "127.0.0.1",
                &port,
                "--repl-diskless-sync-delay",
                "0",
            ]));
        }
        wait("replication", || {
            info(&nodes[0], "connected_slaves").parse() == Ok(replicas)
        });
        wait("replicas are in step", || {
            nodes[1..]
                .iter()
                .all(|node| info(node, "master_link_status") == "up")
        });
        let sentinels = (0..3)
            .map(|_| {
                let (folder, own) = (tempfile::tempdir().expect("folder"), crate::free_port());
                let file = folder.path().join("sentinel.conf");
                let config = format!(
                    "bind 127.0.0.1\nport {own}\ndir {}\nsentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 800\n\
                     sentinel failover-timeout main 3000\nsentinel parallel-syncs main 2\n",
                    folder.path().display()
                );
                std::fs::write(&file, config).expect("config");
                let child = Command::new("redis-server")
                    .arg(&file)
                    .arg("--sentinel")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("redis-server is not installed: run ./tests/run");
                (child, own, folder)
            })
            .collect();
        let group = Self { nodes, sentinels };
        wait("the Sentinels know each other and every node", || {
            group.sentinels.iter().all(|(_, port, _)| {
                let Some(known) = ask(*port, &["SENTINEL", "MASTER", "main"]) else {
                    return false;
                };
                let pairs: Vec<String> = redis::from_redis_value(known).unwrap_or_default();
                let field = |name: &str| {
                    pairs
                        .iter()
                        .position(|p| p == name)
                        .and_then(|at| pairs.get(at + 1)?.parse::<usize>().ok())
                };
                field("num-slaves") == Some(replicas) && field("num-other-sentinels") == Some(2)
            })
        });
        group
    }

    /// Returns the URL for the configuration of a broker.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self
            .sentinels
            .iter()
            .map(|(_, port, _)| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis+sentinel://{}/main", nodes.join(","))
    }

    /// Returns the index of the node that a majority of the Sentinels calls the primary.
    pub fn primary(&self) -> usize {
        let votes: Vec<usize> = self
            .sentinels
            .iter()
            .filter_map(|(_, port, _)| {
                let address: (String, u16) = redis::from_redis_value(ask(
                    *port,
                    &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"],
                )?)
                .ok()?;
                self.nodes.iter().position(|node| node.port() == address.1)
            })
            .collect();
        (0..self.nodes.len())
            .find(|node| votes.iter().filter(|vote| *vote == node).count() >= 2)
            .unwrap_or(usize::MAX)
    }

    /// Has the Sentinels make another node the primary, though the present one lives.
    pub fn fail_over(&self) {
        let (_, port, _) = &self.sentinels[0];
        wait("a failover is begun", || {
            ask(*port, &["SENTINEL", "FAILOVER", "main"]).is_some()
        });
    }

    /// Waits until another node than this one is the primary.
    pub async fn failed_over(&self, from: usize) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let primary = self.primary();
            if primary != from
                && primary != usize::MAX
                && info(&self.nodes[primary], "role") == "master"
            {
                return primary;
            }
            assert!(Instant::now() < deadline, "no failover within 30 seconds");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for (child, _, _) in &mut self.sentinels {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ask(port: u16, words: &[&str]) -> Option<redis::Value> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
    let mut connection = client
        .get_connection_with_timeout(Duration::from_secs(1))
        .ok()?;
    connection
        .set_read_timeout(Some(Duration::from_secs(1)))
        .ok()?;
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(*word);
    });
    command.query(&mut connection).ok()
}

/// Returns a field of a node's INFO, which is empty if the node does not answer.
pub fn info(node: &Redis, field: &str) -> String {
    let text: String = ask(node.port(), &["INFO"])
        .and_then(|value| redis::from_redis_value(value).ok())
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .unwrap_or_default()
}

/// Three primaries with one replica each.
pub struct Cluster {
    /// The nodes: three primaries, then their replicas in the same order.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts one.
    pub fn start() -> Self {
        let nodes: Vec<Redis> = (0..6).map(|_| cluster_node()).collect();
        let port = |n: usize| nodes[n].port();
        for (n, (first, last)) in [(0, 5460), (5461, 10_922), (10_923, 16_383)]
            .into_iter()
            .enumerate()
        {
            ask(
                port(n),
                &[
                    "CLUSTER",
                    "ADDSLOTSRANGE",
                    &first.to_string(),
                    &last.to_string(),
                ],
            )
            .expect("slots");
            ask(
                port(n),
                &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()],
            )
            .expect("epoch");
        }
        meet(&nodes);
        for n in 3..6 {
            let id: String =
                redis::from_redis_value(ask(port(n - 3), &["CLUSTER", "MYID"]).expect("id"))
                    .expect("id");
            wait("replication", || {
                ask(port(n), &["CLUSTER", "REPLICATE", &id]).is_some()
            });
        }
        settled(&nodes);
        Self { nodes }
    }

    /// Returns the URL for the configuration of a broker.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()))
            .collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// Returns the index of the primary of the slot that the revocation log is in.
    pub fn primary_of_log(&self) -> usize {
        let holds = |node: &Redis| {
            let found = ask(node.port(), &["XLEN", "sundew:{log}:stream"])
                .and_then(|value| redis::from_redis_value::<i64>(value).ok());
            info(node, "role") == "master" && found.is_some_and(|length| length > 0)
        };
        self.nodes
            .iter()
            .position(holds)
            .expect("somebody has the log")
    }
}

/// Starts a node that belongs to no cluster yet, with a port of its own for the cluster's bus.
fn cluster_node() -> Redis {
    let bus = crate::free_port().to_string();
    Redis::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "1000",
        "--cluster-require-full-coverage",
        "no",
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
        "--cluster-port",
        &bus,
    ])
}

/// Lets the first node meet all others, and waits until each knows each.
fn meet(nodes: &[Redis]) {
    for node in &nodes[1..] {
        let bus = node.options().last().expect("bus port").clone();
        ask(
            nodes[0].port(),
            &[
                "CLUSTER",
                "MEET",
                "127.0.0.1",
                &node.port().to_string(),
                &bus,
            ],
        )
        .expect("meet");
    }
    wait("all nodes know each other", || {
        nodes
            .iter()
            .all(|node| cluster_info(node.port(), "cluster_known_nodes") == "6")
    });
}

/// Waits until every node finds the cluster well and every replica is in step.
fn settled(nodes: &[Redis]) {
    wait("the cluster is up", || {
        nodes
            .iter()
            .all(|node| cluster_info(node.port(), "cluster_state") == "ok")
    });
    wait("replicas are in step", || {
        nodes[3..]
            .iter()
            .all(|node| info(node, "master_link_status") == "up")
    });
}

fn cluster_info(port: u16, field: &str) -> String {
    let text: String = ask(port, &["CLUSTER", "INFO"])
        .and_then(|value| redis::from_redis_value(value).ok())
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .unwrap_or_default()
}
