//! The embedded CA: X.509-SVIDs and JWT-SVIDs for registered workloads, for those without SPIRE.
//!
//! The CA's keys are kept in the store, sealed under the root key, so that several brokers are one
//! CA. P1: callers decide for whom an SVID is issued; a CSR contributes its key and nothing else.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, DnsName};
use sundew_attestation::jws::JwsError;
use sundew_attestation::spiffe::{BundleError, JwtBundle, SpiffeId, TrustBundle, TrustDomain};
use sundew_core::{SealError, SecretBytes, Ttl, svid_serial};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::jwt_authority::{IssuedJwt, JwtAuthority};
use super::keys::{Key, Keys};
use super::permit::IdentityPermit;
use super::schedule::StoredKey;
use crate::clock;
use crate::ledger::Ledger;
use crate::peer::grounds;
use crate::records::CaKeys;
use crate::refusal::Refusal;

/// How far back a certificate's validity begins, for clocks that differ, in milliseconds.
const BACKDATE_MS: i64 = 30_000;
/// Longest time after which partners should fetch the bundle again, in seconds (SPIFFE Federation,
/// section 4.1).
const MAX_REFRESH_HINT_S: u64 = 300;
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
    /// The document with the CA's keys could not be read or written.
    #[error("{0}")]
    Document(Box<Refusal>),
    /// The CA's own JWT key is not usable.
    #[error("JWT key: {0}")]
    Jwt(#[from] JwsError),
    /// The CA's own certificate is not usable.
    #[error("CA certificate: {0}")]
    Own(#[from] BundleError),
    /// The CA's key does not open: another root key?
    #[error("CA key: {0}")]
    Seal(#[from] SealError),
}

impl From<Refusal> for CaError {
    fn from(refusal: Refusal) -> Self {
        Self::Document(Box::new(refusal))
    }
}

impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Csr => Self::invalid("csr", error),
            CaError::Document(refusal) => *refusal,
            CaError::Seal(cause) => Self::Seal {
                what: "CA key",
                cause,
            },
            CaError::Certificate(_) | CaError::Jwt(_) | CaError::Own(_) => {
                tracing::error!(%error, "the embedded CA could not issue");
                Self::Seal {
                    what: "SVID",
                    cause: SealError::Opening,
                }
            }
        }
    }
}

/// The CA of a trust domain, with its keys.
pub struct Ca {
    pub(super) ledger: Ledger,
    pub(super) trust_domain: TrustDomain,
    pub(super) roots: Keys<RootAuthority>,
    pub(super) jwt: Keys<JwtAuthority>,
    pub(super) ttl: Ttl,
    /// For how long an identity is renewed before something must be shown for it again.
    pub(super) renew_within: Ttl,
}

/// A root with its key.
pub(super) struct RootAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// When the root certificate ends, in milliseconds since the epoch.
    not_after_ms: i64,
}

impl Key for RootAuthority {
    const KIND: CaKeys = CaKeys::Roots;

    fn create(trust_domain: &TrustDomain) -> Result<StoredKey, CaError> {
        create(trust_domain)
    }

    fn load(stored: &StoredKey) -> Result<Self, CaError> {
        let certificate = CertificateDer::from(stored.certificate.clone());
        let key = KeyPair::try_from(stored.key.as_slice())?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| SealError::Opening)?;
        let not_after_s = parsed.validity().not_after.timestamp();
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            not_after_ms: not_after_s.saturating_mul(1000),
            certificate,
        })
    }

    fn id(&self) -> String {
        sundew_attestation::hex(&sundew_attestation::spiffe::thumbprint(&self.certificate))
    }

    fn not_after_ms(&self) -> i64 {
        self.not_after_ms
    }
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

