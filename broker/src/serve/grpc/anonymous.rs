//! Calls of those who have no SVID.

use std::sync::Arc;

use sundew_proto::v1::enrollment_service_server::EnrollmentService;
use sundew_proto::v1::*;
use tonic::Request;

use super::AnonymousEnrollment;
use crate::clock;
use crate::peer::{Caller, Channel};
use crate::refusal::Refusal;
use crate::serve::gate::{Answer, Came};

/// The connection of a caller without an SVID.
fn channel<T>(request: &Request<T>) -> Result<Arc<Channel>, Refusal> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Anonymous(channel, _)) => Ok(Arc::clone(channel)),
        Some(Caller::Workload(_)) | None => Err(Refusal::Unauthenticated),
    }
}

/// When a call came, and where its caller without an SVID is.
fn came<T>(request: &Request<T>) -> Came {
    let caller = request.extensions().get::<Caller>();
    Came {
        at: clock::monotonic(),
        remote: caller.map(|caller| match caller {
            Caller::Anonymous(_, remote) => *remote,
            Caller::Workload(peer) => peer.remote().ip(),
        }),
    }
}

#[tonic::async_trait]
impl EnrollmentService for AnonymousEnrollment {
    async fn enroll_challenge(
        &self,
        request: Request<EnrollChallengeRequest>,
    ) -> Answer<EnrollChallengeResponse> {
        let came = came(&request);
        let result =
            channel(&request).and_then(|channel| self.broker.enrollment.enroll_challenge(&channel));
        self.gate.answer_anonymous("EnrollChallenge", came, result)
    }
    async fn enroll(&self, request: Request<EnrollRequest>) -> Answer<EnrollResponse> {
        let came = came(&request);
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
        let came = came(&request);
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
        let came = came(&request);
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
        self.gate
            .answer_anonymous("Renew", came(&request), Err(Refusal::Unauthenticated))
    }
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Answer<ListEntriesResponse> {
        self.gate
            .answer_anonymous("ListEntries", came(&request), Err(Refusal::Unauthenticated))
    }
    async fn issue_entry(&self, request: Request<IssueEntryRequest>) -> Answer<IssueEntryResponse> {
        self.gate
            .answer_anonymous("IssueEntry", came(&request), Err(Refusal::Unauthenticated))
    }
    async fn issue_entry_jwt(
        &self,
        request: Request<IssueEntryJwtRequest>,
    ) -> Answer<IssueEntryJwtResponse> {
        self.gate.answer_anonymous(
            "IssueEntryJwt",
            came(&request),
            Err(Refusal::Unauthenticated),
        )
    }
}
