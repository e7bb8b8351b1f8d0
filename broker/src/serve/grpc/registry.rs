//! Calls of platform teams.

use sundew_proto::v1::registry_service_server::RegistryService;
use sundew_proto::v1::*;
use tonic::Request;

use super::Services;
use crate::enrollment::Enrollment;
use crate::evidence::{Evidence, TrustItems};
use crate::lease::Leases;
use crate::registry::Registry;
use crate::root_key::RootKeys;
use crate::secret::Secrets;
use crate::serve::gate::Answer;

#[tonic::async_trait]
impl RegistryService for Services {
    async fn apply_workloads(
        &self,
        request: Request<ApplyWorkloadsRequest>,
    ) -> Answer<ApplyWorkloadsResponse> {
        self.gate
            .serve_detached_as(
                "ApplyWorkloads",
                &self.broker.registry,
                request,
                Registry::apply_workloads,
            )
            .await
    }
    async fn show_bounds(&self, request: Request<ShowBoundsRequest>) -> Answer<ShowBoundsResponse> {
        self.gate
            .serve_as(
                "ShowBounds",
                &self.broker.registry,
                request,
                Registry::show_bounds,
            )
            .await
    }
    async fn set_bounds(&self, request: Request<SetBoundsRequest>) -> Answer<SetBoundsResponse> {
        self.gate
            .serve_detached_as(
                "SetBounds",
                &self.broker.registry,
                request,
                Registry::set_bounds,
            )
            .await
    }
    async fn list_workloads(
        &self,
        request: Request<ListWorkloadsRequest>,
    ) -> Answer<ListWorkloadsResponse> {
        self.gate
            .serve_as(
                "ListWorkloads",
                &self.broker.registry,
                request,
                Registry::list_workloads,
            )
            .await
    }
    async fn show_workload(
        &self,
        request: Request<ShowWorkloadRequest>,
    ) -> Answer<ShowWorkloadResponse> {
        self.gate
            .serve_as(
                "ShowWorkload",
                &self.broker.registry,
                request,
                Registry::show_workload,
            )
            .await
    }
    async fn delete_workload(
        &self,
        request: Request<DeleteWorkloadRequest>,
    ) -> Answer<DeleteWorkloadResponse> {
        self.gate
            .serve_detached_as(
                "DeleteWorkload",
                &self.broker.registry,
                request,
                Registry::delete_workload,
            )
            .await
    }
    async fn put_secret(&self, request: Request<PutSecretRequest>) -> Answer<PutSecretResponse> {
        self.gate
            .serve_detached_as(
                "PutSecret",
                &self.broker.secrets,
                request,
                Secrets::put_secret,
            )
            .await
    }
    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Answer<ListSecretsResponse> {
        self.gate
            .serve_as(
                "ListSecrets",
                &self.broker.secrets,
                request,
                Secrets::list_secrets,
            )
            .await
    }
    async fn delete_secret(
        &self,
        request: Request<DeleteSecretRequest>,
    ) -> Answer<DeleteSecretResponse> {
        self.gate
            .serve_detached_as(
                "DeleteSecret",
                &self.broker.secrets,
                request,
                Secrets::delete_secret,
            )
            .await
    }
    async fn rotate_keyring(
        &self,
        request: Request<RotateKeyringRequest>,
    ) -> Answer<RotateKeyringResponse> {
        self.gate
            .serve_detached_as(
                "RotateKeyring",
                &self.broker.secrets,
                request,
                Secrets::rotate_keyring,
            )
            .await
    }
    async fn put_engine(&self, request: Request<PutEngineRequest>) -> Answer<PutEngineResponse> {
        self.gate
            .serve_detached_as(
                "PutEngine",
                &self.broker.leases,
                request,
                Leases::put_engine,
            )
            .await
    }
    async fn list_engines(
        &self,
        request: Request<ListEnginesRequest>,
    ) -> Answer<ListEnginesResponse> {
        self.gate
            .serve_as(
                "ListEngines",
                &self.broker.leases,
                request,
                Leases::list_engines,
            )
            .await
    }
    async fn delete_engine(
        &self,
        request: Request<DeleteEngineRequest>,
    ) -> Answer<DeleteEngineResponse> {
        self.gate
            .serve_detached_as(
                "DeleteEngine",
                &self.broker.leases,
                request,
                Leases::delete_engine,
            )
            .await
    }
    async fn add_trust(&self, request: Request<AddTrustRequest>) -> Answer<AddTrustResponse> {
        self.gate
            .serve_detached_as(
                "AddTrust",
                &self.broker.trust_items,
                request,
                TrustItems::add_trust,
            )
            .await
    }
    async fn list_trust(&self, request: Request<ListTrustRequest>) -> Answer<ListTrustResponse> {
        self.gate
            .serve_as(
                "ListTrust",
                &self.broker.trust_items,
                request,
                TrustItems::list_trust,
            )
            .await
    }
    async fn remove_trust(
        &self,
        request: Request<RemoveTrustRequest>,
    ) -> Answer<RemoveTrustResponse> {
        self.gate
            .serve_detached_as(
                "RemoveTrust",
                &self.broker.trust_items,
                request,
                TrustItems::remove_trust,
            )
            .await
    }
    async fn explain_evidence(
        &self,
        request: Request<ExplainEvidenceRequest>,
    ) -> Answer<ExplainEvidenceResponse> {
        self.gate
            .serve_as(
                "ExplainEvidence",
                &self.broker.evidence,
                request,
                Evidence::explain_evidence,
            )
            .await
    }
    async fn show_ca(&self, request: Request<ShowCaRequest>) -> Answer<ShowCaResponse> {
        let room = &self.broker.enrollment;
        self.gate
            .serve_as("ShowCa", room, request, Enrollment::show_ca)
            .await
    }
    async fn rotate_ca(&self, request: Request<RotateCaRequest>) -> Answer<RotateCaResponse> {
        let room = &self.broker.enrollment;
        self.gate
            .serve_detached_as("RotateCa", room, request, Enrollment::rotate_ca)
            .await
    }
    async fn drop_old_ca_keys(
        &self,
        request: Request<DropOldCaKeysRequest>,
    ) -> Answer<DropOldCaKeysResponse> {
        let room = &self.broker.enrollment;
        self.gate
            .serve_detached_as("DropOldCaKeys", room, request, Enrollment::drop_old_ca_keys)
            .await
    }
    async fn rewrite_under_root_key(
        &self,
        request: Request<RewriteUnderRootKeyRequest>,
    ) -> Answer<RewriteUnderRootKeyResponse> {
        let room = &self.broker.root_keys;
        self.gate
            .serve_detached_as("RewriteUnderRootKey", room, request, RootKeys::rewrite)
            .await
    }
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Answer<CreateJoinTokenResponse> {
        self.gate
            .serve_detached_as(
                "CreateJoinToken",
                &self.broker.enrollment,
                request,
                Enrollment::create_join_token,
            )
            .await
    }
}
