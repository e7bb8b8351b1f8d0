//! Keys in the place of the makers'.

use std::process::Command;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaKeyPair,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::der::{algorithm, element, oid};

const SHA384: &str = "2.16.840.1.101.3.4.2.2";

/// What a key signs with, and how certificates name it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    P256,
    /// ECDSA on P-384 with SHA-384.
    P384,
    /// A key that others have, and that signs nothing here.
    Other,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1,
    /// RSASSA-PSS with SHA-384 and a salt of 48 bytes; all parameters are written.
    RsaPss,
    /// The same, and the trailer field has its default and is left out.
    RsaPssDefaultTrailer,
}

/// A key with which the tests sign.
#[derive(Clone, Debug)]
pub struct Key {
    algorithm: Algorithm,
    pkcs8: Vec<u8>,
    /// The point, or RSAPublicKey in DER; of a key of others, its SubjectPublicKeyInfo in DER.
    public: Vec<u8>,
}

impl Key {
    /// Makes a key on P-256 or P-384.
    pub fn new(algorithm: Algorithm) -> Self {
        let (kind, random) = (ecdsa(algorithm, true), SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("made");
        let pkcs8 = pkcs8.as_ref().to_vec();
        let pair = EcdsaKeyPair::from_pkcs8(kind, &pkcs8, &random).expect("made");
        let public = pair.public_key().as_ref().to_vec();
        Self {
            algorithm,
            pkcs8,
            public,
        }
    }

    /// Makes an RSA key of this size with OpenSSL; 4096 bits take seconds.
    pub fn rsa(algorithm: Algorithm, bits: usize) -> Self {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt"])
            .arg(format!("rsa_keygen_bits:{bits}"))
            .output()
            .expect("OpenSSL is installed");
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).expect("a key");
        let pkcs8 = pkcs8.secret_pkcs8_der().to_vec();
        let pair = RsaKeyPair::from_pkcs8(&pkcs8).expect("a key");
        let public = pair.public_key().as_ref().to_vec();
        Self {
            algorithm,
            pkcs8,
            public,
        }
    }

    /// Returns a key that others have, by its SubjectPublicKeyInfo in DER.
    pub fn of_others(spki: &[u8]) -> Self {
        Self {
            algorithm: Algorithm::Other,
            pkcs8: Vec::new(),
            public: spki.to_vec(),
        }
    }

    /// Returns the key under another name of its algorithm: RSA keys serve all of theirs.
    pub fn with(&self, algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            ..self.clone()
        }
    }

    /// Returns X and Y of the point, or RSAPublicKey in DER.
    pub fn public(&self) -> &[u8] {
        match self.algorithm {
            Algorithm::P256 | Algorithm::P384 => &self.public[1..],
            Algorithm::Other
            | Algorithm::RsaPkcs1
            | Algorithm::RsaPss
            | Algorithm::RsaPssDefaultTrailer => &self.public,
        }
    }

    /// Returns the SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        let curve = |dotted| element(0x30, &[&oid("1.2.840.10045.2.1"), &oid(dotted)]);
        let kind = match self.algorithm {
            Algorithm::P256 => curve("1.2.840.10045.3.1.7"),
            Algorithm::P384 => curve("1.3.132.0.34"),
            Algorithm::Other => return self.public.clone(),
            Algorithm::RsaPkcs1 | Algorithm::RsaPss | Algorithm::RsaPssDefaultTrailer => {
                algorithm("1.2.840.113549.1.1.1")
            }
        };
        element(0x30, &[&kind, &element(3, &[&[0], &self.public])])
    }

    /// Returns the SHA-1 of the public key, as key identifiers have it (RFC 5280, section 4.2.1.2).
    pub fn id(&self) -> Vec<u8> {
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &self.public);
        digest.as_ref().to_vec()
    }

    /// Returns the AlgorithmIdentifier of the key's signatures, in DER.
    pub fn signature_algorithm(&self) -> Vec<u8> {
        let pss = |trailer: &[u8]| {
            let mask = element(0x30, &[&oid("1.2.840.113549.1.1.8"), &algorithm(SHA384)]);
            let parameters = [
                &element(0xa0, &[&algorithm(SHA384)]),
                &element(0xa1, &[&mask]),
                &element(0xa2, &[&[2, 1, 48]])[..],
                trailer,
            ];
            element(
                0x30,
                &[&oid("1.2.840.113549.1.1.10"), &element(0x30, &parameters)],
            )
        };
        match self.algorithm {
            Algorithm::P256 => element(0x30, &[&oid("1.2.840.10045.4.3.2")]),
            Algorithm::P384 => element(0x30, &[&oid("1.2.840.10045.4.3.3")]),
            Algorithm::Other => panic!("a key of others signs nothing"),
            Algorithm::RsaPkcs1 => algorithm("1.2.840.113549.1.1.11"),
            Algorithm::RsaPss => pss(&element(0xa3, &[&[2, 1, 1]])),
            Algorithm::RsaPssDefaultTrailer => pss(&[]),
        }
    }

    /// Signs; an ECDSA signature is in DER, as certificates have it.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self.algorithm {
            Algorithm::P256 | Algorithm::P384 => self.sign_ecdsa(message, true),
            Algorithm::Other => panic!("a key of others signs nothing"),
            Algorithm::RsaPkcs1 => self.sign_rsa(&RSA_PKCS1_SHA256, message),
            Algorithm::RsaPss | Algorithm::RsaPssDefaultTrailer => {
                self.sign_rsa(&RSA_PSS_SHA384, message)
            }
        }
    }

    /// Signs with ECDSA and returns R and S, big-endian and of the size of the curve.
    pub fn sign_fixed(&self, message: &[u8]) -> Vec<u8> {
        self.sign_ecdsa(message, false)
    }

    fn sign_ecdsa(&self, message: &[u8], is_der: bool) -> Vec<u8> {
        let (kind, random) = (ecdsa(self.algorithm, is_der), SystemRandom::new());
        let pair = EcdsaKeyPair::from_pkcs8(kind, &self.pkcs8, &random).expect("made");
        pair.sign(&random, message).expect("made").as_ref().to_vec()
    }

    fn sign_rsa(
        &self,
        padding: &'static dyn ring::signature::RsaEncoding,
        message: &[u8],
    ) -> Vec<u8> {
        let pair = RsaKeyPair::from_pkcs8(&self.pkcs8).expect("a key");
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(padding, &SystemRandom::new(), message, &mut signature)
            .expect("made");
        signature
    }
}

fn ecdsa(algorithm: Algorithm, is_der: bool) -> &'static EcdsaSigningAlgorithm {
    match (algorithm, is_der) {
        (Algorithm::P256, true) => &ECDSA_P256_SHA256_ASN1_SIGNING,
        (Algorithm::P256, false) => &ECDSA_P256_SHA256_FIXED_SIGNING,
        (Algorithm::P384, true) => &ECDSA_P384_SHA384_ASN1_SIGNING,
        (Algorithm::P384, false) => &ECDSA_P384_SHA384_FIXED_SIGNING,
        (other, _) => panic!("{other:?} is not ECDSA"),
    }
}
