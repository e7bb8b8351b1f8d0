//! The load generator: drives the real release binary over mutual TLS, and reports throughput,
//! latency, and server CPU per call.
//!
//! `cargo build --release --bin sundew && cargo run --release -p sundew-tests --bin loadgen`
//!
//! Arguments: a scale (1), then optionally `profile mint|complete|introspect embedded|redis`, which
//! repeats one operation for a profiler. Everything is measured in one run, against a no-op call on
//! the same server (gRPC health) and a bare tonic echo, so that the ratios mean something on a
//! noisy machine. CPU is the server process's own, from /proc; Redis' is not in it.

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use sundew_proto::v1::{BeginTaskRequest, MintTokenRequest};
use sundew_tests::broker::{Broker, World};
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::process::cpu_time;
use tonic::transport::Channel;

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;

/// What a run of one operation showed.
struct Measured {
    calls: usize,
    elapsed: Duration,
    cpu: Duration,
    latency: Histogram<u64>,
}

impl Measured {
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls as f64
    }
    fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }
    fn p99(&self) -> f64 {
        self.latency.value_at_quantile(0.99) as f64
    }
    fn row(&self, name: &str, floor: Option<&Measured>) {
        let ratio = floor.map_or(String::new(), |floor| {
            format!("{:.2}", self.cpu_us() / floor.cpu_us())
        });
        let tail = floor.map_or(String::new(), |floor| {
            format!("{:.2}", self.p99() / floor.p99())
        });
        println!(
            "| {name} | {} | {:.0} | {} | {} | {:.1} | {ratio} | {tail} |",
            self.calls,
            self.rate(),
            self.latency.value_at_quantile(0.5),
            self.latency.value_at_quantile(0.99),
            self.cpu_us()
        );
    }
}

/// Runs `calls` calls with `in_flight` at a time. `call` gets the number of its worker and of the
/// call.
async fn measure<F, Fut>(pid: u32, calls: usize, in_flight: usize, call: F) -> Measured
where
    F: Fn(usize, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
    let (before, began) = (cpu_time(pid), Instant::now());
    let workers: Vec<_> = (0..in_flight)
        .map(|worker| {
            let (next, call) = (Arc::clone(&next), Arc::clone(&call));
            tokio::spawn(async move {
                let mut latency =
                    Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("histogram");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= calls {
                        return latency;
                    }
                    let began = Instant::now();
                    call(worker, number).await;
                    latency.saturating_record(
                        u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                    );
                }
            })
        })
        .collect();
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("histogram");
    for worker in workers {
        latency
            .add(worker.await.expect("worker"))
            .expect("histogram");
    }
    Measured {
        calls,
        elapsed: began.elapsed(),
        cpu: cpu_time(pid).saturating_sub(before),
        latency,
    }
}

#[derive(Clone)]
struct Fleet(Arc<Vec<Caller>>);

impl Fleet {
    fn new(address: &str, svid: &sundew_tests::pki::Svid) -> Self {
        Self(Arc::new(
            (0..CONNECTIONS)
                .map(|_| Caller::new(address.to_owned(), Some(svid.clone())))
                .collect(),
        ))
    }
    fn of(&self, worker: usize) -> &Caller {
        &self.0[worker % CONNECTIONS]
    }
}

async fn health(channel: Channel) {
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    client
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .expect("health");
}

async fn noop(pid: u32, fleet: &Fleet, calls: usize) -> Measured {
    let fleet = fleet.clone();
    measure(pid, calls, IN_FLIGHT, move |worker, _| {
        health(fleet.of(worker).channel.clone())
    })
    .await
}

