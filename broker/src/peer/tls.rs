//! TLS handshakes with X.509-SVIDs, without resumption: TLS 1.3, but for the bundle endpoint.
//!
//! P1: no other place makes a [`Peer`]. T06: a resumed session would skip the check of the
//! certificate, so sessions are not resumed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use sundew_attestation::spiffe::{SvidError, VerifiedSvid, validate_chain};
use tokio::net::TcpStream;
use tokio::sync::AcquireError;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::caller::{Caller, Peer};
use super::channel::Channel;
use super::places::PlaceError;
use super::trust::Trust;
use crate::clock;

/// The exporter label of `tls-exporter` (RFC 9266, section 2).
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

/// The crypto provider of all TLS here.
#[must_use]
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The callers that a listener lets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Clients {
    /// Anybody, without a certificate: the enrollment listener.
    Anonymous,
    /// Anybody, over HTTP/1.1: the bundle endpoint, for clients that need not know TLS 1.3 (SPIFFE
    /// Federation, section 5).
    Http,
    /// Only callers with a valid X.509-SVID.
    WithSvid,
}

/// Why a connection was not let in, as the record says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The broker is stopping.
    #[error("{0}")]
    Closed(AcquireError),
    /// There were too many pending connections, and this one was the oldest.
    #[error("gave way to another connection")]
    GaveWay,
    /// The handshake ended without a certificate that went through the verifier.
    #[error("no certificate was verified")]
    NoCertificate,
    /// The broker's own TLS settings are not usable, or the channel has no binding.
    #[error("{0}")]
    Settings(TlsError),
    /// The handshake failed, or the connection broke.
    #[error("{0}")]
    Socket(io::Error),
    /// The caller's SVID was refused.
    #[error("SVID: {0}")]
    Svid(SvidError),
    /// The handshake did not end in time (T81).
    #[error("handshake took too long")]
    TimedOut,
    /// There are as many connections as there may be, in all or of this caller.
    #[error(transparent)]
    TooManyConnections(#[from] PlaceError),
}

/// Reads the first message of a handshake on a socket that was accepted. Nothing is computed for
/// it.
pub(super) async fn read_hello(
    socket: TcpStream,
) -> Result<StartHandshake<TcpStream>, HandshakeError> {
    socket.set_nodelay(true).map_err(HandshakeError::Socket)?;
    LazyConfigAcceptor::new(Acceptor::default(), socket)
        .await
        .map_err(HandshakeError::Socket)
}

/// Performs the rest of the handshake.
pub(super) async fn handshake(
    hello: StartHandshake<TcpStream>,
    remote: SocketAddr,
    trust: &Arc<Trust>,
    clients: Clients,
) -> Result<(TlsStream<TcpStream>, Caller), HandshakeError> {
    let verifier = Arc::new(SvidVerifier {
        trust: Arc::clone(trust),
        provider: provider_of_process(),
        verified: Mutex::new(None),
        refused: Mutex::new(None),
    });
    let config = server_config(trust, clients, &verifier).map_err(HandshakeError::Settings)?;
    let stream = match hello.into_stream(Arc::new(config)).await {
        Ok(stream) => stream,
        Err(error) => {
            // P11: the caller hears less; the record says which of the rules was broken.
            let refused = verifier
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            return Err(refused.map_or(HandshakeError::Socket(error), HandshakeError::Svid));
        }
    };
    let (_, session) = stream.get_ref();
    let verified = verifier
        .verified
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let mut exporter = [0; 32];
    session
        .export_keying_material(&mut exporter, EXPORTER, None)
        .map_err(HandshakeError::Settings)?;
    let caller = match (clients, verified, session.peer_certificates()) {
        (Clients::Anonymous | Clients::Http, _, _) => {
            Caller::Anonymous(Arc::new(Channel::new(exporter)), remote.ip())
        }
        (Clients::WithSvid, Some((svid, generation)), Some(chain)) => {
            let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
            Caller::Workload(Arc::new(Peer::new(
                svid, generation, chain, exporter, remote,
            )))
        }
        // P1: a handshake that did not go through the verifier proves nothing.
        (Clients::WithSvid, _, _) => return Err(HandshakeError::NoCertificate),
    };
    Ok((stream, caller))
}

fn provider_of_process() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(provider)
}

fn server_config(
    trust: &Arc<Trust>,
    clients: Clients,
    verifier: &Arc<SvidVerifier>,
) -> Result<ServerConfig, TlsError> {
    let (versions, protocol) = match clients {
        Clients::Anonymous | Clients::WithSvid => (&[&rustls::version::TLS13][..], &b"h2"[..]),
        Clients::Http => (rustls::DEFAULT_VERSIONS, &b"http/1.1"[..]),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(versions)?;
    let resolver = Arc::new(OwnCertificate(Arc::clone(trust)));
    let mut config = match clients {
        Clients::WithSvid => builder
            .with_client_cert_verifier(Arc::<SvidVerifier>::clone(verifier))
            .with_cert_resolver(resolver),
        Clients::Anonymous | Clients::Http => {
            builder.with_no_client_auth().with_cert_resolver(resolver)
        }
    };
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// Presents the broker's own SVID of the moment.
struct OwnCertificate(Arc<Trust>);

impl std::fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.identity()
    }
}

/// Verifies the caller's chain in a handshake, and keeps the result, so that the chain is verified
/// once. Each handshake has a verifier of its own.
struct SvidVerifier {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    verified: Mutex<Option<(VerifiedSvid, u64)>>,
    refused: Mutex<Option<SvidError>>,
}

impl std::fmt::Debug for SvidVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SvidVerifier")
    }
}

impl ClientCertVerifier for SvidVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let snapshot = self.trust.current();
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        match validate_chain(&chain, &snapshot.bundles, clock::now_ms().div_euclid(1000)) {
            Ok(svid) => {
                *self.verified.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((svid, snapshot.generation));
                Ok(ClientCertVerified::assertion())
            }
            Err(error) => {
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                // P11: which of the rules was broken is for the operator.
                let expired = error == SvidError::Expired;
                Err(TlsError::InvalidCertificate(if expired {
                    CertificateError::Expired
                } else {
                    CertificateError::UnknownIssuer
                }))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
