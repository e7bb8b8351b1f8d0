//! A Workload API that says what a test says, in the shapes of a SPIRE agent: several SVIDs with
//! hints, federated bundles by the SPIFFE ID of their trust domain, and `PermissionDenied` for whom
//! no entry matches.

use std::path::{Path, PathBuf};

use sundew_proto::spiffe::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use sundew_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use crate::pki::Ca;

/// A Workload API, for as long as the test's runtime is there.
pub struct ScriptedApi {
    script: watch::Sender<Option<X509svidResponse>>,
    socket: PathBuf,
}

impl ScriptedApi {
    /// Listens at this path. Nobody has an identity yet.
    pub fn serve(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("socket");
        let (script, answers) = watch::channel(None);
        let served = tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(Answers(answers)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(served);
        Self {
            script,
            socket: socket.to_owned(),
        }
    }

    /// Returns the path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says this from now on, on every stream.
    pub fn says(&self, svids: &[X509svid], federated: &[(&str, Vec<u8>)]) {
        let federated = federated.iter();
        self.script.send_replace(Some(X509svidResponse {
            svids: svids.to_vec(),
            federated_bundles: federated
                .map(|(domain, roots)| (format!("spiffe://{domain}"), roots.clone()))
                .collect(),
            ..X509svidResponse::default()
        }));
    }

    /// Says that no entry matches the caller.
    pub fn denies(&self) {
        self.script.send_replace(None);
    }
}

/// Returns an entry with a new SVID.
pub fn entry(ca: &Ca, path: &str, hint: &str) -> X509svid {
    let svid = ca.svid(path);
    X509svid {
        spiffe_id: format!("spiffe://{}{path}", ca.domain),
        x509_svid: svid.chain.iter().flat_map(|der| der.to_vec()).collect(),
        x509_svid_key: svid.key,
        bundle: ca.certificate.to_vec(),
        hint: hint.to_owned(),
    }
}

struct Answers(watch::Receiver<Option<X509svidResponse>>);

type Stream<T> = ReceiverStream<Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("the test does not need it"))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Answers {
    type FetchX509SVIDStream = Stream<X509svidResponse>;
    type FetchX509BundlesStream = Stream<X509BundlesResponse>;
    type FetchJWTBundlesStream = Stream<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Answer<Self::FetchX509SVIDStream> {
        let header = request.metadata().get("workload.spiffe.io");
        if header.is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let mut script = self.0.clone();
        tokio::spawn(async move {
            loop {
                let said = script.borrow_and_update().clone();
                let answer = said.ok_or(Status::permission_denied("no identity issued"));
                let ends = answer.is_err();
                if sender.send(answer).await.is_err() || ends || script.changed().await.is_err() {
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
