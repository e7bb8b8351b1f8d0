//! The reasons to reject evidence.

use crate::dsse::DsseError;
use crate::kinds::{
    aws_iid, cosign, local_user, manifest, nitro, oidc, process, sev_snp, tdx, tpm2,
};

/// The reasons why evidence was rejected or did not meet the registration. They are for the
/// operator's record, never for the claimant (P11).
#[derive(Debug, thiserror::Error)]
pub enum AppraisalError {
    /// The EC2 instance identity document was rejected.
    #[error("aws_iid: {0}")]
    AwsIid(#[from] aws_iid::IidError),
    /// A verified claim has a value that the registration does not accept.
    #[error("{kind}: claim `{claim}` is not one of the registered values")]
    Claim {
        /// The kind of evidence.
        kind: &'static str,
        /// The name of the claim.
        claim: String,
    },
    /// Single-use evidence was not consumed by this presentation, or was used before.
    #[error("evidence was used before; where a platform answers from a cache, ask for a new one")]
    Consumed,
    /// The cosign signature was rejected.
    #[error("cosign: {0}")]
    Cosign(#[from] cosign::CosignError),
    /// The counter of the evidence's source is lower than in earlier evidence of that source.
    #[error("the evidence's source was set back")]
    Counter,
    /// A cross-check between two pieces of evidence failed.
    #[error("`{claim}` is not among `{among}`")]
    CrossCheck {
        /// The claim, `<kind>.<claim>`, that has a value too many.
        claim: String,
        /// The claim, `<kind>.<claim>`, that lacks this value.
        among: String,
    },
    /// A public key in the registration cannot be read.
    #[error("registered key: {0}")]
    Key(#[from] DsseError),
    /// The broker's statement about the user was rejected.
    #[error("local_user: {0}")]
    LocalUser(#[from] local_user::LocalUserError),
    /// The agent manifest was rejected.
    #[error("manifest: {0}")]
    Manifest(#[from] manifest::ManifestError),
    /// The pieces of evidence are not a set that the registration asks for.
    #[error("evidence of the kinds that the registration asks for is missing")]
    Missing,
    /// The attestation document of the Nitro enclave was rejected.
    #[error("nitro: {0}")]
    Nitro(#[from] nitro::NitroError),
    /// The registration requires no evidence, so no evidence can meet it (P1).
    #[error("the registration requires no evidence")]
    NothingRequired,
    /// The JWT was rejected.
    #[error("oidc: {0}")]
    Oidc(#[from] oidc::OidcError),
    /// The node's statement about the process was rejected.
    #[error("process: {0}")]
    Process(#[from] process::ProcessError),
    /// The SEV-SNP attestation report was rejected.
    #[error("sev_snp: {0}")]
    SevSnp(#[from] sev_snp::SnpError),
    /// The TDX quote was rejected.
    #[error("tdx: {0}")]
    Tdx(#[from] tdx::TdxError),
    /// The TPM quote was rejected.
    #[error("tpm2: {0}")]
    Tpm2(#[from] tpm2::TpmError),
    /// The claimant presented evidence that no requirement asks for, two pieces of one kind, or too
    /// many pieces.
    #[error("evidence that the registration does not ask for")]
    Unexpected,
    /// The issuer that the registration names is not configured at this broker or has no keys yet.
    #[error("issuer is not configured, or has no keys")]
    UnknownIssuer,
    /// The registration is of a time when less was enough: evidence of too many would meet it.
    #[error("the registration is to be changed: {0}")]
    Unpinned(String),
    /// The node that vouches has no live task of its own that allows it to serve.
    #[error("the node that vouches has no live task with the scope `node:serve`")]
    Unvouched,
}
