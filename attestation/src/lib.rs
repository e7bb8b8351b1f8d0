//! Who is this, and is it true: SPIFFE identities, X.509-SVID validation and verification of evidence (RFC 9334).
//!
//! Upholds P1, P2 and P8. Pure and synchronous: no I/O, no clock (time is an argument), no state.

mod appraisal;
mod challenge;
mod claims;
pub mod dsse;
pub mod json;
pub mod jws;
pub mod kinds;
pub mod spiffe;

pub use appraisal::{AppraisalError, Appraised, Attested, Presented, Requirement, TrustMaterial, appraise};
pub use challenge::{Binding, BindingPurpose, Nonce};
pub use claims::{Claims, SingleUse};
