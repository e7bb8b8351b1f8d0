//! A Workload API that hands out one SVID, with whatever bundle a test says.

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

struct OneSvid {
    svid: X509svid,
    bundle: watch::Receiver<Vec<u8>>,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in memory"))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for OneSvid {
    type FetchX509SVIDStream = Stream<X509svidResponse>;
    type FetchX509BundlesStream = Stream<X509BundlesResponse>;
    type FetchJWTBundlesStream = Stream<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Answer<Self::FetchX509SVIDStream> {
        let (answers, receiver) = mpsc::channel(1);
        let (svid, mut bundles) = (self.svid.clone(), self.bundle.clone());
        tokio::spawn(async move {
            loop {
                let bundle = bundles.borrow_and_update().clone();
                let svid = X509svid {
                    bundle,
                    ..svid.clone()
                };
                let answer = X509svidResponse {
                    svids: vec![svid],
                    ..X509svidResponse::default()
                };
                if answers.send(Ok(answer)).await.is_err() || bundles.changed().await.is_err() {
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

#[tokio::test]
async fn l14_a_bundle_that_changes_at_the_workload_api_is_taken() {
    let (old, new) = (ca(), ca());
    let (leaf, key) = old.svid();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key");
    let (bundles, bundle) = watch::channel(der(&old.certificate));
    let svid = X509svid {
        spiffe_id: "spiffe://test.example/agent".to_owned(),
        x509_svid: der(&leaf),
        x509_svid_key: key.secret_der().to_vec(),
        ..X509svid::default()
    };
    let socket = std::env::temp_dir().join(format!("sundew-l14-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&socket).expect("socket");
    let api = SpiffeWorkloadApiServer::new(OneSvid { svid, bundle });
    let served = tonic::transport::Server::builder()
        .add_service(api)
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(served);
    let settings = Settings {
        endpoint_socket: Some(format!("unix:{}", socket.display())),
        ..Settings::default()
    };
    let mut source = IdentitySource::open(&settings).await.expect("an identity");
    let before = source.current();
    assert_eq!(roots(&source), 1);
    bundles.send_replace([der(&old.certificate), der(&new.certificate)].concat());
    let told = tokio::time::timeout(Duration::from_secs(5), source.changed()).await;
    told.expect("whoever follows is told");
    assert_eq!(roots(&source), 2);
    assert_eq!(source.current().chain(), before.chain());
    assert_eq!(source.current().roots(), before.roots());
    std::fs::remove_file(socket).expect("removed");
}
