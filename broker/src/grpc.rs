//! The gRPC services: each method names its use case and how it is served. Nothing is decided here.

use std::sync::Arc;

use sundew_proto::v1::access_service_server::AccessService;
use sundew_proto::v1::agent_service_server::AgentService;
use sundew_proto::v1::enrollment_service_server::EnrollmentService;
use sundew_proto::v1::registry_service_server::RegistryService;
use sundew_proto::v1::response_service_server::ResponseService;
use sundew_proto::v1::*;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::broker::Broker;
use crate::peer::{Caller, Channel};
use crate::refusal::Refusal;

type Answer<T> = Result<Response<T>, Status>;

/// Serves agents, resource servers and operators: the workload listener.
#[derive(Clone)]
pub(crate) struct Services(pub(crate) Arc<Broker>);

/// Serves those without an SVID: the enrollment listener.
#[derive(Clone)]
pub(crate) struct Enrollment(pub(crate) Arc<Broker>);

#[tonic::async_trait]
impl AgentService for Services {
    type AttendStream = ReceiverStream<Result<AttendResponse, Status>>;

    async fn challenge(&self, request: Request<ChallengeRequest>) -> Answer<ChallengeResponse> {
        self.0.serve("Challenge", request, Broker::challenge).await
    }
    async fn begin_task(&self, request: Request<BeginTaskRequest>) -> Answer<BeginTaskResponse> {
        self.0
            .serve_issuing("BeginTask", request, Broker::begin)
            .await
    }
    async fn mint_token(&self, request: Request<MintTokenRequest>) -> Answer<MintTokenResponse> {
        self.0
            .serve_issuing("MintToken", request, Broker::mint)
            .await
    }
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Answer<GetSecretResponse> {
        self.0
            .serve_issuing("GetSecret", request, Broker::secret)
            .await
    }
    async fn delegate(&self, request: Request<DelegateRequest>) -> Answer<DelegateResponse> {
        self.0
            .serve_issuing("Delegate", request, Broker::delegate)
            .await
    }
    async fn attend(
        &self,
        request: Request<Streaming<AttendRequest>>,
    ) -> Answer<Self::AttendStream> {
        let answer = self.0.serve("Attend", request, Broker::attend).await?;
        Ok(answer.map(ReceiverStream::new))
    }
    async fn suspend_task(
        &self,
        request: Request<SuspendTaskRequest>,
    ) -> Answer<SuspendTaskResponse> {
        self.0
            .serve_to_the_end("SuspendTask", request, Broker::suspend)
            .await
    }
    async fn resume_task(&self, request: Request<ResumeTaskRequest>) -> Answer<ResumeTaskResponse> {
        self.0
            .serve_issuing("ResumeTask", request, Broker::resume)
            .await
    }
    async fn complete_task(
        &self,
        request: Request<CompleteTaskRequest>,
    ) -> Answer<CompleteTaskResponse> {
        self.0
            .serve_to_the_end("CompleteTask", request, Broker::complete)
            .await
    }
}

#[tonic::async_trait]
impl AccessService for Services {
    async fn introspect(&self, request: Request<IntrospectRequest>) -> Answer<IntrospectResponse> {
        self.0
            .serve("Introspect", request, Broker::introspect)
            .await
    }
}

