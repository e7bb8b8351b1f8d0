//! `sev_snp`: an attestation report of the AMD secure processor about a guest (AMD publication
//! 56860, "SEV Secure Nested Paging Firmware ABI Specification", ATTESTATION_REPORT). The report
//! data is the 64-byte form of the binding.

mod report;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use x509_parser::der_parser::oid;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::chain::{self, ChainError, Roots};
use crate::claims::{Assurance, Claims, Values};
use crate::json;
use report::{Layout, Report};

/// The largest evidence, in bytes.
const MAX_EVIDENCE: usize = 16 << 10;

/// The offset of the guest's policy in the report.
const POLICY: usize = 0x08;
/// The offset of the chip id in the report.
const CHIP_ID: usize = 0x1A0;

/// The extension with the chip's hardware id (AMD publication 57230, "VCEK Certificate and KDS
/// Interface Specification").
const HARDWARE_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.4);

/// Returns the extension with a TCB component, by the component's name in claims.
fn component(name: &str) -> Option<Oid<'static>> {
    match name {
        "boot_loader" => Some(oid!(1.3.6.1.4.1.3704.1.3.1)),
        "tee" => Some(oid!(1.3.6.1.4.1.3704.1.3.2)),
        "snp" => Some(oid!(1.3.6.1.4.1.3704.1.3.3)),
        "microcode" => Some(oid!(1.3.6.1.4.1.3704.1.3.8)),
        "fmc" => Some(oid!(1.3.6.1.4.1.3704.1.3.9)),
        _ => None,
    }
}

/// The evidence, in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The report, 1184 bytes, in base64.
    pub report: String,
    /// The certificate of the VCEK or VLEK, DER in base64.
    pub certificate: String,
}

/// The kind of key that signs reports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endorsement {
    /// The versioned chip endorsement key, derived from the chip and its TCB version.
    #[default]
    Vcek,
    /// The versioned loaded endorsement key, which AMD gives a cloud provider for its chips.
    Vlek,
}

