//! A bare server beside which the broker is measured: the same transport, nothing of Sundew.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use sundew_tests::pki::Svid;

use sundew_tests::world::World;

use crate::measure::Measured;
use crate::operations::{Fleet, handshakes, noop};

/// Starts the bare server; answers its process and address.
pub(crate) fn start_bare(world: &World) -> (std::process::Child, String) {
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

pub(crate) async fn bare_echo(world: &World, calls: usize) -> Measured {
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
pub(crate) async fn echo_server(folder: &str) {
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

pub(crate) async fn bare_handshakes(world: &World, svid: &Svid, count: usize) -> Measured {
    let (mut child, address) = start_bare(world);
    handshakes(child.id(), &address, svid, 200).await;
    let measured = handshakes(child.id(), &address, svid, count).await;
    child.kill().expect("kill");
    child.wait().expect("wait");
    measured
}
