//! Why the owner of a broker's state gets no SVID of an operator.
//!
//! The owner has a shell on the broker's host and can read the broker's keys. So the answer says what
//! is wrong and what to do, unlike the answers to workloads (P11).

use sundew_attestation::spiffe::SpiffeId;
use tonic::{Code, Status};

use crate::ca::CaError;
use crate::refusal::Refusal;

/// Why a request of the owner is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnerError {
    /// The first operator was given before.
    #[error(
        "the first operator of this store was given before ({0}): get SVIDs from that one; for an \
         emergency, see `sundew operator break-glass`"
    )]
    Bootstrapped(String),
    /// Nobody is named for emergencies.
    #[error("nobody is named for emergencies: the configuration has no [break_glass]")]
    BreakGlassOff,
    /// The envelope cannot be read, or is of something else.
    #[error("not a signed request for an emergency: {0}")]
    Malformed(String),
    /// The configuration has no operator who could begin.
    #[error(
        "no operator of the configuration has the role `registrar` and an ID of the embedded CA's \
         trust domain"
    )]
    NoOperator,
    /// What was signed is not what was asked for here, or its time is over.
    #[error("this is not what was asked for at this broker, or its time is over: ask again")]
    NotAsked,
    /// The ID is none that may be given here.
    #[error(
        "`{0}` is not the ID of an operator with the role `registrar` in the embedded CA's trust domain"
    )]
    NotOperator(String),
    /// Somebody else asks.
    #[error("only the owner of the broker's state, user {owner}, may ask, and not user {asks}")]
    NotOwner {
        /// The number of the user who owns the state.
        owner: u32,
        /// The number of the user who asks.
        asks: u32,
    },
    /// An emergency has a reason.
    #[error("reason: must be 1 to 1024 bytes in one line")]
    Reason,
    /// The CA, the store or the journal refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The ID for emergencies is a workload's, whose SVIDs are renewed.
    #[error("{0} is registered as a workload; the ID for emergencies must be none")]
    Registered(SpiffeId),
    /// Several operators could be meant.
    #[error("say which operator: {0}")]
    Several(String),
    /// Too few persons have signed.
    #[error("two of the persons whom the configuration names must sign; so far: {0}")]
    Signatures(String),
    /// The owner of the state cannot be found out.
    #[error("the broker's state: {0}")]
    State(std::io::Error),
}

impl From<CaError> for OwnerError {
    fn from(error: CaError) -> Self {
        Self::Refused(error.into())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the owner of the state is told what is wrong, at a socket of the owner's own"
)]
impl From<OwnerError> for Status {
    fn from(error: OwnerError) -> Self {
        let code = match &error {
            OwnerError::Bootstrapped(_)
            | OwnerError::BreakGlassOff
            | OwnerError::NoOperator
            | OwnerError::NotAsked
            | OwnerError::Registered(_)
            | OwnerError::Signatures(_) => Code::FailedPrecondition,
            OwnerError::Malformed(_)
            | OwnerError::NotOperator(_)
            | OwnerError::Reason
            | OwnerError::Several(_) => Code::InvalidArgument,
            OwnerError::NotOwner { .. } => Code::PermissionDenied,
            OwnerError::Refused(refusal) => return refusal.status(""),
            OwnerError::State(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}
