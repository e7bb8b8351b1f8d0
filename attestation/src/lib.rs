//! Verification of SPIFFE identities and of attestation evidence: the verifier's part of RFC 9334.
//!
//! Upholds P1, P2 and P8. The crate does no I/O and has no state, and time is an argument.

mod appraisal;
mod ber;
mod chain;
mod challenge;
mod claims;
mod constraint;
mod curve;
pub mod dsse;
pub mod json;
pub mod jws;
mod key_id;
pub mod kinds;
mod left_out;
mod narrowing;
mod pem;
mod policy;
mod requirement;
mod rsa;
mod shown;
pub mod spiffe;
pub mod statement;
mod trust;

pub use appraisal::{
    AppraisalError, Appraised, Attested, Circumstances, Finding, Presented, appraise,
};
pub use chain::{ChainError, Crl, Roots};
pub use challenge::{Binding, BindingPurpose, Nonce};
pub use claims::{Assurance, Claims, Counter, Once, SingleUse, Voucher, hex};
pub use constraint::{AtLeast, Constraint, Constraints, Reference};
pub use left_out::LeftOut;
pub use narrowing::Narrowing;
pub use pem::pem;
pub use policy::{Alternative, AppraisalPolicy, CrossCheck, Rule};
pub use requirement::Requirement;
pub use shown::{ShownCertificate, ShownError};
pub use trust::{Loss, MAX_CONTENT, TrustError, TrustItem, TrustKind, TrustMaterial};
