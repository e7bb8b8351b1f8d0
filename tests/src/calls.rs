//! Calls from outside: a bare mutual-TLS client that can present any certificate, and short ways
//! into the services.

use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use rcgen::PublicKeyData as _;
use rustls_pki_types::ServerName;
use serde_json::Value;
use sundew_attestation::{Binding, BindingPurpose};
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::dispatch_service_client::DispatchServiceClient;
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::response_service_client::ResponseServiceClient;
use sundew_proto::v1::*;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::issuer::TestIssuer;
use crate::pki::Svid;
use crate::tls::client_config;

/// A connection to a broker, with some certificate or none. It does not look at the broker's.
#[derive(Clone)]
pub struct Caller {
    /// The channel, for generated clients.
    pub channel: Channel,
    /// The SVID that is presented, if any.
    pub svid: Option<Svid>,
    exporter: Arc<Mutex<[u8; 32]>>,
}

/// A task that a test has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The id of the task.
    pub task: String,
    /// The first token of the task.
    pub token: String,
    /// The whole answer of the broker.
    pub answer: BeginTaskResponse,
}

impl Caller {
    /// Returns a caller that connects when it is first used.
    pub fn new(address: String, svid: Option<Svid>) -> Self {
        let exporter = Arc::new(Mutex::new([0; 32]));
        let config = Arc::new(client_config(svid.as_ref()));
        let kept = Arc::clone(&exporter);
        let connector = tower::service_fn({
            let address = address.clone();
            move |_| {
                let (config, kept, address) =
                    (Arc::clone(&config), Arc::clone(&kept), address.clone());
                async move {
                    let socket = TcpStream::connect(address).await?;
                    socket.set_nodelay(true)?;
                    let name = ServerName::try_from("broker").expect("name");
                    let stream = tokio_rustls::TlsConnector::from(config)
                        .connect(name, socket)
                        .await?;
                    let mut material = [0; 32];
                    stream
                        .get_ref()
                        .1
                        .export_keying_material(&mut material, b"EXPORTER-Channel-Binding", None)
                        .map_err(std::io::Error::other)?;
                    *kept.lock().expect("exporter") = material;
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("address")
            .connect_timeout(std::time::Duration::from_secs(5));
        Self {
            channel: endpoint.connect_with_connector_lazy(connector),
            svid,
            exporter,
        }
    }

    /// Returns the channel binding of the TLS session that is open; zeroes before there is one.
    pub fn exporter(&self) -> [u8; 32] {
        *self.exporter.lock().expect("exporter")
    }

    /// Returns SHA-256 of the certificate that is presented.
    pub fn thumbprint(&self) -> Vec<u8> {
        self.svid.as_ref().expect("an SVID").thumbprint().to_vec()
    }

    /// Returns a client of the agent's service.
    pub fn agent(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel.clone())
    }

    /// Returns a client of the service of dispatchers.
    pub fn dispatch(&self) -> DispatchServiceClient<Channel> {
        DispatchServiceClient::new(self.channel.clone())
    }

    /// Returns a client of the resource server's service.
    pub fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// Returns a client of the registrar's service.
    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    /// Returns a client of the responder's service.
    pub fn response(&self) -> ResponseServiceClient<Channel> {
        ResponseServiceClient::new(self.channel.clone())
    }

    /// Returns a client of the enrollment service.
    pub fn enrollment(&self) -> EnrollmentServiceClient<Channel> {
        EnrollmentServiceClient::new(self.channel.clone())
    }

    /// Applies registrations.
    pub async fn apply(&self, documents: &[Value]) -> Result<ApplyWorkloadsResponse, Status> {
        let documents = documents.iter().map(ToString::to_string).collect();
        Ok(self
            .registry()
            .apply_workloads(ApplyWorkloadsRequest {
                documents,
                dry_run: false,
            })
            .await?
            .into_inner())
    }

    /// Writes a secret.
    pub async fn put_secret(&self, name: &str, value: &str) {
        let request = PutSecretRequest {
            name: name.to_owned(),
            value: value.as_bytes().to_vec(),
            idempotency_key: String::new(),
        };
        self.registry()
            .put_secret(request)
            .await
            .expect("secret is written");
    }

    /// Asks for a challenge and returns its nonce.
    pub async fn nonce(&self) -> Result<Vec<u8>, Status> {
        Ok(self
            .agent()
            .challenge(ChallengeRequest {})
            .await?
            .into_inner()
            .nonce)
    }

    /// Returns a request to begin, with a fresh nonce and a fresh token of the issuer for this subject.
    pub async fn request(
        &self,
        issuer: &TestIssuer,
        sub: &str,
        scopes: &[&str],
    ) -> Result<BeginTaskRequest, Status> {
        Ok(BeginTaskRequest {
            nonce: self.nonce().await?,
            purpose: "test".to_owned(),
            instruction: "do the test".to_owned(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            evidence: vec![oidc(issuer.token(sub))],
            ..BeginTaskRequest::default()
        })
    }

    /// Begins a task.
    pub async fn begin(
        &self,
        issuer: &TestIssuer,
        sub: &str,
        scopes: &[&str],
    ) -> Result<Begun, Status> {
        self.send(self.request(issuer, sub, scopes).await?).await
    }

    /// Sends a request to begin.
    pub async fn send(&self, request: BeginTaskRequest) -> Result<Begun, Status> {
        let answer = self.agent().begin_task(request).await?.into_inner();
        let token = answer.token.clone().expect("token").token;
        Ok(Begun {
            task: answer.task.clone().expect("task").task_id,
            token,
            answer,
        })
    }

    /// Returns what evidence for a task must be bound to: this caller's key and channel, and a nonce.
    pub fn bound(&self, nonce: &[u8]) -> Binding {
        let key = rcgen::KeyPair::try_from(self.svid.as_ref().expect("SVID").key.as_slice())
            .expect("key");
        Binding::new(
            BindingPurpose::BeginTask,
            nonce,
            &key.subject_public_key_info(),
            &self.exporter(),
        )
    }

    /// Begins a task on this evidence, by kind.
    pub async fn begin_on(
        &self,
        nonce: Vec<u8>,
        shown: Vec<(&str, Vec<u8>)>,
    ) -> Result<Begun, Status> {
        let evidence = shown
            .into_iter()
            .map(|(kind, payload)| Evidence {
                kind: kind.to_owned(),
                payload,
            })
            .collect();
        let request = BeginTaskRequest {
            nonce,
            purpose: "x".to_owned(),
            scopes: vec!["exec:git".to_owned()],
            evidence,
            ..BeginTaskRequest::default()
        };
        self.send(request).await
    }

    /// Adds a trusted item, as an operator.
    pub async fn trust(&self, kind: &str, name: &str, content: &str) {
        let request = AddTrustRequest {
            kind: kind.to_owned(),
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
        };
        self.registry().add_trust(request).await.expect("trusted");
    }

    /// Returns, as an operator, why the last evidence was refused.
    pub async fn last_refusal(&self) -> String {
        let request = ExplainEvidenceRequest {
            spiffe_id: String::new(),
            limit: 1,
        };
        let attempts = self
            .registry()
            .explain_evidence(request)
            .await
            .expect("explanation")
            .into_inner()
            .attempts;
        attempts.into_iter().next().expect("an attempt").refusal
    }

    /// Asks whether a token is active in the hands of whoever has the certificate of this SHA-256.
    pub async fn active(&self, token: &str, presenter: &[u8]) -> Result<bool, Status> {
        let request = IntrospectRequest {
            token: token.to_owned(),
            presenter_certificate_sha256: presenter.to_vec(),
            ..IntrospectRequest::default()
        };
        Ok(self.access().introspect(request).await?.into_inner().active)
    }

    /// Mints a token.
    pub async fn mint(&self, task: &str) -> Result<Token, Status> {
        let request = MintTokenRequest {
            task_id: task.to_owned(),
            ..MintTokenRequest::default()
        };
        Ok(self
            .agent()
            .mint_token(request)
            .await?
            .into_inner()
            .token
            .expect("token"))
    }

    /// Reads a secret.
    pub async fn secret(&self, task: &str, name: &str) -> Result<String, Status> {
        let request = GetSecretRequest {
            task_id: task.to_owned(),
            name: name.to_owned(),
            ..GetSecretRequest::default()
        };
        let value = self.agent().get_secret(request).await?.into_inner().value;
        Ok(String::from_utf8(value).expect("text"))
    }

    /// Completes a task.
    pub async fn complete(&self, task: &str) -> Result<Outcome, Status> {
        let request = CompleteTaskRequest {
            task_id: task.to_owned(),
            outcome: 0,
        };
        Ok(self
            .agent()
            .complete_task(request)
            .await?
            .into_inner()
            .outcome())
    }

    /// Revokes what a selector matches; in force everywhere, or an error.
    pub async fn revoke(&self, selector: Selector) -> Result<RevokeResponse, Status> {
        self.respond(selector, Effect::Revoke).await
    }

    /// Puts a rule in force everywhere. A rule that is pending is an error here.
    pub async fn respond(
        &self,
        selector: Selector,
        effect: Effect,
    ) -> Result<RevokeResponse, Status> {
        let request = RevokeRequest {
            selector: Some(selector),
            effect: effect.into(),
            reason: "test".to_owned(),
            ..RevokeRequest::default()
        };
        let answer = self.response().revoke(request).await?.into_inner();
        if answer.pending {
            return Err(Status::unavailable(format!(
                "{} is pending",
                answer.revocation_id
            )));
        }
        Ok(answer)
    }

    /// Lifts a quarantine.
    pub async fn lift(&self, revocation_id: &str) -> Result<LiftResponse, Status> {
        let request = LiftRequest {
            revocation_id: revocation_id.to_owned(),
            reason: "test".to_owned(),
        };
        Ok(self.response().lift(request).await?.into_inner())
    }

    /// Follows a preview to its end and returns the last counts.
    pub async fn preview(&self, selector: Selector) -> Result<PreviewResponse, Status> {
        let mut told = self
            .response()
            .preview(PreviewRequest {
                selector: Some(selector),
            })
            .await?
            .into_inner();
        let mut last = None;
        while let Some(so_far) = told.message().await? {
            last = Some(so_far);
        }
        Ok(last.filter(|last| last.done).expect("a last word"))
    }

    /// Follows a revocation until its clean-up is done and returns the last status.
    pub async fn cleaned_up(&self, revocation_id: &str) -> Result<RevocationStatus, Status> {
        let request = WatchRevocationRequest {
            revocation_id: revocation_id.to_owned(),
            follow: true,
        };
        let mut told = self
            .response()
            .watch_revocation(request)
            .await?
            .into_inner();
        let mut last = None;
        while let Some(status) = told.message().await? {
            last = Some(status);
        }
        Ok(last.expect("a status"))
    }

    /// Delegates scopes of a task to another workload and returns the grant.
    pub async fn delegate(
        &self,
        task: &str,
        delegate: &str,
        scopes: &[&str],
        depth: u32,
    ) -> Result<String, Status> {
        let request = DelegateRequest {
            task_id: task.to_owned(),
            delegate: delegate.to_owned(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            depth,
            ..DelegateRequest::default()
        };
        Ok(self.agent().delegate(request).await?.into_inner().grant)
    }
}

/// Returns a token as evidence of kind `oidc`.
pub fn oidc(token: Vec<u8>) -> Evidence {
    Evidence {
        kind: "oidc".to_owned(),
        payload: token,
    }
}
