//! Calls of those who have no SVID.

use std::sync::Arc;

use sundew_proto::v1::enrollment_service_server::EnrollmentService;
use sundew_proto::v1::*;
use tonic::Request;

use super::AnonymousEnrollment;
use crate::peer::{Caller, Channel};
use crate::refusal::Refusal;
use crate::serve::gate::{Answer, Came, Gate};

/// The connection of a caller without an SVID.
fn channel<T>(request: &Request<T>) -> Result<Arc<Channel>, Refusal> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Anonymous(channel, _)) => Ok(Arc::clone(channel)),
        Some(Caller::Workload(_)) | None => Err(Refusal::Unauthenticated),
    }
}

/// When a call came, and where its caller without an SVID is.
fn came<T: 'static>(gate: &Gate, rpc: &'static str, request: &Request<T>) -> Came {
    let caller = request.extensions().get::<Caller>();
    let remote = caller.map(|caller| match caller {
        Caller::Anonymous(_, remote) => *remote,
        Caller::Workload(peer) => peer.remote().ip(),
    });
    gate.came(rpc, request, remote)
}

#[tonic::async_trait]
impl EnrollmentService for AnonymousEnrollment {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        let came = came(&self.gate, "EnrollChallenge", &request);
        let result =
            channel(&request).and_then(|channel| self.broker.enrollment.enroll_challenge(&channel));
        self.gate.answer_anonymous("EnrollChallenge", came, result)
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        let came = came(&self.gate, "Enroll", &request);
        let result = match channel(&request) {
            Ok(channel) => {
                Arc::clone(&self.broker.enrollment)
                    .enroll(&channel, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer_anonymous("Enroll", came, result)
    }
    async fn challenge_tpm_key(
        &self,
        request: Request<ChallengeTpmKeyRequest>,
    ) -> Answer<ChallengeTpmKeyResponse> {
        let came = came(&self.gate, "ChallengeTpmKey", &request);
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.broker.tpm_keys)
                    .challenge_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer_anonymous("ChallengeTpmKey", came, result)
    }
    async fn activate_tpm_key(
        &self,
        request: Request<ActivateTpmKeyRequest>,
    ) -> Answer<ActivateTpmKeyResponse> {
        let came = came(&self.gate, "ActivateTpmKey", &request);
        let result = match channel(&request) {
            Ok(_) => {
                Arc::clone(&self.broker.tpm_keys)
                    .activate_tpm_key(None, request.into_inner())
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        self.gate.answer_anonymous("ActivateTpmKey", came, result)
    }
    async fn renew(&self, request: Request<RenewRequest>) -> Answer<RenewResponse> {
        self.gate.answer_anonymous(
            "Renew",
            came(&self.gate, "Renew", &request),
            Err(Refusal::Unauthenticated),
        )
    }
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Answer<ListEntriesResponse> {
        self.gate.answer_anonymous(
            "ListEntries",
            came(&self.gate, "ListEntries", &request),
            Err(Refusal::Unauthenticated),
        )
    }
    async fn issue_entry(&self, request: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.gate.answer_anonymous(
            "IssueEntry",
            came(&self.gate, "IssueEntry", &request),
            Err(Refusal::Unauthenticated),
        )
    }
    async fn issue_entry_jwt(
        &self,
        request: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.gate.answer_anonymous(
            "IssueEntryJwt",
            came(&self.gate, "IssueEntryJwt", &request),
            Err(Refusal::Unauthenticated),
        )
    }
}
