//! The embedded CA, for those without SPIRE: X.509-SVIDs and JWT-SVIDs for registered workloads.

mod authority;
mod jwt_authority;

pub use authority::{Ca, CaError, IssuedSvid};
