//! Quotes of TDX trust domains, versions 4 and 5 with reports of TDX 1.0, 1.5 and their extension,
//! and the collateral of their platform.

mod collateral;

use crate::NOW_S;
use crate::certificate::{
    CERT_SIGN, CRL_SIGN, Certificate, DIGITAL_SIGNATURE, NON_REPUDIATION, Name, authority_key_id,
    basic_constraints, crl_distribution, extension, key_usage, pem, subject_key_id,
};
use crate::der::{element, oid, unsigned};
use crate::key::{Algorithm, Key};

pub use collateral::Collateral;

const YEAR_S: i64 = 365 * 86_400;
/// The length of the header, in bytes.
pub const HEADER: usize = 48;
/// The length of a TDX 1.0 report, in bytes.
pub const REPORT: usize = 584;
/// The length of an SGX report, in bytes.
const SGX_REPORT: usize = 384;
/// The vendor id of Intel's quoting enclaves (`INTEL_QE_VENDOR_ID`).
const VENDOR: [u8; 16] = [
    0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07,
];
/// The model of the platform.
pub const FMSPC: [u8; 6] = [0xB0, 0xC0, 0x6F, 0, 0, 0];
/// The security versions of the platform's components, and of its PCE.
const CPU_SVN: [u8; 16] = [3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
const PCE_SVN: u8 = 11;
/// The security versions of the TDX module: its own, its major version, and microcode.
pub const TEE_TCB_SVN: [u8; 16] = [6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// The signer of quoting enclaves.
const QE_SIGNER: [u8; 32] = [0xDC; 32];

/// The fields of a TDX 1.0 report: offset in the report and length, in bytes.
pub const FIELDS: [(usize, usize); 15] = [
    (0, 16),
    (16, 48),
    (64, 48),
    (112, 8),
    (120, 8),
    (128, 8),
    (136, 48),
    (184, 48),
    (232, 48),
    (280, 48),
    (328, 48),
    (376, 48),
    (424, 48),
    (472, 48),
    (520, 64),
];

/// The form of a quote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Version 4, with a TDX 1.0 report.
    V4,
    /// Version 5 with a TDX 1.0 report.
    V5,
    /// Version 5 with a TDX 1.5 report.
    V5With15,
    /// Version 5 with an extended TDX 1.5 report.
    V5With15Extended,
}

impl Form {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::V4, Self::V5, Self::V5With15, Self::V5With15Extended];

    /// Returns the type and the length of the body, in bytes; version 4 writes neither.
    fn body(self) -> (u16, usize) {
        match self {
            Self::V4 | Self::V5 => (2, REPORT),
            Self::V5With15 => (3, REPORT + 64),
            Self::V5With15Extended => (4, REPORT + 64 + 237),
        }
    }

    /// Returns the offset of the report in the quote.
    pub fn report_at(self) -> usize {
        match self {
            Self::V4 => HEADER,
            Self::V5 | Self::V5With15 | Self::V5With15Extended => HEADER + 6,
        }
    }
}

/// A platform with its quoting enclave, and all that certifies it.
pub struct Platform {
    root: Key,
    ca: Key,
    tcb_signer: Key,
    pck: Key,
    attestation: Key,
}

impl Platform {
    /// Makes a platform with new keys.
    pub fn new() -> Self {
        let key = || Key::new(Algorithm::P256);
        Self {
            root: key(),
            ca: key(),
            tcb_signer: key(),
            pck: key(),
            attestation: key(),
        }
    }

    /// Returns the root's certificate, in DER.
    pub fn root(&self) -> Vec<u8> {
        let usage = key_usage(CERT_SIGN | CRL_SIGN, true);
        self.issued(Subject {
            name: "SGX Root CA",
            issuer: "SGX Root CA",
            signer: &self.root,
            key: &self.root,
            age_s: 8 * YEAR_S,
            life_s: 30 * YEAR_S,
            extensions: vec![usage, basic_constraints(true, Some(1))],
        })
    }

