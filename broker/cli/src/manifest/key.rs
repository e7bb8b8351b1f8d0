//! Keys that sign: PEM, and the keys that people have for SSH.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::SigningKey;
use ssh_key::private::EcdsaKeypair;
use ssh_key::public::{EcdsaPublicKey, KeyData};
use sundew_core::client::manifest::VerifyingKey;
use sundew_core::client::{pem, read_secret_file};
use zeroize::Zeroizing;

use crate::input::read_file;

/// What is said of a key of OpenSSH that is none of these.
const OTHER_SSH_KEY: &str =
    "an SSH key of this type does not sign here: take Ed25519, or ECDSA on P-256 or P-384";
/// What a DSSE envelope is signed with. RSA's is PKCS #1 v1.5 with SHA-256.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];
/// PKCS #8 of an Ed25519 key without its public half (RFC 8410, section 7), up to the 32 bytes of
/// the key. Every OpenSSL that knows Ed25519 reads this form.
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4), up to the 32 bytes of the key.
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// SubjectPublicKeyInfo of P-256 and P-384 (RFC 5480, section 2), up to the point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_SPKI: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
/// The object identifiers of P-256 and P-384, in DER.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// The public half of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Reads a public key in PEM, one as OpenSSH has it, or the public half of a private key.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(read_file(path)?);
        let from_pem = rustls::pki_types::SubjectPublicKeyInfoDer::from_pem_slice(&text);
        if let Ok(spki) = from_pem {
            return Ok(Self(spki.to_vec()));
        }
        let line = std::str::from_utf8(&text).unwrap_or_default();
        if let Ok(key) = ssh_key::PublicKey::from_openssh(line) {
            return of_ssh(key.key_data()).with_context(|| path.display().to_string());
        }
        Ok(Signer::read(path)?.public)
    }

    /// The key in PEM, as a registration names it.
    pub(crate) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.0)
    }

    /// The key as what verifies an envelope.
    pub(crate) fn verifying(&self) -> Result<VerifyingKey> {
        Ok(VerifyingKey::from_der(&self.0)?)
    }

    /// What people call the key: the SHA-256 of its SubjectPublicKeyInfo, in the way of OpenSSH.
    pub(crate) fn id(&self) -> String {
        let digest = digest(&SHA256, &self.0);
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
    }
}

