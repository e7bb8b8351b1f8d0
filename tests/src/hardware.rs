//! Evidence as real hardware and clouds sign it, under keys of the tests' own: for what no recording
//! shows.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use coset::CborSerializable as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    SigningKey as _,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use sundew_attestation::kinds::{nitro, sev_snp};
use sundew_attestation::{Claims, Roots};

/// The time of [`Enclave::content`] and [`Chip::verify`], in milliseconds since the epoch.
pub const NOW_MS: i64 = 1_800_000_000_000;

/// A root of P-384 and what it signs.
pub struct Authority {
    /// The parameters of the certificate: name and key usage.
    pub params: CertificateParams,
    /// Its key.
    pub key: KeyPair,
}

impl Authority {
    /// With a new key.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("made");
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { params, key }
    }

    /// Returns the authority's own certificate, in DER.
    pub fn certificate(&self) -> Vec<u8> {
        self.params
            .self_signed(&self.key)
            .expect("made")
            .der()
            .to_vec()
    }

    /// Returns a list, valid for a day and in DER, that revokes these certificates.
    pub fn crl(&self, certificates: &[Vec<u8>]) -> Vec<u8> {
        let now = time::OffsetDateTime::now_utc();
        let taken_back = |der: &Vec<u8>| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("made");
            let serial_number = SerialNumber::from_slice(certificate.raw_serial());
            RevokedCertParams {
                serial_number,
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(taken_back).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params
            .signed_by(&Issuer::from_params(&self.params, &self.key))
            .expect("made")
            .der()
            .to_vec()
    }

    /// Returns a certificate for another key, in DER.
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params
            .signed_by(key, &Issuer::from_params(&self.params, &self.key))
            .expect("made")
            .der()
            .to_vec()
    }
}

/// Returns parameters of a certificate with this name.
pub fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Signs with ECDSA on P-384 and SHA-384; R and S are 48 bytes each.
fn sign_384(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P384_SHA384_FIXED_SIGNING,
        &key.serialize_der(),
        &random,
    )
    .expect("made");
    key.sign(&random, message).expect("made").as_ref().to_vec()
}

/// A Nitro enclave, with the hypervisor's place taken by the tests.
pub struct Enclave {
    /// The root in AWS's place.
    pub root: Authority,
    /// The key in the hypervisor's place.
    pub key: KeyPair,
}

impl Enclave {
    /// With new keys.
    pub fn new() -> Self {
        Self {
            root: Authority::new("root"),
            key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("made"),
        }
    }

    /// Returns the members of a genuine document that is bound to 32 bytes of 9.
    pub fn content(&self) -> Vec<(&'static str, Cbor)> {
        let registers = (0..3)
            .map(|index| {
                (
                    Cbor::from(index),
                    Cbor::Bytes(vec![u8::try_from(index + 1).expect("made"); 48]),
                )
            })
            .collect();
        vec![
            ("module_id", Cbor::from("i-1-enc2")),
            ("digest", Cbor::from("SHA384")),
            ("timestamp", Cbor::from(NOW_MS)),
            ("pcrs", Cbor::Map(registers)),
            (
                "certificate",
                Cbor::Bytes(self.root.sign(&named("enclave"), &self.key)),
            ),
            (
                "cabundle",
                Cbor::Array(vec![Cbor::Bytes(self.root.certificate())]),
            ),
            ("nonce", Cbor::Bytes(vec![9; 32])),
        ]
    }

    /// Returns a signed document with these members.
    pub fn document(&self, content: Vec<(&'static str, Cbor)>) -> Vec<u8> {
        let map = Cbor::Map(
            content
                .into_iter()
                .map(|(name, value)| (Cbor::from(name), value))
                .collect(),
        );
        let mut payload = Vec::new();
        ciborium::into_writer(&map, &mut payload).expect("made");
        let header = coset::HeaderBuilder::new()
            .algorithm(coset::iana::Algorithm::ES384)
            .build();
        let signed = coset::CoseSign1Builder::new()
            .protected(header)
            .payload(payload)
            .create_signature(b"", |message| sign_384(&self.key, message));
        signed.build().to_vec().expect("made")
    }

    /// Verifies a document as if a second had passed since it was made.
    pub fn verify(&self, document: &[u8]) -> Result<Claims, nitro::NitroError> {
        nitro::verify(
            document,
            &Roots {
                anchors: vec![self.root.certificate()],
                ..Roots::default()
            },
            &[9; 32],
            NOW_MS + 1000,
        )
    }

    /// Returns a signed document that differs in one member, or lacks it.
    pub fn with(&self, name: &'static str, value: Option<Cbor>) -> Vec<u8> {
        let mut content = self.content();
        content.retain(|(other, _)| *other != name);
        content.extend(value.map(|value| (name, value)));
        self.document(content)
    }
}

/// A chip, with AMD's place taken by the tests.
pub struct Chip {
    /// The ARK.
    pub root: Authority,
    /// The ASK.
    pub signer: Authority,
    /// The chip's endorsement key.
    pub key: KeyPair,
}

impl Chip {
    /// With new keys.
    pub fn new() -> Self {
        Self {
            root: Authority::new("ARK"),
            signer: Authority::new("ASK"),
            key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("made"),
        }
    }

    /// Returns AMD's certificates for the chip.
    pub fn roots(&self) -> Roots {
        Roots {
            anchors: vec![self.root.certificate()],
            intermediates: vec![self.root.sign(&self.signer.params, &self.signer.key)],
            ..Roots::default()
        }
    }