    fn platform_ca(&self) -> Vec<u8> {
        let usage = key_usage(CERT_SIGN | CRL_SIGN, true);
        self.issued(Subject {
            name: "SGX PCK Platform CA",
            issuer: "SGX Root CA",
            signer: &self.root,
            key: &self.ca,
            age_s: 8 * YEAR_S,
            life_s: 15 * YEAR_S,
            extensions: vec![usage, basic_constraints(true, Some(0))],
        })
    }

    fn tcb_certificate(&self) -> Vec<u8> {
        let usage = key_usage(DIGITAL_SIGNATURE | NON_REPUDIATION, true);
        self.issued(Subject {
            name: "SGX TCB Signing",
            issuer: "SGX Root CA",
            signer: &self.root,
            key: &self.tcb_signer,
            age_s: YEAR_S,
            life_s: 7 * YEAR_S,
            extensions: vec![usage, basic_constraints(false, None)],
        })
    }

    /// Returns the certificate of the platform's key, in DER.
    pub fn pck_certificate(&self) -> Vec<u8> {
        let usage = key_usage(DIGITAL_SIGNATURE | NON_REPUDIATION, true);
        self.issued(Subject {
            name: "SGX PCK Certificate",
            issuer: "SGX PCK Platform CA",
            signer: &self.ca,
            key: &self.pck,
            age_s: YEAR_S,
            life_s: 7 * YEAR_S,
            extensions: vec![usage, basic_constraints(false, None), sgx_extension()],
        })
    }

    fn issued(&self, subject: Subject<'_>) -> Vec<u8> {
        let place = match subject.issuer {
            "SGX PCK Platform CA" => "https://pcs.invalid/sgx/certification/v4/pckcrl?ca=platform",
            _ => "https://pcs.invalid/SGXRootCA.der",
        };
        let mut extensions = vec![
            authority_key_id(subject.signer),
            crl_distribution(place),
            subject_key_id(subject.key),
        ];
        extensions.extend(subject.extensions);
        let mut serial = subject.key.id();
        serial[0] &= 0x7f;
        Certificate {
            serial: &serial,
            issuer: &named(subject.issuer),
            subject: &named(subject.name),
            valid_s: (
                NOW_S - subject.age_s,
                NOW_S - subject.age_s + subject.life_s,
            ),
            key: subject.key,
            extensions,
        }
        .signed_by(subject.signer)
    }

    /// Returns the chain that quotes carry: the platform's certificate, its CA and the root.
    fn chain(&self) -> String {
        pem(&[&self.pck_certificate(), &self.platform_ca(), &self.root()])
    }

    /// Returns the genuine quote, which is bound to 64 bytes of 7.
    pub fn genuine(&self, form: Form) -> Vec<u8> {
        self.quote(form, |_| {})
    }

    /// Returns a quote whose report is changed before it is signed.
    pub fn quote(&self, form: Form, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let version: u16 = if form == Form::V4 { 4 } else { 5 };
        let mut signed = [
            &version.to_le_bytes()[..],
            &2_u16.to_le_bytes(),
            &0x81_u32.to_le_bytes(),
            &[0; 4],
            &VENDOR,
            &[0x88; 16],
            &[0; 4],
        ]
        .concat();
        let (kind, length) = form.body();
        if form != Form::V4 {
            signed.extend(kind.to_le_bytes());
            signed.extend(u32::try_from(length).expect("short").to_le_bytes());
        }
        let mut report = report(length);
        change(&mut report);
        signed.extend(report);
        let signature = self.attestation.sign_fixed(&signed);
        let enclave = self.enclave_report();
        let chain = [self.chain().as_bytes(), &[0]].concat();
        let inner = [
            &enclave[..],
            &self.pck.sign_fixed(&enclave),
            &sized_16(&authentication()),
            &5_u16.to_le_bytes(),
            &sized(&chain),
        ]
        .concat();
        let outer = [
            &signature[..],
            self.attestation.public(),
            &6_u16.to_le_bytes(),
            &sized(&inner),
        ]
        .concat();
        signed.extend(sized(&outer));
        // The buffer of the driver is longer than the quote.
        signed.extend([0; 69]);
        signed
    }

