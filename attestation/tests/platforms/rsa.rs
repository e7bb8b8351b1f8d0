//! RSA keys, which neither `ring` nor `rcgen` makes.

use std::io::Write as _;
use std::process::{Command, Stdio};

use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

/// An RSA key.
pub(crate) struct RsaKey(PrivatePkcs8KeyDer<'static>);

impl RsaKey {
    /// Makes a key of 2048 bits.
    pub(crate) fn new() -> Self {
        Self::of_bits(2048)
    }

    /// Makes a key with OpenSSL.
    pub(crate) fn of_bits(bits: usize) -> Self {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt"])
            .arg(format!("rsa_keygen_bits:{bits}"))
            .output()
            .unwrap();
        Self(PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).unwrap())
    }

    /// Returns the SubjectPublicKeyInfo in DER.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        let mut openssl = Command::new("openssl")
            .args(["pkey", "-inform", "DER", "-pubout", "-outform", "DER"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = openssl.stdin.take().unwrap();
        input.write_all(self.0.secret_pkcs8_der()).unwrap();
        drop(input);
        openssl.wait_with_output().unwrap().stdout
    }

    /// Signs with PKCS #1 v1.5 and SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let key = RsaKeyPair::from_pkcs8(self.0.secret_pkcs8_der()).unwrap();
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message,
            &mut signature,
        )
        .unwrap();
        signature
    }
}
