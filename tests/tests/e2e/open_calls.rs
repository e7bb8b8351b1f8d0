//! Calls that are open: what they hold is bounded for each workload.

use std::time::Duration;

use h2::client::SendRequest;
use serde_json::json;
use sundew_proto::v1::AttendRequest;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::codegen::Bytes;

/// A call of which nothing but the header is sent.
async fn half_sent(caller: Caller) -> Code {
    let (_held, requests) = tokio::sync::mpsc::channel::<AttendRequest>(1);
    let answer = caller.agent().attend(ReceiverStream::new(requests)).await;
    answer.expect_err("no start").code()
}

/// A1: one workload sends calls by half, over several connections, and holds no more than it may; it
/// can still end what it has, and others are served.
#[tokio::test]
async fn a1_calls_that_are_sent_by_half_are_bounded_for_each_workload() {
    let world = World::embedded();
    let limits = "[limits]\nstreams_per_workload = 32\n";
    let broker = world.broker_with(limits).await;
    for path in ["/agent", "/other"] {
        world.register(&broker, path, json!({})).await;
    }
    let svid = world.ca.svid("/agent");
    let caller = |_| world.caller_with(&broker, svid.clone());
    let callers: Vec<_> = (0..4).map(caller).collect();
    let begun = callers[0].begin(&world.issuer, "/agent", &["exec:git"]);
    let begun = begun.await.expect("task");
    let mut open: JoinSet<Code> = (0..40).map(|n| half_sent(callers[n % 4].clone())).collect();
    for _ in 0..8 {
        let refused = tokio::time::timeout(Duration::from_secs(5), open.join_next());
        let refused = refused.await.expect("at once").expect("a call");
        assert_eq!(refused.expect("call"), Code::ResourceExhausted);
    }
    let minted = callers[1].mint(&begun.task).await.expect_err("no place");
    assert_eq!(minted.code(), Code::ResourceExhausted);
    let ended = callers[2].complete(&begun.task).await;
    ended.expect("endings have places of their own");
    let other = world.caller(&broker, "/other");
    let others = other.begin(&world.issuer, "/other", &["exec:git"]);
    others.await.expect("others are served");
    assert!(!broker.refusals("any").is_empty(), "it is on the record");
    open.abort_all();
    until("places come back", || async {
        let again = callers[3].begin(&world.issuer, "/agent", &["exec:git"]);
        again.await.is_ok()
    })
    .await;
}

/// Opens a call over a connection, announces a message of a mebibyte, and sends all of it but a
/// little. Returns whether the broker took it.
async fn almost_sent(mut sender: SendRequest<Bytes>) -> bool {
    const LENGTH: usize = 1_048_320;
    let request = http::Request::post("https://sundew/sundew.v1.AgentService/CompleteTask")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("request");
    sender = sender.ready().await.expect("a stream");
    let (answer, mut body) = sender.send_request(request, false).expect("sent");
    let mut bytes = vec![0; LENGTH - 8_000];
    bytes[1..5].copy_from_slice(&u32::try_from(LENGTH).expect("length").to_be_bytes());
    let mut rest = Bytes::from(bytes);
    while !rest.is_empty() {
        body.reserve_capacity(rest.len().min(64 << 10));
        let room = tokio::time::timeout(Duration::from_secs(3), async {
            std::future::poll_fn(|context| body.poll_capacity(context)).await
        });
        let Ok(Some(Ok(room))) = room.await else {
            return false;
        };
        let piece = rest.split_to(room.min(rest.len()));
        if body.send_data(piece, false).is_err() {
            return false;
        }
    }
    // It is refused when it is overdue.
    drop(answer.await);
    true
}

async fn connection(world: &World, broker: &Broker, path: &str) -> SendRequest<Bytes> {
    let config = sundew_tests::tls::client_config(Some(&world.ca.svid(path)));
    let socket = tokio::net::TcpStream::connect(broker.address()).await;
    let name = rustls_pki_types::ServerName::try_from("sundew-broker").expect("name");
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
        .connect(name, socket.expect("connected"));
    let (sender, connection) = h2::client::handshake(tls.await.expect("TLS"))
        .await
        .expect("h2");
    tokio::spawn(connection);
    sender
}

fn resident(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid()));
    let status = status.expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    number.expect("a number") >> 10
}

/// A1: whoever has an SVID, registered or not, announces long messages and does not send them to their
/// end. What he fills of the memory is bounded, over in ten seconds, and nobody's who works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_messages_that_are_not_sent_to_their_end_are_bounded_in_bytes_and_in_time() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let before = resident(&broker);
    let mut flood: JoinSet<bool> = JoinSet::new();
    for _ in 0..3 {
        let sender = connection(&world, &broker, "/nobody").await;
        (0..100).for_each(|_| drop(flood.spawn(almost_sent(sender.clone()))));
    }
    let caller = world.caller(&broker, "/agent");
    let begun = caller.begin(&world.issuer, "/agent", &["exec:git"]);
    let begun = begun.await.expect("others are served");
    world.register(&broker, "/other", json!({})).await;
    caller.complete(&begun.task).await.expect("completed");
    let taken = flood
        .join_all()
        .await
        .into_iter()
        .filter(|taken| *taken)
        .count();
    let grown = resident(&broker).saturating_sub(before);
    // A quarter of the budget at a time; a slow machine may begin others after ten seconds.
    assert!((1..=64).contains(&taken), "{taken} messages were taken");
    assert!(grown < 150, "{grown} MiB");
    let refused = broker.refusals("any").join("\n");
    assert!(refused.contains("unfinished messages"), "{refused}");
    assert!(refused.contains("in time"), "{refused}");
}