/// Starts the bare server; answers its process and address.
fn start_bare(world: &World) -> (std::process::Child, String) {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["echo-server", &world.folder().display().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("echo server");
    let mut address = String::new();
    BufReader::new(child.stdout.take().expect("pipe"))
        .read_line(&mut address)
        .expect("address");
    (child, address.trim().to_owned())
}

async fn bare_echo(world: &World, calls: usize) -> Measured {
    let (mut child, address) = start_bare(world);
    let fleet = Fleet::new(&address, &world.ca.svid("/agent"));
    noop(child.id(), &fleet, 2000).await;
    let measured = noop(child.id(), &fleet, calls).await;
    child.kill().expect("kill");
    child.wait().expect("wait");
    measured
}

/// The bare server: tonic's own, the same health service, mutual TLS on rustls and ring, nothing of
/// Sundew.
async fn echo_server(folder: &str) {
    sundew_tests::init();
    let read = |name: &str| std::fs::read(format!("{folder}/{name}")).expect("file");
    let config = {
        use rustls_pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(
                rustls_pki_types::CertificateDer::from_pem_slice(&read("bundle.pem"))
                    .expect("root"),
            )
            .expect("root");
        let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .expect("verifier");
        let chain = rustls_pki_types::CertificateDer::pem_slice_iter(&read("broker/svid.pem"))
            .collect::<Result<Vec<_>, _>>()
            .expect("chain");
        let key =
            rustls_pki_types::PrivateKeyDer::from_pem_slice(&read("broker/key.pem")).expect("key");
        let mut config =
            rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .expect("config");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    println!("{}", listener.local_addr().expect("address"));
    let (sender, incoming) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            let _ = socket.set_nodelay(true);
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    let _ = sender.send(Ok::<_, std::io::Error>(stream)).await;
                }
            });
        }
    });
    let (_, service) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
        .expect("serve");
}

async fn handshakes(
    pid: u32,
    address: &str,
    svid: &sundew_tests::pki::Svid,
    count: usize,
) -> Measured {
    let (address, config) = (
        address.to_owned(),
        Arc::new(sundew_tests::calls::client_config(Some(svid))),
    );
    measure(pid, count, 8, move |_, _| {
        let (address, config) = (address.clone(), Arc::clone(&config));
        async move {
            use tokio::io::AsyncReadExt as _;
            let socket = tokio::net::TcpStream::connect(address)
                .await
                .expect("connect");
            let name = rustls_pki_types::ServerName::try_from("b").expect("name");
            let mut stream = tokio_rustls::TlsConnector::from(config)
                .connect(name, socket)
                .await
                .expect("handshake");
            stream.read_u8().await.expect("SETTINGS");
        }
    })
    .await
}

async fn bare_handshakes(world: &World, svid: &sundew_tests::pki::Svid, count: usize) -> Measured {
    let (mut child, address) = start_bare(world);
    handshakes(child.id(), &address, svid, 200).await;
    let measured = handshakes(child.id(), &address, svid, count).await;
    child.kill().expect("kill");
    child.wait().expect("wait");
    measured
}

async fn begin(caller: &Caller, token: Vec<u8>) -> sundew_tests::calls::Begun {
    let nonce = caller.nonce().await.expect("nonce");
    let request = BeginTaskRequest {
        nonce,
        purpose: "load".to_owned(),
        scopes: vec!["exec:git".to_owned()],
        evidence: vec![oidc(token)],
        ..BeginTaskRequest::default()
    };
    caller.send(request).await.expect("task")
}

async fn mints(
    pid: u32,
    fleet: &Fleet,
    tasks: &Arc<Vec<String>>,
    calls: usize,
    in_flight: usize,
) -> Measured {
    let (fleet, tasks) = (fleet.clone(), Arc::clone(tasks));
    measure(pid, calls, in_flight, move |worker, number| {
        let request = MintTokenRequest {
            task_id: tasks[number % tasks.len()].clone(),
            ..MintTokenRequest::default()
        };
        let mut agent = fleet.of(worker).agent();
        async move { drop(agent.mint_token(request).await.expect("token")) }
    })
    .await
}

async fn completes(pid: u32, fleet: &Fleet, tasks: Vec<String>) -> Measured {
    let (fleet, count, tasks) = (fleet.clone(), tasks.len(), Arc::new(tasks));
    measure(pid, count, IN_FLIGHT, move |worker, number| {
        let (caller, task) = (fleet.of(worker).clone(), tasks[number].clone());
        async move { assert!(caller.complete(&task).await.is_ok()) }
    })
    .await
}

