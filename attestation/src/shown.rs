//! Certificates that their holder shows, and that nobody has to vouch for (RFC 8705, section 2.2).
//!
//! Upholds P8: what is bound to such a certificate is good in the hands that have its key.

use ring::digest;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::dsse::VerifyingKey;

/// The largest certificate, in bytes.
const MAX_CERTIFICATE: usize = 8 << 10;

/// A certificate whose key is of a kind that is taken. Who made it is no question: it stands for
/// its key, and may be self-signed.
#[derive(Clone, Debug)]
#[must_use]
pub struct ShownCertificate {
    thumbprint: [u8; 32],
    public_key: Vec<u8>,
    key: VerifyingKey,
    not_after_ms: i64,
}

/// The reasons to reject a certificate that is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ShownError {
    /// The certificate is over, or is not good yet.
    #[error("is not valid at this time")]
    Expired,
    /// The key is of another kind or too weak.
    #[error(
        "must have a key on P-256 or P-384, an Ed25519 key, or an RSA key of 2048 to 4096 bits"
    )]
    Key,
    /// These bytes are no certificate.
    #[error("must be one X.509 certificate in DER of at most 8192 bytes")]
    Malformed,
}

impl ShownCertificate {
    /// Reads a certificate in DER at `now_ms`, in milliseconds since the epoch.
    ///
    /// # Errors
    /// The [`ShownError`] that names the check that failed.
    pub fn parse(der: &[u8], now_ms: i64) -> Result<Self, ShownError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(ShownError::Malformed);
        }
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return Err(ShownError::Malformed);
        };
        let public_key = certificate.public_key().raw.to_vec();
        let key = VerifyingKey::from_der(&public_key).map_err(|_| ShownError::Key)?;
        let validity = certificate.validity();
        let in_ms = |seconds: i64| seconds.saturating_mul(1000);
        let not_after_ms = in_ms(validity.not_after.timestamp());
        if now_ms >= not_after_ms || now_ms < in_ms(validity.not_before.timestamp()) {
            return Err(ShownError::Expired);
        }
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Ok(Self {
            thumbprint,
            public_key,
            key,
            not_after_ms,
        })
    }

    /// Returns the SHA-256 of the certificate, `x5t#S256` of RFC 8705, section 3.1.
    #[must_use]
    pub fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// Returns the SubjectPublicKeyInfo, in DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Returns when the certificate is over, in milliseconds since the epoch.
    #[must_use]
    pub fn not_after_ms(&self) -> i64 {
        self.not_after_ms
    }

    /// Returns whether `signature` is that of the certificate's key over `message`: ECDSA in ASN.1
    /// DER with SHA-256 on P-256 and with SHA-384 on P-384, Ed25519, or RSA PKCS #1 v1.5 with
    /// SHA-256.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verifies(message, signature)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SigningKey as _};

    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn certificate(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn p8_a_certificate_stands_for_its_key_whoever_made_it() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let shown = ShownCertificate::parse(&certificate(&key), NOW_MS).unwrap();
            let signature = key.sign(b"challenge").unwrap();
            assert!(shown.has_signed(b"challenge", &signature));
            assert!(!shown.has_signed(b"another", &signature));
            let other = KeyPair::generate_for(algorithm).unwrap();
            assert!(!shown.has_signed(b"challenge", &other.sign(b"challenge").unwrap()));
        }
    }

    #[test]
    fn what_is_no_certificate_of_this_moment_is_named() {
        let key = KeyPair::generate().unwrap();
        let whole = certificate(&key);
        let error = |der: &[u8], now_ms| ShownCertificate::parse(der, now_ms).unwrap_err();
        for broken in [&b""[..], &whole[1..], &[whole.as_slice(), b"\0"].concat()] {
            assert_eq!(error(broken, NOW_MS), ShownError::Malformed);
        }
        assert_eq!(error(&vec![0x30; 9000], NOW_MS), ShownError::Malformed);
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let over = params.self_signed(&key).unwrap();
        assert_eq!(error(over.der(), NOW_MS), ShownError::Expired);
        assert_eq!(error(&whole, -3_000_000_000_000), ShownError::Expired);
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        // The OID of P-256 in the key's parameters becomes that of an unknown curve.
        let mut der = certificate(&KeyPair::generate().unwrap());
        let curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let at = der.windows(8).position(|bytes| bytes == curve).unwrap();
        der[at + 7] = 0x06;
        assert_eq!(
            ShownCertificate::parse(&der, NOW_MS).unwrap_err(),
            ShownError::Key
        );
    }
}
