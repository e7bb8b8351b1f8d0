//! The embedded CA: X.509-SVIDs and JWT-SVIDs for registered workloads, for those without SPIRE.
//!
//! The CA's keys are kept in the store, sealed under the root key, so that several brokers are one
//! CA. P1: callers decide for whom an SVID is issued; a CSR contributes its key and nothing else.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};
use sundew_attestation::jws::JwsError;
use sundew_attestation::spiffe::{BundleError, SpiffeId, TrustBundle, TrustDomain};
use sundew_core::store::{DocumentKind, Store, StoreError};
use sundew_core::{RootKey, SealError, SecretBytes, Ttl};
use zeroize::Zeroize as _;

use super::jwt_authority::{IssuedJwt, JwtAuthority};
use crate::clock;

/// How far back a certificate's validity begins, for clocks that differ, in milliseconds.
const BACKDATE_MS: i64 = 30_000;
/// How long the CA's own certificate lives, in milliseconds: ten years.
const CA_LIFE_MS: i64 = 3650 * 24 * 3_600_000;

/// Why the CA could not be opened, or could not issue.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Making a certificate failed.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A CSR that is none, or whose key is not taken.
    #[error("not a certificate request with a P-256, P-384 or Ed25519 key")]
    Csr,
    /// The CA's own JWT key is not usable.
    #[error("JWT key: {0}")]
    Jwt(#[from] JwsError),
    /// The CA's own certificate is not usable.
    #[error("CA certificate: {0}")]
    Own(#[from] BundleError),
    /// The CA's key does not open: another root key?
    #[error("CA key: {0}")]
    Seal(#[from] SealError),
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] StoreError),
}

/// The CA of a trust domain, with its keys.
pub struct Ca {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    jwt: JwtAuthority,
    ttl: Ttl,
}

/// An X.509-SVID with what belongs to it.
pub struct IssuedSvid {
    /// DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots in DER.
    pub bundle: Vec<CertificateDer<'static>>,
    /// When the SVID ends, in milliseconds since the epoch.
    pub not_after_ms: i64,
}

/// The CA as the store has it, sealed.
#[derive(Deserialize, Serialize)]
struct Stored {
    /// DER.
    certificate: Vec<u8>,
    /// PKCS#8 DER.
    key: Vec<u8>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Ca {
    /// Opens the trust domain's CA, or makes it if there is none.
    pub async fn open(
        store: &dyn Store,
        root: &RootKey,
        trust_domain: TrustDomain,
        ttl: Ttl,
    ) -> Result<Self, CaError> {
        let text = sealed(store, root, &format!("ca/{trust_domain}"), || {
            create(&trust_domain)
        })
        .await?;
        let stored: Stored =
            serde_json::from_slice(text.expose()).map_err(|_| SealError::Opening)?;
        let jwt = sealed(store, root, &format!("jwt/{trust_domain}"), || {
            Ok(JwtAuthority::create()?)
        })
        .await?;
        let jwt = JwtAuthority::load(jwt.expose())?;
        let key = KeyPair::try_from(stored.key.as_slice())?;
        let certificate = CertificateDer::from(stored.certificate.clone());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            trust_domain,
            certificate,
            issuer,
            jwt,
            ttl,
        })
    }

    /// The trust domain of the CA.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The life of SVIDs of the CA.
    #[must_use]
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// The trust bundle that verifies SVIDs of the CA.
    pub fn bundle(&self) -> Result<TrustBundle, CaError> {
        let jwt = Some(self.jwt.bundle()?);
        Ok(
            TrustBundle::from_der(self.trust_domain.clone(), [self.certificate.as_ref()])?
                .with_jwt(jwt),
        )
    }

    /// Issues a JWT-SVID for this audience.
    pub fn issue_jwt(&self, id: &SpiffeId, audience: &[String]) -> Result<IssuedJwt, CaError> {
        Ok(self.jwt.issue(id, audience, clock::now_ms(), self.ttl)?)
    }

    /// Reads the key of a CSR (PKCS#10, DER); answers its SubjectPublicKeyInfo, in DER. The
    /// signature of the CSR is verified, so its maker has the key.
    pub fn public_key_of(csr: &[u8]) -> Result<Vec<u8>, CaError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|_| CaError::Csr)?;
        Ok(request.public_key.subject_public_key_info())
    }

    /// Issues an SVID for the key of a CSR (PKCS#10, DER). Everything else in the CSR is ignored.
    pub fn issue_for_csr(&self, id: &SpiffeId, csr: &[u8]) -> Result<IssuedSvid, CaError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|_| CaError::Csr)?;
        self.issue(id, &request.public_key)
    }

    /// Issues an SVID with a new key; answers the key in PKCS#8 DER.
    pub fn issue_with_key(&self, id: &SpiffeId) -> Result<(IssuedSvid, SecretBytes), CaError> {
        let key = KeyPair::generate()?;
        Ok((self.issue(id, &key)?, SecretBytes::new(key.serialize_der())))
    }

    fn issue(&self, id: &SpiffeId, key: &impl PublicKeyData) -> Result<IssuedSvid, CaError> {
        let now_ms = clock::now_ms();
        let not_after_ms = now_ms
            .saturating_add(self.ttl.as_ms())
            .div_euclid(1000)
            .saturating_mul(1000);
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Sundew workload");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        set_validity(
            &mut params,
            now_ms.saturating_sub(BACKDATE_MS),
            not_after_ms,
        )?;
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(IssuedSvid {
            chain: vec![certificate.der().clone()],
            bundle: vec![self.certificate.clone()],
            not_after_ms,
        })
    }
}

