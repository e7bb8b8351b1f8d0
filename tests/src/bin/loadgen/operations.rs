//! The operations that are measured, each over the connections of a fleet.

use std::sync::Arc;
use sundew_tests::pki::Svid;

use sundew_proto::v1::{BeginTaskRequest, MintTokenRequest};
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::world::World;
use tonic::transport::Channel;

use crate::measure::{Measured, measure};

pub(crate) const CONNECTIONS: usize = 4;

pub(crate) const IN_FLIGHT: usize = 64;

#[derive(Clone)]
pub(crate) struct Fleet(Arc<Vec<Caller>>);

impl Fleet {
    pub(crate) fn new(address: &str, svid: &Svid) -> Self {
        Self(Arc::new(
            (0..CONNECTIONS)
                .map(|_| Caller::new(address.to_owned(), Some(svid.clone())))
                .collect(),
        ))
    }
    pub(crate) fn of(&self, worker: usize) -> &Caller {
        &self.0[worker % CONNECTIONS]
    }
}

pub(crate) async fn health(channel: Channel) {
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    client
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .expect("health");
}

pub(crate) async fn noop(pid: u32, fleet: &Fleet, calls: usize) -> Measured {
    let fleet = fleet.clone();
    measure(pid, calls, IN_FLIGHT, move |worker, _| {
        health(fleet.of(worker).channel.clone())
    })
    .await
}

/// Calls that do nothing, one after another.
pub(crate) async fn noop_alone(pid: u32, fleet: &Fleet, calls: usize) -> Measured {
    let fleet = fleet.clone();
    measure(pid, calls, 1, move |_, _| {
        health(fleet.of(0).channel.clone())
    })
    .await
}

pub(crate) async fn handshakes(pid: u32, address: &str, svid: &Svid, count: usize) -> Measured {
    let (address, config) = (
        address.to_owned(),
        Arc::new(sundew_tests::tls::client_config(Some(svid))),
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

pub(crate) async fn begin(caller: &Caller, token: Vec<u8>) -> sundew_tests::calls::Begun {
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

pub(crate) async fn mints(
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

pub(crate) async fn completes(pid: u32, fleet: &Fleet, tasks: Vec<String>) -> Measured {
    let (fleet, count, tasks) = (fleet.clone(), tasks.len(), Arc::new(tasks));
    measure(pid, count, IN_FLIGHT, move |worker, number| {
        let (caller, task) = (fleet.of(worker).clone(), tasks[number].clone());
        async move { assert!(caller.complete(&task).await.is_ok()) }
    })
    .await
}

pub(crate) async fn tasks(world: &World, fleet: &Fleet, count: usize) -> Vec<(String, String)> {
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

pub(crate) async fn introspections(
    pid: u32,
    fleet: &Fleet,
    tokens: Vec<String>,
    calls: usize,
) -> Measured {
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
