//! Introspection beside eight workloads that send the costliest evidence on and on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ciborium::Value as Cbor;
use serde_json::json;
use sundew_rebuilt::nitro::Enclave;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::now_ms;
use sundew_tests::pki::pem;
use sundew_tests::process::CpuTime;
use sundew_tests::world::World;

use crate::introspecting::{Introspecting, ratio};

/// How many workloads send evidence.
const WORKLOADS: usize = 8;

/// How many calls each of them has in flight.
const IN_FLIGHT: usize = 8;

/// How often quiet and flood are compared.
const ROUNDS: usize = 5;

/// Workloads that begin tasks on and on with documents of Nitro. They have a thread of their own, so
/// that who measures does not wait for their signatures.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Flood {
    /// `bound`: the documents are for the broker's challenge, and so are verified whole, and name
    /// a measurement that is not registered. Others are refused before a signature is looked at.
    fn start(world: &World, broker: &Broker, enclave: &Arc<Enclave>, bound: bool) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, enclave, address) =
            (Arc::clone(&stop), Arc::clone(enclave), broker.address());
        let svids: Vec<_> = (0..WORKLOADS)
            .map(|workload| world.ca.svid(&format!("/flood/{workload}")))
            .collect();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let callers = svids
                    .into_iter()
                    .map(|svid| Caller::new(address.clone(), Some(svid)));
                let senders: Vec<_> = callers
                    .flat_map(|caller| std::iter::repeat_n(caller, IN_FLIGHT))
                    .map(|caller| {
                        let (enclave, stopped) = (Arc::clone(&enclave), Arc::clone(&stopped));
                        tokio::spawn(send(caller, enclave, bound, stopped))
                    })
                    .collect();
                let mut refused = 0;
                for sender in senders {
                    refused += sender.await.expect("sender");
                }
                refused
            })
        });
        Self { stop, thread }
    }

    /// Stops; answers how many documents were refused.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("flood")
    }
}

/// Sends documents until told to stop; answers how many were refused.
async fn send(caller: Caller, enclave: Arc<Enclave>, bound: bool, stop: Arc<AtomicBool>) -> u64 {
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(nonce) = caller.nonce().await else {
            continue;
        };
        let shown = if bound {
            caller.bound(&nonce).as_bytes().to_vec()
        } else {
            vec![0; 32]
        };
        let document = document(&enclave, shown);
        let answer = caller.begin_on(nonce, vec![("nitro", document)]).await;
        assert!(answer.is_err(), "a measurement that is not registered");
        refused += 1;
    }
    refused
}

fn document(enclave: &Enclave, nonce: Vec<u8>) -> Vec<u8> {
    let mut content = enclave.content();
    for (name, value) in &mut content {
        match *name {
            "nonce" => *value = Cbor::Bytes(nonce.clone()),
            "timestamp" => *value = Cbor::from(now_ms()),
            _ => {}
        }
    }
    enclave.document(content)
}

pub(crate) async fn run() {
    println!("\n## Introspection beside {WORKLOADS} workloads that send Nitro documents\n");
    let world = World::embedded();
    let broker = world.broker().await;
    let enclave = Arc::new(Enclave::at(now_ms() / 1000));
    let operator = world.operator(&broker);
    let root = pem("CERTIFICATE", &enclave.root());
    operator.trust("nitro", "aws", &root).await;
    let wanted = json!({ "evidence": [{ "kind": "nitro", "claims": { "pcr0": ["07".repeat(48)] } }], "require_fresh_evidence": true });
    for workload in 0..WORKLOADS {
        let path = format!("/flood/{workload}");
        world.register(&broker, &path, wanted.clone()).await;
    }
    let lasting = json!({ "max_tasks": 1000, "attendance_grace": "30m" });
    world.register(&broker, "/agent", lasting).await;
    let agent = world.caller(&broker, "/agent");
    let mut tokens = Vec::new();
    for _ in 0..200 {
        let begun = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
        tokens.push(begun.expect("task").token);
    }
    let presenter = agent.thumbprint();
    for _ in 0..ROUNDS {
        round(&world, &broker, &enclave, (&tokens, &presenter)).await;
    }
}

/// Compares the quiet broker with one under each of the two floods, and prints a line.
async fn round(
    world: &World,
    broker: &Broker,
    enclave: &Arc<Enclave>,
    (tokens, presenter): (&[String], &[u8]),
) {
    let server = world.operator(broker);
    let quiet = Introspecting::quiet(&server, tokens, presenter).await;
    let mut line = format!("p99 quiet {quiet:?}");
    for (name, bound) in [("unbound", false), ("costliest", true)] {
        let before = CpuTime::of(broker.pid());
        let flood = Flood::start(world, broker, enclave, bound);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let p99 = Introspecting::quiet(&server, tokens, presenter).await;
        let refused = flood.stop();
        let cpu = CpuTime::of(broker.pid()).since(&before).as_secs_f64() * 1e3;
        line += &format!(
            "; {name} {p99:?} ({:.2} ×), {refused} documents, {:.2} ms of CPU each",
            ratio(p99, quiet),
            cpu / refused as f64
        );
    }
    println!("{line}");
}