/// A key that signs.
pub(crate) struct Signer {
    key: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl Signer {
    /// Makes an Ed25519 key, and writes it into a new file that only its owner may read.
    pub(crate) fn write_new(path: &Path) -> Result<Self> {
        let mut der = Zeroizing::new(ED25519_PKCS8.to_vec());
        let mut seed = Zeroizing::new([0_u8; 32]);
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), seed.as_mut_slice())
            .map_err(|_| anyhow!("no randomness"))?;
        der.extend_from_slice(seed.as_slice());
        let name = || path.display().to_string();
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(name)?;
        let text = Zeroizing::new(pem("PRIVATE KEY", &der));
        std::io::Write::write_all(&mut file, text.as_bytes()).with_context(name)?;
        Self::of(&PrivatePkcs8KeyDer::from(der.as_slice()).into())
    }

    /// Reads a key: PEM (PKCS #8, SEC 1, PKCS #1), or an OpenSSH key without a passphrase. P9: whoever
    /// else may read it could sign as well, so such a file is refused.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_secret_file(path)?).with_context(|| path.display().to_string())
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let has = |label: &[u8]| text.windows(label.len()).any(|part| part == label);
        if has(b"BEGIN OPENSSH PRIVATE KEY") {
            return Self::of_ssh(text);
        }
        if has(b"BEGIN ENCRYPTED PRIVATE KEY") {
            bail!(
                "the key has a passphrase: sign with a copy that has none \
                 (`openssl pkey -in KEY -out COPY`), and remove the copy"
            );
        }
        match PrivateKeyDer::from_pem_slice(text) {
            Ok(key) => Self::of(&key),
            Err(_) => bail!(
                "no key that can sign: PEM (PKCS #8, Ed25519, ECDSA P-256 or P-384, RSA) or an \
                 OpenSSH key (Ed25519, ECDSA) is read"
            ),
        }
    }

    fn of(key: &PrivateKeyDer<'_>) -> Result<Self> {
        let key = rustls::crypto::ring::sign::any_supported_type(key)
            .map_err(|_| anyhow!("a key of this type does not sign here: take Ed25519 or ECDSA"))?;
        let public = key.public_key().context("a key without a public half")?;
        Ok(Self {
            public: PublicKey(public.to_vec()),
            key,
        })
    }

    fn of_ssh(text: &[u8]) -> Result<Self> {
        let key = ssh_key::PrivateKey::from_openssh(text).map_err(|e| anyhow!("{e}"))?;
        if key.is_encrypted() {
            bail!(
                "the key has a passphrase: sign with a copy that has none \
                 (`ssh-keygen -p -N '' -f COPY`), and remove the copy"
            );
        }
        if let Some(pair) = key.key_data().ed25519() {
            let seed = Zeroizing::new(pair.private.to_bytes());
            let der = Zeroizing::new([&ED25519_PKCS8[..], seed.as_slice()].concat());
            return Self::of(&PrivatePkcs8KeyDer::from(der.as_slice()).into());
        }
        match key.key_data().ecdsa() {
            Some(EcdsaKeypair::NistP256 { private, public }) => {
                Self::of_sec1(private.as_slice(), P256, public.as_bytes())
            }
            Some(EcdsaKeypair::NistP384 { private, public }) => {
                Self::of_sec1(private.as_slice(), P384, public.as_bytes())
            }
            Some(EcdsaKeypair::NistP521 { .. }) | None => bail!(OTHER_SSH_KEY),
        }
    }

    /// Reads a private number, its curve and its point as an ECPrivateKey (RFC 5915).
    fn of_sec1(private: &[u8], curve: &[u8], point: &[u8]) -> Result<Self> {
        let number = element(0x04, private)?;
        let parameters = element(0xa0, curve)?;
        let bits = Zeroizing::new([&[0], point].concat());
        let public = element(0xa1, &element(0x03, &bits)?)?;
        let version = [0x02, 0x01, 0x01];
        let content = [&version[..], &number, &parameters, &public].concat();
        let der = element(0x30, &Zeroizing::new(content))?;
        Self::of(&PrivateSec1KeyDer::from(der.as_slice()).into())
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs the bytes of a DSSE envelope.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signer = self.key.choose_scheme(&SCHEMES);
        let signer = signer.context("a key of this type does not sign here")?;
        Ok(signer.sign(message)?)
    }
}

/// An element in DER, of up to 255 bytes.
fn element(tag: u8, content: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let length = u8::try_from(content.len()).context("a key that is too long")?;
    let head: &[u8] = if length < 0x80 {
        &[tag, length]
    } else {
        &[tag, 0x81, length]
    };
    Ok(Zeroizing::new([head, content].concat()))
}

/// The public half of an SSH key as a SubjectPublicKeyInfo.
fn of_ssh(key: &KeyData) -> Result<PublicKey> {
    if let Some(point) = key.ed25519() {
        return Ok(PublicKey([&ED25519_SPKI[..], &point.0].concat()));
    }
    match key.ecdsa() {
        Some(EcdsaPublicKey::NistP256(point)) => {
            Ok(PublicKey([&P256_SPKI[..], point.as_bytes()].concat()))
        }
        Some(EcdsaPublicKey::NistP384(point)) => {
            Ok(PublicKey([&P384_SPKI[..], point.as_bytes()].concat()))
        }
        Some(EcdsaPublicKey::NistP521(_)) | None => bail!(OTHER_SSH_KEY),
    }
}
