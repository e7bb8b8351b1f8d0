//! One broker serves the bundle of its CA, and another one fetches it, in both profiles.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{DnsName, PrivateKeyDer, ServerName};
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_core::Ttl;
use sundew_proto::v1;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::sources::{Federation, FederationConfig, Partner, Profile};
use super::*;
use crate::peer::accept::accept;
use crate::peer::endpoint::client_config;
use crate::peer::files::{certified, read_bundle};
use crate::peer::{AcceptObserver, Clients, HandshakeError, ListenerLimits, Trust};
use crate::testing::{DOMAIN, TestBroker};

const LIMIT: Duration = Duration::from_secs(1);

fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}{path}")).unwrap()
}

/// Hears of connections, and says nothing.
struct Nobody;

impl AcceptObserver for Nobody {
    fn accepted(&self) {}
    fn is_operator(&self, _: &SpiffeId) -> bool {
        false
    }
    fn refused(&self, _: SocketAddr, _: &HandshakeError) {}
}

/// A broker whose CA's bundle is served.
struct Served {
    broker: TestBroker,
    ca: Arc<Ca>,
    folder: tempfile::TempDir,
    port: u16,
    serving: JoinHandle<io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        // The program does so when it begins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let broker = TestBroker::start().await;
        let lives = (Ttl::HOUR, Ttl::MONTH);
        let ca = Arc::new(Ca::open(&broker.ledger, domain(), lives).await.unwrap());
        let name = DnsName::try_from("localhost").unwrap();
        let (svid, key) = ca.issue_own(&id("/sundew/broker"), &[name]).unwrap();
        let key = PrivateKeyDer::try_from(key.expose().to_vec()).unwrap();
        let own = certified(svid.chain, key).unwrap();
        let shown = Arc::new(Trust::default());
        shown.set_identity(own);
        let folder = tempfile::tempdir().unwrap();
        let root = STANDARD.encode(&svid.bundle[0]);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n");
        std::fs::write(folder.path().join("root.pem"), pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::channel(1);
        let limits = ListenerLimits {
            connections: 64,
            for_operators: 1,
            handshakes: 4,
            pending: 8,
            per_remote: 64,
            per_workload: 64,
        };
        let observer = Arc::new(Nobody);
        tokio::spawn(accept(
            listener,
            shown,
            Clients::Http,
            limits,
            observer,
            sender,
        ));
        let incoming = Incoming {
            address,
            connections,
        };
        let stop = std::future::pending();
        let serving = tokio::spawn(serve(incoming, Arc::clone(&ca), stop));
        let port = address.port();
        Self {
            broker,
            ca,
            folder,
            port,
            serving,
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Another broker that fetches the bundle, and whom it trusts.
    fn fetched(&self, profile: Profile) -> Arc<Trust> {
        let trust = Arc::new(Trust::default());
        let config = FederationConfig {
            trust_domain: domain(),
            url: format!("https://localhost:{}/any/path.json", self.port),
            profile,
        };
        let federation = Arc::new(Federation::new(Arc::clone(&trust)));
        tokio::spawn(Partner::new(config, federation, LIMIT).follow());
        trust
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// How many roots and keys for JWT-SVIDs of the trust domain there are.
fn keys(trust: &Trust) -> (usize, usize) {
    let current = trust.current();
    let Some(bundle) = current.bundles.of(&domain()) else {
        return (0, 0);
    };
    let jwt = bundle.jwt().map(|jwt| {
        let text = String::from_utf8_lossy(jwt.document()).into_owned();
        text.matches("\"kid\"").count()
    });
    (bundle.certificates().count(), jwt.unwrap_or_default())
}

async fn until(what: impl Fn() -> bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while !what() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("in time");
}

fn spiffe(served: &Served, endpoint: SpiffeId) -> Profile {
    let bundle = Some(served.root());
    Profile::HttpsSpiffe { endpoint, bundle }
}

#[tokio::test]
async fn a_partner_fetches_the_bundle_by_the_endpoints_svid_and_follows_a_rotation() {
    let served = Served::start().await;
    let trust = served.fetched(spiffe(&served, id("/sundew/broker")));
    until(|| keys(&trust) == (1, 1)).await;
    let request = v1::RotateCaRequest {
        jwt: false,
        activate_after_ms: 0,
        idempotency_key: "rotation".to_owned(),
    };
    let rotated = served.ca.rotate(&served.broker.operator(), request).await;
    rotated.unwrap();
    until(|| keys(&trust) == (2, 1)).await;
    assert!(trust.problems().is_empty());
}

#[tokio::test]
async fn a_partner_fetches_the_bundle_by_a_certificate_for_the_endpoints_host() {
    let served = Served::start().await;
    let ca_file = Some(served.root());
    let trust = served.fetched(Profile::HttpsWeb { ca_file });
    until(|| keys(&trust) == (1, 1)).await;
}

/// SPIFFE Federation, section 5.2.2.4.
#[tokio::test]
async fn an_endpoint_with_another_id_or_under_other_roots_is_refused() {
    let served = Served::start().await;
    let other = served.fetched(spiffe(&served, id("/other")));
    // The file is for the partner's own trust domain only, and nobody else is trusted here.
    let elsewhere = SpiffeId::parse("spiffe://elsewhere.example/server").unwrap();
    let foreign = served.fetched(Profile::HttpsSpiffe {
        endpoint: elsewhere,
        bundle: None,
    });
    let public = served.fetched(Profile::HttpsWeb { ca_file: None });
    for (trust, why) in [
        (&other, "and not spiffe://test.example/other"),
        (&foreign, "the endpoint's SVID: "),
        (&public, "UnknownIssuer"),
    ] {
        until(|| !trust.problems().is_empty()).await;
        assert_eq!(keys(trust), (0, 0));
        let problem = trust.problems().concat();
        assert!(problem.contains(why), "{problem}");
    }
    let problem = other.problems().concat();
    assert!(
        problem.starts_with(&format!("federation with {DOMAIN}: ")),
        "{problem}"
    );
}

/// P12: whoever says nothing keeps nobody from the bundle, and does not stay.
#[tokio::test]
async fn silent_connections_do_not_keep_the_bundle_from_others() {
    let served = Served::start().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(
            TcpStream::connect(("127.0.0.1", served.port))
                .await
                .unwrap(),
        );
    }
    let ca_file = Some(served.root());
    let trust = served.fetched(Profile::HttpsWeb { ca_file });
    until(|| keys(&trust) == (1, 1)).await;
    // One that ends its handshake and asks nothing is closed too.
    let bundle = read_bundle(&domain(), &served.root()).unwrap();
    let config = client_config(id("/sundew/broker"), bundle.into()).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", served.port))
        .await
        .unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut idle = connector.connect(name, socket).await.unwrap();
    let mut byte = [0];
    let ended = timeout(LIFE + Duration::from_secs(5), idle.read(&mut byte));
    assert_eq!(ended.await.expect("in time").unwrap_or_default(), 0);
}
