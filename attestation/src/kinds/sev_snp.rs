//! `sev_snp`: an attestation report of the AMD secure processor about a guest (AMD publication
//! 56860, "SEV Secure Nested Paging Firmware ABI Specification", ATTESTATION_REPORT). Its report
//! data is the binding, at exactly 64 bytes.

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

/// Length of a report, in bytes.
const REPORT: usize = 1184;
/// How much of it is signed, in bytes.
const SIGNED: usize = 0x2A0;
/// Largest evidence, in bytes.
const MAX_EVIDENCE: usize = 16 << 10;

/// Hardware id of the chip (AMD publication 57230, "VCEK Certificate and KDS Interface
/// Specification").
const HARDWARE_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.4);
/// TCB component numbers by the name that claims have.
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

/// What a collector sends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Base64 of the report, 1184 bytes.
    pub report: String,
    /// Base64 of the VCEK or VLEK certificate in DER.
    pub certificate: String,
}

/// Which key the platform signs reports with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endorsement {
    /// A key of this chip at this TCB.
    #[default]
    Vcek,
    /// A key that AMD lent to a cloud provider, for any chip of it.
    Vlek,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnpError {
    /// The report data is not the binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The endorsement key's certificate has no path to AMD's root.
    #[error("certificate: {0}")]
    Chain(#[from] ChainError),
    /// The certificate is of another chip, or of another TCB.
    #[error("certificate and report differ in {0}")]
    Chip(&'static str),
    /// The host may debug the guest, or a migration agent may read it.
    #[error("guest policy allows {0}")]
    GuestPolicy(&'static str),
    /// Signed by another kind of key than the registration wants.
    #[error("endorsed by another kind of key")]
    Endorsement,
    /// Not a report.
    #[error("malformed report: {0}")]
    Malformed(String),
    /// The signature is not the endorsement key's.
    #[error("signature")]
    Signature,
    /// Software in the guest with less privilege than the guest's firmware asked for the report.
    #[error("requested from VMPL {0}")]
    Vmpl(u32),
}

fn malformed(what: &str) -> SnpError {
    SnpError::Malformed(what.to_owned())
}

/// Verifies a report against AMD's certificates (ARKs, with ASKs and ASVKs), and that its report
/// data is `binding`.
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
    let report: &[u8; REPORT] = report
        .as_slice()
        .try_into()
        .map_err(|_| malformed("report is not 1184 bytes long"))?;
    let certificate = STANDARD
        .decode(&evidence.certificate)
        .map_err(|_| malformed("certificate is not base64"))?;
    let report = Report(report);
    // What costs nothing comes first.
    if report.bytes::<64>(0x50) != binding {
        return Err(SnpError::Binding);
    }
    chain::verify(&certificate, &roots.intermediates, roots, now_ms)?;
    let (_, certificate) =
        X509Certificate::from_der(&certificate).map_err(|_| ChainError::Malformed)?;

    // What a version-2 reader knows is in the same places in every later version.
    if report.u32(0) < 2 || report.u32(0x34) != 1 {
        return Err(malformed("version or signature algorithm"));
    }
    let key = UnparsedPublicKey::new(
        &ECDSA_P384_SHA384_FIXED,
        certificate.public_key().subject_public_key.data.as_ref(),
    );
    let (signed, _) = report.0.split_at(SIGNED);
    key.verify(signed, &report.signature().ok_or(SnpError::Signature)?)
        .map_err(|_| SnpError::Signature)?;

    let wanted = match endorsement {
        Endorsement::Vcek => 0,
        Endorsement::Vlek => 1,
    };
    if (report.u32(0x48) >> 2) & 0b111 != wanted {
        return Err(SnpError::Endorsement);
    }
    let policy = report.u64(0x08);
    if policy & (1 << 19) != 0 {
        return Err(SnpError::GuestPolicy("debugging"));
    }
    if policy & (1 << 18) != 0 {
        return Err(SnpError::GuestPolicy("a migration agent"));
    }
    if report.u32(0x30) != 0 {
        return Err(SnpError::Vmpl(report.u32(0x30)));
    }
    let tcb = report.tcb(0x180);
    for (name, value) in tcb {
        if component(name)
            .and_then(|oid| extension(&certificate, &oid))
            .and_then(integer)
            != Some(value)
        {
            return Err(SnpError::Chip("TCB"));
        }
    }
    if endorsement == Endorsement::Vcek {
        // The extension is the 64 bytes themselves, in some certificates wrapped in an OCTET
        // STRING.
        let chip = report.bytes::<64>(0x1A0);
        let named = extension(&certificate, &HARDWARE_ID)
            .map(|value| value.strip_prefix(&[0x04, 0x40]).unwrap_or(value));
        if named != Some(chip.as_slice()) || chip.iter().all(|byte| *byte == 0) {
            return Err(SnpError::Chip("chip id"));
        }
    }
    Ok(Claims {
        not_after_ms: Some(
            certificate
                .validity()
                .not_after
                .timestamp()
                .saturating_mul(1000),
        ),
        ..Claims::of(
            "sev_snp",
            Assurance::Hardware,
            true,
            values(&report, policy, &tcb),
            payload,
        )
    })
}

fn values(report: &Report<'_>, policy: u64, tcb: &[(&str, u8); 4]) -> Values {
    let mut values = Values::default();
    values.bytes("measurement", report.bytes::<48>(0x90));
    values.bytes("host_data", report.bytes::<32>(0xC0));
    values.bytes("id_key_digest", report.bytes::<48>(0xE0));
    values.bytes("family_id", report.bytes::<16>(0x10));
    values.bytes("image_id", report.bytes::<16>(0x20));
    values.bytes("chip_id", report.bytes::<64>(0x1A0));
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

struct Report<'a>(&'a [u8; REPORT]);

impl<'a> Report<'a> {
    fn bytes<const N: usize>(&self, at: usize) -> &'a [u8; N] {
        // Offsets are constants of the specification; a report is whole by its type.
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .unwrap_or(&[0; N])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes(at))
    }

    /// The four components that the product has: Turin and later (family 1Ah) order them
    /// differently, with one of its own in front.
    fn tcb(&self, at: usize) -> [(&'static str, u8); 4] {
        let [first, second, third, fourth, _, _, snp, microcode] = *self.bytes::<8>(at);
        let [family] = *self.bytes::<1>(0x188);
        if self.u32(0) >= 3 && family >= 0x1A {
            [
                ("fmc", first),
                ("boot_loader", second),
                ("tee", third),
                ("snp", fourth),
            ]
        } else {
            [
                ("boot_loader", first),
                ("tee", second),
                ("snp", snp),
                ("microcode", microcode),
            ]
        }
    }

    /// R and S as 48 bytes each, big-endian; the report has them little-endian in 72 bytes each,
    /// the rest being zero.
    fn signature(&self) -> Option<[u8; 96]> {
        let mut out = [0; 96];
        for (half, at) in out.chunks_exact_mut(48).zip([SIGNED, SIGNED + 72]) {
            let number = self.bytes::<72>(at);
            let (low, high) = number.split_at(48);
            if high.iter().any(|byte| *byte != 0) {
                return None;
            }
            for (to, from) in half.iter_mut().rev().zip(low) {
                *to = *from;
            }
        }
        Some(out)
    }
}

fn extension<'a>(certificate: &'a X509Certificate<'_>, oid: &Oid<'_>) -> Option<&'a [u8]> {
    let mut found = certificate
        .extensions()
        .iter()
        .filter(|extension| extension.oid == *oid);
    let only = found.next()?;
    found.next().is_none().then_some(only.value)
}

/// A small non-negative INTEGER in DER.
fn integer(der: &[u8]) -> Option<u8> {
    match *der {
        [0x02, 0x01, value] if value < 0x80 => Some(value),
        [0x02, 0x02, 0x00, value] if value >= 0x80 => Some(value),
        _ => None,
    }
}
