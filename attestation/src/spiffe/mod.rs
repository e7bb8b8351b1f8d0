//! SPIFFE IDs, trust bundles, X.509-SVIDs and JWT-SVIDs. Implements the validation rules of the
//! SPIFFE-ID, Trust Domain and Bundle, X509-SVID and JWT-SVID specifications.

mod bundle;
mod certificate;
mod id;
mod jwt;
mod strict;
mod svid;
mod workload_api;

pub use bundle::{BundleError, BundleSet, TrustBundle, split_der};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use jwt::{JwtBundle, JwtSvid, JwtSvidError};
pub use svid::{SvidError, VerifiedSvid, public_key_of, spiffe_id_of, thumbprint, validate_chain};
pub use workload_api::{ChosenSvid, ResponseError, SvidChoice, SvidEntry, WorkloadResponse};
