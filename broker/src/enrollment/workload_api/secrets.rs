//! Envoy's Secret Discovery Service, version 3, for the same processes and with the same SVIDs and
//! bundles as the Workload API. Resources have the names that SPIRE's agent gives them, so that
//! configurations for it hold here.
//!
//! | name                  | secret                                                        |
//! | --------------------- | ------------------------------------------------------------- |
//! | `default`             | the first X.509-SVID of the process, with its key             |
//! | a SPIFFE ID           | that X.509-SVID, with its key                                 |
//! | `ROOTCA`              | the bundle of the trust domain of the first X.509-SVID        |
//! | `spiffe://<domain>`   | the bundle of that trust domain                               |
//! | `ALL`                 | all bundles                                                   |
//!
//! A stream that has an SVID as `default` gets no other ID under that name: it ends when the process
//! may not have that ID any more. Without names, everything is sent by SPIFFE ID.
//!
//! Bundles are for Envoy's SPIFFE validator (Envoy 1.18 and later), which takes a certificate by the
//! bundle of its own trust domain only (P1). A trust domain that a stream knew and that is withdrawn
//! is answered with one that nobody has, so that Envoy forgets its roots.
//!
//! The header of the Workload API is not asked for: Envoy does not send it, and no browser or proxy
//! can be made to speak gRPC over a Unix socket by who cannot open the socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use prost_types::Any;
use sundew_attestation::{pem, spiffe};
use sundew_proto::envoy::data_source::Specifier;
use sundew_proto::envoy::secret::Type;
use sundew_proto::envoy::secret_discovery_service_server::SecretDiscoveryService;
use sundew_proto::envoy::spiffe_cert_validator_config::TrustDomain;
use sundew_proto::envoy::{
    CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, Secret,
    SpiffeCertValidatorConfig, TlsCertificate, TypedExtensionConfig,
};
use sundew_proto::spiffe::{X509svid, X509svidResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::call_error::CallError;
use super::{Identities, WorkloadApi};
use crate::enrollment::local_process::LocalProcess;

/// The longest request, in bytes. Envoy names all its extensions in the first one.
pub const MAX_REQUEST: usize = 256 << 10;

/// Characters of the reason why a client does not take a secret that go into the log.
const MAX_REASON: usize = 200;

/// Most names of a request, and most bytes of them. They are kept for as long as the stream is open.
const MAX_NAMES: usize = 64;
const MAX_NAMES_BYTES: usize = 16 << 10;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const DEFAULT_SVID: &str = "default";
const DEFAULT_BUNDLE: &str = "ROOTCA";
const ALL_BUNDLES: &str = "ALL";
/// A trust domain that nobody has (RFC 6761).
const NOBODY: &str = "withdrawn.invalid";

/// What a process may have at a moment.
struct Held {
    svids: Vec<X509svid>,
    /// Concatenated DER of the roots, by trust domain as `spiffe://<name>`.
    bundles: BTreeMap<String, Vec<u8>>,
    /// Trust domains of which the stream knew a bundle, and that are trusted no more.
    withdrawn: BTreeSet<String>,
    /// The trust domain of the first SVID.
    own: Option<String>,
}

impl Held {
    /// What the process has by an answer. The SVID that it was given as `default` stays that one: an
    /// Envoy does not become somebody else while it runs.
    fn new(mut answer: X509svidResponse, default: Option<&str>) -> Result<Self, CallError> {
        if let Some(default) = default {
            let mut ids = answer.svids.iter().map(|svid| &svid.spiffe_id);
            let at = ids.position(|id| id == default);
            answer.svids.swap(0, at.ok_or(CallError::NoIdentity)?);
        }
        let mut bundles: BTreeMap<_, _> = answer.federated_bundles.into_iter().collect();
        let mut own = None;
        for svid in &answer.svids {
            if let Ok(id) = spiffe::SpiffeId::parse(&svid.spiffe_id) {
                let domain = id.trust_domain().id();
                own.get_or_insert_with(|| domain.clone());
                bundles.insert(domain, svid.bundle.clone());
            }
        }
        Ok(Self {
            svids: answer.svids,
            bundles,
            withdrawn: BTreeSet::new(),
            own,
        })
    }

    /// What the process has now, after this.
    fn then(self, next: Self) -> Self {
        let known = self.bundles.into_keys().chain(self.withdrawn);
        let withdrawn = known.filter(|domain| !next.bundles.contains_key(domain));
        Self {
            withdrawn: withdrawn.collect(),
            ..next
        }
    }

    /// The secrets of these names; all that there are, if there is no name.
    fn secrets(&self, names: &BTreeSet<String>) -> Result<Vec<Secret>, CallError> {
        if names.is_empty() {
            let svids = self
                .svids
                .iter()
                .map(|svid| certificate(&svid.spiffe_id, svid));
            let bundles = self.bundles.keys().map(|of| self.validation(of, &[of]));
            return Ok(svids.chain(bundles).collect());
        }
        names.iter().map(|name| self.secret(name)).collect()
    }

    fn secret(&self, name: &str) -> Result<Secret, CallError> {
        let svid = match name {
            DEFAULT_SVID => self.svids.first(),
            id => self.svids.iter().find(|svid| svid.spiffe_id == id),
        };
        if let Some(svid) = svid {
            return Ok(certificate(name, svid));
        }
        match (name, &self.own) {
            (DEFAULT_BUNDLE, Some(own)) => Ok(self.validation(name, &[own])),
            (ALL_BUNDLES, _) => {
                let all: Vec<_> = self.bundles.keys().collect();
                Ok(self.validation(name, &all))
            }
            (domain, _) if self.bundles.contains_key(domain) => {
                Ok(self.validation(name, &[&domain.to_owned()]))
            }
            (domain, Some(own)) if self.withdrawn.contains(domain) => Ok(self.nobody(name, own)),
            _ => Err(CallError::NoSecret),
        }
    }

    /// The rule by which Envoy takes certificates of these trust domains.
    fn validation(&self, name: &str, domains: &[&String]) -> Secret {
        let named = |id: &&String| self.trust_domain(id.strip_prefix("spiffe://")?, id);
        Self::validator(name, domains.iter().filter_map(named).collect())
    }

    /// The rule by which Envoy takes no certificate. Envoy wants a trust domain and roots for it, and
    /// our own CA makes no certificate in this one.
    fn nobody(&self, name: &str, own: &str) -> Secret {
        Self::validator(name, self.trust_domain(NOBODY, own).into_iter().collect())
    }

    /// A trust domain of this name, with the roots of the bundle of `of`.
    fn trust_domain(&self, name: &str, of: &str) -> Option<TrustDomain> {
        let roots = self.bundles.get(of)?;
        Some(TrustDomain {
            name: name.to_owned(),
            trust_bundle: Some(inline(certificates(roots))),
        })
    }

    fn validator(name: &str, trust_domains: Vec<TrustDomain>) -> Secret {
        let config = SpiffeCertValidatorConfig { trust_domains };
        let validator = TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(Any {
                type_url: VALIDATOR_CONFIG.to_owned(),
                value: config.encode_to_vec(),
            }),
        };
        Secret {
            name: name.to_owned(),
            r#type: Some(Type::ValidationContext(CertificateValidationContext {
                custom_validator_config: Some(validator),
            })),
        }
    }
}

