//! TLS towards a server that must have one SPIFFE ID.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sundew_attestation::spiffe::{BundleSet, SpiffeId, validate_chain};

use super::tls::provider;

/// A configuration that accepts a server with an X.509-SVID of exactly this ID, under the bundle of
/// its trust domain in the set, and nobody else.
pub(crate) fn client_config(
    expected: SpiffeId,
    bundles: BundleSet,
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = EndpointVerifier {
        expected,
        bundles,
        provider: Arc::clone(&provider),
    };
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct EndpointVerifier {
    expected: SpiffeId,
    bundles: BundleSet,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for EndpointVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(rest).cloned().collect();
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let svid = validate_chain(&chain, &self.bundles, now_s)
            .map_err(|e| TlsError::General(format!("the endpoint's SVID: {e}")))?;
        if *svid.id() == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let problem = format!("the endpoint is {} and not {}", svid.id(), self.expected);
        Err(TlsError::General(problem))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
