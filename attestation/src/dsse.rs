//! DSSE envelopes (secure-systems-lab/dsse, envelope v1.0.2) and the public keys that verify them.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Most signatures looked at in one envelope.
const MAX_SIGNATURES: usize = 16;

/// A signed document.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What the payload is.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// Base64 of the signed bytes.
    pub payload: String,
    /// The signatures over the pre-authentication encoding.
    pub signatures: Vec<Signature>,
}

/// One signature. The key id is a hint and decides nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// A hint at the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyid: Option<String>,
    /// Base64 of the signature: Ed25519, or ECDSA in ASN.1 DER.
    pub sig: String,
}

/// Why an envelope was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DsseError {
    /// Payload or signature is not canonical base64.
    #[error("not base64")]
    Base64,
    /// Not a public key that we take (P-256, P-384, Ed25519 in PEM).
    #[error("not a P-256, P-384 or Ed25519 public key in PEM")]
    Key,
    /// Another payload type than the one expected.
    #[error("payload type")]
    PayloadType,
    /// Fewer distinct keys than the threshold signed.
    #[error("not signed by enough of the registered keys")]
    Threshold,
    /// More signatures than are looked at.
    #[error("too many signatures")]
    TooMany,
}

/// A public key of the signer.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    algorithm: KeyAlgorithm,
    point: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum KeyAlgorithm {
    Ed25519,
    P256,
    P384,
}

impl VerifyingKey {
    /// Reads a SubjectPublicKeyInfo in PEM (`-----BEGIN PUBLIC KEY-----`).
    pub fn from_pem(pem: &str) -> Result<Self, DsseError> {
        let der = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| DsseError::Key)?;
        Self::from_der(&der)
    }

    /// Reads a SubjectPublicKeyInfo in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, DsseError> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| DsseError::Key)?;
        if !rest.is_empty() {
            return Err(DsseError::Key);
        }
        let point = spki.subject_public_key.data.to_vec();
        let curve = spki
            .algorithm
            .parameters
            .as_ref()
            .and_then(|p| p.as_oid().ok())
            .map(|oid| oid.to_id_string());
        let algorithm = match (
            spki.algorithm.algorithm.to_id_string().as_str(),
            curve.as_deref(),
            point.len(),
        ) {
            ("1.3.101.112", None, 32) => KeyAlgorithm::Ed25519,
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7"), 65) => KeyAlgorithm::P256,
            ("1.2.840.10045.2.1", Some("1.3.132.0.34"), 97) => KeyAlgorithm::P384,
            _ => return Err(DsseError::Key),
        };
        Ok(Self { algorithm, point })
    }

    /// Whether `signature` is this key's over `message`; ECDSA in ASN.1 DER.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.algorithm {
            KeyAlgorithm::Ed25519 => &signature::ED25519,
            KeyAlgorithm::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            KeyAlgorithm::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.point)
            .verify(message, signature)
            .is_ok()
    }
}

impl Envelope {
    /// The bytes that `threshold` distinct keys of `keys` signed. Only these bytes may be used
    /// (T27).
    pub fn verify(
        &self,
        payload_type: &str,
        keys: &[VerifyingKey],
        threshold: usize,
    ) -> Result<Vec<u8>, DsseError> {
        if self.payload_type != payload_type {
            return Err(DsseError::PayloadType);
        }
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::TooMany);
        }
        let payload = STANDARD
            .decode(&self.payload)
            .map_err(|_| DsseError::Base64)?;
        let message = pre_authentication_encoding(payload_type, &payload);
        let mut signers = BTreeSet::new();
        for signature in &self.signatures {
            let bytes = STANDARD
                .decode(&signature.sig)
                .map_err(|_| DsseError::Base64)?;
            // T33: a key counts once, however often it signed and under whatever key id.
            if let Some(key) = keys.iter().find(|key| key.verifies(&message, &bytes)) {
                signers.insert(key.point.as_slice());
            }
        }
        if threshold == 0 || signers.len() < threshold {
            return Err(DsseError::Threshold);
        }
        Ok(payload)
    }
}

/// `PAE(type, body)` as DSSE defines it; what is signed.
#[must_use]
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "DSSEv1 {} {} {} ",
        payload_type.len(),
        payload_type,
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}