#[tonic::async_trait]
impl RegistryService for Services {
    async fn apply_workloads(
        &self,
        request: Request<ApplyWorkloadsRequest>,
    ) -> Answer<ApplyWorkloadsResponse> {
        self.0
            .serve_to_the_end("ApplyWorkloads", request, Broker::apply_workloads)
            .await
    }
    async fn list_workloads(
        &self,
        request: Request<ListWorkloadsRequest>,
    ) -> Answer<ListWorkloadsResponse> {
        self.0
            .serve("ListWorkloads", request, Broker::list_workloads)
            .await
    }
    async fn show_workload(
        &self,
        request: Request<ShowWorkloadRequest>,
    ) -> Answer<ShowWorkloadResponse> {
        self.0
            .serve("ShowWorkload", request, Broker::show_workload)
            .await
    }
    async fn delete_workload(
        &self,
        request: Request<DeleteWorkloadRequest>,
    ) -> Answer<DeleteWorkloadResponse> {
        self.0
            .serve_to_the_end("DeleteWorkload", request, Broker::delete_workload)
            .await
    }
    async fn put_secret(&self, request: Request<PutSecretRequest>) -> Answer<PutSecretResponse> {
        self.0
            .serve_to_the_end("PutSecret", request, Broker::put_secret)
            .await
    }
    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Answer<ListSecretsResponse> {
        self.0
            .serve("ListSecrets", request, Broker::list_secrets)
            .await
    }
    async fn delete_secret(
        &self,
        request: Request<DeleteSecretRequest>,
    ) -> Answer<DeleteSecretResponse> {
        self.0
            .serve_to_the_end("DeleteSecret", request, Broker::delete_secret)
            .await
    }
    async fn rotate_keyring(
        &self,
        request: Request<RotateKeyringRequest>,
    ) -> Answer<RotateKeyringResponse> {
        self.0
            .serve_to_the_end("RotateKeyring", request, Broker::rotate_keyring)
            .await
    }
    async fn put_engine(&self, request: Request<PutEngineRequest>) -> Answer<PutEngineResponse> {
        self.0
            .serve_to_the_end("PutEngine", request, Broker::put_engine)
            .await
    }
    async fn list_engines(
        &self,
        request: Request<ListEnginesRequest>,
    ) -> Answer<ListEnginesResponse> {
        self.0
            .serve("ListEngines", request, Broker::list_engines)
            .await
    }
    async fn delete_engine(
        &self,
        request: Request<DeleteEngineRequest>,
    ) -> Answer<DeleteEngineResponse> {
        self.0
            .serve_to_the_end("DeleteEngine", request, Broker::delete_engine)
            .await
    }
    async fn add_trust(&self, request: Request<AddTrustRequest>) -> Answer<AddTrustResponse> {
        self.0
            .serve_to_the_end("AddTrust", request, Broker::add_trust)
            .await
    }
    async fn list_trust(&self, request: Request<ListTrustRequest>) -> Answer<ListTrustResponse> {
        self.0.serve("ListTrust", request, Broker::list_trust).await
    }
    async fn remove_trust(
        &self,
        request: Request<RemoveTrustRequest>,
    ) -> Answer<RemoveTrustResponse> {
        self.0
            .serve_to_the_end("RemoveTrust", request, Broker::remove_trust)
            .await
    }
    async fn explain_evidence(
        &self,
        request: Request<ExplainEvidenceRequest>,
    ) -> Answer<ExplainEvidenceResponse> {
        self.0
            .serve("ExplainEvidence", request, Broker::explain_evidence)
            .await
    }
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Answer<CreateJoinTokenResponse> {
        self.0
            .serve_to_the_end("CreateJoinToken", request, Broker::create_join_token)
            .await
    }
}

#[tonic::async_trait]
impl ResponseService for Services {
    type PreviewStream = ReceiverStream<Result<PreviewResponse, Status>>;
    type WatchRevocationStream = ReceiverStream<Result<RevocationStatus, Status>>;

    async fn preview(&self, request: Request<PreviewRequest>) -> Answer<Self::PreviewStream> {
        let answer = self.0.serve("Preview", request, Broker::preview).await?;
        Ok(answer.map(ReceiverStream::new))
    }
    async fn revoke(&self, request: Request<RevokeRequest>) -> Answer<RevokeResponse> {
        self.0
            .serve_to_the_end("Revoke", request, Broker::revoke)
            .await
    }
    async fn lift(&self, request: Request<LiftRequest>) -> Answer<LiftResponse> {
        self.0.serve_to_the_end("Lift", request, Broker::lift).await
    }
    async fn list_rules(&self, request: Request<ListRulesRequest>) -> Answer<ListRulesResponse> {
        self.0.serve("ListRules", request, Broker::list_rules).await
    }
    async fn watch_revocation(
        &self,
        request: Request<WatchRevocationRequest>,
    ) -> Answer<Self::WatchRevocationStream> {
        let answer = self
            .0
            .serve("WatchRevocation", request, Broker::watch_revocation)
            .await?;
        Ok(answer.map(ReceiverStream::new))
    }
    async fn list_leases(&self, request: Request<ListLeasesRequest>) -> Answer<ListLeasesResponse> {
        self.0
            .serve("ListLeases", request, Broker::list_leases)
            .await
    }
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        self.0.serve("ListTasks", request, Broker::list_tasks).await
    }
    async fn show_task(&self, request: Request<ShowTaskRequest>) -> Answer<ShowTaskResponse> {
        self.0.serve("ShowTask", request, Broker::show_task).await
    }
}