async fn tasks(world: &World, fleet: &Fleet, count: usize) -> Vec<(String, String)> {
    let mut begun = Vec::with_capacity(count);
    while begun.len() < count {
        let batch: Vec<_> = (0..64.min(count - begun.len()))
            .map(|n| {
                let (caller, token) = (fleet.of(n).clone(), world.issuer.token("/agent"));
                tokio::spawn(async move { begin(&caller, token).await })
            })
            .collect();
        for task in batch {
            let task = task.await.expect("task");
            begun.push((task.task, task.token));
        }
    }
    begun
}

async fn introspections(pid: u32, fleet: &Fleet, tokens: Vec<String>, calls: usize) -> Measured {
    let (fleet, tokens) = (fleet.clone(), Arc::new(tokens));
    measure(pid, calls, IN_FLIGHT, move |worker, number| {
        let (caller, token) = (
            fleet.of(worker).clone(),
            tokens[number % tokens.len()].clone(),
        );
        async move { assert!(caller.active(&token, &[]).await.expect("answer")) }
    })
    .await
}

async fn bench(name: &str, world: World, scale: usize) {
    const LIMITS: &str = "[limits]\ncalls_per_second = 100000000\n";
    let broker: Broker = world.broker_with(LIMITS).await;
    world
        .register(
            &broker,
            "/agent",
            json!({ "max_tasks": 100_000, "attendance_grace": "10m" }),
        )
        .await;
    let svid = world.ca.svid("/agent");
    let fleet = Fleet::new(&broker.address(), &svid);
    let pid = broker.pid();
    noop(pid, &fleet, 4000).await;

    println!(
        "\n## {name}\n\n| operation | calls | calls/s | p50 µs | p99 µs | server CPU µs/call | CPU ÷ no-op | p99 ÷ no-op |\n|---|---|---|---|---|---|---|---|"
    );
    let echo = bare_echo(&world, 40_000 * scale).await;
    echo.row("bare tonic echo", None);
    let floor = noop(pid, &fleet, 40_000 * scale).await;
    floor.row("no-op RPC (health)", Some(&floor));
    println!(
        "| no-op ÷ bare echo | | | | | {:.2} | | |",
        floor.cpu_us() / echo.cpu_us()
    );

    let begun = tasks(&world, &fleet, 512).await;
    let ids: Arc<Vec<String>> = Arc::new(begun.iter().map(|b| b.0.clone()).collect());
    let tokens: Vec<String> = begun.iter().map(|b| b.1.clone()).collect();
    let cached = introspections(pid, &fleet, tokens, 40_000 * scale).await;
    cached.row("Introspect, record cached", Some(&floor));
    let challenge = {
        let fleet = fleet.clone();
        measure(pid, 20_000 * scale, IN_FLIGHT, move |worker, _| {
            let caller = fleet.of(worker).clone();
            async move { drop(caller.nonce().await.expect("nonce")) }
        })
        .await
    };
    challenge.row("Challenge", Some(&floor));
    mints(pid, &fleet, &ids, 2000, IN_FLIGHT).await;
    let mint = mints(pid, &fleet, &ids, 20_000 * scale, IN_FLIGHT).await;
    mint.row("MintToken", Some(&floor));
    let alone = mints(pid, &fleet, &ids, 1000 * scale, 1).await;
    alone.row("MintToken, 1 in flight", Some(&floor));
    println!(
        "| MintToken throughput, 64 ÷ 1 in flight | | {:.1} | | | | | |",
        mint.rate() / alone.rate()
    );
    let pair = {
        let (fleet, tokens) = (
            fleet.clone(),
            Arc::new(
                (0..4000 * scale)
                    .map(|_| world.issuer.token("/agent"))
                    .collect::<Vec<_>>(),
            ),
        );
        measure(pid, 4000 * scale, IN_FLIGHT, move |worker, number| {
            let (caller, token) = (fleet.of(worker).clone(), tokens[number].clone());
            async move { drop(begin(&caller, token).await) }
        })
        .await
    };
    pair.row("Challenge + BeginTask (oidc, ES256)", Some(&floor));
    let alone_us = pair.cpu_us() - challenge.cpu_us();
    println!(
        "| BeginTask alone (difference) | | | | | {alone_us:.1} | {:.2} | |",
        alone_us / floor.cpu_us()
    );
    let few = tasks(&world, &fleet, 4000 * scale)
        .await
        .into_iter()
        .map(|b| b.0)
        .collect();
    completes(pid, &fleet, few)
        .await
        .row("CompleteTask, 1 token", Some(&floor));
    let many = tasks(&world, &fleet, 1000).await;
    let ids: Arc<Vec<String>> = Arc::new(many.iter().map(|b| b.0.clone()).collect());
    mints(pid, &fleet, &ids, 30_000, IN_FLIGHT).await;
    completes(pid, &fleet, ids.to_vec())
        .await
        .row("CompleteTask, 31 tokens", Some(&floor));

    if world.redis.is_some() {
        // A second broker that has seen none of these tokens.
        let fresh = world.broker_with(LIMITS).await;
        let there = Fleet::new(&fresh.address(), &svid);
        let begun = tasks(&world, &fleet, 8000 * scale).await;
        noop(fresh.pid(), &there, 4000).await;
        let floor = noop(fresh.pid(), &there, 20_000 * scale).await;
        let first = introspections(
            fresh.pid(),
            &there,
            begun.into_iter().map(|b| b.1).collect(),
            8000 * scale,
        )
        .await;
        first.row("Introspect, first sight", Some(&floor));
    }
    let bare = bare_handshakes(&world, &svid, 2000 * scale).await;
    let own = handshakes(pid, &broker.address(), &svid, 2000 * scale).await;
    bare.row("bare rustls handshake with HTTP/2 preface", None);
    own.row("new connection", None);
    println!(
        "| new connection ÷ bare | | | | | {:.2} | | |",
        own.cpu_us() / bare.cpu_us()
    );
}

