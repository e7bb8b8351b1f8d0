//! What one caller can use up, and who is kept out by it: A1, A3, A7, A9.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_broker::journal::Record;
use sundew_proto::v1::{EnrollChallengeRequest, EnrollRequest};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::dev::Dev;
use sundew_tests::disk::Disk;
use sundew_tests::selectors::of_task;
use sundew_tests::tls::client_config;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::enrollment::with_own_ca;

/// Starts a broker whose configuration has these texts replaced.
async fn broker_with(world: &World, more: &str, changes: &[(&str, &str)]) -> Broker {
    let mut broker = world.prepare(more);
    let mut text = std::fs::read_to_string(broker.config_file()).expect("config");
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    std::fs::write(broker.config_file(), text).expect("config");
    broker.up();
    broker.ready().await;
    broker
}

/// Sends eight bytes of garbage instead of a handshake, and waits until the broker hangs up.
pub(crate) fn garbage(address: &str) {
    let mut socket = TcpStream::connect(address).expect("connect");
    socket.write_all(b"garbage!").expect("garbage");
    let _ = socket.read_to_end(&mut Vec::new());
}

fn length(folder: &Path) -> u64 {
    std::fs::read_dir(folder)
        .expect("journal")
        .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
        .sum()
}

/// The refusals of one event: those that are whole, and those in counts.
fn refusals(records: &[Record], event: &str) -> (u64, u64) {
    let whole = records.iter().filter(|record| record.event == event);
    let counts = records
        .iter()
        .filter(|record| record.event == "refused_more" && record.field("of") == Some(event))
        .map(|record| record.field("count").expect("count").parse::<u64>());
    (
        u64::try_from(whole.count()).expect("few"),
        counts.map(|count| count.expect("number")).sum(),
    )
}

/// A1: refused handshakes and refused calls cost the journal's disk a bounded number of bytes, and
/// each of them is on the record, whole or in a count.
#[tokio::test]
async fn a1_a_flood_of_refusals_takes_little_of_the_journals_disk_and_all_are_counted() {
    const FLOOD: u64 = 500;
    let world = World::embedded();
    let whole = [("refusals_whole = 1000\n", "")];
    let limits = "[limits]\ncalls_per_second = 1000000\n";
    let mut broker = broker_with(&world, limits, &whole).await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    caller.nonce().await.expect("good");
    let journal = broker.folder().join("journal");
    let before = length(&journal);

    for _ in 0..FLOOD {
        garbage(&broker.address());
    }
    for _ in 0..FLOOD {
        caller.mint("task-none").await.expect_err("refused");
    }
    // Parsers repeat what they could not read.
    let bent = format!("{{\"{}\":1}}", "\u{1b}x".repeat(20_000));
    for _ in 0..20 {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        let mut token = base64_url(bent.as_bytes());
        token.push_str(".e30.e30");
        request.evidence = vec![oidc(token.into_bytes())];
        caller.send(request).await.expect_err("refused");
    }
    drop(caller);
    broker.signal(Signal::TERM);
    broker.wait();

    let grown = length(&journal) - before;
    assert!(grown < 40_000, "{grown} bytes for what was refused");
    let records = broker.journal();
    let (whole, counted) = refusals(&records, "handshake_refused");
    assert!(whole > 0 && counted > 0, "{whole} whole, {counted} counted");
    // The harness looks once whether the broker takes connections.
    assert_eq!(whole + counted, FLOOD + 1);
    let (whole, counted) = refusals(&records, "refused");
    assert_eq!(whole + counted, FLOOD + 20);
    for record in records.iter().filter(|record| record.event == "refused") {
        let reason = record.field("reason").expect("reason");
        assert!(reason.len() <= 200, "{} bytes: {reason}", reason.len());
        assert!(!reason.chars().any(char::is_control), "{reason:?}");
    }
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Begins tasks with long instructions until the broker issues no more; answers the first task.
async fn begin_until_refused(world: &World, caller: &Caller) -> (String, String) {
    let mut first = None;
    for n in 0..200 {
        let mut request = caller
            .request(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("request");
        request.instruction = "i".repeat(60_000);
        match caller.send(request).await {
            Ok(begun) => drop(first.get_or_insert((begun.task, begun.token))),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "after {n}: {status}");
                return first.expect("a task");
            }
        }
    }
    panic!("the disk took everything");
}

