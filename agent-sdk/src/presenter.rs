//! A key of a program's own, with which it shows tokens that are bound to it.

use std::fmt;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sundew_core::client::{SecretBytes, pem, thumbprint};

use crate::error::Error;
use crate::identity::sign;

/// A private key and a certificate of it, for mutual TLS with those who take the tokens (RFC 8705).
/// Nobody has to vouch for the certificate. `Debug` shows nothing of the key (P9).
pub struct Presenter {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Presenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presenter").finish_non_exhaustive()
    }
}

impl Presenter {
    /// Makes a new key on P-256, and a certificate that it has signed itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] if this machine makes no key.
    pub fn generate() -> Result<Self, Error> {
        let failed = |error: rcgen::Error| Error::Invalid(format!("no new key: {error}"));
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = CertificateParams::default()
            .self_signed(&key)
            .map_err(failed)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// Takes a certificate and its private key in PEM: P-256, P-384, Ed25519 or RSA.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them cannot be read.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let wrong =
            |what: &str, error: &dyn fmt::Display| Error::Invalid(format!("{what}: {error}"));
        Ok(Self {
            certificate: CertificateDer::from_pem_slice(certificate)
                .map_err(|error| wrong("certificate", &error))?,
            key: PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("key", &error))?,
        })
    }

    /// Returns the certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the private key, for the TLS of connections on which tokens are shown.
    #[must_use]
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// Returns the certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Returns the private key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> SecretBytes {
        let label = if matches!(self.key, PrivateKeyDer::Pkcs1(_)) {
            "RSA PRIVATE KEY"
        } else if matches!(self.key, PrivateKeyDer::Sec1(_)) {
            "EC PRIVATE KEY"
        } else {
            "PRIVATE KEY"
        };
        SecretBytes::new(pem(label, self.key.secret_der()).into_bytes())
    }

    /// Returns the SHA-256 of the certificate.
    #[must_use]
    pub fn certificate_sha256(&self) -> [u8; 32] {
        thumbprint(&self.certificate)
    }

    /// Signs a message, as a proof that the key is here.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        sign(&self.key, message).map_err(|error| Error::Invalid(format!("key: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use sundew_core::client::ShownCertificate;

    use super::*;

    #[test]
    fn a_new_key_signs_for_its_certificate_also_after_it_was_written() {
        let made = Presenter::generate().unwrap();
        let certificate = made.certificate_pem();
        let read = Presenter::from_pem(certificate.as_bytes(), made.key_pem().expose()).unwrap();
        let shown = ShownCertificate::parse(read.certificate(), crate::clock::now_ms()).unwrap();
        assert_eq!(*shown.thumbprint(), made.certificate_sha256());
        for presenter in [made, read] {
            let signature = presenter.sign(b"challenge").unwrap();
            assert!(shown.has_signed(b"challenge", &signature));
        }
    }

    #[test]
    fn p9_a_presenter_does_not_print_its_key() {
        let made = Presenter::generate().unwrap();
        assert_eq!(format!("{made:?}"), "Presenter { .. }");
        let error = Presenter::from_pem(b"s3cr3t", b"s3cr3t").unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }
}