    /// Returns the endorsement key's certificate for a chip id and TCB.
    pub fn certificate(&self, chip: u8, tcb: [u8; 4]) -> Vec<u8> {
        let mut params = named("SEV-VCEK");
        let mut add = |last: &[u64], value: Vec<u8>| {
            let oid: Vec<u64> = [1, 3, 6, 1, 4, 1, 3704, 1]
                .iter()
                .chain(last)
                .copied()
                .collect();
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&oid, value));
        };
        for (last, value) in [1, 2, 3, 8].into_iter().zip(tcb) {
            add(
                &[3, last],
                if value < 0x80 {
                    vec![2, 1, value]
                } else {
                    vec![2, 2, 0, value]
                },
            );
        }
        add(&[4], vec![chip; 64]);
        self.signer.sign(&params, &self.key)
    }

    /// Returns a report that is changed before it is signed.
    pub fn report(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0] = 2;
        report[0x34] = 1;
        report[0x08..0x10].copy_from_slice(&0x3_001f_u64.to_le_bytes());
        report[0x50..0x90].fill(7);
        report[0x90..0xC0].fill(0xAB);
        report[0x180..0x188].copy_from_slice(&[3, 0, 0, 0, 0, 0, 8, 200]);
        report[0x1A0..0x1E0].fill(5);
        change(&mut report);
        let signature = sign_384(&self.key, &report[..0x2A0]);
        for (half, at) in signature.chunks(48).zip([0x2A0, 0x2A0 + 72]) {
            for (to, from) in report[at..at + 48].iter_mut().zip(half.iter().rev()) {
                *to = *from;
            }
        }
        report
    }

    /// Verifies a report that is bound to 64 bytes of 7.
    pub fn verify(&self, report: &[u8], certificate: &[u8]) -> Result<Claims, sev_snp::SnpError> {
        let evidence = sev_snp::Evidence {
            report: STANDARD.encode(report),
            certificate: STANDARD.encode(certificate),
        };
        sev_snp::verify(
            &serde_json::to_vec(&evidence).expect("made"),
            &self.roots(),
            sev_snp::Endorsement::Vcek,
            &[7; 64],
            NOW_MS,
        )
    }
}

/// EC2's place, taken by OpenSSL.
pub struct Region {
    /// The folder in which OpenSSL works.
    pub folder: tempfile::TempDir,
}

impl Region {
    /// With an RSA key of this size.
    pub fn new(bits: &str) -> Self {
        let region = Self {
            folder: tempfile::TempDir::new().expect("made"),
        };
        region.openssl(&[
            "req",
            "-x509",
            "-newkey",
            &format!("rsa:{bits}"),
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "region.pem",
            "-days",
            "3650",
            "-subj",
            "/CN=EC2",
        ]);
        region
    }

    /// Runs `openssl` in the folder.
    pub fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("made");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The region's certificate.
    pub fn pem(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("region.pem")).expect("made")
    }

    /// The region's certificate.
    pub fn der(&self) -> Vec<u8> {
        use rustls_pki_types::pem::PemObject as _;
        rustls_pki_types::CertificateDer::from_pem_slice(&self.pem())
            .expect("made")
            .to_vec()
    }

    /// Returns a document as the metadata service has it, signed with these flags of `openssl cms -sign`.
    pub fn sign(&self, document: &[u8], flags: &[&str]) -> Vec<u8> {
        std::fs::write(self.folder.path().join("document"), document).expect("made");
        let mut arguments = vec![
            "cms",
            "-sign",
            "-binary",
            "-in",
            "document",
            "-signer",
            "region.pem",
            "-inkey",
            "key.pem",
            "-outform",
            "DER",
            "-out",
            "signed",
        ];
        arguments.extend(flags);
        self.openssl(&arguments);
        std::fs::read(self.folder.path().join("signed")).expect("made")
    }
}

/// A signer of images and binaries.
pub struct Signer(
    /// Its key.
    pub KeyPair,
);

impl Signer {
    /// With a new key.
    pub fn new() -> Self {
        Self(KeyPair::generate().expect("made"))
    }

    /// Returns a signature over an image's digest, as cosign keeps it.
    pub fn image(&self, digest: &str) -> Value {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": "registry.example/agent" }, "image": { "docker-manifest-digest": format!("sha256:{digest}") },
                "type": "cosign container image signature",
            },
            "optional": null,
        })
        .to_string();
        json!({ "payload": STANDARD.encode(&payload), "signature": STANDARD.encode(self.0.sign(payload.as_bytes()).expect("made")) })
    }

    /// Returns a signed statement about binaries of these digests.
    pub fn statement(&self, subjects: &[&str]) -> Value {
        let subject: Vec<_> = subjects
            .iter()
            .map(|digest| json!({ "name": "agent", "digest": { "sha256": digest } }))
            .collect();
        let payload = json!({ "_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": "https://slsa.dev/provenance/v1", "predicate": {} });
        let payload = payload.to_string();
        let signed = sundew_attestation::dsse::pre_authentication_encoding(
            "application/vnd.in-toto+json",
            payload.as_bytes(),
        );
        let signature = STANDARD.encode(self.0.sign(&signed).expect("made"));
        json!({ "envelope": { "payloadType": "application/vnd.in-toto+json", "payload": STANDARD.encode(&payload), "signatures": [{ "sig": signature }] } })
    }
}

/// Returns the bundle that cosign writes around a statement's envelope.
pub fn bundle(statement: &Value) -> Value {
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": "a" }, "tlogEntries": [] },
        "dsseEnvelope": statement["envelope"],
    })
}

impl Default for Enclave {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Chip {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Signer {
    fn default() -> Self {
        Self::new()
    }
}
