//! Abuse: AC-84, AC-85, class I. A good client is served meanwhile.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use sundew_proto::v1::{BeginTaskRequest, PutSecretRequest};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::process::resident;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

async fn ready() -> (World, Broker, Caller) {
    let world = World::embedded();
    let broker = world
        .broker_with("[limits]\ncalls_per_second = 1000000\n")
        .await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    caller.nonce().await.expect("good");
    (world, broker, caller)
}

/// AC-84: challenges that nobody answers, and failed calls, take no memory that grows. A short form
/// of a million: 60 000.
#[tokio::test]
async fn ac_84_challenges_and_failed_calls_take_bounded_memory() {
    let (_world, broker, caller) = ready().await;
    let flood = |count: usize| {
        let caller = caller.clone();
        async move {
            let workers: Vec<_> = (0..16)
                .map(|_| {
                    let caller = caller.clone();
                    tokio::spawn(async move {
                        for _ in 0..count / 32 {
                            // The connection holds some, and refuses more.
                            if let Err(refused) = caller.nonce().await {
                                assert_eq!(refused.code(), Code::ResourceExhausted);
                            }
                            let request = BeginTaskRequest {
                                nonce: vec![1; 32],
                                purpose: "x".to_owned(),
                                scopes: vec!["exec:git".to_owned()],
                                evidence: vec![oidc(b"x".to_vec())],
                                ..Default::default()
                            };
                            caller.send(request).await.expect_err("refused");
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.await.expect("worker");
            }
        }
    };
    flood(20_000).await;
    let before = resident(broker.pid());
    // `SUNDEW_AC84_CALLS=1000000` for the case as it is written.
    flood(
        std::env::var("SUNDEW_AC84_CALLS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(40_000),
    )
    .await;
    let after = resident(broker.pid());
    assert!(after < before + (16 << 20), "{before} grew to {after}");
}

/// AC-85, T83: messages that are too large, and headers that are.
#[tokio::test]
async fn t83_oversized_messages_are_refused_and_the_service_lives() {
    let (world, broker, caller) = ready().await;
    let operator = world.operator(&broker);
    for size in [1 << 20, 5 << 20] {
        let request = PutSecretRequest {
            name: "app/x".to_owned(),
            value: vec![7; size],
            idempotency_key: String::new(),
        };
        let status = operator
            .registry()
            .put_secret(request)
            .await
            .expect_err("refused");
        assert!(
            matches!(
                status.code(),
                Code::OutOfRange
                    | Code::ResourceExhausted
                    | Code::InvalidArgument
                    | Code::Unknown
                    | Code::Internal
                    | Code::Unavailable
            ),
            "{status}"
        );
    }
    let mut request = tonic::Request::new(sundew_proto::v1::ChallengeRequest {});
    request
        .metadata_mut()
        .insert("x", "a".repeat(20_000).parse().expect("value"));
    caller
        .agent()
        .challenge(request)
        .await
        .expect_err("a 20 kB header");
    let mut request = tonic::Request::new(sundew_proto::v1::ChallengeRequest {});
    request
        .metadata_mut()
        .insert("grpc-encoding", "gzip".parse().expect("value"));
    let _ = caller.agent().challenge(request).await;
    for purpose in [String::new(), "p".repeat(2000)] {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        request.purpose = purpose;
        assert_eq!(
            caller.send(request).await.expect_err("refused").code(),
            Code::InvalidArgument
        );
    }
    caller.nonce().await.expect("served");
}

/// T81: sockets that say nothing, or half of something, are dropped by a timer, and hold nobody up.
#[tokio::test]
async fn t81_silent_and_half_open_sockets_are_dropped() {
    let (_world, broker, caller) = ready().await;
    let mut silent = Vec::new();
    for n in 0..300 {
        let mut socket = TcpStream::connect(broker.address()).expect("connect");
        if n % 3 == 1 {
            // The beginning of a ClientHello.
            socket
                .write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00])
                .expect("half");
        }
        if n % 3 == 2 {
            socket.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("no TLS");
        }
        silent.push(socket);
    }
    let began = Instant::now();
    caller.nonce().await.expect("an open connection is served");
    assert!(began.elapsed() < Duration::from_secs(2));
    until("all are dropped", || async { open_sockets(&broker) < 40 }).await;
    for socket in &silent {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn open_sockets(broker: &Broker) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", broker.pid()))
        .expect("fds")
        .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok())
        .filter(|l| l.to_string_lossy().starts_with("socket:"))
        .count()
}

/// T82: out of file descriptors: the listener recovers.
#[tokio::test]
async fn t82_running_out_of_file_descriptors_does_not_end_the_listener() {
    let (world, broker, caller) = ready().await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(broker.pid()).expect("pid"));
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let old = prlimit(
        pid,
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum,
        },
    )
    .expect("limit");
    let sockets: Vec<_> = (0..100)
        .filter_map(|_| TcpStream::connect(broker.address()).ok())
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    caller.nonce().await.expect("an open connection is served");
    drop(sockets);
    until("new connections are taken again", || async {
        world.caller(&broker, "/agent").nonce().await.is_ok()
    })
    .await;
    prlimit(pid, Resource::Nofile, old).expect("limit");
}

/// T80: HTTP/2 rapid reset: the connection that does it is closed, others are served, memory stays.
#[tokio::test]
async fn t80_rapid_reset_closes_the_connection_and_hurts_nobody() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (world, broker, caller) = ready().await;
    let before = resident(broker.pid());
    let config = std::sync::Arc::new(sundew_tests::tls::client_config(Some(
        &world.ca.svid("/agent"),
    )));
    let socket = tokio::net::TcpStream::connect(broker.address())
        .await
        .expect("connect");
    let name = rustls_pki_types::ServerName::try_from("broker").expect("name");
    let mut stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, socket)
        .await
        .expect("handshake");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // :method POST, :scheme http, :path /x (literal without indexing), :authority x.
    let headers = [0x83, 0x86, 0x04, 0x02, b'/', b'x', 0x01, 0x01, b'x'];
    let mut closed = false;
    'flood: for round in 0..200_u32 {
        for n in 0..100_u32 {
            let id = (round * 100 + n) * 2 + 1;
            bytes.extend([0, 0, u8::try_from(headers.len()).expect("short"), 1, 4]);
            bytes.extend(id.to_be_bytes());
            bytes.extend(headers);
            bytes.extend([0, 0, 4, 3, 0]);
            bytes.extend(id.to_be_bytes());
            bytes.extend(8_u32.to_be_bytes());
        }
        if stream.write_all(&bytes).await.is_err() {
            closed = true;
            break 'flood;
        }
        bytes.clear();
    }
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    closed |= ended.is_ok();
    assert!(closed, "20 000 resets were taken without a word");
    caller.nonce().await.expect("others are served");
    assert!(resident(broker.pid()) < before + (32 << 20));
}

/// Random bytes after a good handshake.
#[tokio::test]
async fn ac_85_noise_instead_of_http2_harms_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (world, broker, caller) = ready().await;
    let config = std::sync::Arc::new(sundew_tests::tls::client_config(Some(
        &world.ca.svid("/agent"),
    )));
    for seed in 0..20_u8 {
        let socket = tokio::net::TcpStream::connect(broker.address())
            .await
            .expect("connect");
        let name = rustls_pki_types::ServerName::try_from("broker").expect("name");
        let mut stream = tokio_rustls::TlsConnector::from(config.clone())
            .connect(name, socket)
            .await
            .expect("handshake");
        let mut noise = vec![0; 4096];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut noise)
            .expect("random");
        if seed % 2 == 0 {
            noise.splice(
                0..0,
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
                    .iter()
                    .copied(),
            );
        }
        let _ = stream.write_all(&noise).await;
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new()))
            .await
            .expect("closed");
    }
    caller.nonce().await.expect("served");
}
