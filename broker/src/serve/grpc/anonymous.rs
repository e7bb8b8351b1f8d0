//! Calls of those who have no SVID.

use std::net::IpAddr;
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
        Some(Caller::Anonymous(channel, _)) => Ok(Arc::clone(channel)),
        Some(Caller::Workload(_)) | None => Err(Refusal::Unauthenticated),
    }
}

/// Where a caller without an SVID is.
fn remote<T>(request: &Request<T>) -> Option<IpAddr> {
    match request.extensions().get::<Caller>()? {
        Caller::Anonymous(_, remote) => Some(*remote),
        Caller::Workload(peer) => Some(peer.remote().ip()),
    }
}

#[tonic::async_trait]
impl EnrollmentService for AnonymousEnrollment {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        let remote = remote(&request);
        let result =
            channel(&request).and_then(|channel| self.broker.enrollment.enroll_challenge(&channel));
        self.gate
            .answer_anonymous("EnrollChallenge", remote, result)
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        let remote = remote(&request);
        let result = match channel(&request) {
            Ok(channel) => {
                Arc::clone(&self.broker.enrollment)
                    .enroll(&channel, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer_anonymous("Enroll", remote, result)
    }
    async fn challenge_tpm_key(
        &self,
        request: Request<ChallengeTpmKeyRequest>,
    ) -> Answer<ChallengeTpmKeyResponse> {
        let remote = remote(&request);
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.broker.tpm_keys)
                    .challenge_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate
            .answer_anonymous("ChallengeTpmKey", remote, result)
    }
    async fn activate_tpm_key(
        &self,
        request: Request<ActivateTpmKeyRequest>,
    ) -> Answer<ActivateTpmKeyResponse> {
        let remote = remote(&request);
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.broker.tpm_keys)
                    .activate_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer_anonymous("ActivateTpmKey", remote, result)
    }
    async fn renew(&self, request: Request<RenewRequest>) -> Answer<RenewResponse> {
        self.gate
            .answer_anonymous("Renew", remote(&request), Err(Refusal::Unauthenticated))
    }
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Answer<ListEntriesResponse> {
        self.gate.answer_anonymous(
            "ListEntries",
            remote(&request),
            Err(Refusal::Unauthenticated),
        )
    }
    async fn issue_entry(&self, request: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.gate.answer_anonymous(
            "IssueEntry",
            remote(&request),
            Err(Refusal::Unauthenticated),
        )
    }
    async fn issue_entry_jwt(
        &self,
        request: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.gate.answer_anonymous(
            "IssueEntryJwt",
            remote(&request),
            Err(Refusal::Unauthenticated),
        )
    }
}
