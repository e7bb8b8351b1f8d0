//! DSSE envelopes (secure-systems-lab/dsse, protocol and envelope v1.0.2) and the public keys that
//! verify them.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::rsa;

/// The largest number of signatures in one envelope.
const MAX_SIGNATURES: usize = 16;

/// A signed document. Nothing in it is verified before [`Envelope::verify`]. Members that later
/// versions add are ignored, as the specification demands.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Envelope {
    /// The media type of the payload.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The payload in base64, standard or URL-safe.
    pub payload: String,
    /// The signatures over the pre-authentication encoding.
    pub signatures: Vec<Signature>,
}

/// A signature of an envelope.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Signature {
    /// A hint at the key. It is ignored: each signature is tried with each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyid: Option<String>,
    /// The signature in base64, standard or URL-safe: Ed25519, RSA PKCS #1
    /// v1.5 with SHA-256, or ECDSA in ASN.1 DER.
    pub sig: String,
}

/// The reasons to reject an envelope or a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DsseError {
    /// The payload or a signature is not canonical base64.
    #[error("not base64")]
    Base64,
    /// The key is not a P-256, P-384, Ed25519 or RSA public key in PEM or DER, or is a weak one.
    #[error("not a P-256, P-384, Ed25519 or RSA public key (2048 to 4096 bits) in PEM")]
    Key,
    /// The payload type is another than the caller expects.
    #[error("payload type")]
    PayloadType,
    /// Fewer distinct keys have signed than the threshold demands, or the threshold is 0.
    #[error("not signed by enough of the registered keys")]
    Threshold,
    /// The envelope has more than 16 signatures.
    #[error("too many signatures")]
    TooMany,
}

/// A public key that verifies signatures: P-256, P-384, Ed25519, or RSA with 2048 to 4096 bits. Each
/// has one algorithm; RSA's is PKCS #1 v1.5 with SHA-256.
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
    Rsa,
}

impl VerifyingKey {
    /// Reads a SubjectPublicKeyInfo in PEM (`-----BEGIN PUBLIC KEY-----`); fails with
    /// [`DsseError::Key`].
    pub fn from_pem(pem: &str) -> Result<Self, DsseError> {
        let der = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| DsseError::Key)?;
        Self::from_der(&der)
    }

    /// Reads a SubjectPublicKeyInfo in DER; fails with [`DsseError::Key`].
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
        let is_rsa = matches!(
            spki.parsed(),
            Ok(PublicKey::RSA(key)) if rsa::is_acceptable(key.modulus, key.exponent)
        );
        let algorithm = match (
            spki.algorithm.algorithm.to_id_string().as_str(),
            curve.as_deref(),
            point.len(),
        ) {
            ("1.3.101.112", None, 32) => KeyAlgorithm::Ed25519,
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7"), 65) => KeyAlgorithm::P256,
            ("1.2.840.10045.2.1", Some("1.3.132.0.34"), 97) => KeyAlgorithm::P384,
            ("1.2.840.113549.1.1.1", _, _) if is_rsa => KeyAlgorithm::Rsa,
            _ => return Err(DsseError::Key),
        };
        Ok(Self { algorithm, point })
    }

    /// Returns the key itself, by which two keys are the same: a point, or an RSA public key in DER.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.point
    }

    /// Returns whether `signature` is this key's over `message`. An ECDSA signature is in ASN.1
    /// DER.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.algorithm {
            KeyAlgorithm::Ed25519 => &signature::ED25519,
            KeyAlgorithm::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            KeyAlgorithm::P384 => &signature::ECDSA_P384_SHA384_ASN1,
            KeyAlgorithm::Rsa => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.point)
            .verify(message, signature)
            .is_ok()
    }
}

impl Envelope {
    /// Makes an envelope that nobody has signed yet.
    #[must_use]
    pub fn unsigned(payload_type: &str, payload: &[u8]) -> Self {
        Self {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: Vec::new(),
        }
    }

    /// Returns the payload without looking at any signature: for showing it, and for signing it.
    ///
    /// # Errors
    /// [`DsseError::Base64`] if it is not base64.
    pub fn unverified_payload(&self) -> Result<Vec<u8>, DsseError> {
        decode(&self.payload)
    }

    /// Adds a signature over [`pre_authentication_encoding`], and a hint at its key.
    pub fn add(&mut self, key_id: &str, signature: &[u8]) {
        self.signatures.push(Signature {
            keyid: Some(key_id.to_owned()),
            sig: STANDARD.encode(signature),
        });
    }

    /// Returns the payload, if at least `threshold` distinct keys of `keys` signed it under this
    /// payload type. The caller must use these bytes and nothing else of the envelope (T27).
    ///
    /// # Errors
    /// Each [`DsseError`] names the check that failed.
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
        let payload = decode(&self.payload)?;
        let message = pre_authentication_encoding(payload_type, &payload);
        let mut signers = BTreeSet::new();
        for signature in &self.signatures {
            let bytes = decode(&signature.sig)?;
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

/// Decodes base64 in one of the two alphabets; writers of the URL-safe one may leave out the padding.
fn decode(text: &str) -> Result<Vec<u8>, DsseError> {
    let decoded = if text.contains(['-', '_']) || !text.len().is_multiple_of(4) {
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('='))
    } else {
        STANDARD.decode(text)
    };
    decoded.map_err(|_| DsseError::Base64)
}

/// Returns the bytes that are signed, `PAE(type, body)` of DSSE.
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
