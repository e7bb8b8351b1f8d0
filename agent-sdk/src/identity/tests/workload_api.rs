//! A Workload API that says what a test says.

use rustls_pki_types::pem::PemObject as _;
use sundew_proto::spiffe::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use sundew_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use super::*;

struct Scripted(watch::Receiver<X509svidResponse>);

type Stream<T> = ReceiverStream<Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in memory"))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Scripted {
    type FetchX509SVIDStream = Stream<X509svidResponse>;
    type FetchX509BundlesStream = Stream<X509BundlesResponse>;
    type FetchJWTBundlesStream = Stream<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Answer<Self::FetchX509SVIDStream> {
        let (answers, receiver) = mpsc::channel(1);
        let mut script = self.0.clone();
        tokio::spawn(async move {
            loop {
                let answer = script.borrow_and_update().clone();
                if answers.send(Ok(answer)).await.is_err() || script.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Answer<Self::FetchX509BundlesStream> {
        not_here()
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Answer<JwtsvidResponse> {
        not_here()
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Answer<Self::FetchJWTBundlesStream> {
        not_here()
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Answer<ValidateJwtsvidResponse> {
        not_here()
    }
}

fn der(certificate: &str) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes());
    der.expect("certificate").to_vec()
}

/// A Workload API for one test.
struct Api {
    script: watch::Sender<X509svidResponse>,
    socket: std::path::PathBuf,
}

impl Api {
    fn serve(name: &str, first: X509svidResponse) -> Self {
        let socket =
            std::env::temp_dir().join(format!("sundew-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&socket).expect("socket");
        let (script, answers) = watch::channel(first);
        let api = SpiffeWorkloadApiServer::new(Scripted(answers));
        let served = tonic::transport::Server::builder()
            .add_service(api)
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(served);
        Self { script, socket }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint_socket: Some(format!("unix://{}", self.socket.display())),
            ..Settings::default()
        }
    }

    async fn says(&self, response: X509svidResponse, source: &mut IdentitySource) {
        self.script.send_replace(response);
        let told = tokio::time::timeout(Duration::from_secs(5), source.changed()).await;
        told.expect("whoever follows is told");
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Ca {
    /// Returns an entry of the Workload API with a new SVID.
    fn entry(&self, path: &str, hint: &str) -> X509svid {
        let (leaf, key) = self.svid_of(path);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key");
        X509svid {
            spiffe_id: format!("spiffe://test.example{path}"),
            x509_svid: der(&leaf),
            x509_svid_key: key.secret_der().to_vec(),
            bundle: der(&self.certificate),
            hint: hint.to_owned(),
        }
    }
}

fn response(svids: &[X509svid], federated: &[(&str, Vec<u8>)]) -> X509svidResponse {
    X509svidResponse {
        svids: svids.to_vec(),
        federated_bundles: federated
            .iter()
            .map(|(name, roots)| (format!("spiffe://{name}"), roots.clone()))
            .collect(),
        ..X509svidResponse::default()
    }
}

/// Returns the trust domains that have roots.
fn trusted(source: &IdentitySource) -> Vec<String> {
    let roots = source.current().roots().into_iter();
    roots.map(|(domain, _)| domain).collect()
}

#[tokio::test]
async fn l14_a_bundle_that_changes_at_the_workload_api_is_taken() {
    let (old, new) = (ca(), ca());
    let entry = old.entry("/agent", "");
    let api = Api::serve("l14", response(std::slice::from_ref(&entry), &[]));
    let mut source = IdentitySource::open(&api.settings())
        .await
        .expect("an identity");
    let before = source.current();
    assert_eq!(roots(&source), 1);
    let both = X509svid {
        bundle: [der(&old.certificate), der(&new.certificate)].concat(),
        ..entry
    };
    api.says(response(&[both], &[]), &mut source).await;
    assert_eq!(roots(&source), 2);
    assert_eq!(source.current().chain(), before.chain());
    assert_eq!(source.current().roots(), before.roots());
}

#[tokio::test]
async fn i4_a_trust_domain_that_is_not_listed_any_more_is_not_trusted_any_more() {
    let (own, partner) = (ca(), ca());
    let entry = [own.entry("/agent", "")];
    let partner = [("partner.example", der(&partner.certificate))];
    let api = Api::serve("i4", response(&entry, &partner));
    let mut source = IdentitySource::open(&api.settings())
        .await
        .expect("an identity");
    let before = source.current();
    let (own, both) = (
        ["spiffe://test.example"],
        ["spiffe://partner.example", "spiffe://test.example"],
    );
    assert_eq!(trusted(&source), both);
    api.says(response(&entry, &[]), &mut source).await;
    assert_eq!(trusted(&source), own);
    // Connections that are open with the identity of before see it too.
    assert_eq!(before.roots().len(), 1);
}

#[tokio::test]
async fn i5_an_agent_starts_and_goes_on_beside_a_partners_bad_bundle() {
    let (own, partner) = (ca(), ca());
    let bad = ("bad.example", b"\x30\x03\x02\x01\x00".to_vec());
    let entry = [own.entry("/agent", "")];
    let api = Api::serve("i5", response(&entry, std::slice::from_ref(&bad)));
    let mut source = IdentitySource::open(&api.settings())
        .await
        .expect("an identity");
    assert_eq!(trusted(&source), ["spiffe://test.example"]);
    let good = ("partner.example", der(&partner.certificate));
    let garbage = ("worse.example", b"garbage".to_vec());
    let rotated = [own.entry("/agent", "")];
    api.says(response(&rotated, &[bad, garbage, good]), &mut source)
        .await;
    assert_eq!(
        trusted(&source),
        ["spiffe://partner.example", "spiffe://test.example"]
    );
    assert_eq!(source.current().chain()[0].to_vec(), rotated[0].x509_svid);
}

#[tokio::test]
async fn i11_an_agent_is_whom_its_settings_say_by_id_or_hint_and_the_first_otherwise() {
    let own = ca();
    let svids = [own.entry("/gateway", "edge"), own.entry("/agent", "core")];
    let api = Api::serve("i11", response(&svids, &[]));
    let agent = Some("spiffe://test.example/agent".to_owned());
    let (id, hint) = (
        Settings {
            svid_id: agent.clone(),
            ..api.settings()
        },
        Settings {
            svid_hint: Some("core".to_owned()),
            ..api.settings()
        },
    );
    for (settings, path) in [
        (&api.settings(), "/gateway"),
        (&id, "/agent"),
        (&hint, "/agent"),
    ] {
        let source = IdentitySource::open(settings).await.expect("an identity");
        assert!(source.current().id().as_str().ends_with(path));
    }
    let both = Settings {
        svid_id: agent,
        ..hint
    };
    let refused = IdentitySource::open(&both).await.expect_err("both");
    assert!(
        refused.to_string().contains("SUNDEW_SVID_HINT"),
        "{refused}"
    );
    tokio::time::pause();
    let other = Settings {
        svid_hint: Some("x".to_owned()),
        ..api.settings()
    };
    let refused = IdentitySource::open(&other).await.expect_err("absent");
    let told = "there is not an SVID with the hint `x`; there are: \
                `spiffe://test.example/gateway` (hint `edge`), \
                `spiffe://test.example/agent` (hint `core`)";
    assert!(refused.to_string().contains(told), "{refused}");
}
