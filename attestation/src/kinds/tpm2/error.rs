//! The reasons to reject a TPM quote or key.

use crate::chain::ChainError;
use crate::json::JsonError;

/// The reasons to reject a TPM's quote, an attestation key or an endorsement.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// An operator took back the attestation key or its TPM (`tpm2_barred`).
    #[error("attestation key `{0}`: an operator took it or its TPM back (`tpm2_barred`)")]
    Barred(String),
    /// The qualifying data of the quote is not the binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The private part of the key can be computed from the public one (ROCA, CVE-2017-15361).
    #[error("the key is a broken one that its chip made (ROCA)")]
    BrokenKey,
    /// The endorsement certificate certifies another key, or is for another use.
    #[error("endorsement: {0}")]
    Endorsement(&'static str),
    /// The event log is malformed or does not replay to the quoted PCRs that it mentions.
    #[error("event log {0}")]
    EventLog(&'static str),
    /// The document is not JSON of the expected form.
    #[error("malformed: {0}")]
    Json(#[from] JsonError),
    /// A TPM structure is malformed.
    #[error("malformed structure: {0}")]
    Malformed(&'static str),
    /// No trusted TPM manufacturer has certified the endorsement key.
    #[error("endorsement key: {0}")]
    Manufacturer(ChainError),
    /// The key could sign more than quotes, or was not made in its TPM.
    #[error("not a restricted signing key that was made in its TPM and stays there")]
    NotAttestationKey,
    /// The key has none of the templates that TPM manufacturers certify.
    #[error("not an endorsement key of a default template, RSA with 2048 bits or more or P-256")]
    NotEndorsementKey,
    /// The PCR values that were presented are not those that were quoted.
    #[error("PCR values are not those quoted")]
    Pcrs,
    /// The quote selects no PCR, PCRs of several banks, or a bank below SHA-256.
    #[error("quoted PCRs: must be some, of one bank of SHA-256 or better")]
    Selection,
    /// The signature is not the attestation key's.
    #[error("signature")]
    Signature,
    /// The qualified signer is a key at another place in the TPM's hierarchies.
    #[error("qualified signer is another key")]
    Signer,
    /// The attestation key is not registered.
    #[error("attestation key `{0}` is not registered")]
    UnknownKey(String),
}