impl Ca {
    /// Opens the trust domain's CA, or makes it if there is none. SVIDs live for the first time, and
    /// are renewed for the second before something must be shown again.
    pub(crate) async fn open(
        ledger: &Ledger,
        trust_domain: TrustDomain,
        (ttl, renew_within): (Ttl, Ttl),
    ) -> Result<Self, CaError> {
        Ok(Self {
            ledger: ledger.clone(),
            roots: Keys::open(ledger, &trust_domain).await?,
            jwt: Keys::open(ledger, &trust_domain).await?,
            trust_domain,
            ttl,
            renew_within,
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

    /// The trust bundle that verifies SVIDs of the CA now: also with a root that does not sign yet,
    /// and with the one before, for as long as something lives that it signed.
    pub fn bundle(&self) -> Result<TrustBundle, CaError> {
        let now_ms = clock::now_ms();
        let roots = trusted_roots(&self.roots, now_ms);
        let keys = self.jwt.current();
        let jwt = JwtBundle::new(keys.trusted(now_ms).map(JwtAuthority::jwk).collect())?;
        let roots = roots.iter().map(AsRef::as_ref);
        Ok(TrustBundle::from_der(self.trust_domain.clone(), roots).with_jwt(Some(jwt)))
    }

    /// The trust bundle as partners fetch it (SPIFFE Federation, section 4). It has every key of the
    /// documents, so that the same sequence number says the same at every broker and at every time:
    /// one that is not trusted any more stays until it is taken out of the store.
    pub(crate) fn published(&self) -> Result<Vec<u8>, CaError> {
        let (roots, keys) = (self.roots.current(), self.jwt.current());
        let jwt = JwtBundle::new(keys.iter().map(|(_, key)| key.jwk()).collect())?;
        let ders = roots.iter().map(|(_, root)| root.certificate.as_ref());
        let bundle = TrustBundle::from_der(self.trust_domain.clone(), ders).with_jwt(Some(jwt));
        // A new key signs after the life of an SVID, and should be fetched several times before.
        let ttl_s = self.ttl.to_std().as_secs();
        let refresh_hint_s = (ttl_s / 5).clamp(30, MAX_REFRESH_HINT_S);
        Ok(bundle.to_json(roots.version.saturating_add(keys.version), refresh_hint_s))
    }

    /// Issues a JWT-SVID.
    pub(crate) fn issue_jwt(&self, permit: &IdentityPermit) -> Result<IssuedJwt, CaError> {
        let now_ms = clock::now_ms();
        let keys = self.jwt.current();
        let (key, ends_ms) = keys.signer(now_ms)?;
        let ends_ms = ends_ms
            .min(permit.ends_ms)
            .min(now_ms.saturating_add(self.ttl.as_ms()));
        Ok(key.issue(&permit.id, &permit.audience, now_ms, ends_ms)?)
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
    pub(crate) fn issue_for_csr(
        &self,
        permit: &IdentityPermit,
        csr: &[u8],
    ) -> Result<IssuedSvid, CaError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|_| CaError::Csr)?;
        self.issue(permit, &request.public_key)
    }

    /// Issues an SVID with a new key; answers the key in PKCS#8 DER.
    pub(crate) fn issue_with_key(
        &self,
        permit: &IdentityPermit,
    ) -> Result<(IssuedSvid, SecretBytes), CaError> {
        let key = KeyPair::generate()?;
        let svid = self.issue(permit, &key)?;
        Ok((svid, SecretBytes::new(key.serialize_der())))
    }

    /// Issues an SVID to the program itself that has this CA: to a broker, and to the operator of a
    /// broker for development. I9: with DNS names for clients that look for one in a certificate, and
    /// not for a SPIFFE ID.
    pub fn issue_own(
        &self,
        id: &SpiffeId,
        dns_names: &[DnsName<'static>],
    ) -> Result<(IssuedSvid, SecretBytes), CaError> {
        self.issue_with_key(&IdentityPermit::own(id, dns_names))
    }

    /// Issues an SVID to an operator for the key of a CSR. P3: its grounds end with it, at this time in
    /// milliseconds since the epoch.
    pub(crate) fn issue_operator(
        &self,
        id: &SpiffeId,
        csr: &[u8],
        ends_ms: i64,
    ) -> Result<IssuedSvid, CaError> {
        let own = IdentityPermit::own(id, &[]);
        self.issue_for_csr(&IdentityPermit { ends_ms, ..own }, csr)
    }

    fn issue(
        &self,
        permit: &IdentityPermit,
        key: &impl PublicKeyData,
    ) -> Result<IssuedSvid, CaError> {
        let now_ms = clock::now_ms();
        let keys = self.roots.current();
        let (root, ends_ms) = keys.signer(now_ms)?;
        // Nothing outlives the trust in the root that signed it, nor its grounds.
        let not_after_ms = now_ms
            .saturating_add(self.ttl.as_ms())
            .min(ends_ms)
            .min(permit.ends_ms)
            .div_euclid(1000)
            .saturating_mul(1000);
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Sundew workload");
        let unit = DnType::OrganizationalUnitName;
        params
            .distinguished_name
            .push(unit, grounds::text(&permit.grounds));
        if let Some(marks) = grounds::marks_text(&permit.grounds) {
            let organization = DnType::OrganizationName;
            params.distinguished_name.push(organization, marks);
        }
        params.subject_alt_names = vec![SanType::URI(permit.id.as_str().try_into()?)];
        for name in &permit.dns_names {
            let name = SanType::DnsName(name.as_ref().try_into()?);
            params.subject_alt_names.push(name);
        }
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
        params.serial_number = Some(serial(permit.serial.as_deref())?);
        let certificate = params.signed_by(key, &root.issuer)?;
        Ok(IssuedSvid {
            chain: vec![certificate.der().clone()],
            bundle: trusted_roots(&self.roots, now_ms),
            not_after_ms,
        })
    }
}

/// The roots that are trusted at a time, the newest last.
fn trusted_roots(roots: &Keys<RootAuthority>, now_ms: i64) -> Vec<CertificateDer<'static>> {
    let current = roots.current();
    let certificates = current.trusted(now_ms).map(|root| root.certificate.clone());
    certificates.collect()
}

/// Makes a root for a trust domain.
fn create(trust_domain: &TrustDomain) -> Result<StoredKey, CaError> {
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
    params.serial_number = Some(serial(None)?);
    let certificate = params.self_signed(&key)?;
    Ok(StoredKey::first(
        certificate.der().to_vec(),
        key.serialize_der(),
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

/// A new serial number. `before` is that of the SVID that is renewed, if one is.
fn serial(before: Option<&[u8]>) -> Result<SerialNumber, CaError> {
    let mut random = [0; 18];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .map_err(|_| SealError::Random)?;
    Ok(SerialNumber::from_slice(&svid_serial(before, random)))
}

fn set_validity(params: &mut CertificateParams, from_ms: i64, to_ms: i64) -> Result<(), CaError> {
    let at = |ms: i64| time_of(ms).ok_or(CaError::Certificate(rcgen::Error::Time));
    (params.not_before, params.not_after) = (at(from_ms)?, at(to_ms)?);
    Ok(())
}

fn time_of(ms: i64) -> Option<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).ok()
}
