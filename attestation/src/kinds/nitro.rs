//! `nitro`: the attestation document of an AWS Nitro Enclave, a COSE_Sign1 (RFC 9052, section 4.2)
//! by the hypervisor (AWS Nitro Enclaves user guide, "Verifying the root of trust"). Its `nonce` is
//! the binding.

use std::collections::BTreeMap;

use ciborium::Value;
use coset::{
    CborSerializable as _, CoseSign1, RegisteredLabelWithPrivate, TaggedCborSerializable as _,
    iana::Algorithm,
};
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::chain::{self, ChainError, Roots};
use crate::claims::{Assurance, Claims, Values};

/// The largest document, in bytes; it is the hypervisor's own limit.
const MAX_DOCUMENT: usize = 16 << 10;
/// The greatest age of a document, in milliseconds (T30).
const MAX_AGE_MS: i64 = 5 * 60_000;
/// The largest lead of the host's clock over the verifier's, in milliseconds.
const MAX_SKEW_MS: i64 = 30_000;

/// The reasons to reject an attestation document.
#[derive(Debug, thiserror::Error)]
pub enum NitroError {
    /// The document is older than five minutes or over 30 seconds in the future, or its certificate
    /// has ended since.
    #[error("document is not of now")]
    Age,
    /// The document's nonce is not the binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The signing certificate has no valid path to a trusted root.
    #[error("certificate: {0}")]
    Chain(#[from] ChainError),
    /// The enclave runs in debug mode: its memory can be read, and PCR 0 is zero.
    #[error("the enclave runs in debug mode")]
    Debug,
    /// The evidence is not a well-formed attestation document.
    #[error("malformed document: {0}")]
    Malformed(&'static str),
    /// The signature is not that of the certificate's key.
    #[error("signature")]
    Signature,
}

/// Verifies a document against the trusted roots, and that its nonce is `binding`. `now_ms` is in
/// milliseconds since the epoch.
///
/// # Errors
/// Each [`NitroError`] names the check that failed.
pub fn verify(
    document: &[u8],
    roots: &Roots,
    binding: &[u8],
    now_ms: i64,
) -> Result<Claims, NitroError> {
    if document.len() > MAX_DOCUMENT {
        return Err(NitroError::Malformed("longer than 16 KiB"));
    }
    let signed = CoseSign1::from_slice(document)
        .or_else(|_| CoseSign1::from_tagged_slice(document))
        .map_err(|_| NitroError::Malformed("not a COSE_Sign1"))?;
    if signed.protected.header.alg != Some(RegisteredLabelWithPrivate::Assigned(Algorithm::ES384))
        || !signed.protected.header.crit.is_empty()
    {
        return Err(NitroError::Malformed("algorithm is not ES384"));
    }
    let content = Content::parse(
        signed
            .payload
            .as_deref()
            .ok_or(NitroError::Malformed("no payload"))?,
    )?;
    let age_ms = now_ms.saturating_sub(content.timestamp_ms);
    if !(-MAX_SKEW_MS..=MAX_AGE_MS).contains(&age_ms) {
        return Err(NitroError::Age);
    }
    // P12: a replayed document is rejected before any signature is verified. A P-384 signature
    // costs about a millisecond, and there is one for each certificate.
    if content.nonce.as_deref() != Some(binding) {
        return Err(NitroError::Binding);
    }
    let (_, certificate) =
        X509Certificate::from_der(&content.certificate).map_err(|_| ChainError::Malformed)?;
    let key = UnparsedPublicKey::new(
        &ECDSA_P384_SHA384_FIXED,
        certificate.public_key().subject_public_key.data.as_ref(),
    );
    signed
        .verify_signature(b"", |signature, message| key.verify(message, signature))
        .map_err(|_| NitroError::Signature)?;
    // The certificates are valid for minutes to hours, so they are validated at the time at which
    // the document was made. The bundle has the root, too, which must be an anchor.
    let not_after_ms = chain::verify(
        &content.certificate,
        &content.cabundle,
        roots,
        content.timestamp_ms,
    )?;
    if now_ms >= not_after_ms {
        return Err(NitroError::Age);
    }
    if content
        .pcrs
        .get(&0)
        .is_none_or(|pcr| pcr.iter().all(|byte| *byte == 0))
    {
        return Err(NitroError::Debug);
    }
    let mut values = Values::default();
    values.text("module_id", &content.module_id);
    if let Some((instance, _)) = content.module_id.split_once("-enc") {
        values.text("instance_id", instance);
    }
    for (index, pcr) in &content.pcrs {
        values.bytes(&format!("pcr{index}"), pcr);
    }
    Ok(Claims {
        not_after_ms: Some(not_after_ms),
        ..Claims::of("nitro", Assurance::Hardware, true, values, document)
    })
}

/// The signed content. A member that is missing or malformed makes the whole document malformed
/// (T30).
struct Content {
    module_id: String,
    timestamp_ms: i64,
    pcrs: BTreeMap<u8, Vec<u8>>,
    certificate: Vec<u8>,
    cabundle: Vec<Vec<u8>>,
    nonce: Option<Vec<u8>>,
}

impl Content {
    /// Reads the payload of the COSE_Sign1, which must be one CBOR map with distinct members.
    fn parse(payload: &[u8]) -> Result<Self, NitroError> {
        let mut rest = payload;
        let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut rest, 8)
            .map_err(|_| NitroError::Malformed("not CBOR"))?;
        let Value::Map(entries) = value else {
            return Err(NitroError::Malformed("not a map"));
        };
        if !rest.is_empty() {
            return Err(NitroError::Malformed("trailing bytes"));
        }
        // CBOR allows a key twice, and two readers could then take different values.
        let mut members = BTreeMap::new();
        for (name, value) in entries {
            let name = name
                .into_text()
                .map_err(|_| NitroError::Malformed("member name"))?;
            if members.insert(name, value).is_some() {
                return Err(NitroError::Malformed("member twice"));
            }
        }
        let mut take = |name: &str| members.remove(name).filter(|value| !value.is_null());
        if take("digest").and_then(|v| v.into_text().ok()).as_deref() != Some("SHA384") {
            return Err(NitroError::Malformed("digest is not SHA384"));
        }
        let bytes = |value: Value| {
            value
                .into_bytes()
                .map_err(|_| NitroError::Malformed("not a byte string"))
        };
        let module_id = take("module_id")
            .and_then(|v| v.into_text().ok())
            .filter(|id| !id.is_empty() && id.len() <= 256);
        let timestamp = take("timestamp")
            .and_then(|v| v.into_integer().ok())
            .and_then(|i| i64::try_from(i).ok())
            .filter(|t| *t > 0);
        let Some(Value::Map(registers)) = take("pcrs") else {
            return Err(NitroError::Malformed("pcrs"));
        };
        let mut pcrs = BTreeMap::new();
        for (index, value) in registers {
            let index = index
                .into_integer()
                .ok()
                .and_then(|i| u8::try_from(i).ok())
                .filter(|i| *i < 32)
                .ok_or(NitroError::Malformed("pcr index"))?;
            let value = bytes(value)?;
            if value.len() != 48 || pcrs.insert(index, value).is_some() {
                return Err(NitroError::Malformed("pcr"));
            }
        }
        let Some(Value::Array(bundle)) = take("cabundle") else {
            return Err(NitroError::Malformed("cabundle"));
        };
        Ok(Self {
            module_id: module_id.ok_or(NitroError::Malformed("module_id"))?,
            timestamp_ms: timestamp.ok_or(NitroError::Malformed("timestamp"))?,
            pcrs,
            certificate: bytes(take("certificate").ok_or(NitroError::Malformed("certificate"))?)?,
            cabundle: bundle.into_iter().map(bytes).collect::<Result<_, _>>()?,
            nonce: take("nonce").map(bytes).transpose()?,
        })
    }
}
