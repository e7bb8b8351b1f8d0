//! Calls of workloads with an SVID: for the next SVID, for a TPM key, or as a node.

use sundew_proto::v1::enrollment_service_server::EnrollmentService;
use sundew_proto::v1::*;
use tonic::Request;

use super::Services;
use crate::enrollment::Enrollment;
use crate::refusal::Refusal;
use crate::serve::gate::Answer;

#[tonic::async_trait]
impl EnrollmentService for Services {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        self.gate
            .serve(
                "EnrollChallenge",
                &self.broker.enrollment,
                request,
                |_, _, _| async { Err(Refusal::Unsupported("enrollment on this listener")) },
            )
            .await
    }
    async fn challenge_tpm_key(
        &self,
        request: Request<ChallengeTpmKeyRequest>,
    ) -> Answer<ChallengeTpmKeyResponse> {
        self.gate
            .serve(
                "ChallengeTpmKey",
                &self.broker.tpm_keys,
                request,
                |keys, peer, body| keys.challenge_tpm_key(Some(peer), body),
            )
            .await
    }
    async fn activate_tpm_key(
        &self,
        request: Request<ActivateTpmKeyRequest>,
    ) -> Answer<ActivateTpmKeyResponse> {
        self.gate
            .serve_detached(
                "ActivateTpmKey",
                &self.broker.tpm_keys,
                request,
                |keys, peer, body| keys.activate_tpm_key(Some(peer), body),
            )
            .await
    }
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Answer<ListEntriesResponse> {
        self.gate
            .serve(
                "ListEntries",
                &self.broker.enrollment,
                request,
                Enrollment::list_entries,
            )
            .await
    }
    async fn issue_entry(&self, request: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.gate
            .serve_issuing(
                "IssueEntry",
                &self.broker.enrollment,
                request,
                Enrollment::issue_entry,
            )
            .await
    }
    async fn issue_entry_jwt(
        &self,
        request: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.gate
            .serve_issuing(
                "IssueEntryJwt",
                &self.broker.enrollment,
                request,
                Enrollment::issue_entry_jwt,
            )
            .await
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        self.gate
            .serve(
                "Enroll",
                &self.broker.enrollment,
                request,
                |_, _, _| async { Err(Refusal::Unsupported("enrollment on this listener")) },
            )
            .await
    }
    async fn renew(&self, request: Request<RenewRequest>) -> Answer<RenewResponse> {
        self.gate
            .serve_detached("Renew", &self.broker.enrollment, request, Enrollment::renew)
            .await
    }
}