/// One operation, over and over, on a server whose process id is told first.
async fn profile(operation: &str, world: World, scale: usize) {
    let broker = world
        .broker_with("[limits]\ncalls_per_second = 100000000\n")
        .await;
    world
        .register(
            &broker,
            "/agent",
            json!({ "max_tasks": 100_000, "attendance_grace": "10m" }),
        )
        .await;
    let fleet = Fleet::new(&broker.address(), &world.ca.svid("/agent"));
    let begun = tasks(
        &world,
        &fleet,
        if operation == "complete" {
            10_000 * scale
        } else {
            512
        },
    )
    .await;
    println!("{}", broker.pid());
    let ids: Vec<String> = begun.iter().map(|b| b.0.clone()).collect();
    let measured = match operation {
        "mint" => {
            mints(
                broker.pid(),
                &fleet,
                &Arc::new(ids),
                20_000 * scale,
                IN_FLIGHT,
            )
            .await
        }
        "complete" => completes(broker.pid(), &fleet, ids).await,
        _ => {
            introspections(
                broker.pid(),
                &fleet,
                begun.into_iter().map(|b| b.1).collect(),
                40_000 * scale,
            )
            .await
        }
    };
    measured.row(operation, None);
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, folder] = arguments.as_slice()
        && word == "echo-server"
    {
        return echo_server(folder).await;
    }
    let scale = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(1);
    if let [_, word, operation, store] = arguments.as_slice()
        && word == "profile"
    {
        return profile(
            operation,
            if store == "redis" {
                World::redis()
            } else {
                World::embedded()
            },
            scale,
        )
        .await;
    }
    println!("{IN_FLIGHT} calls in flight on {CONNECTIONS} connections; scale {scale}");
    bench("embedded store", World::embedded(), scale).await;
    bench("Redis", World::redis(), scale).await;
}
