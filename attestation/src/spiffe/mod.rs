//! SPIFFE identities, trust bundles and X.509-SVIDs, after the SPIFFE-ID, Trust Domain and Bundle, and X509-SVID specifications.

mod bundle;
mod id;
mod svid;

pub use bundle::{BundleError, BundleSet, TrustBundle};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use svid::{SvidError, VerifiedSvid, public_key_of, thumbprint, validate_chain};
