//! The part of the domain that clients share with the broker: the grammars, the binding, and the
//! validation of X.509-SVIDs.

pub use sundew_attestation::kinds::{about, manifest, process, sev_snp, tpm2};
pub use sundew_attestation::spiffe::{
    BundleSet, JwtBundle, ResponseError, SpiffeId, SvidChoice, SvidEntry, TrustBundle, TrustDomain,
    VerifiedSvid, WorkloadResponse, public_key_of, spiffe_id_of, thumbprint, validate_chain,
};
pub use sundew_attestation::{Binding, BindingPurpose, ShownCertificate, ShownError, hex, pem};

pub use crate::scope::{Scope, ScopeError, ScopeSet};
pub use crate::secret::SecretBytes;
pub use crate::secret_file::{SecretFileError, read_secret_file};
pub use crate::ttl::{Ttl, TtlError};