/// The reasons to reject an attestation report.
#[derive(Debug, thiserror::Error)]
pub enum SnpError {
    /// The report data is not the binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The endorsement key's certificate has no valid path to an AMD root.
    #[error("certificate: {0}")]
    Chain(#[from] ChainError),
    /// The certificate is for another chip, product line or TCB version.
    #[error("certificate and report differ in {0}")]
    Chip(&'static str),
    /// The report is signed by another kind of key than the registration requires.
    #[error("endorsed by another kind of key")]
    Endorsement,
    /// The guest's policy allows the host to debug it or a migration agent to read it.
    #[error("guest policy allows {0}")]
    GuestPolicy(&'static str),
    /// The evidence is malformed or is not an attestation report.
    #[error("malformed report: {0}")]
    Malformed(String),
    /// The signature is not the endorsement key's.
    #[error("signature")]
    Signature,
    /// Software at a lower privilege level (VMPL) than the guest's firmware requested the report.
    #[error("requested from VMPL {0}")]
    Vmpl(u32),
}

fn malformed(what: &str) -> SnpError {
    SnpError::Malformed(what.to_owned())
}

/// Verifies a report against AMD's certificates (ARKs, with ASKs and ASVKs), and that its report
/// data is `binding`. `now_ms` is in milliseconds since the epoch.
///
/// # Errors
/// Each [`SnpError`] names the check that failed.
pub fn verify(
    payload: &[u8],
    roots: &Roots,
    endorsement: Endorsement,
    binding: &[u8; 64],
    now_ms: i64,
) -> Result<Claims, SnpError> {
    let evidence: Evidence =
        json::read(payload, MAX_EVIDENCE).map_err(|e| SnpError::Malformed(e.to_string()))?;
    let report = STANDARD
        .decode(&evidence.report)
        .map_err(|_| malformed("report is not base64"))?;
    let report = Report::new(&report).ok_or_else(|| malformed("report is not 1184 bytes long"))?;
    let certificate = STANDARD
        .decode(&evidence.certificate)
        .map_err(|_| malformed("certificate is not base64"))?;
    // P12: a replayed report is rejected before any signature is verified.
    if report.bytes::<64>(0x50) != binding {
        return Err(SnpError::Binding);
    }
    let not_after_ms = chain::verify(&certificate, &[], roots, now_ms)?;
    let (_, certificate) =
        X509Certificate::from_der(&certificate).map_err(|_| ChainError::Malformed)?;
    check_signature(&report, &certificate)?;
    check_guest(&report, endorsement)?;
    let layout = layout_of(&report, &certificate)?;
    let tcb = report.tcb(0x180, layout);
    check_tcb(&tcb, &certificate)?;
    if endorsement == Endorsement::Vcek {
        check_chip(&report, layout, &certificate)?;
    }
    Ok(Claims {
        not_after_ms: Some(not_after_ms),
        ..Claims::of(
            "sev_snp",
            Assurance::Hardware,
            true,
            values(&report, &tcb),
            payload,
        )
    })
}

/// Verifies the report's signature with the key of the endorsement certificate.
fn check_signature(report: &Report<'_>, certificate: &X509Certificate<'_>) -> Result<(), SnpError> {
    // Later versions add fields and keep those of version 2 in place. Algorithm 1 is ECDSA on P-384
    // with SHA-384.
    if report.u32(0) < 2 || report.u32(0x34) != 1 {
        return Err(malformed("version or signature algorithm"));
    }
    let key = UnparsedPublicKey::new(
        &ECDSA_P384_SHA384_FIXED,
        certificate.public_key().subject_public_key.data.as_ref(),
    );
    let signature = report.signature().ok_or(SnpError::Signature)?;
    key.verify(report.signed(), &signature)
        .map_err(|_| SnpError::Signature)
}

/// Checks the kind of the endorsement key, the guest's policy, and who in the guest asked.
fn check_guest(report: &Report<'_>, endorsement: Endorsement) -> Result<(), SnpError> {
    let wanted = match endorsement {
        Endorsement::Vcek => 0,
        Endorsement::Vlek => 1,
    };
    if (report.u32(0x48) >> 2) & 0b111 != wanted {
        return Err(SnpError::Endorsement);
    }
    let policy = report.u64(POLICY);
    if policy & (1 << 19) != 0 {
        return Err(SnpError::GuestPolicy("debugging"));
    }
    if policy & (1 << 18) != 0 {
        return Err(SnpError::GuestPolicy("a migration agent"));
    }
    // The measurement is of the firmware, which runs at VMPL 0; software above it is not measured.
    if report.u32(0x30) != 0 {
        return Err(SnpError::Vmpl(report.u32(0x30)));
    }
    Ok(())
}

/// Returns the layout of the report's TCB versions. AMD's certificate decides it, since reports of
/// version 2 do not name their product line; a report that does must be of the same.
fn layout_of(report: &Report<'_>, certificate: &X509Certificate<'_>) -> Result<Layout, SnpError> {
    let has_fmc = component("fmc").is_some_and(|oid| extension(certificate, &oid).is_some());
    let layout = if has_fmc {
        Layout::Turin
    } else {
        Layout::Milan
    };
    if report.family().is_none_or(|family| layout.is_of(family)) {
        Ok(layout)
    } else {
        Err(SnpError::Chip("product line"))
    }
}

/// Checks that the endorsement certificate is for the TCB of the report (T32).
fn check_tcb(tcb: &[(&str, u8)], certificate: &X509Certificate<'_>) -> Result<(), SnpError> {
    let certified = |name: &str| {
        component(name)
            .and_then(|oid| extension(certificate, &oid))
            .and_then(integer)
    };
    if tcb
        .iter()
        .all(|(name, value)| certified(name) == Some(*value))
    {
        Ok(())
    } else {
        Err(SnpError::Chip("TCB"))
    }
}

/// Checks that the certificate of a VCEK is for the chip of the report.
fn check_chip(
    report: &Report<'_>,
    layout: Layout,
    certificate: &X509Certificate<'_>,
) -> Result<(), SnpError> {
    // Turin's ids are the first 8 bytes of the field.
    let chip: &[u8] = match layout {
        Layout::Milan => report.bytes::<64>(CHIP_ID),
        Layout::Turin => report.bytes::<8>(CHIP_ID),
    };
    // The extension is the bytes themselves, in some certificates wrapped in an OCTET STRING.
    let length = u8::try_from(chip.len()).unwrap_or_default();
    let wrapped = [&[0x04, length][..], chip].concat();
    let named = extension(certificate, &HARDWARE_ID);
    // A host can mask the chip id with zeros, which would fit any chip that does so.
    let is_hidden = chip.iter().all(|byte| *byte == 0);
    if !is_hidden && (named == Some(chip) || named == Some(&wrapped)) {
        Ok(())
    } else {
        Err(SnpError::Chip("chip id"))
    }
}

/// Returns the claims of a report that was verified.
fn values(report: &Report<'_>, tcb: &[(&str, u8)]) -> Values {
    let policy = report.u64(POLICY);
    let mut values = Values::default();
    values.bytes("measurement", report.bytes::<48>(0x90));
    values.bytes("host_data", report.bytes::<32>(0xC0));
    values.bytes("id_key_digest", report.bytes::<48>(0xE0));
    values.bytes("family_id", report.bytes::<16>(0x10));
    values.bytes("image_id", report.bytes::<16>(0x20));
    values.bytes("chip_id", report.bytes::<64>(CHIP_ID));
    values.text("guest_svn", report.u32(0x04));
    values.text(
        "policy.abi",
        format!("{}.{}", (policy >> 8) & 0xff, policy & 0xff),
    );
    values.text("policy.smt", policy & (1 << 16) != 0);
    values.text("policy.single_socket", policy & (1 << 20) != 0);
    for (name, value) in tcb {
        values.text(&format!("tcb.{name}"), value);
    }
    values
}

/// Returns the value of an extension that the certificate has exactly once.
fn extension<'a>(certificate: &'a X509Certificate<'_>, oid: &Oid<'_>) -> Option<&'a [u8]> {
    let mut found = certificate
        .extensions()
        .iter()
        .filter(|extension| extension.oid == *oid);
    let only = found.next()?;
    found.next().is_none().then_some(only.value)
}

/// Returns an INTEGER in DER from 0 to 255.
fn integer(der: &[u8]) -> Option<u8> {
    match *der {
        [0x02, 0x01, value] if value < 0x80 => Some(value),
        [0x02, 0x02, 0x00, value] if value >= 0x80 => Some(value),
        _ => None,
    }
}
