//! The operator of the demo's broker.

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::response_service_client::ResponseServiceClient;
use sundew_proto::v1::{
    ApplyWorkloadsRequest, IntrospectRequest, PutSecretRequest, RevokeRequest, Selector,
};
use tonic::transport::Channel;

use super::DOMAIN;
use super::MODEL;
use crate::client::{connection, status_error};
use crate::local::Local;

pub(super) struct Operator {
    registry: RegistryServiceClient<Channel>,
    pub(super) response: ResponseServiceClient<Channel>,
    access: AccessServiceClient<Channel>,
}

impl Operator {
    pub(super) async fn connect(local: &Local) -> Result<Self> {
        let channel = connection(&local.connect_with(local.operator_dir()))
            .await?
            .channel();
        Ok(Self {
            registry: RegistryServiceClient::new(channel.clone()),
            response: ResponseServiceClient::new(channel.clone()),
            access: AccessServiceClient::new(channel),
        })
    }

    /// Asks whether a token is active, as a resource server that got the token over mutual TLS from
    /// whoever has the certificate with this SHA-256.
    pub(super) async fn active(&self, token: &str, presenter: &[u8]) -> Result<bool> {
        let request = IntrospectRequest {
            token: token.to_owned(),
            presenter_certificate_sha256: presenter.to_vec(),
            ..IntrospectRequest::default()
        };
        Ok(self
            .access
            .clone()
            .introspect(request)
            .await
            .map_err(status_error)?
            .into_inner()
            .active)
    }

    /// Revokes everything of a workload.
    pub(super) async fn revoke(&self, spiffe_id: String) -> Result<()> {
        let selector = Some(Selector {
            spiffe_id,
            ..Selector::default()
        });
        let request = RevokeRequest {
            selector,
            reason: "demo".to_owned(),
            ..RevokeRequest::default()
        };
        self.response
            .clone()
            .revoke(request)
            .await
            .map(drop)
            .map_err(status_error)
    }

    /// Registers the agent and the thief, writes the secret, and returns the value of the secret.
    pub(super) async fn register(&self, public_key: &str) -> Result<String> {
        let uid = rustix::process::geteuid().as_raw();
        let evidence = json!([{
            "kind": "manifest", "keys": [public_key], "claims": { "model": [MODEL] },
        }]);
        let workload = |name: &str, local: Value| {
            json!({
                "spiffe_id": format!("spiffe://{DOMAIN}/{name}"), "evidence": evidence,
                "scopes": ["secret:demo/*"], "owner": "you", "begin": "self", "local": local,
            })
            .to_string()
        };
        let documents = vec![
            workload("agent", json!([{ "uid": uid }])),
            workload("thief", json!([])),
        ];
        let mut registry = self.registry.clone();
        registry
            .apply_workloads(ApplyWorkloadsRequest {
                documents,
                dry_run: false,
            })
            .await
            .map_err(status_error)?;
        let mut random = [0_u8; 18];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| anyhow!("no randomness"))?;
        // A value that is nowhere else: the last step looks for it in every file.
        let secret = format!("canary-{}", STANDARD.encode(random));
        let request = PutSecretRequest {
            name: "demo/api-key".to_owned(),
            value: secret.clone().into_bytes(),
            idempotency_key: String::new(),
        };
        registry.put_secret(request).await.map_err(status_error)?;
        Ok(secret)
    }
}
