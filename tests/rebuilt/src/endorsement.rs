//! Certificates of endorsement keys of TPMs, in the shapes in which makers issue them: names, kinds of
//! keys, extensions in their order, and which of them are critical. Published roots and intermediates
//! of the makers have these shapes, and certificates of Google's virtual TPMs; the certificates that
//! are in chips follow the TCG EK Credential Profile.

use crate::certificate::{
    CERT_SIGN, CRL_SIGN, Certificate, Name, authority_key_id, basic_constraints, crl_distribution,
    extension, key_usage, subject_key_id,
};
use crate::der::{element, oid};
use crate::key::{Algorithm, Key};

/// From 2020 to 2049, in seconds since the epoch.
const VALID_S: (i64, i64) = (1_580_000_000, 2_500_000_000);
/// The purpose of endorsement keys.
const PURPOSE: &str = "2.23.133.8.1";

/// A maker of TPMs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maker {
    /// Firmware TPMs of AMD.
    Amd,
    /// Virtual TPMs of Google Compute Engine.
    Google,
    /// Chips of Infineon.
    Infineon,
    /// Firmware TPMs of Intel, whose chip has authorities of its own below those that are published.
    Intel,
    /// Chips of Nuvoton.
    Nuvoton,
    /// Chips of STMicroelectronics.
    StMicro,
}

/// The chain of an endorsement key.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The root and the published intermediates, in DER.
    pub published: Vec<Vec<u8>>,
    /// The intermediates that are in the chip, in DER.
    pub intermediates: Vec<Vec<u8>>,
    /// The certificate of the endorsement key, in DER.
    pub certificate: Vec<u8>,
}

/// An authority.
struct Authority {
    name: Name,
    key: Key,
}

impl Maker {
    /// All makers.
    pub const ALL: [Self; 6] = [
        Self::Amd,
        Self::Google,
        Self::Infineon,
        Self::Intel,
        Self::Nuvoton,
        Self::StMicro,
    ];

    /// Certifies an endorsement key, given as SubjectPublicKeyInfo in DER, under a root and
    /// intermediates with new keys.
    pub fn certify(self, spki: &[u8]) -> Chain {
        let names = self.authorities();
        let mut above: Option<Authority> = None;
        let mut certificates = Vec::new();
        for (at, name) in names.into_iter().enumerate() {
            let own = Authority {
                name,
                key: self.key(),
            };
            let issuer = above.as_ref().unwrap_or(&own);
            let extensions = match at {
                0 => self.of_root(&own.key),
                _ => self.of_intermediate(&own.key, &issuer.key),
            };
            certificates.push(certificate(&own.name, &own.key, issuer, extensions));
            above = Some(own);
        }
        let issuer = above.expect("authorities");
        let key = Key::of_others(spki);
        let extensions = self.of_endorsement_key(&key, &issuer.key);
        let leaf = certificate(&Name::new(&[]), &key, &issuer, extensions);
        let published = if self == Self::Intel {
            2
        } else {
            certificates.len()
        };
        let intermediates = certificates.split_off(published);
        Chain {
            published: certificates,
            intermediates,
            certificate: leaf,
        }
    }

    /// The names of the root and of the intermediates below it.
    fn authorities(self) -> Vec<Name> {
        match self {
            Self::Amd => {
                let amd = |place, name| {
                    Name::new(&[
                        ("OU", "Engineering"),
                        ("C", "US"),
                        ("L", place),
                        ("ST", "CA"),
                        ("O", "Advanced Micro Devices"),
                        ("CN", name),
                    ])
                };
                vec![amd("Sunnyvale", "AMDTPM"), amd("Santa Clara", "PRG-RPL")]
            }
            Self::Google => {
                let google = |unit, name| {
                    Name::new(&[
                        ("C", "US"),
                        ("ST", "California"),
                        ("L", "Mountain View"),
                        ("O", "Google LLC"),
                        ("OU", unit),
                        ("CN", name),
                    ])
                };
                let signer =
                    "tpm_ek_v1_cloud_host-signer-0-2027-01-01T00:00:00-07:00 K:1, 3:abc:0:18";
                vec![
                    google("Google Cloud", "EK/AK CA Root"),
                    google("Cloud", signer),
                ]
            }
            Self::Infineon => {
                let infineon = |unit, name| {
                    Name::new(&[
                        ("C", "DE"),
                        ("O", "Infineon Technologies AG"),
                        ("OU", unit),
                        ("CN", name),
                    ])
                };
                vec![
                    infineon("OPTIGA(TM) Devices", "Infineon OPTIGA(TM) RSA Root CA"),
                    infineon("OPTIGA(TM)", "Infineon OPTIGA(TM) TPM 2.0 RSA CA 074"),
                ]
            }
            Self::Intel => {
                let intel = |unit| Name::new(&[("OU", unit), ("CN", "www.intel.com")]);
                vec![
                    intel("OnDie CA Root Cert Signing"),
                    intel("ODCA CA2 CSME Intermediate CA"),
                    intel("CSME ROM"),
                    intel("CSME Kernel 01SVN"),
                    intel("CSME PTT 01SVN"),
                ]
            }
            // All attributes are in one set.
            Self::Nuvoton => vec![Name::of_one_set(&[
                ("CN", "Nuvoton TPM Root CA 1110"),
                ("O", "Nuvoton Technology Corporation"),
                ("C", "TW"),
            ])],
            Self::StMicro => {
                let st =
                    |name| Name::new(&[("C", "CH"), ("O", "STMicroelectronics NV"), ("CN", name)]);
                vec![
                    st("STM TPM EK Root CA"),
                    st("STM TPM EK Intermediate CA 06"),
                ]
            }
        }
    }

