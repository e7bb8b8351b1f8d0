//! Calls of those who have no SVID.

use std::sync::Arc;

use sundew_proto::v1::enrollment_service_server::EnrollmentService;
use sundew_proto::v1::*;
use tonic::Request;

use super::AnonymousEnrollment;
use crate::peer::{Caller, Channel};
use crate::refusal::Refusal;
use crate::serve::gate::Answer;

/// The connection of a caller without an SVID.
fn channel<T>(request: &Request<T>) -> Result<Arc<Channel>, Refusal> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Anonymous(channel)) => Ok(Arc::clone(channel)),
        Some(Caller::Workload(_)) | None => Err(Refusal::Unauthenticated),
    }
}

#[tonic::async_trait]
impl EnrollmentService for AnonymousEnrollment {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        let result =
            channel(&request).and_then(|channel| self.broker.enrollment.enroll_challenge(&channel));
        self.gate.answer("EnrollChallenge", None, result)
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        let result = match channel(&request) {
            Ok(channel) => {
                Arc::clone(&self.broker.enrollment)
                    .enroll(&channel, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer("Enroll", None, result)
    }
    async fn challenge_tpm_key(
        &self,
        request: Request<ChallengeTpmKeyRequest>,
    ) -> Answer<ChallengeTpmKeyResponse> {
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.broker.tpm_keys)
                    .challenge_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer("ChallengeTpmKey", None, result)
    }
    async fn activate_tpm_key(
        &self,
        request: Request<ActivateTpmKeyRequest>,
    ) -> Answer<ActivateTpmKeyResponse> {
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.broker.tpm_keys)
                    .activate_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer("ActivateTpmKey", None, result)
    }
    async fn renew(&self, _: Request<RenewRequest>) -> Answer<RenewResponse> {
        self.gate
            .answer("Renew", None, Err(Refusal::Unauthenticated))
    }
    async fn list_entries(&self, _: Request<ListEntriesRequest>) -> Answer<ListEntriesResponse> {
        self.gate
            .answer("ListEntries", None, Err(Refusal::Unauthenticated))
    }
    async fn issue_entry(&self, _: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.gate
            .answer("IssueEntry", None, Err(Refusal::Unauthenticated))
    }
    async fn issue_entry_jwt(
        &self,
        _: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.gate
            .answer("IssueEntryJwt", None, Err(Refusal::Unauthenticated))
    }
}