/// Opens the secret that the store has under a name. If there is none, puts a new one there; if
/// another broker is quicker, its secret counts.
async fn sealed(
    store: &dyn Store,
    root: &RootKey,
    name: &str,
    create: impl Fn() -> Result<SecretBytes, CaError>,
) -> Result<SecretBytes, CaError> {
    loop {
        if let Some(sealed) = store.document(DocumentKind::Meta, name).await? {
            return Ok(root.unwrap(name, &sealed)?);
        }
        if store
            .replace_document(
                DocumentKind::Meta,
                name,
                None,
                Some(&root.wrap(name, create()?.expose())?),
            )
            .await?
        {
            tracing::info!(name, "key of the embedded CA created");
        }
    }
}

/// Makes a CA for a trust domain; answers its [`Stored`] form as JSON.
fn create(trust_domain: &TrustDomain) -> Result<SecretBytes, CaError> {
    let key = KeyPair::generate()?;
    let now_ms = clock::now_ms();
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("Sundew CA of {trust_domain}"));
    params.subject_alt_names = vec![SanType::URI(trust_domain.id().as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(
        &mut params,
        now_ms.saturating_sub(BACKDATE_MS),
        now_ms.saturating_add(CA_LIFE_MS),
    )?;
    params.serial_number = Some(serial()?);
    let certificate = params.self_signed(&key)?;
    let stored = Stored {
        certificate: certificate.der().to_vec(),
        key: key.serialize_der(),
    };
    Ok(SecretBytes::new(
        serde_json::to_vec(&stored).map_err(|_| SealError::Opening)?,
    ))
}

/// A name of a certificate. CA and leaf must have different ones: equal names break the building of
/// paths in other implementations.
fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Sundew");
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    name
}

fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| SealError::Random)?;
    // Positive and never zero (RFC 5280, section 4.1.2.2).
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_validity(params: &mut CertificateParams, from_ms: i64, to_ms: i64) -> Result<(), CaError> {
    let at = |ms: i64| time_of(ms).ok_or(CaError::Certificate(rcgen::Error::Time));
    (params.not_before, params.not_after) = (at(from_ms)?, at(to_ms)?);
    Ok(())
}

fn time_of(ms: i64) -> Option<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).ok()
}
