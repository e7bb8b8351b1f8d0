//! May it, and what does it get: the domain of Sundew.
//!
//! Upholds P1, P3, P4, P8 and P9. No runtime, no transport, no store: time is an argument, and the
//! store is a port.

mod audit;
mod credential;
mod delegation;
mod id;
mod lease;
mod log;
mod policy;
pub mod protocol;
mod record;
mod registration;
mod rules;
mod scope;
mod sealing;
mod selector;
pub mod store;
mod stored;
mod subject;
#[cfg(test)]
mod testing;
/// What clients share with the broker: the grammars, the binding, and X.509-SVID validation.
pub mod client {
    pub use sundew_attestation::kinds::{manifest, process, sev_snp, tpm2};
    pub use sundew_attestation::spiffe::{
        BundleSet, JwtBundle, SpiffeId, TrustBundle, TrustDomain, VerifiedSvid, public_key_of,
        thumbprint, validate_chain,
    };
    pub use sundew_attestation::{Binding, BindingPurpose, hex};

    pub use crate::credential::SecretBytes;
    pub use crate::scope::{Scope, ScopeError, ScopeSet};
    pub use crate::ttl::{Ttl, TtlError};
}
mod ttl;
mod view;

pub use audit::Record;
pub use credential::{Credential, SecretBytes, TokenHash};
pub use delegation::{Grant, GrantRequest};
pub use id::{IdParseError, LeaseId, TaskId, TokenId};
pub use lease::LeaseRecord;
pub use log::{Changed, Effect, EntryId, Event, FOR_EVER_MS, LogEntry, Position};
pub use policy::{
    Delegation, Denial, Permit, TaskRequest, TokenRequest, permit_task, permit_token,
};
pub use record::{
    Outcome, RecordError, SecretRecord, TaskRecord, TokenBinding, TokenRecord, WorkloadRecord,
    is_audience,
};
pub use registration::{LocalSelector, Registration, RegistrationProblem};
pub use scope::{Scope, ScopeError, ScopeSet};
pub use sealing::{Keyring, RootKey, SealError};
pub use selector::{Attribute, Selector, SelectorError, Subject};
pub use subject::{KnownTask, KnownToken};
pub use ttl::{Ttl, TtlError};
pub use view::{Cause, Liveness, View};
