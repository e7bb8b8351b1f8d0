//! Statements about the users of this machine: evidence of kind `local_user`.
//!
//! P2: a statement has the binding that the process asked for, so that it counts for one challenge.
//! The kernel says whose the process is at the other end of the socket, and nothing is said of what
//! the process runs.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use rustls::SignatureScheme;
use sundew_attestation::kinds::local_user::{Evidence, Statement, signed_bytes};
use sundew_proto::v1::local_service_server::LocalService;
use sundew_proto::v1::{AttestUserRequest, AttestUserResponse};
use tonic::{Request, Response, Status};

use super::workload_api::{CallError, caller};
use crate::peer::Trust;

/// Statements per second about one user; a burst may be as large. Each costs a signature.
const STATEMENTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);
/// What signs statements: the keys that SVIDs of brokers have.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// The service that states who asks.
pub(crate) struct LocalUsers {
    trust: Arc<Trust>,
    calls: DefaultKeyedRateLimiter<u32>,
}

impl LocalUsers {
    /// A service that signs with the broker's own SVID.
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self {
            trust,
            calls: RateLimiter::keyed(Quota::per_second(STATEMENTS_PER_SECOND)),
        }
    }

    /// States, as evidence in JSON, that this user asked with this binding.
    fn state(&self, uid: u32, binding: &[u8]) -> Result<Vec<u8>, CallError> {
        let binding: [u8; 32] = binding.try_into().map_err(|_| CallError::BindingInvalid)?;
        let statement = Statement {
            binding: sundew_attestation::hex(&binding),
            uid,
        };
        let statement = serde_json::to_string(&statement).map_err(|_| CallError::NoStatement)?;
        let identity = self.trust.identity().ok_or(CallError::NoStatement)?;
        let signer = identity.key.choose_scheme(&SCHEMES);
        let signature = signer.and_then(|key| key.sign(&signed_bytes(&statement)).ok());
        let evidence = Evidence {
            statement,
            signature: STANDARD.encode(signature.ok_or(CallError::NoStatement)?),
            chain: identity
                .cert
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
        };
        serde_json::to_vec(&evidence).map_err(|_| CallError::NoStatement)
    }
}

#[tonic::async_trait]
impl LocalService for LocalUsers {
    async fn attest_user(
        &self,
        request: Request<AttestUserRequest>,
    ) -> Result<Response<AttestUserResponse>, Status> {
        let uid = caller(&request)?.uid();
        self.calls
            .check_key(&uid)
            .map_err(|_| CallError::RateLimit)?;
        let evidence = self.state(uid, &request.get_ref().binding)?;
        Ok(Response::new(AttestUserResponse { evidence }))
    }
}
