//! A CA for tests, which can also make every kind of certificate that must be refused.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
pub use sundew_attestation::pem;
use sundew_rebuilt::der::{element, oid};
use sundew_rebuilt::edits::ber::{self, Node};

/// The trust domain of all tests.
pub const DOMAIN: &str = "test.example";
/// How long a certificate is valid: longer than the longest test runs.
const LIFE: Duration = Duration::from_secs(6 * 3600);

/// A CA of one trust domain.
pub struct Ca {
    /// The trust domain.
    pub domain: String,
    /// The certificate of the CA, in DER.
    pub certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Returns the certificate of the CA in two forms that some readers refuse: with a negative serial
    /// number, which Go does, and with a UTF8String that is none in its name, which Go and BoringSSL do.
    pub fn odd_certificates(&self) -> [Vec<u8>; 2] {
        let odd = |at: usize, with: Node| {
            let mut certificate = ber::parse(&self.certificate).expect("DER");
            if let Some(Node::Tree(_, _, parts)) = certificate.first_mut()
                && let Some(Node::Tree(_, _, content)) = parts.first_mut()
            {
                content[at] = with;
            }
            ber::bytes(&certificate)
        };
        let attribute = element(0x30, &[&oid("2.5.4.3"), &element(0x0c, &[&[0xe9]])]);
        let name = ber::parse(&element(0x30, &[&element(0x31, &[&attribute])])).expect("DER");
        [
            odd(1, Node::Leaf(2, vec![0x80, 1])),
            odd(5, name[0].clone()),
        ]
    }
}

/// A certificate chain with its key.
#[derive(Clone)]
pub struct Svid {
    /// The certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf, as PKCS#8 in DER.
    pub key: Vec<u8>,
}

impl Svid {
    /// Returns SHA-256 of the leaf.
    pub fn thumbprint(&self) -> [u8; 32] {
        sundew_attestation::spiffe::thumbprint(&self.chain[0])
    }

    /// Returns the serial number of the leaf, in hexadecimal.
    pub fn serial(&self) -> String {
        let (_, leaf) = x509_parser::parse_x509_certificate(&self.chain[0]).expect("certificate");
        leaf.tbs_certificate
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Returns the private key for rustls.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.clone()).expect("key")
    }

    /// Writes svid.pem, key.pem and bundle.pem into a folder.
    pub fn write(&self, folder: &Path, bundle: &[CertificateDer<'_>]) {
        std::fs::create_dir_all(folder).expect("folder");
        let chain: String = self.chain.iter().map(|c| pem("CERTIFICATE", c)).collect();
        let roots: String = bundle.iter().map(|c| pem("CERTIFICATE", c)).collect();
        write_private(&folder.join("key.pem"), &pem("PRIVATE KEY", &self.key));
        std::fs::write(folder.join("bundle.pem"), roots).expect("bundle");
        std::fs::write(folder.join("svid.pem"), chain).expect("svid");
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_extension("fresh");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .expect("private file");
    file.write_all(text.as_bytes()).expect("private file");
    std::fs::rename(&fresh, path).expect("private file");
}

/// Returns parameters of a correct leaf, which tests break.
pub fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "test leaf");
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().expect("ascii")))
        .collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, LIFE);
    params
}

/// Makes a certificate valid from a minute ago, for so long from now.
pub fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + life;
}

impl Ca {
    /// Makes a CA with a new key.
    pub fn new(domain: &str) -> Self {
        Self::with(domain, |_| {})
    }

    /// Makes a CA whose certificate is changed before it is signed.
    pub fn with(domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(
            DnType::CommonName,
            format!("CA of {domain} {}", key.public_key_raw()[5]),
        );
        params.subject_alt_names = vec![SanType::URI(
            format!("spiffe://{domain}")
                .as_str()
                .try_into()
                .expect("ascii"),
        )];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        let certificate = params.self_signed(&key).expect("CA").der().clone();
        Self {
            domain: domain.to_owned(),
            issuer: Issuer::from_ca_cert_der(&certificate, key).expect("issuer"),
            certificate,
        }
    }

    /// Returns an intermediate CA under this one, and its certificate.
    pub fn intermediate(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Self, CertificateDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("intermediate")
            .der()
            .clone();
        let ca = Self {
            domain: self.domain.clone(),
            issuer: Issuer::new(params, key),
            certificate: certificate.clone(),
        };
        (ca, certificate)
    }

    /// Issues an SVID of `/path` in the trust domain.
    pub fn svid(&self, path: &str) -> Svid {
        self.sign(leaf(&[&format!("spiffe://{}{path}", self.domain)]))
    }

    /// Issues an SVID that ends after so long.
    pub fn short_svid(&self, path: &str, life: Duration) -> Svid {
        let mut params = leaf(&[&format!("spiffe://{}{path}", self.domain)]);
        valid_for(&mut params, life);
        self.sign(params)
    }

    /// Issues whatever the parameters say, for a new P-256 key.
    pub fn sign(&self, params: CertificateParams) -> Svid {
        self.sign_for(params, KeyPair::generate().expect("key"))
    }

    /// Issues whatever the parameters say, for this key.
    pub fn sign_for(&self, params: CertificateParams, key: KeyPair) -> Svid {
        let certificate = params.signed_by(&key, &self.issuer).expect("leaf");
        Svid {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }
}

/// Returns a critical extension that nobody knows.
pub fn unknown_critical() -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

/// Makes a certificate valid in the past only.
pub fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
}

/// Returns a new key, and a request for a certificate of it (PKCS#10) in DER.
pub fn csr() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().expect("key");
    let request = CertificateParams::default().serialize_request(&key);
    (key, request.expect("request").der().to_vec())
}
