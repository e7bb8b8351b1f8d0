//! Why the Workload API refuses a call.
//!
//! The codes are those of the SPIFFE Workload API specification, not those of
//! `refusal.rs`: these callers are clients of SPIFFE, and know nothing of Sundew.

use sundew_attestation::spiffe::JwtSvidError;
use tonic::{Code, Status};

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::enrollment) enum CallError {
    /// The audience has names that no token may have, or too many.
    #[error("audience: must be at most 8 names")]
    AudienceInvalid,
    /// The request names no audience.
    #[error("audience: must be given")]
    AudienceMissing,
    /// Evidence about a user is bound to 32 bytes.
    #[error("binding: must be 32 bytes")]
    BindingInvalid,
    /// The header that rules out a confused deputy is missing.
    #[error("security header missing from request")]
    HeaderMissing,
    /// No registration gives the process an identity.
    #[error("no identity issued")]
    NoIdentity,
    /// A request of the Secret Discovery Service has too many names, or too long ones.
    #[error("resource_names: must be at most 64, of 16384 bytes together")]
    NamesInvalid,
    /// The process may have no secret of a name, or the resource is no secret.
    #[error("no such secret for this process")]
    NoSecret,
    /// The broker has no SVID of its own to sign with at this moment.
    #[error("the broker cannot sign statements now")]
    NoStatement,
    /// The kernel did not say who is at the other end of the socket.
    #[error("no peer")]
    NoPeer,
    /// The identity had too many JWT-SVIDs lately, or the user made too many calls (P12).
    #[error("too many requests")]
    RateLimit,
    /// The JWT-SVID that is to be verified is not valid.
    #[error("{0}")]
    Svid(JwtSvidError),
}

#[expect(
    clippy::disallowed_methods,
    reason = "the SPIFFE specification says which status the Workload API answers"
)]
impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::AudienceInvalid
            | CallError::AudienceMissing
            | CallError::BindingInvalid
            | CallError::HeaderMissing
            | CallError::NamesInvalid
            | CallError::NoSecret
            | CallError::Svid(_) => Code::InvalidArgument,
            CallError::NoIdentity => Code::PermissionDenied,
            CallError::NoPeer | CallError::NoStatement => Code::Unavailable,
            CallError::RateLimit => Code::ResourceExhausted,
        };
        Self::new(code, error.to_string())
    }
}