#[tonic::async_trait]
impl EnrollmentService for Services {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        self.0
            .serve("EnrollChallenge", request, |_, _, _| async {
                Err(Refusal::Unsupported("enrollment on this listener"))
            })
            .await
    }
    async fn challenge_tpm_key(
        &self,
        request: Request<ChallengeTpmKeyRequest>,
    ) -> Answer<ChallengeTpmKeyResponse> {
        self.0
            .serve("ChallengeTpmKey", request, |broker, peer, body| {
                broker.challenge_tpm_key(Some(peer), body)
            })
            .await
    }
    async fn activate_tpm_key(
        &self,
        request: Request<ActivateTpmKeyRequest>,
    ) -> Answer<ActivateTpmKeyResponse> {
        self.0
            .serve_to_the_end("ActivateTpmKey", request, |broker, peer, body| {
                broker.activate_tpm_key(Some(peer), body)
            })
            .await
    }
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Answer<ListEntriesResponse> {
        self.0
            .serve("ListEntries", request, Broker::list_entries)
            .await
    }
    async fn issue_entry(&self, request: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.0
            .serve_issuing("IssueEntry", request, Broker::issue_entry)
            .await
    }
    async fn issue_entry_jwt(
        &self,
        request: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.0
            .serve_issuing("IssueEntryJwt", request, Broker::issue_entry_jwt)
            .await
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        self.0
            .serve("Enroll", request, |_, _, _| async {
                Err(Refusal::Unsupported("enrollment on this listener"))
            })
            .await
    }
    async fn renew(&self, request: Request<RenewRequest>) -> Answer<RenewResponse> {
        self.0
            .serve_to_the_end("Renew", request, Broker::renew)
            .await
    }
}

fn channel<T>(request: &Request<T>) -> Result<Arc<Channel>, Refusal> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Anonymous(channel)) => Ok(Arc::clone(channel)),
        Some(Caller::Workload(_)) | None => Err(Refusal::Unauthenticated),
    }
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        let result = channel(&request).and_then(|channel| self.0.enroll_challenge(&channel));
        self.0.answer("EnrollChallenge", None, result)
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        let result = match channel(&request) {
            Ok(channel) => {
                Arc::clone(&self.0)
                    .enroll(&channel, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.0.answer("Enroll", None, result)
    }
    async fn challenge_tpm_key(
        &self,
        request: Request<ChallengeTpmKeyRequest>,
    ) -> Answer<ChallengeTpmKeyResponse> {
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.0)
                    .challenge_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.0.answer("ChallengeTpmKey", None, result)
    }
    async fn activate_tpm_key(
        &self,
        request: Request<ActivateTpmKeyRequest>,
    ) -> Answer<ActivateTpmKeyResponse> {
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.0)
                    .activate_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.0.answer("ActivateTpmKey", None, result)
    }
    async fn renew(&self, _: Request<RenewRequest>) -> Answer<RenewResponse> {
        self.0.answer("Renew", None, Err(Refusal::Unauthenticated))
    }
    async fn list_entries(&self, _: Request<ListEntriesRequest>) -> Answer<ListEntriesResponse> {
        self.0
            .answer("ListEntries", None, Err(Refusal::Unauthenticated))
    }
    async fn issue_entry(&self, _: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.0
            .answer("IssueEntry", None, Err(Refusal::Unauthenticated))
    }
    async fn issue_entry_jwt(
        &self,
        _: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.0
            .answer("IssueEntryJwt", None, Err(Refusal::Unauthenticated))
    }
}
