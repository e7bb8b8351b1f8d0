//! The kinds of trust items.

use serde::{Deserialize, Serialize};

/// The purpose of a trust item, which decides the form of its content.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustKind {
    /// The certificate, in PEM, that AWS publishes for a region; the item's name is the region.
    AwsIid,
    /// A certificate revocation list of a hardware manufacturer's CA, in PEM or DER.
    Crl,
    /// A root certificate of Nitro enclaves, in PEM.
    Nitro,
    /// A reference value that the platform team approved. The item's name is `<set>/<value>`, its
    /// content a remark.
    Reference,
    /// AMD's certificates for a product line, ARK and ASK or ASVK, in PEM.
    SevSnp,
    /// Intel's collateral for one platform model (FMSPC), in JSON.
    Tdx,
    /// The attestation key of a TPM, in JSON.
    Tpm2Ak,
    /// A TPM, or an attestation key, that an operator took back: no key of it is activated, and none
    /// that it activated before counts, until the item is removed. The item's name is the TPM's `ek` or the key's name, its content a remark.
    Tpm2Barred,
    /// The certificates, in PEM, with which a TPM manufacturer certifies endorsement keys.
    Tpm2EkRoot,
}

impl TrustKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::AwsIid,
        Self::Crl,
        Self::Nitro,
        Self::Reference,
        Self::SevSnp,
        Self::Tdx,
        Self::Tpm2Ak,
        Self::Tpm2Barred,
        Self::Tpm2EkRoot,
    ];

    /// Returns the kind's name, as it is stored and as the command line takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwsIid => "aws_iid",
            Self::Crl => "crl",
            Self::Nitro => "nitro",
            Self::Reference => "reference",
            Self::SevSnp => "sev_snp",
            Self::Tdx => "tdx",
            Self::Tpm2Ak => "tpm2_ak",
            Self::Tpm2Barred => "tpm2_barred",
            Self::Tpm2EkRoot => "tpm2_ek_root",
        }
    }

    /// Returns the kind of this name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}
