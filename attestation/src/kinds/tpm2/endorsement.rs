//! Endorsement keys: in which TPM an attestation key is, as the TPM's maker says it (TCG EK
//! Credential Profile).
//!
//! That an attestation key is in the same TPM cannot be seen in it: who endorses one has made its
//! TPM open a credential (TPM 2.0 Library, part 1, "Credential Protection").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use webpki::KeyUsage;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::structures::{Key, Public};
use super::{TpmError, decode};
use crate::chain::{self, Roots};
use crate::claims::{hex, sha256};

/// `tcg-kp-EKCertificate`, 2.23.133.8.1.
const EK_CERTIFICATE: KeyUsage = KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x01]);

/// What is stored of one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Base64 of its certificate in DER.
    certificate: String,
    /// Base64 of what comes between it and the maker's root.
    #[serde(default)]
    intermediates: Vec<String>,
}

/// The key that a TPM's maker has certified, with its certificate.
#[derive(Clone, Debug)]
pub struct Endorsement {
    key: Public,
    certificate: Vec<u8>,
    intermediates: Vec<Vec<u8>>,
    id: String,
}

/// A key that credentials are made for.
#[derive(Clone, Copy, Debug)]
pub enum EndorsementKey<'a> {
    /// Uncompressed point on P-256.
    P256(&'a [u8]),
    /// Modulus, big-endian, and exponent.
    Rsa(&'a [u8], u32),
}

impl Endorsement {
    /// The key of a certificate; `key` is what its TPM says of it. The path is not looked at.
    pub(super) fn new(
        key: Public,
        certificate: &[u8],
        intermediates: &[Vec<u8>],
    ) -> Result<Self, TpmError> {
        if !key.is_endorsement_key() {
            return Err(TpmError::NotEndorsementKey);
        }
        let (rest, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| TpmError::Malformed("endorsement certificate"))?;
        let certified = match (parsed.public_key().parsed(), key.key()) {
            (Ok(PublicKey::RSA(certified)), Key::Rsa { modulus, exponent }) => {
                stripped(certified.modulus) == stripped(modulus)
                    && certified
                        .try_exponent()
                        .is_ok_and(|certified| certified == u64::from(*exponent))
            }
            (Ok(PublicKey::EC(certified)), Key::Ecc { point, .. }) => certified.data() == point,
            _ => false,
        };
        if !rest.is_empty() || !certified {
            return Err(TpmError::Endorsement("the certificate is of another key"));
        }
        let id = hex(&sha256(parsed.public_key().raw));
        Ok(Self {
            key,
            certificate: certificate.to_vec(),
            intermediates: intermediates.to_vec(),
            id,
        })
    }

    pub(super) fn read(document: &Document, key: Public) -> Result<Self, TpmError> {
        let intermediates: Vec<_> = document
            .intermediates
            .iter()
            .map(|text| decode(text))
            .collect::<Result<_, _>>()?;
        Self::new(key, &decode(&document.certificate)?, &intermediates)
    }

    pub(super) fn document(&self) -> Document {
        Document {
            certificate: STANDARD.encode(&self.certificate),
            intermediates: self
                .intermediates
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
        }
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo in lower-case hexadecimal: which TPM it is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> EndorsementKey<'_> {
        match self.key.key() {
            Key::Ecc { point, .. } => EndorsementKey::P256(point),
            Key::Rsa { modulus, exponent } => EndorsementKey::Rsa(modulus, *exponent),
        }
    }

    /// Whether a maker that is trusted has certified it; `now_ms` is milliseconds since the epoch.
    pub fn verify(&self, makers: &Roots, now_ms: i64) -> Result<(), TpmError> {
        let mut intermediates = self.intermediates.clone();
        // The same certificate may come along and be registered.
        intermediates.extend(
            makers
                .intermediates
                .iter()
                .filter(|der| !self.intermediates.contains(der))
                .cloned(),
        );
        chain::verify_for(
            EK_CERTIFICATE,
            &self.certificate,
            &intermediates,
            makers,
            now_ms,
        )
        .map_err(TpmError::Maker)
    }
}

/// Without the zeros that DER puts before a number, or a TPM.
fn stripped(number: &[u8]) -> &[u8] {
    number
        .iter()
        .position(|byte| *byte != 0)
        .and_then(|at| number.get(at..))
        .unwrap_or_default()
}
