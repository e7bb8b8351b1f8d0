//! Endorsement keys, which identify a TPM by its manufacturer's certificate (TCG EK Credential
//! Profile).
//!
//! No structure shows that an attestation key and an endorsement key are in one TPM. The caller
//! proves it before it endorses an attestation key: the TPM opens a credential that is made for
//! both (TPM 2.0 Library, part 1, "Credential Protection").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use webpki::KeyUsage;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::public_area::{Key, Public};
use super::{TpmError, decode};
use crate::chain::{self, Roots};
use crate::claims::sha256;
use crate::rsa::stripped;

/// `tcg-kp-EKCertificate`, 2.23.133.8.1, which a certificate must have that names purposes: another one
/// may be of any other key that a manufacturer certifies.
const EK_CERTIFICATE: KeyUsage = KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x01]);

/// The stored form of an endorsement.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// The endorsement key's certificate, DER in base64.
    certificate: String,
    /// The certificates between it and the manufacturer's root, DER in base64.
    #[serde(default)]
    intermediates: Vec<String>,
}

/// An endorsement key with its certificate. The path to the manufacturer's root is checked by
/// [`Endorsement::verify`].
#[derive(Clone, Debug)]
pub struct Endorsement {
    key: Public,
    certificate: Vec<u8>,
    intermediates: Vec<Vec<u8>>,
    id: String,
}

/// The public endorsement key that a credential is encrypted to.
#[derive(Clone, Copy, Debug)]
pub enum EndorsementKey<'a> {
    /// An uncompressed point on P-256.
    P256(&'a [u8]),
    /// The modulus, big-endian, and the exponent.
    Rsa(&'a [u8], u32),
}

impl Endorsement {
    /// Makes an endorsement of a public area and its certificate in DER; fails if the public area
    /// is no endorsement key's, or if the certificate is of another key or for another use. The path
    /// is not checked.
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
        if !is_for_endorsement(&parsed, key.key()) {
            return Err(TpmError::Endorsement("the key usage is another"));
        }
        let id = hex::encode(sha256(parsed.public_key().raw));
        Ok(Self {
            key,
            certificate: certificate.to_vec(),
            intermediates: intermediates.to_vec(),
            id,
        })
    }

    /// Reads the stored form.
    pub(super) fn read(document: &Document, key: Public) -> Result<Self, TpmError> {
        let intermediates: Vec<_> = document
            .intermediates
            .iter()
            .map(|text| decode(text))
            .collect::<Result<_, _>>()?;
        Self::new(key, &decode(&document.certificate)?, &intermediates)
    }

    /// Returns the stored form.
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

    /// Returns the SHA-256 of the key's SubjectPublicKeyInfo in lower-case hexadecimal, which
    /// identifies the TPM.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the public key.
    #[must_use]
    pub fn key(&self) -> EndorsementKey<'_> {
        match self.key.key() {
            Key::Ecc { point, .. } => EndorsementKey::P256(point),
            Key::Rsa { modulus, exponent } => EndorsementKey::Rsa(modulus, *exponent),
        }
    }

    /// Verifies that a trusted manufacturer has certified the key; `now_ms` is in milliseconds
    /// since the epoch. Returns the earliest end of the certificates, in the same unit; fails with
    /// [`TpmError::Manufacturer`] otherwise.
    pub fn verify(&self, manufacturers: &Roots, now_ms: i64) -> Result<i64, TpmError> {
        chain::verify_for(
            EK_CERTIFICATE,
            &self.certificate,
            &self.intermediates,
            manufacturers,
            now_ms,
        )
        .map_err(TpmError::Manufacturer)
    }
}

/// Returns whether the certificate's key usage is that of an endorsement key (TCG EK Credential
/// Profile): keyEncipherment for RSA, keyAgreement for P-256. Some makers leave it out, and others the
/// key purpose, but one of them has to say what the key is for.
fn is_for_endorsement(certificate: &X509Certificate<'_>, key: &Key) -> bool {
    match (certificate.key_usage(), key) {
        (Ok(None), _) => matches!(certificate.extended_key_usage(), Ok(Some(_))),
        (Ok(Some(usage)), Key::Rsa { .. }) => usage.value.key_encipherment(),
        (Ok(Some(usage)), Key::Ecc { .. }) => usage.value.key_agreement(),
        (Err(_), _) => false,
    }
}
