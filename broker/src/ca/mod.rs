//! The embedded CA, for those without SPIRE: X.509-SVIDs and JWT-SVIDs for registered workloads.

mod authority;
mod jwt_authority;
mod keys;
mod permit;
mod rotation;
mod schedule;
#[cfg(test)]
mod tests;

pub use authority::{Ca, CaError, IssuedSvid};
pub(crate) use permit::{IdentityPermit, Shown};
pub(crate) use rotation::Moment;