fn certificate(name: &str, svid: &X509svid) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(certificates(&svid.x509_svid))),
            private_key: Some(inline(pem("PRIVATE KEY", &svid.x509_svid_key))),
        })),
    }
}

/// Certificates in concatenated DER as PEM.
fn certificates(concatenated: &[u8]) -> String {
    spiffe::split_der(concatenated)
        .flatten()
        .map(|der| pem("CERTIFICATE", der))
        .collect()
}

fn inline(text: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
    }
}

/// The names in a request; refuses a request for something else than secrets.
fn names(request: DiscoveryRequest) -> Result<BTreeSet<String>, CallError> {
    if !request.type_url.is_empty() && request.type_url != SECRET {
        return Err(CallError::NoSecret);
    }
    let lengths = request.resource_names.iter().map(String::len);
    if lengths.len() > MAX_NAMES || lengths.sum::<usize>() > MAX_NAMES_BYTES {
        return Err(CallError::NamesInvalid);
    }
    let names = request.resource_names.into_iter();
    Ok(names.filter(|name| !name.is_empty()).collect())
}

fn response(
    held: &Held,
    names: &BTreeSet<String>,
    version: u64,
) -> Result<DiscoveryResponse, CallError> {
    let resource = |secret: Secret| Any {
        type_url: SECRET.to_owned(),
        value: secret.encode_to_vec(),
    };
    let secrets = held.secrets(names)?;
    Ok(DiscoveryResponse {
        version_info: version.to_string(),
        resources: secrets.into_iter().map(resource).collect(),
        type_url: SECRET.to_owned(),
        nonce: version.to_string(),
    })
}

impl<I: Identities> WorkloadApi<I> {
    /// Answers the requests of one stream. A request that names the version that was sent last takes
    /// it or does not; one with other names is answered at once. The stream ends with the SVID that it
    /// has as `default`.
    async fn serve_secrets(
        &self,
        process: &Arc<LocalProcess>,
        mut requests: Streaming<DiscoveryRequest>,
        answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        let mut changes = self.svids("StreamSecrets", Arc::clone(process));
        let (mut held, mut wanted, mut version) = (None, None, 0_u64);
        let mut default = None;
        loop {
            tokio::select! {
                changed = changes.recv() => match changed {
                    Some(answer) => {
                        let next = Held::new(answer?, default.as_deref())?;
                        held = Some(match held.take() {
                            Some(before) => Held::then(before, next),
                            None => next,
                        });
                    }
                    None => return Ok(()),
                },
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    self.count_call(process)?;
                    if let Some(error) = &request.error_detail {
                        let reason: String = error.message.chars().take(MAX_REASON).collect();
                        tracing::debug!(uid = process.uid(), reason, "a secret is not taken");
                    }
                    let is_old = version > 0 && request.response_nonce != version.to_string();
                    let names = Some(names(request)?);
                    if is_old || wanted == names {
                        continue;
                    }
                    wanted = names;
                },
            }
            if let (Some(held), Some(wanted)) = (&held, &wanted) {
                version = version.saturating_add(1);
                let answer = response(held, wanted, version)?;
                if wanted.contains(DEFAULT_SVID) {
                    default = held.svids.first().map(|svid| svid.spiffe_id.clone());
                }
                if answers.send(Ok(answer)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

#[tonic::async_trait]
impl<I: Identities> SecretDiscoveryService for WorkloadApi<I> {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let process = super::process_of(&request)?;
        self.count_call(&process)?;
        let (answers, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            let requests = request.into_inner();
            let served = service.serve_secrets(&process, requests, &answers).await;
            if let Err(status) = served {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let process = super::process_of(&request)?;
        self.count_call(&process)?;
        let held = self.svids("FetchSecrets", process).recv().await;
        let held = Held::new(held.ok_or(CallError::NoIdentity)??, None)?;
        let names = names(request.into_inner())?;
        Ok(Response::new(response(&held, &names, 1)?))
    }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