    fn key(self) -> Key {
        match self {
            Self::Intel => Key::new(Algorithm::P384),
            Self::Nuvoton => Key::new(Algorithm::P256),
            _ => Key::rsa(Algorithm::RsaPkcs1, 2048),
        }
    }

    fn of_root(self, key: &Key) -> Vec<Vec<u8>> {
        let signs = key_usage(CERT_SIGN | CRL_SIGN, true);
        vec![signs, basic_constraints(true, None), subject_key_id(key)]
    }

    fn of_intermediate(self, key: &Key, issuer: &Key) -> Vec<Vec<u8>> {
        let (own, above) = (subject_key_id(key), authority_key_id(issuer));
        let signs = key_usage(CERT_SIGN | CRL_SIGN, true);
        let last = basic_constraints(true, Some(0));
        match self {
            Self::Amd => vec![
                signs,
                extension("1.3.6.1.4.1.311.21.43", false, &element(4, &[&[7; 16]])),
                issuers("http://ftpm.example/pki/aia"),
                crl_distribution("http://ftpm.example/pki/crl"),
                policies("1.3.6.1.4.1.3704.101.21.10", false),
                own,
                above,
                last,
            ],
            Self::Google | Self::Nuvoton => vec![signs, last, own, above],
            Self::Infineon => vec![
                issuers("http://pki.example/OptigaRsaRootCA.crt"),
                own,
                signs,
                last,
                crl_distribution("http://pki.example/OptigaRsaRootCA.crl"),
                policies("1.2.276.0.68.1.20.1", false),
                above,
                purpose(),
            ],
            Self::Intel => vec![
                above,
                own,
                basic_constraints(true, None),
                signs,
                issuers("https://tsci.example/OnDie_CA_RootCA_Certificate.cer"),
                crl_distribution("https://tsci.example/OnDie_CA.crl"),
            ],
            // Any policy, and critical.
            Self::StMicro => vec![
                own,
                above,
                policies("2.5.29.32.0", true),
                key_usage(CERT_SIGN, true),
                last,
            ],
        }
    }

    fn of_endorsement_key(self, key: &Key, issuer: &Key) -> Vec<Vec<u8>> {
        let (usage, none) = (usage_of(key), basic_constraints(false, None));
        let (above, purpose, family) = (authority_key_id(issuer), purpose(), specification());
        match self {
            Self::Amd => vec![
                usage,
                issuers("http://ftpm.example/pki/aia"),
                crl_distribution("http://ftpm.example/pki/crl"),
                policies("1.3.6.1.4.1.3704.101.21.10", false),
                model(["id:414D4400", "AMD", "id:00030057"], false),
                family,
                purpose,
                above,
                none,
            ],
            Self::Google => vec![
                none,
                above,
                issuers("https://pki.example/tpm_ek_intermediate_3.crt"),
                crl_distribution("https://pki.example/tpm_ek_intermediate_3.crl"),
                usage,
                purpose,
                family,
                model(["id:474F4F47", "vTPM", "id:20160511"], false),
                extension("1.3.6.1.4.1.11129.2.1.21", false, &instance()),
            ],
            Self::Infineon => vec![
                issuers("http://pki.example/OptigaRsaMfrCA074.crt"),
                usage,
                model(["id:49465800", "SLB 9670 TPM2.0", "id:0755"], false),
                none,
                crl_distribution("http://pki.example/OptigaRsaMfrCA074.crl"),
                policies("1.2.276.0.68.1.20.1", false),
                above,
                purpose,
                family,
            ],
            // Critical policies, as older ones have.
            Self::Intel => vec![
                above,
                usage,
                policies("1.2.840.113741.1.5.2.1", true),
                model(["id:494E5443", "ADL", "id:00100025"], false),
                none,
                purpose,
                family,
            ],
            Self::Nuvoton => vec![
                model(["id:4E544300", "NPCT75x", "id:00070002"], true),
                purpose,
                none,
                above,
                usage,
                issuers("https://www.nuvoton.example/NTC-TPM-EK-Cert.cer"),
            ],
            Self::StMicro => vec![
                above,
                policies("1.3.6.1.4.1.10.1", false),
                model(["id:53544D20", "ST33HTPHAHB4", "id:00010101"], false),
                family,
                none,
                purpose,
                usage,
                issuers("http://sw-center.example/STM_RSA_EK_INTC_06.crt"),
            ],
        }
    }
}