    /// Returns the report of the quoting enclave, which vouches for the key of quotes.
    fn enclave_report(&self) -> Vec<u8> {
        let mut report = vec![0; SGX_REPORT];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &CPU_SVN);
        put(48, &[0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7]);
        put(64, &[0xE5; 32]);
        put(128, &QE_SIGNER);
        put(256, &[2, 0, 6, 0]);
        let vouched = [self.attestation.public(), &authentication()].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, &vouched);
        put(320, digest.as_ref());
        report
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::new()
    }
}

/// A certificate of Intel's place, apart from what all of them have.
struct Subject<'a> {
    name: &'a str,
    issuer: &'a str,
    signer: &'a Key,
    key: &'a Key,
    age_s: i64,
    life_s: i64,
    extensions: Vec<Vec<u8>>,
}

fn named(name: &str) -> Name {
    Name::new(&[
        ("CN", &format!("Sundew {name}")),
        ("O", "Sundew Tests"),
        ("L", "Santa Clara"),
        ("ST", "CA"),
        ("C", "US"),
    ])
}

/// Returns a report that is bound to 64 bytes of 7.
fn report(length: usize) -> Vec<u8> {
    let mut report = vec![0; length];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = report.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, &TEE_TCB_SVN);
    put(16, &[0x5B; 48]);
    // SEPT_VE_DISABLE.
    put(120, &[0, 0, 0, 0x10]);
    put(128, &[0xe7, 0x02, 0x06]);
    put(136, &[0x91; 48]);
    for index in 0..4_u8 {
        put(328 + 48 * usize::from(index), &[0xA0 + index; 48]);
    }
    put(520, &[7; 64]);
    // The present versions, after an update that kept the trust domain.
    put(584, &TEE_TCB_SVN);
    report
}

fn authentication() -> Vec<u8> {
    (0..32).collect()
}

/// Returns bytes with their length in 32 bits in front.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [&length.to_le_bytes()[..], bytes].concat()
}

fn sized_16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short");
    [&length.to_le_bytes()[..], bytes].concat()
}

/// Returns the extension that names the platform and its TCB (Intel "SGX PCK Certificate and CRL
/// Profile Specification").
fn sgx_extension() -> Vec<u8> {
    const ROOT: &str = "1.2.840.113741.1.13.1";
    let entry = |arcs: &str, value: &[u8]| element(0x30, &[&oid(&format!("{ROOT}.{arcs}")), value]);
    let mut tcb: Vec<Vec<u8>> = CPU_SVN
        .iter()
        .enumerate()
        .map(|(at, svn)| entry(&format!("2.{}", at + 1), &unsigned(&[*svn])))
        .collect();
    tcb.push(entry("2.17", &unsigned(&[PCE_SVN])));
    tcb.push(entry("2.18", &element(4, &[&CPU_SVN])));
    let flags: Vec<Vec<u8>> = (1..=3)
        .map(|arc| entry(&format!("7.{arc}"), &[1, 1, 0xff]))
        .collect();
    let content = element(
        0x30,
        &[
            &entry("1", &element(4, &[&[0x81; 16]])),
            &entry("2", &element(0x30, &[&tcb.concat()])),
            &entry("3", &element(4, &[&[0, 0]])),
            &entry("4", &element(4, &[&FMSPC])),
            &entry("5", &[10, 1, 1]),
            &entry("6", &element(4, &[&[0x17; 16]])),
            &entry("7", &element(0x30, &[&flags.concat()])),
        ],
    );
    extension(ROOT, false, &content)
}
