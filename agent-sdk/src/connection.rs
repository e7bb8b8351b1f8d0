//! A mutually authenticated connection to the broker, which must be the broker that was meant.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sundew_core::client::{BundleSet, SpiffeId, validate_chain};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::Error;
use crate::identity::{Identity, Trust};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How often a connection is looked at, and how long it may take to answer. Both together are less
/// than the grace of most tasks, so that a task comes back in time to a broker that answers.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A connection with one identity. A connection that broke is opened again with that identity at
/// the next call.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Channel,
    identity: Arc<Identity>,
    session: OpenSession,
}

impl Connection {
    /// Takes a channel that a unit test has opened.
    #[cfg(test)]
    pub(crate) fn over(channel: Channel, identity: Arc<Identity>) -> Self {
        Self {
            channel,
            identity,
            session: OpenSession::default(),
        }
    }

    /// Says that another session is open now, as if the connection had broken.
    #[cfg(test)]
    pub(crate) fn replace_session(&self, exporter: [u8; 32]) {
        open_session(&self.session, exporter);
    }

    /// Prepares a connection, which is opened at the first call. `broker` is `host:port`,
    /// `expected` the broker's SPIFFE ID.
    pub fn open(broker: &str, expected: SpiffeId, identity: Arc<Identity>) -> Result<Self, Error> {
        let config = client_config(expected, Arc::clone(&identity.trust), Some(&identity))?;
        let (channel, session) = dial(broker, config)?;
        Ok(Self {
            channel,
            identity,
            session,
        })
    }

    /// Returns the channel, for generated clients.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns the identity that the connection was opened with.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Returns the channel binding (RFC 9266) of the session that is open now, or zeros before the
    /// first.
    #[must_use]
    pub fn exporter(&self) -> [u8; 32] {
        self.session().exporter
    }

    /// Returns the session that is open now.
    pub(crate) fn session(&self) -> Session {
        session_of(&self.session)
    }
}

/// A connection to an enrollment listener, for those who have no SVID yet: only the broker is
/// checked.
#[derive(Clone, Debug)]
pub struct AnonymousConnection {
    channel: Channel,
    session: OpenSession,
}

impl AnonymousConnection {
    /// Prepares a connection, which is opened at the first call.
    pub fn open(broker: &str, expected: SpiffeId, bundles: BundleSet) -> Result<Self, Error> {
        let trust = Arc::new(Trust::of(bundles));
        let (channel, session) = dial(broker, client_config(expected, trust, None)?)?;
        Ok(Self { channel, session })
    }

    /// Returns the channel, for generated clients.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns the channel binding (RFC 9266) of the session that is open now, or zeros before the
    /// first.
    #[must_use]
    pub fn exporter(&self) -> [u8; 32] {
        session_of(&self.session).exporter
    }
}

/// One TLS session of a connection. A connection has another session each time that it is opened
/// again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Session {
    /// How many sessions the connection has had with this one; 0 before the first.
    number: u64,
    exporter: [u8; 32],
}

impl Session {
    /// Returns the channel binding (RFC 9266) of the session on which a call was made, if this was
    /// the connection's session before the call and `after` after its answer. Returns `None` if
    /// the connection was opened again in between: the call may have been made on either session.
    pub(crate) fn of_call_until(self, after: Self) -> Option<[u8; 32]> {
        let first = self.number == 0 && after.number == 1;
        (first || self.number == after.number).then_some(after.exporter)
    }
}

type OpenSession = Arc<Mutex<Session>>;

fn session_of(open: &OpenSession) -> Session {
    *open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_session(open: &OpenSession, exporter: [u8; 32]) {
    let mut session = open.lock().unwrap_or_else(PoisonError::into_inner);
    let number = session.number.saturating_add(1);
    *session = Session { number, exporter };
}

fn dial(broker: &str, config: ClientConfig) -> Result<(Channel, OpenSession), Error> {
    let tls = TlsConnector::from(Arc::new(config));
    let session = OpenSession::default();
    // TLS is done below; tonic must not see https, or it wants to do it again.
    let endpoint = Endpoint::from_shared(format!("http://{broker}"))
        .map_err(|_| Error::Invalid(format!("`{broker}` is not a host and port")))?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(LOOK_EVERY)
        .keep_alive_timeout(ANSWER_WITHIN)
        .keep_alive_while_idle(true);
    let kept = Arc::clone(&session);
    let connector = tower::service_fn(move |uri: Uri| {
        let (tls, kept) = (tls.clone(), Arc::clone(&kept));
        async move {
            let stream = connect(
                &tls,
                &uri.authority().map(ToString::to_string).unwrap_or_default(),
            )
            .await?;
            let mut material = [0; 32];
            stream
                .get_ref()
                .1
                .export_keying_material(&mut material, b"EXPORTER-Channel-Binding", None)
                .map_err(io::Error::other)?;
            open_session(&kept, material);
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Ok((endpoint.connect_with_connector_lazy(connector), session))
}

async fn connect(tls: &TlsConnector, broker: &str) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(broker).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("sundew-broker").map_err(io::Error::other)?;
    tls.connect(name, socket).await
}

/// Does a bare handshake and one read, for `sundew doctor`. The read shows the broker's verdict on
/// the agent's certificate, which in TLS 1.3 comes after the handshake seems done.
pub async fn handshake(broker: &str, expected: SpiffeId, identity: &Identity) -> Result<(), Error> {
    let tls = TlsConnector::from(Arc::new(client_config(
        expected,
        Arc::clone(&identity.trust),
        Some(identity),
    )?));
    let fail = |e: io::Error| Error::Handshake(e.to_string());
    let mut stream = tokio::time::timeout(CONNECT_WITHIN, connect(&tls, broker))
        .await
        .map_err(|_| Error::Unavailable("no answer within 5 seconds".to_owned()))?
        .map_err(fail)?;
    match tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await {
        // HTTP/2 servers speak first: SETTINGS.
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(fail(error)),
    }
}

fn client_config(
    expected: SpiffeId,
    trust: Arc<Trust>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, Error> {
    let provider = CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let verifier = BrokerVerifier {
        expected,
        trust,
        provider: Arc::clone(&provider),
    };
    let fail = |e: TlsError| Error::Identity(e.to_string());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(fail)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(fail)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Accepts a server with an X.509-SVID of exactly the expected ID, under the bundle that that ID's
/// trust domain has at the time of the handshake.
#[derive(Debug)]
struct BrokerVerifier {
    expected: SpiffeId,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for BrokerVerifier {
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
        let svid = validate_chain(&chain, &self.trust.bundles(), now_s)
            .map_err(|e| TlsError::General(format!("the broker's SVID: {e}")))?;
        if *svid.id() == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            tracing::error!(expected = %self.expected, found = %svid.id(), "this is not the broker that was meant; set SUNDEW_BROKER_ID");
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l13a_a_call_belongs_to_a_session_only_if_no_other_was_opened_meanwhile() {
        let session = |number: u8| Session {
            number: number.into(),
            exporter: [number; 32],
        };
        for (before, after, exporter) in [
            (4, 4, Some([4; 32])),
            (4, 5, None),
            (4, 6, None),
            // The call itself opened the first session.
            (0, 1, Some([1; 32])),
            (0, 2, None),
        ] {
            assert_eq!(session(before).of_call_until(session(after)), exporter);
        }
    }
}