fn certificate(name: &Name, key: &Key, issuer: &Authority, extensions: Vec<Vec<u8>>) -> Vec<u8> {
    let certificate = Certificate {
        serial: &key.id()[..16],
        issuer: &issuer.name,
        subject: name,
        valid_s: VALID_S,
        key,
        extensions,
    };
    certificate.signed_by(&issuer.key)
}

/// Key encipherment for RSA, key agreement for keys on a curve.
fn usage_of(key: &Key) -> Vec<u8> {
    let on_curve = oid("1.2.840.10045.2.1");
    let spki = key.spki();
    let is_on_curve = spki.windows(on_curve.len()).any(|part| part == on_curve);
    key_usage(if is_on_curve { 0x08 } else { 0x20 }, true)
}

fn purpose() -> Vec<u8> {
    extension("2.5.29.37", false, &element(0x30, &[&oid(PURPOSE)]))
}

/// The place of the issuer's certificate.
fn issuers(uri: &str) -> Vec<u8> {
    let access = element(
        0x30,
        &[
            &oid("1.3.6.1.5.5.7.48.2"),
            &element(0x86, &[uri.as_bytes()]),
        ],
    );
    extension("1.3.6.1.5.5.7.1.1", false, &element(0x30, &[&access]))
}

/// A policy with the place of its text.
fn policies(policy: &str, critical: bool) -> Vec<u8> {
    let text = element(0x16, &[b"https://maker.example/cps"]);
    let text = element(0x30, &[&oid("1.3.6.1.5.5.7.2.1"), &text]);
    let policy = element(0x30, &[&oid(policy), &element(0x30, &[&text])]);
    extension("2.5.29.32", critical, &element(0x30, &[&policy]))
}

/// The manufacturer, the model and the version of a TPM, in one set or in three.
fn model(values: [&str; 3], in_one_set: bool) -> Vec<u8> {
    let attributes = (1..).zip(values).map(|(arc, value)| {
        let value = element(0x0c, &[value.as_bytes()]);
        element(0x30, &[&oid(&format!("2.23.133.2.{arc}")), &value])
    });
    let sets: Vec<Vec<u8>> = match in_one_set {
        true => vec![element(0x31, &[&attributes.collect::<Vec<_>>().concat()])],
        false => attributes.map(|one| element(0x31, &[&one])).collect(),
    };
    let name = element(
        0x30,
        &[&element(0xa4, &[&element(0x30, &[&sets.concat()])])],
    );
    extension("2.5.29.17", true, &name)
}

/// Subject directory attributes: family 2.0, level 0, revision 1.38.
fn specification() -> Vec<u8> {
    let family = element(0x0c, &[b"2.0"]);
    let said = element(0x30, &[&family, &[2, 1, 0], &[2, 2, 0, 0x8a]]);
    let attribute = element(0x30, &[&oid("2.23.133.2.16"), &element(0x31, &[&said])]);
    extension("2.5.29.9", false, &element(0x30, &[&attribute]))
}

/// What Google says of an instance: zone, number and name of its project, its number and name.
fn instance() -> Vec<u8> {
    let text = |text: &str| element(0x0c, &[text.as_bytes()]);
    let parts = [
        text("europe-west1-b"),
        element(2, &[&[5, 1, 2, 3, 4]]),
        text("project"),
        element(2, &[&[3, 1, 2, 3, 4, 5, 6, 7]]),
        text("vm"),
    ];
    element(0x30, &[&parts.concat()])
}
