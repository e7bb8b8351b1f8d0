//! `aws_iid`: the instance identity document of an EC2 instance in its `rsa2048` form, a CMS
//! SignedData (RFC 5652, section 5) under the certificate that AWS publishes for the region.
//!
//! Every process on the instance can read the document, and it carries no nonce. It is therefore
//! accepted once for each instance, workload and minute, and gives nobody a first SVID.

use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerInfo};
use der::{Decode as _, Encode as _};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ber;
use crate::claims::{Assurance, Claims, Once, SingleUse, Values, sha256};
use crate::json;

/// The largest document with its signature, in bytes.
const MAX_EVIDENCE: usize = 16 << 10;
/// The time for which an instance's document is not accepted again from one workload, in
/// milliseconds.
const WINDOW_MS: i64 = 60_000;

const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";
const DATA: &str = "1.2.840.113549.1.7.1";
const CONTENT_TYPE: &str = "1.2.840.113549.1.9.3";
const MESSAGE_DIGEST: &str = "1.2.840.113549.1.9.4";
const SHA256: &str = "2.16.840.1.101.3.4.2.1";
const RSA: [&str; 2] = ["1.2.840.113549.1.1.1", "1.2.840.113549.1.1.11"];

/// The members of the document that become claims; others are left out.
const MEMBERS: [&str; 9] = [
    "accountId",
    "architecture",
    "availabilityZone",
    "imageId",
    "instanceId",
    "instanceType",
    "pendingTime",
    "region",
    "version",
];

/// The reasons to reject an instance identity document.
#[derive(Debug, thiserror::Error)]
pub enum IidError {
    /// The region's certificate is not valid now or cannot be parsed.
    #[error("the region's certificate is not valid now")]
    Certificate,
    /// The evidence is not a well-formed signed document.
    #[error("malformed: {0}")]
    Malformed(String),
    /// No certificate is registered for the region that the document names.
    #[error("no certificate for region `{0}`")]
    Region(String),
    /// The signature is not that of the region's key.
    #[error("signature")]
    Signature,
}

fn malformed(what: &dyn std::fmt::Display) -> IidError {
    IidError::Malformed(what.to_string())
}

/// Verifies the answer of the metadata service's `/latest/dynamic/instance-identity/rsa2048`, out of
/// its base64: BER, as EC2 sends it, or DER. `certificate_of` returns the certificate of a region in
/// DER; `now_ms` is in milliseconds since the epoch.
///
/// Claims come from the signed bytes alone (T27), and no certificate but the region's is used
/// (T28).
///
/// # Errors
/// Each [`IidError`] names the check that failed.
pub fn verify<'a>(
    payload: &[u8],
    certificate_of: impl FnOnce(&str) -> Option<&'a [u8]>,
    now_ms: i64,
) -> Result<Claims, IidError> {
    if payload.len() > MAX_EVIDENCE {
        return Err(malformed(&"longer than 16 KiB"));
    }
    let payload_der = ber::to_der(payload).map_err(|e| malformed(&e))?;
    let outer = ContentInfo::from_der(&payload_der).map_err(|e| malformed(&e))?;
    if outer.content_type.to_string() != SIGNED_DATA {
        return Err(malformed(&"not SignedData"));
    }
    let signed: SignedData = outer.content.decode_as().map_err(|e| malformed(&e))?;
    // The content type stands outside of the signature if there are no signed attributes, so only
    // one is taken.
    if signed.encap_content_info.econtent_type.to_string() != DATA {
        return Err(malformed(&"content type"));
    }
    let content = signed
        .encap_content_info
        .econtent
        .as_ref()
        .ok_or_else(|| malformed(&"the document is not enclosed"))?
        .value();
    let document = json::parse(content, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
    let text = |name: &str| {
        document
            .get(name)
            .and_then(Value::as_str)
            .filter(|value| !value.is_empty())
    };
    let need = |name: &str| text(name).ok_or_else(|| malformed(&format!("no {name}")));
    // The region is not verified yet here: it only selects the certificate that then verifies it.
    let (account, region, instance) = (need("accountId")?, need("region")?, need("instanceId")?);

    let certificate = certificate_of(region)
        .ok_or_else(|| IidError::Region(region.chars().take(32).collect()))?;
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| IidError::Certificate)?;
    let (from_ms, until_ms) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    let (from_ms, until_ms) = (from_ms.saturating_mul(1000), until_ms.saturating_mul(1000));
    if !(from_ms..until_ms).contains(&now_ms) {
        return Err(IidError::Certificate);
    }
    let [signer] = signed.signer_infos.0.as_slice() else {
        return Err(malformed(&"not exactly one signer"));
    };
    let message = signed_bytes(signer, content)?;
    let key = UnparsedPublicKey::new(
        &RSA_PKCS1_2048_8192_SHA256,
        certificate.public_key().subject_public_key.data.as_ref(),
    );
    key.verify(&message, signer.signature.as_bytes())
        .map_err(|_| IidError::Signature)?;

    let mut values = Values::default();
    for name in MEMBERS {
        if let Some(value) = text(name) {
            values.text(name, value);
        }
    }
    // The signature differs at each read of the document, so the identity is the instance's.
    let id = sha256(format!("sundew/v1/aws-iid {account} {region} {instance}").as_bytes());
    Ok(Claims {
        not_after_ms: Some(until_ms),
        single_use: Some(SingleUse {
            id,
            once: Once::ForEachWorkload,
            until_ms: now_ms.saturating_add(WINDOW_MS),
        }),
        ..Claims::of("aws_iid", Assurance::Vouched, false, values, payload)
    })
}

/// Returns the bytes that the signature is over (RFC 5652, section 5.4): the signed attributes if
/// there are any, else the content. Signed attributes must name the type and digest of the content.
fn signed_bytes(signer: &SignerInfo, content: &[u8]) -> Result<Vec<u8>, IidError> {
    if signer.digest_alg.oid.to_string() != SHA256
        || !RSA.contains(&signer.signature_algorithm.oid.to_string().as_str())
    {
        return Err(malformed(&"not RSA with SHA-256"));
    }
    let Some(attributes) = &signer.signed_attrs else {
        return Ok(content.to_vec());
    };
    let only = |oid: &str| {
        let mut found = attributes
            .iter()
            .filter(|attribute| attribute.oid.to_string() == oid);
        match (
            found.next().map(|attribute| attribute.values.as_slice()),
            found.next(),
        ) {
            (Some([value]), None) => Ok(value),
            _ => Err(malformed(&"signed attributes")),
        }
    };
    if only(CONTENT_TYPE)?
        .decode_as::<der::asn1::ObjectIdentifier>()
        .map_err(|e| malformed(&e))?
        .to_string()
        != DATA
    {
        return Err(malformed(&"content type"));
    }
    if only(MESSAGE_DIGEST)?.value() != sha256(content) {
        return Err(IidError::Signature);
    }
    attributes.to_der().map_err(|e| malformed(&e))
}
