//! A broker that is asked to stop, and what it leaves to others: L18.

use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rustix::process::Signal;
use serde_json::json;
use sundew_sdk::Settings;
use sundew_tests::broker::Broker;
use sundew_tests::dev::Dev;
use sundew_tests::proxy::Proxy;
use sundew_tests::world::World;
use tokio::task::JoinSet;

use super::sdk::{agent_of, begin, folder, outcomes, settings};

/// Agents, each with a connection of its own.
const AGENTS: usize = 25;
/// Tasks of each agent, which has evidence for ten attempts more.
const TASKS: usize = 40;

fn port(broker: &Broker) -> u16 {
    let address = broker.address();
    let port = address.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
    port.expect("port")
}

/// L18: the tasks of all agents are attended elsewhere, and the broker is gone within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l18_a_broker_with_a_thousand_attended_tasks_stops_within_a_second_and_loses_none() {
    let world = World::redis();
    let (mut first, second) = (world.broker().await, world.broker().await);
    let registration = json!({ "attendance_grace": "5s", "max_tasks": 2 * AGENTS * TASKS });
    world.register(&first, "/agent", registration).await;
    let roots = std::slice::from_ref(&world.ca.certificate);
    world.ca.svid("/agent").write(&folder(&world), roots);
    let proxy = Proxy::start(port(&first)).await;
    let settings = Settings {
        broker: Some(format!("127.0.0.1:{}", proxy.port())),
        ..settings(&world, &first)
    };
    let mut beginning = JoinSet::new();
    for _ in 0..AGENTS {
        let agent = agent_of(&world, settings.clone()).await;
        beginning.spawn(async move {
            let mut tasks = Vec::new();
            for _ in 0..TASKS {
                tasks.push(begin(&agent).await);
            }
            tasks
        });
    }
    let tasks: Vec<_> = beginning.join_all().await.into_iter().flatten().collect();
    assert_eq!(tasks.len(), AGENTS * TASKS);
    proxy.lead_to(port(&second));
    let began = Instant::now();
    first.signal(Signal::TERM);
    let stopped = tokio::task::spawn_blocking(move || {
        let status = first.wait();
        (status, first)
    });
    let (status, first) = stopped.await.expect("waited");
    let took = began.elapsed();
    assert!(status.success(), "{}", first.output());
    assert!(took < Duration::from_secs(1), "{took:?}");
    println!("stopped within {took:?}");
    // Longer than the grace: whoever is not attended elsewhere is abandoned by now.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(outcomes(&second).is_empty(), "{:?}", outcomes(&second));
    for task in &tasks {
        let ended = tokio::time::timeout(Duration::from_millis(1), task.ended()).await;
        assert!(ended.is_err(), "{ended:?}");
    }
}

/// L18: streams of the Workload API never end by themselves either.
#[tokio::test]
async fn l18_a_broker_whose_workload_api_is_in_use_stops_within_a_second() {
    let mut dev = Dev::new();
    let key = KeyPair::generate().expect("key").public_key_pem();
    let uid = rustix::process::geteuid().as_raw();
    let documents = json!([{
        "spiffe_id": "spiffe://dev.local/mine", "owner": "t", "begin": "self", "scopes": ["exec:git"],
        "local": [{ "uid": uid }], "evidence": [{ "kind": "manifest", "keys": [key] }],
    }]);
    dev.did(&["workload", "apply", "-f", "-"], &documents.to_string());
    let endpoint = dev
        .field("endpoint_socket")
        .replacen("unix:///", "unix:/", 1);
    let source = spiffe::X509Source::builder().endpoint(&endpoint).build();
    let source = source.await.expect("source");
    drop(source.svid().expect("SVID"));
    let began = Instant::now();
    assert!(dev.stop().success());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}
