//! Signers in the place of clouds and of platform teams; `sundew-rebuilt` is in that of hardware.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SigningKey as _,
};
use serde_json::{Value, json};

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

impl Default for Signer {
    fn default() -> Self {
        Self::new()
    }
}