/// A1: a workload fills its part of the journal and no more, ends its tasks all the same, and keeps
/// nobody else from anything.
#[tokio::test]
async fn a1_one_workload_cannot_fill_the_journal_with_long_instructions() {
    let world = World::embedded();
    let limits = "[limits]\njournal_per_minute = \"64KiB\"\njournal_burst = \"1MiB\"\n";
    let broker = broker_with(&world, limits, &[]).await;
    for path in ["/agent", "/other"] {
        world
            .register(&broker, path, json!({ "max_tasks": 1000 }))
            .await;
    }
    let caller = world.caller(&broker, "/agent");
    let mut first = None;
    let refused = loop {
        let request = caller.request(&world.issuer, "/agent", &["exec:git"]).await;
        let mut request = request.expect("request");
        request.instruction = "i".repeat(60_000);
        match caller.send(request).await {
            Ok(begun) => drop(first.get_or_insert(begun.task)),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let journal = length(&broker.folder().join("journal"));
    assert!((900_000..1 << 20).contains(&journal), "{journal} bytes");
    let task = first.expect("a task");
    caller
        .complete(&task)
        .await
        .expect("endings are not counted");
    world
        .caller(&broker, "/other")
        .begin(&world.issuer, "/other", &["exec:git"])
        .await
        .expect("another workload");
    // The refusal is on disk with the records that came after it.
    let cause = "journal: rate limit: workload has used up its bytes of the journal";
    assert_eq!(broker.refusals("BeginTask"), [cause]);
}

/// A1: whatever is asked for, and whoever fills the disk, what ends something is written, nothing is
/// issued, and operators hear why.
#[tokio::test]
async fn a1_with_only_the_reserve_left_everything_ends_and_nothing_is_issued() {
    let world = World::redis();
    let disk = Disk::mount("4m");
    let directory = format!("directory = \"{}/journal\"\n#", disk.path().display());
    let changes = [
        ("directory = \"", directory.as_str()),
        ("reserve = \"1MiB\"", "reserve = \"2MiB\""),
    ];
    let broker = broker_with(&world, "", &changes).await;
    world
        .register(&broker, "/agent", json!({ "max_tasks": 1000 }))
        .await;
    let (caller, operator) = (world.caller(&broker, "/agent"), world.operator(&broker));
    let (task, token) = begin_until_refused(&world, &caller).await;
    for _ in 0..200 {
        garbage(&broker.address());
        caller.mint("task-none").await.expect_err("refused");
    }
    // Another program takes the rest of the disk.
    let _filler = disk.fill();

    until("readiness and metrics say so", || async {
        let ready = broker.http("/readyz").await.expect("answer");
        let (_, metrics) = broker.http("/metrics").await.expect("answer");
        ready.0 == 503
            && ready
                .1
                .contains("journal: the disk has only its reserve left")
            && metrics.contains("sundew_journal_writable 0")
            && broker.output().contains("\"alarm\":\"journal\"")
    })
    .await;
    let other = caller.begin(&world.issuer, "/agent", &["exec:git"]).await;
    assert_eq!(
        other.expect_err("nothing is issued").code(),
        Code::Unavailable
    );
    operator.revoke(of_task(&task)).await.expect("revoked");
    assert_eq!(
        operator.active(&token, &caller.thumbprint()).await.ok(),
        Some(false)
    );
    operator
        .apply(&[World::registration("/agent", json!({ "max_tasks": 1 }))])
        .await
        .expect("operators' records are written");
    let mut count = 0;
    sundew_broker::journal::read(&disk.path().join("journal"), |_| count += 1)
        .expect("the chain holds");
    assert!(count > 10);
}

/// A3: connections that say nothing, or nothing more, hold up nobody's handshake.
#[tokio::test]
async fn a3_silent_connections_delay_nobody() {
    let world = World::embedded();
    let broker = world
        .broker_with("[limits]\npending_handshakes = 200\n")
        .await;
    world.register(&broker, "/agent", json!({})).await;
    let config = Arc::new(client_config(None));
    let mut silent = Vec::new();
    for n in 0..600 {
        let mut socket = TcpStream::connect(broker.address()).expect("connect");
        if n % 2 == 1 {
            // A whole ClientHello, and nothing after the server's answer.
            let name = rustls_pki_types::ServerName::try_from("broker").expect("name");
            let mut client =
                rustls::ClientConnection::new(Arc::clone(&config), name).expect("client");
            client.write_tls(&mut socket).expect("hello");
        }
        silent.push(socket);
    }
    for _ in 0..5 {
        let began = Instant::now();
        world
            .caller(&broker, "/agent")
            .nonce()
            .await
            .expect("served");
        assert!(
            began.elapsed() < Duration::from_millis(1500),
            "{:?}",
            began.elapsed()
        );
    }
    drop(silent);
}

/// Opens HTTP/2 connections of a workload, as many as are let in; they stay open.
pub(crate) async fn hold(
    world: &World,
    broker: &Broker,
    path: &str,
    count: usize,
) -> Vec<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let config = Arc::new(client_config(Some(&world.ca.svid(path))));
    let mut held = Vec::new();
    for _ in 0..count {
        let Ok(socket) = tokio::net::TcpStream::connect(broker.address()).await else {
            continue;
        };
        let name = rustls_pki_types::ServerName::try_from("broker").expect("name");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let Ok(mut stream) = connector.connect(name, socket).await else {
            continue;
        };
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
        let spoke = stream.write_all(hello).await.is_ok();
        // Who is let in gets the broker's settings.
        if spoke && stream.read_u8().await.is_ok() {
            held.push(stream);
        }
    }
    held
}

/// A3: a workload with all the connections that it may have locks out nobody else, and all workloads
/// together do not lock out operators.
#[tokio::test]
async fn a3_connections_of_one_workload_lock_out_nobody_else_and_those_of_all_no_operator() {
    let world = World::embedded();
    let limits =
        "[limits]\nconnections = 24\nconnections_per_workload = 8\noperator_connections = 6\n";
    let broker = world.broker_with(limits).await;
    world.register(&broker, "/agent", json!({})).await;
    let loud = hold(&world, &broker, "/loud", 40).await;
    assert_eq!(loud.len(), 8);
    let agent = world.caller(&broker, "/agent");
    agent.nonce().await.expect("another workload is served");

    let louder = hold(&world, &broker, "/louder", 8).await;
    let loudest = hold(&world, &broker, "/loudest", 8).await;
    assert!(loudest.len() < 8, "{}", loudest.len());
    let operator = world.operator(&broker);
    operator
        .apply(&[World::registration("/agent", json!({ "max_tasks": 3 }))])
        .await
        .expect("operators have places of their own");
    drop((loud, louder, loudest));
    until("places come back", || async {
        let fresh = world.caller(&broker, "/agent");
        fresh.nonce().await.is_ok()
    })
    .await;
}

/// A7: idle connections of one user to the Workload API's socket take neither all places nor the
/// file descriptors of others.
#[tokio::test]
async fn a7_one_local_user_does_not_take_all_places_of_the_workload_api() {
    let dev = Dev::new();
    let path = dev.field("endpoint_socket").replacen("unix://", "", 1);
    let mut open = Vec::new();
    for _ in 0..600 {
        let socket = UnixStream::connect(&path).expect("connect");
        socket.set_nonblocking(true).expect("nonblocking");
        open.push(socket);
    }
    let held = || {
        open.iter()
            .filter(|socket| {
                let mut socket = *socket;
                socket
                    .read(&mut [0; 64])
                    .map_or_else(|e| e.kind() == std::io::ErrorKind::WouldBlock, |n| n > 0)
            })
            .count()
    };
    until("what is too much is closed", || async { held() <= 128 }).await;
    assert!(held() > 0, "what is within the limit is not");
    dev.did(&["workload", "list"], "");
}

/// A9: the enrollment listener tells nobody who is registered.
#[tokio::test]
async fn a9_enrollment_answers_alike_for_registered_and_unknown_ids() {
    let (world, broker, port) = with_own_ca().await;
    let document = |path: &str, changes| {
        let mut document = World::registration(path, changes);
        document["spiffe_id"] = json!(format!("spiffe://own.example{path}"));
        document
    };
    let wanted = World::registration("/host", json!({}))["evidence"].clone();
    let known = [
        document("/host", json!({ "enrollment": wanted })),
        document("/plain", json!({})),
    ];
    let operator = world.operator(&broker);
    operator.apply(&known).await.expect("registered");
    let anybody = Caller::new(format!("127.0.0.1:{port}"), None);
    let (_, csr) = sundew_tests::pki::csr();
    for csr in [Vec::new(), b"x".to_vec(), csr] {
        for evidence in [Vec::new(), vec![oidc(b"x".to_vec())]] {
            for challenged in [true, false] {
                let mut answers = Vec::new();
                for path in ["/host", "/plain", "/unknown"] {
                    let mut enrollment = anybody.enrollment();
                    let challenge = enrollment.enroll_challenge(EnrollChallengeRequest {});
                    let nonce = challenge.await.expect("challenge").into_inner().nonce;
                    let request = EnrollRequest {
                        spiffe_id: format!("spiffe://own.example{path}"),
                        csr: csr.clone(),
                        evidence: evidence.clone(),
                        nonce: if challenged { nonce } else { vec![1; 32] },
                        ..EnrollRequest::default()
                    };
                    let status = enrollment.enroll(request).await;
                    let status = status.expect_err("refused");
                    answers.push((status.code(), status.message().to_owned()));
                }
                assert_eq!(answers[0], answers[2], "{} bytes of CSR", csr.len());
                assert_eq!(answers[1], answers[2], "{} bytes of CSR", csr.len());
            }
        }
    }
}
